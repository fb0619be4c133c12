/*
 * A client's socket after the upgrade: bytes in, a bounded buffer of bytes out.
 *
 * While more than WIRE_HIGH_BYTES wait to go out nothing is read either, so that a client that
 * makes us answer cannot make us keep the answers. wire_finish() sends what waits, shuts our side
 * down and then waits a bounded time for the client's end: a close with unread bytes would let the
 * kernel throw away what the client has not read yet.
 *
 * Threads: the loop's alone. on_gone comes once, and nothing after it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "common/loop.h"

#define WIRE_HIGH_BYTES (256u << 10)

struct wire;

struct wire_handler {
	/* Negative: nothing more is read; the owner finishes. */
	int (*on_bytes)(void *userdata, const void *data, size_t len);
	/* What waited has gone below half of WIRE_HIGH_BYTES. */
	void (*on_room)(void *userdata);
	void (*on_gone)(void *userdata);
};

/* fd is non-blocking and stays the caller's, until after wire_free(). */
int wire_new(struct ev_loop *loop, int fd, const struct wire_handler *handler, void *userdata,
	struct wire **ret, struct err *err);
struct wire *wire_free(struct wire *wire);

/*
 * For a client's TCP connection: packets go at once, and one whose other end has gone is found out.
 * Of other sockets nothing is asked.
 */
void wire_keep_alive(int fd);

/* Sends or keeps it. What does not fit the bound ends the connection. */
void wire_write(struct wire *wire, const void *data, size_t len);
/* How much more may wait. */
size_t wire_room(const struct wire *wire);
/* Stops or goes on reading; a connection that breaks meanwhile is gone all the same. */
void wire_pause(struct wire *wire, bool pause);
void wire_finish(struct wire *wire);
/* on_gone comes soon, whatever waits. */
void wire_drop(struct wire *wire);
