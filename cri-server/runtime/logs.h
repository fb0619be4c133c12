/*
 * Container logs: from the agent's streams into files of the CRI log format.
 *
 *	2026-01-02T03:04:05.678901234Z stdout F the line
 *
 * F ends a line, P is a part of one longer than LOG_LINE_MAX. Source: kubernetes/design-proposals
 * kubelet-cri-logging.
 *
 * No byte is lost or doubled by a crash: before a batch of lines is written, its size and the
 * stream offsets after it are noted in a state file; what a stopped process left is compared with
 * that note (the batch is in the file whole, not at all, or in part: then it is cut off), and the
 * agent is asked for the streams from the right offsets on. Bytes are acknowledged to the agent
 * only when they are in the file.
 *
 * One thread runs all writers. While a log cannot be written (disk full), its streams are not read:
 * the agent's ring fills and the container's writer waits; it is tried again every second.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/proto/agent.pb-c.h"
#include "common/err.h"
#include "common/log.h"

/* A longer line is written in parts, as containerd does by default. */
#define LOG_LINE_MAX 16384

struct logs;
struct log_writer;

int logs_open(const struct log *log, struct logs **ret, struct err *err);
/* All writers must be freed before. */
struct logs *logs_close(struct logs *logs);

/*
 * Opens path for appending (made with 0640, missing directories too) with the state file beside
 * ours at state_path. path NULL or "": the streams are drained and dropped.
 */
int log_writer_new(struct logs *logs, const char *path, const char *state_path,
	struct log_writer **ret, struct err *err);

/* Where the agent is to begin: the first byte that is not in the file. */
uint64_t log_writer_offset(struct log_writer *writer, Bulkhead__Agent__Stream stream);

/* Takes fd, a stream whose bytes begin at offset, and follows it to its end. STDOUT or STDERR. */
int log_writer_follow(struct log_writer *writer, Bulkhead__Agent__Stream stream, int fd,
	uint64_t offset, struct err *err);

/*
 * Gives what is read to fn too, on the log thread, before it is in the file; len 0 at a stream's
 * end, perhaps more than once. Before log_writer_follow().
 */
typedef void (*log_tee_fn)(
	void *userdata, Bulkhead__Agent__Stream stream, const void *data, size_t len);
void log_writer_tee(struct log_writer *writer, log_tee_fn fn, void *userdata);

/* Opens path anew, as after a rotation; what was read before goes to the old file. */
int log_writer_reopen(struct log_writer *writer, struct err *err);

/* Waits until every followed stream has ended and is in the file; false after timeout_ms. */
bool log_writer_wait(struct log_writer *writer, uint64_t timeout_ms);

/* One more holder, for a wait that another thread's unref must not cut short. */
struct log_writer *log_writer_ref(struct log_writer *writer);

/*
 * The last one stops following. What is in no file yet is left to a later writer: the agent keeps
 * it. NULL is accepted. Returns NULL.
 */
struct log_writer *log_writer_unref(struct log_writer *writer);
