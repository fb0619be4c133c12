/*
 * The events that the host has not recorded yet, numbered from 1 without gaps, and the one
 * NextEvents call that waits for more.
 *
 * Threads: the loop's alone.
 */
#pragma once

#include "agent/proto/agent.pb-c.h"
#include "common/err.h"
#include "common/loop.h"
#include "common/ttrpc.h"

/* Unacknowledged events; beyond, nothing that could make new ones is started. */
#define EVENTS_MAX 65536

struct events;

int events_new(struct ev_loop *loop, struct events **ret, struct err *err);
struct events *events_free(struct events *events);

/* Whether `more` further events would fit. */
bool events_have_room(const struct events *events, size_t more);

/* Queues an exit. Strings and exit are copied. */
int events_add(struct events *events, const char *container_id, const char *process_id,
	const Bulkhead__Agent__Exit *exit, struct err *err);

/*
 * Serves NextEvents: forgets what was acknowledged and answers, at once when there are events, else
 * with the next one or when wait_ms passed. A newer call ends the waiting one with no events.
 */
void events_serve(struct events *events, struct ttrpc_call *call,
	const Bulkhead__Agent__NextEventsRequest *request);
