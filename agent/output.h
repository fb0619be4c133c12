/*
 * One output stream of a process: what it wrote, kept in a ring until the host acknowledges it.
 *
 * Bytes are numbered from 0: base (all before were acknowledged) ≤ sent (to the connection there
 * is) ≤ end (read so far) ≤ base + AGENT_RING_BYTES. The source is read only while the ring has
 * room, so a full ring blocks the writer. After the source's end the connection's side is shut
 * down.
 *
 * Owner: struct stdio. Threads: the loop's alone.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/loop.h"

struct output;

/* on_eof is called once, from the loop, when all that was written is in the ring. */
int output_new(
	struct ev_loop *loop, ev_fn on_eof, void *userdata, struct output **ret, struct err *err);
struct output *output_free(struct output *output);

/* Reads from fd (non-blocking; taken, also on failure) from now on. */
int output_attach(struct output *output, int fd, struct err *err);
/* There will be no source: end of file. */
void output_end(struct output *output);
bool output_at_eof(const struct output *output);

/* Where a connection that asks for `offset` begins: -EINVAL beyond what exists. */
int output_offset(const struct output *output, uint64_t offset, uint64_t *ret, struct err *err);
/* Sends from `offset`, which is output_offset()'s, to fd (non-blocking; taken on success). */
int output_connect(struct output *output, uint64_t offset, int fd, struct err *err);
