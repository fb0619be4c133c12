/*
 * A container's log in the CRI format, as the runtime writes it:
 *
 *	2026-01-02T03:04:05.678901234Z stdout F the line
 *
 * F ends a line, P is a part of one that goes on. Source: kubelet-cri-logging of
 * kubernetes/design-proposals.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct log_entry {
	const char *time;
	size_t time_len;
	int fd;       /* 1 or 2: the stream */
	bool partial; /* the line goes on in the stream's next entry */
	const char *text;
	size_t len;
};

/* Parses a line without its newline; entry points into it. 0, or -EBADMSG. */
int log_entry_parse(const char *line, size_t len, struct log_entry *entry);

struct log_file;

/* A file that is not there yet is opened when it appears. */
int log_file_open(const char *path, struct log_file **ret, struct err *err);
struct log_file *log_file_close(struct log_file *file);

/* How log_file_copy() writes. */
struct log_style {
	bool timestamps;  /* each line begins with its time */
	bool escaped[3];  /* by descriptor: controls are, but tabs */
	int64_t since_ns; /* older lines are left out; 0: none */
};
void log_file_set_style(struct log_file *file, const struct log_style *style);

/* Moves to the beginning of the last n lines (both streams together). */
int log_file_seek_tail(struct log_file *file, size_t n, struct err *err);

/*
 * Copies what is there to descriptors 1 and 2, and goes on in the file's successor when it was
 * rotated away. Does not wait. -EPIPE when nobody reads any longer.
 */
int log_file_copy(struct log_file *file, struct err *err);
