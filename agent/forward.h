/*
 * Forwarded connections: from a connection of the host to a TCP port inside the pod.
 *
 * The port is dialled on 127.0.0.1, then on ::1, then on the pod's own addresses, for servers that
 * are bound to one. The host hears by a StreamOpened when one was reached, or why none was; then
 * the bytes go both ways, each way with one buffer and an end of its own (half close).
 *
 * Owner: the stream listener. Threads: the loop's alone. The number of forwarded connections is
 * bounded.
 */
#pragma once

#include <stdint.h>

#include "common/err.h"
#include "common/loop.h"

struct forwards;

int forwards_new(struct ev_loop *loop, struct forwards **ret, struct err *err);
/* Closes all of them. NULL is accepted. */
struct forwards *forwards_free(struct forwards *forwards);

/*
 * Takes the connection fd (non-blocking) on success, and answers on it later. On an error the
 * caller answers: -EINVAL no port, -EAGAIN too many.
 */
int forward_start(struct forwards *forwards, uint32_t port, int fd, struct err *err);
