/*
 * A growing byte buffer with an upper bound, for data whose size an outsider decides.
 * Plain value; not thread-safe. `max` is its owner's to set; no operation grows the content beyond.
 */
#pragma once

#include <stddef.h>

struct buf {
	char *data;
	size_t len;
	size_t cap;
	size_t max;
};

static inline struct buf buf_init(size_t max)
{
	return (struct buf){.max = max};
}

/* Frees the content; the buffer may be used again with the same bound. */
void buf_done(struct buf *buf);

/* 0, -ENOBUFS (it would exceed max; nothing was added) or -ENOMEM. */
int buf_append(struct buf *buf, const void *data, size_t len);
int buf_printf(struct buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Makes room for len more bytes and returns where they go; NULL as for buf_append(). */
void *buf_reserve(struct buf *buf, size_t len);
/* Takes len bytes that were written into the room. */
void buf_commit(struct buf *buf, size_t len);

/* Drops len bytes from the front. */
void buf_consume(struct buf *buf, size_t len);

/* The content as a NUL-terminated string (the NUL is not counted in len); NULL if memory is out. */
char *buf_string(struct buf *buf);
