/*
 * A client's socket after the upgrade: bytes in, a bounded buffer of bytes out.
 *
 * While more than WIRE_HIGH_BYTES wait to go out nothing is read either, so that a client that
 * makes us answer cannot make us keep the answers. wire_finish() sends what waits, shuts our side
 * down and then waits a bounded time for the client's end: a close with unread bytes would let the
 * kernel throw away what the client has not read yet, and one while the client pauses would give it
 * no more than some minutes to go on.
 *
 * Threads: the loop's alone. on_gone comes once, and nothing after it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/loop.h"

#define WIRE_HIGH_BYTES (256u << 10)
#define WIRE_LINGER_MS  5000 /* for the client's end, after ours */

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

/*
 * Of a socket whose writing side is shut down, asked each WIRE_LINGER_MS: whether the kernel still
 * has what the other end has not taken. False too where none of it was taken for within_ms.
 */
struct wire_linger {
	int unsent;
	uint64_t until_ms;
};
bool wire_lingers(int fd, unsigned within_ms, struct wire_linger *linger);

/* Sends or keeps it. What does not fit the bound ends the connection. */
void wire_write(struct wire *wire, const void *data, size_t len);
/* How much more may wait. */
size_t wire_room(const struct wire *wire);
/* Stops or goes on reading; a connection that breaks meanwhile is gone all the same. */
void wire_pause(struct wire *wire, bool pause);
/* on_gone comes when the client has ended, or has taken nothing for within_ms of what waits. */
void wire_finish(struct wire *wire, unsigned within_ms);
/* on_gone comes soon, whatever waits. */
void wire_drop(struct wire *wire);
