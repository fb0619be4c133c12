/*
 * The listener for process streams: takes connections on AGENT_STREAM_PORT, reads their StreamOpen,
 * and gives them to the process's stdio, or to a forwarded connection (forward.h).
 *
 * A connection that has not sent its StreamOpen in time is closed; the number of those is bounded,
 * beyond it nothing is accepted. Threads: the loop's alone.
 */
#pragma once

#include "agent/key.h"
#include "agent/proto/agent.pb-c.h"
#include "agent/stdio.h"
#include "common/err.h"
#include "common/loop.h"

struct stream_listener;

/* The process's stdio, or NULL with err. */
typedef struct stdio *(*stream_lookup_fn)(
	void *userdata, const Bulkhead__Agent__StreamOpen *open, struct err *err);

/* fd listens, non-blocking; it is taken, also on failure. The key stays the caller's. */
int stream_listener_new(struct ev_loop *loop, int fd, const struct key *key,
	stream_lookup_fn lookup, void *userdata, struct stream_listener **ret, struct err *err);
struct stream_listener *stream_listener_free(struct stream_listener *listener);
