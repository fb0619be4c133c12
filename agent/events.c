#include "agent/events.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/registry.h"
#include "common/fd.h"

#define WAIT_MS_MAX 600000

struct events {
	struct ev_loop *loop;
	Bulkhead__Agent__Event **queue; /* n of them; the first has number `forgotten` + 1 */
	size_t n;
	size_t cap;
	uint64_t forgotten;

	struct ttrpc_call *waiting;
	uint64_t waiting_after;
	struct ev_source *timer;
};

int events_new(struct ev_loop *loop, struct events **ret, struct err *err)
{
	struct events *events = calloc(1, sizeof(*events));
	if (!events)
		return err_nomem(err);
	events->loop = loop;
	*ret = events;
	return 0;
}

static void event_free(Bulkhead__Agent__Event *event)
{
	bulkhead__agent__event__free_unpacked(event, NULL);
}

bool events_have_room(const struct events *events, size_t more)
{
	return events->n + more <= EVENTS_MAX;
}

static void events_answer(struct events *events, struct ttrpc_call *call, uint64_t after)
{
	Bulkhead__Agent__NextEventsResponse response = BULKHEAD__AGENT__NEXT_EVENTS_RESPONSE__INIT;
	size_t skip = after > events->forgotten ? (size_t)(after - events->forgotten) : 0;
	if (skip < events->n) {
		size_t n = events->n - skip;
		response.n_events = n < AGENT_EVENTS_MAX ? n : AGENT_EVENTS_MAX;
		response.events = events->queue + skip;
	}
	response.realtime_ns = realtime_ns();
	ttrpc_reply(call, &response.base);
}

static void events_wake(struct events *events)
{
	events->timer = ev_source_free(events->timer);
	if (events->waiting)
		events_answer(events, TAKE_PTR(events->waiting), events->waiting_after);
}

static void events_on_timer(void *userdata)
{
	events_wake(userdata);
}

struct events *events_free(struct events *events)
{
	if (!events)
		return NULL;
	ev_source_free(events->timer);
	if (events->waiting)
		events_answer(events, TAKE_PTR(events->waiting), events->waiting_after);
	for (size_t i = 0; i < events->n; i++)
		event_free(events->queue[i]);
	free(events->queue);
	free(events);
	return NULL;
}

static void events_forget(struct events *events, uint64_t after)
{
	size_t n = (size_t)(after - events->forgotten);
	for (size_t i = 0; i < n; i++)
		event_free(events->queue[i]);
	memmove(events->queue, events->queue + n, (events->n - n) * sizeof(events->queue[0]));
	events->n -= n;
	events->forgotten = after;
}

static int events_grow(struct events *events, struct err *err)
{
	if (events->n < events->cap)
		return 0;
	size_t cap = events->cap ? events->cap * 2 : 16;
	Bulkhead__Agent__Event **queue = realloc(events->queue, cap * sizeof(*queue));
	if (!queue)
		return err_nomem(err);
	events->queue = queue;
	events->cap = cap;
	return 0;
}

/* As the library itself would allocate it, so that it frees as a whole. */
static Bulkhead__Agent__Event *event_new(
	const char *container_id, const char *process_id, const Bulkhead__Agent__Exit *exit)
{
	Bulkhead__Agent__Event *event = malloc(sizeof(*event));
	if (!event)
		return NULL;
	bulkhead__agent__event__init(event);
	event->container_id = strdup(container_id);
	event->process_id = strdup(process_id);
	event->exit = malloc(sizeof(*exit));
	if (event->exit)
		*event->exit = *exit;
	if (event->container_id && event->process_id && event->exit)
		return event;
	free(event->container_id);
	free(event->process_id);
	free(event->exit);
	free(event);
	return NULL;
}

int events_add(struct events *events, const char *container_id, const char *process_id,
	const Bulkhead__Agent__Exit *exit, struct err *err)
{
	int r = events_grow(events, err);
	if (r < 0)
		return r;
	Bulkhead__Agent__Event *event = event_new(container_id, process_id, exit);
	if (!event)
		return err_nomem(err);
	event->sequence = events->forgotten + events->n + 1;
	events->queue[events->n++] = event;
	events_wake(events);
	return 0;
}

void events_serve(struct events *events, struct ttrpc_call *call,
	const Bulkhead__Agent__NextEventsRequest *request)
{
	struct err err = ERR_INIT;
	uint64_t last = events->forgotten + events->n;
	if (request->after > last) {
		err_set(&err, -EINVAL, "event %" PRIu64 " was never sent: the last is %" PRIu64,
			request->after, last);
		ttrpc_fail(call, &err);
		return;
	}
	if (request->after > events->forgotten)
		events_forget(events, request->after);
	events_wake(events);
	uint32_t wait_ms = request->wait_ms < WAIT_MS_MAX ? request->wait_ms : WAIT_MS_MAX;
	if (events->n || !wait_ms) {
		events_answer(events, call, request->after);
		return;
	}
	if (ev_timer_new(events->loop, wait_ms, events_on_timer, events, &events->timer, &err) <
		0) {
		ttrpc_fail(call, &err);
		return;
	}
	events->waiting = call;
	events->waiting_after = request->after;
}
