#include "cri-server/runtime/events.h"

#include <errno.h>
#include <stdlib.h>

#include "common/fd.h"

struct events {
	pthread_mutex_t lock; /* protects what follows */
	struct rpc_call *subscribers[EVENTS_SUBSCRIBERS_MAX];
	size_t n;
	bool stopped;
};

int events_open(struct events **ret, struct err *err)
{
	struct events *events = calloc(1, sizeof(*events));
	if (!events)
		return err_nomem(err);
	pthread_mutex_init(&events->lock, NULL);
	*ret = events;
	return 0;
}

/* The lock is held. */
static void drop(struct events *events, size_t i)
{
	rpc_call_unref(events->subscribers[i]);
	events->subscribers[i] = events->subscribers[--events->n];
}

void events_stop(struct events *events)
{
	struct err err = ERR_INIT;
	err_set(&err, -EHOSTDOWN, "the server stops");
	pthread_mutex_lock(&events->lock);
	events->stopped = true;
	while (events->n) {
		rpc_call_end(events->subscribers[0], &err);
		drop(events, 0);
	}
	pthread_mutex_unlock(&events->lock);
}

struct events *events_close(struct events *events)
{
	if (!events)
		return NULL;
	events_stop(events);
	pthread_mutex_destroy(&events->lock);
	free(events);
	return NULL;
}

static int subscribe(struct events *events, struct rpc_call *call, struct err *err)
{
	/* Clients that have gone are noticed by an event that cannot be sent, or here. */
	for (size_t i = events->n; i-- > 0;)
		if (rpc_call_cancelled(events->subscribers[i]))
			drop(events, i);
	if (events->stopped)
		return err_set(err, -EHOSTDOWN, "the server stops");
	if (events->n == EVENTS_SUBSCRIBERS_MAX)
		return err_set(err, -ENOBUFS, "%d clients listen to events already",
			EVENTS_SUBSCRIBERS_MAX);
	events->subscribers[events->n++] = rpc_call_ref(call);
	return 0;
}

int events_service_get(struct rpc_call *call, const ProtobufCMessage *request, struct err *err)
{
	struct events *events = call_runtime(call)->events;
	(void)request;
	pthread_mutex_lock(&events->lock);
	int r = subscribe(events, call, err);
	pthread_mutex_unlock(&events->lock);
	return r;
}

static int send_all(
	struct events *events, const Runtime__V1__ContainerEventResponse *event, struct err *err)
{
	struct rpc_answer packed = {0};
	if (respond(&event->base, &packed, err) < 0)
		return err->code;
	pthread_mutex_lock(&events->lock);
	for (size_t i = events->n; i-- > 0;) {
		struct err failure = ERR_INIT;
		if (rpc_call_send(events->subscribers[i], &packed, &failure) == 0)
			continue;
		/* Unless it has ended: its client would listen to nothing for ever. */
		rpc_call_end(events->subscribers[i], &failure);
		drop(events, i);
	}
	pthread_mutex_unlock(&events->lock);
	rpc_answer_done(&packed);
	return 0;
}

/* The answers to status calls, unpacked: the event borrows their parts. */
struct statuses {
	ProtobufCMessage *sandbox;
	ProtobufCMessage **containers;
	size_t n;
	Runtime__V1__ContainerStatus **pointers;
};

static void statuses_done(struct statuses *s)
{
	if (s->sandbox)
		protobuf_c_message_free_unpacked(s->sandbox, NULL);
	for (size_t i = 0; i < s->n; i++)
		protobuf_c_message_free_unpacked(s->containers[i], NULL);
	free(s->containers);
	free(s->pointers);
}

static int unpack(struct rpc_answer *answer, ProtobufCMessage **ret, struct err *err)
{
	ProtobufCMessage *message =
		protobuf_c_message_unpack(answer->type, NULL, answer->len, answer->data);
	rpc_answer_done(answer);
	*ret = message;
	if (message)
		return 0;
	err_nomem(err);
	return -ENOMEM;
}

static int statuses_get(struct statuses *s, struct sandbox *sandbox, struct err *err)
{
	struct container *c;
	size_t n = 0;
	TAILQ_FOREACH(c, &sandbox->runtime->containers, link)
		n += c->sandbox == sandbox && container_visible(c);
	s->containers = calloc(n + 1, sizeof(*s->containers));
	s->pointers = calloc(n + 1, sizeof(*s->pointers));
	if (!s->containers || !s->pointers)
		return err_nomem(err);
	struct rpc_answer answer;
	int r = sandbox_status_response(sandbox, &answer, err);
	if (r >= 0)
		r = unpack(&answer, &s->sandbox, err);
	TAILQ_FOREACH(c, &sandbox->runtime->containers, link) {
		if (r < 0 || c->sandbox != sandbox || !container_visible(c))
			continue;
		r = container_status_response(c, &answer, err);
		if (r >= 0)
			r = unpack(&answer, &s->containers[s->n], err);
		if (r == 0) {
			const Runtime__V1__ContainerStatusResponse *response =
				(const void *)s->containers[s->n];
			s->pointers[s->n++] = response->status;
		}
	}
	return r;
}

static int tell_listeners(struct sandbox *sandbox, const char *id,
	Runtime__V1__ContainerEventType type, struct err *err)
{
	_cleanup_(statuses_done) struct statuses statuses = {0};
	int r = statuses_get(&statuses, sandbox, err);
	if (r < 0)
		return r;
	Runtime__V1__ContainerEventResponse event = RUNTIME__V1__CONTAINER_EVENT_RESPONSE__INIT;
	event.container_id = (char *)id;
	event.container_event_type = type;
	event.created_at = realtime_ns();
	event.pod_sandbox_status =
		((const Runtime__V1__PodSandboxStatusResponse *)statuses.sandbox)->status;
	event.containers_statuses = statuses.pointers;
	event.n_containers_statuses = statuses.n;
	return send_all(sandbox->runtime->events, &event, err);
}

static void tell(struct sandbox *sandbox, const char *id, Runtime__V1__ContainerEventType type)
{
	struct events *events = sandbox->runtime->events;
	pthread_mutex_lock(&events->lock);
	bool heard = events->n > 0;
	pthread_mutex_unlock(&events->lock);
	struct err err = ERR_INIT;
	if (heard && tell_listeners(sandbox, id, type, &err) < 0)
		log_event(sandbox->runtime->log, LOG_LEVEL_ERROR, "event not told", "id", id, "err",
			err.msg, NULL);
}

void events_tell_container(struct container *c, Runtime__V1__ContainerEventType type)
{
	tell(c->sandbox, c->id, type);
}

void events_tell_sandbox(struct sandbox *sandbox, Runtime__V1__ContainerEventType type)
{
	tell(sandbox, sandbox->id, type);
}
