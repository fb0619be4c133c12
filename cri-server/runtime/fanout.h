/*
 * A container's output for those who are attached, beside its log; and its stdin, which they share.
 *
 * Each attached client has a tap: a pair of sockets, one for each stream, whose buffers hold
 * FANOUT_BYTES. What a container writes goes to the log and to every tap. Nobody waits for a tap: a
 * client that lets its buffer fill is cut off, and hears why.
 *
 * Owner: the container. Threads: any; no call blocks but fanout_stdin_take().
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "agent/client/client.h"

#define FANOUT_BYTES (4u << 20)

struct fanout;
struct tap;

int fanout_new(struct fanout **ret, struct err *err);
/* All taps are gone. NULL is accepted. */
struct fanout *fanout_free(struct fanout *fanout);

/* stream: STDOUT or STDERR; len 0: it has ended. */
void fanout_write(
	struct fanout *fanout, Bulkhead__Agent__Stream stream, const void *data, size_t len);

/*
 * ret_fds[0] brings stdout, ret_fds[1] stderr (-EBADF with a
 * terminal): the caller's. What was written before is not there.
 */
int fanout_tap(struct fanout *fanout, bool tty, struct tap **ret, int ret_fds[2], struct err *err);
/* Any time; ends the streams. NULL is accepted. */
struct tap *fanout_untap(struct tap *tap);
/* 0; 1: both streams have ended; -ENOBUFS: it was cut off. */
int fanout_tap_status(struct tap *tap, struct err *err);

/*
 * A descriptor of the container's stdin for one more user, the caller's: opens the agent's stream
 * for the first. fanout_stdin_drop() for each.
 */
int fanout_stdin_take(struct fanout *fanout, struct agent *agent, const char *container_id,
	int *ret_fd, struct err *err);
void fanout_stdin_drop(struct fanout *fanout);
