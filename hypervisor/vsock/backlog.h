/*
 * What a guest sent and a client has not taken yet: a ring of VS_BACKLOG_SIZE bytes, allocated
 * while there is something in it. Zeroed memory is an empty one. Owned by its connection.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* A power of two. */
#define VS_BACKLOG_SIZE (128u << 10)

struct vs_backlog {
	uint8_t *data;
	uint32_t head;
	uint32_t len;
};

/* Appends what the list holds: 0, or -ENOMEM. It must fit, which the credit granted sees to. */
int vs_backlog_append(struct vs_backlog *backlog, const struct iovec *iov, size_t n);

/* The bytes in their order, in two parts of which each may be empty. */
void vs_backlog_peek(const struct vs_backlog *backlog, struct iovec ret_iov[2]);

/* Drops the first len bytes. */
void vs_backlog_consume(struct vs_backlog *backlog, size_t len);
void vs_backlog_clear(struct vs_backlog *backlog);
