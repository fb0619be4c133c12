/*
 * The state is one `link` to the agent, or none while the event thread tries to get a new one.
 *
 * The event thread owns the link's life: it always has a NextEvents call open, so it is the first
 * to notice that the connection broke; it then replaces the link. Callers borrow the link by a
 * reference, so that it is freed only when the last of them has returned.
 */
#include "agent/client/client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "agent/client/check.h"
#include "agent/client/client_internal.h"
#include "agent/client/clock.h"
#include "common/fd.h"
#include "common/ttrpc.h"

#define EVENTS_WAIT_MS    30000
#define SILENT_MS         60000 /* a machine that was paused or starved for so long is lost */
#define LOST_MS           10000
#define CONNECT_SLICE_MS  1000 /* so that agent_close() is not held up for longer */
#define RETRY_MS          100
#define REFUSED_RETRY_MS  1000 /* an event that the callback did not take */
#define STRAY_MS          20   /* each event is a write, which all pods share */
#define EARLY_MS          1000 /* how much sooner than asked an answer without events may come */
#define RELEASE_BYTES_MAX 64

struct link {
	struct ttrpc_client *client;
	int fd; /* a duplicate, to end the connection under calls in progress */
	unsigned refs;
};

struct agent {
	struct ev_loop *loop;
	struct agent_transport transport;
	struct agent_callbacks callbacks;
	uint64_t after;           /* event thread's alone once it runs */
	bool told;                /* likewise: of an event */
	struct clock_watch clock; /* the event thread's */
	Bulkhead__Agent__HelloResponse *hello;
	pthread_t thread;

	pthread_mutex_t lock; /* protects what follows, and refs of links */
	pthread_cond_t changed;
	struct link *link;
	bool lost;
	bool closing;
};

static struct link *link_free(struct link *link)
{
	if (!link)
		return NULL;
	ttrpc_client_close(link->client);
	fd_close(link->fd);
	free(link);
	return NULL;
}

/* ttrpc_client_new() belongs on the loop's thread; the others wait for it. */
struct client_job {
	struct agent *agent;
	int fd;
	bool done; /* under the agent's lock */
	int result;
	struct ttrpc_client *client;
	struct err *err;
};

static void client_job_run(void *userdata)
{
	struct client_job *job = userdata;
	struct agent *agent = job->agent;
	/* Nobody needs to hear of its end: a call is always open, and fails. */
	job->result = ttrpc_client_new(agent->loop, job->fd, NULL, NULL, &job->client, job->err);
	pthread_mutex_lock(&agent->lock);
	job->done = true;
	pthread_cond_broadcast(&agent->changed);
	pthread_mutex_unlock(&agent->lock);
}

static int client_new(struct agent *agent, int fd, struct ttrpc_client **ret, struct err *err)
{
	struct client_job job = {.agent = agent, .fd = fd, .err = err};
	if (ev_post(agent->loop, client_job_run, &job) < 0) {
		fd_close(fd);
		return err_nomem(err);
	}
	pthread_mutex_lock(&agent->lock);
	while (!job.done)
		pthread_cond_wait(&agent->changed, &agent->lock);
	pthread_mutex_unlock(&agent->lock);
	if (job.result == 0)
		*ret = job.client;
	return job.result;
}

static int link_new(struct agent *agent, uint64_t timeout_ms, struct link **ret, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	_cleanup_free_ struct link *link = calloc(1, sizeof(*link));
	if (!link)
		return err_nomem(err);
	int r = agent->transport.connect(
		agent->transport.userdata, AGENT_CONTROL_PORT, timeout_ms, &fd, err);
	if (r < 0)
		return r;
	_cleanup_close_ int duplicate = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (duplicate < 0)
		return err_errno(err, "duplicate the agent's connection");
	r = client_new(agent, TAKE_FD(fd), &link->client, err);
	if (r < 0)
		return r;
	link->fd = TAKE_FD(duplicate);
	link->refs = 1;
	*ret = TAKE_PTR(link);
	return 0;
}

static void link_put(struct agent *agent, struct link *link)
{
	pthread_mutex_lock(&agent->lock);
	bool last = --link->refs == 0;
	pthread_mutex_unlock(&agent->lock);
	if (last)
		link_free(link);
}

/* Waits while the event thread reconnects; it gives up in the end. */
static int link_get(struct agent *agent, uint64_t timeout_ms, struct link **ret, struct err *err)
{
	const uint64_t until_ms = ev_until_ms(timeout_ms);
	int r = 0;
	pthread_mutex_lock(&agent->lock);
	while (!agent->link && !agent->lost && !agent->closing && r != ETIMEDOUT)
		r = ev_cond_wait(&agent->changed, &agent->lock, until_ms);
	struct link *link = agent->link;
	if (link)
		link->refs++;
	pthread_mutex_unlock(&agent->lock);
	if (!link)
		return err_set(err, r == ETIMEDOUT ? -ETIMEDOUT : -EPIPE,
			"the connection to the agent is gone");
	*ret = link;
	return 0;
}

static int call(struct link *link, const char *method, const ProtobufCMessage *request,
	uint64_t timeout_ms, ProtobufCMessage **ret_response, struct err *err)
{
	ProtobufCMessage *response = NULL;
	struct err local = ERR_INIT;
	if (!err)
		err = &local;
	int r = ttrpc_client_call(link->client, &bulkhead__agent__agent__descriptor, method,
		request, timeout_ms, &response, err);
	if (r < 0) {
		check_clean(err->msg);
		return r;
	}
	r = check_message(response, err);
	if (r == 0 && ret_response)
		*ret_response = response;
	else
		protobuf_c_message_free_unpacked(response, NULL);
	return r;
}

int agent_call(struct agent *agent, const char *method, const ProtobufCMessage *request,
	uint64_t timeout_ms, ProtobufCMessage **ret_response, struct err *err)
{
	struct link *link = NULL;
	int r = link_get(agent, timeout_ms, &link, err);
	if (r < 0)
		return r;
	r = call(link, method, request, timeout_ms, ret_response, err);
	link_put(agent, link);
	return r;
}

static int say_hello(struct agent *agent, struct link *link, uint64_t timeout_ms,
	Bulkhead__Agent__HelloResponse **ret, struct err *err)
{
	Bulkhead__Agent__HelloRequest request = BULKHEAD__AGENT__HELLO_REQUEST__INIT;
	request.version = AGENT_PROTOCOL_VERSION;
	request.realtime_ns = clock_now_ns();
	request.key = (ProtobufCBinaryData){AGENT_KEY_BYTES, agent->transport.key};
	ProtobufCMessage *response = NULL;
	int r = call(link, "Hello", &request.base, timeout_ms, &response, err);
	if (r != 0)
		return r;
	Bulkhead__Agent__HelloResponse *hello = (Bulkhead__Agent__HelloResponse *)response;
	if (hello->version < AGENT_PROTOCOL_OLDEST || hello->version > AGENT_PROTOCOL_VERSION)
		r = err_set(err, -EPROTO,
			"the agent speaks version %u of the protocol, this bulkheadd %d to %d; the "
			"pod is of a build that is too far away: remove it",
			hello->version, AGENT_PROTOCOL_OLDEST, AGENT_PROTOCOL_VERSION);
	else if (strlen(hello->kernel_release) > RELEASE_BYTES_MAX)
		r = err_set(err, -EPROTO, "the agent's kernel release is longer than %d bytes",
			RELEASE_BYTES_MAX);
	if (r == 0)
		*ret = hello;
	else
		protobuf_c_message_free_unpacked(response, NULL);
	return r;
}

/* A new link whose agent has answered. */
static int link_open(struct agent *agent, uint64_t timeout_ms, struct link **ret,
	Bulkhead__Agent__HelloResponse **ret_hello, struct err *err)
{
	uint64_t until = ev_now_ms() + timeout_ms;
	struct link *link = NULL;
	int r = link_new(agent, timeout_ms, &link, err);
	if (r < 0)
		return r;
	uint64_t now = ev_now_ms();
	r = say_hello(agent, link, until > now ? until - now : 1, ret_hello, err);
	if (r < 0) {
		link_free(link);
		return r;
	}
	*ret = link;
	return 0;
}

/* Whether to go on after so long. */
static bool rest(struct agent *agent, uint64_t ms)
{
	const uint64_t until_ms = ev_now_ms() + ms;
	pthread_mutex_lock(&agent->lock);
	int r = 0;
	while (!agent->closing && r != ETIMEDOUT)
		r = ev_cond_wait(&agent->changed, &agent->lock, until_ms);
	bool go_on = !agent->closing;
	pthread_mutex_unlock(&agent->lock);
	return go_on;
}

/* A guest's port may be crowded by others, who push a connection out before it has said hello. */
static int link_open_patiently(struct agent *agent, uint64_t timeout_ms, struct err *err)
{
	const uint64_t until = ev_now_ms() + timeout_ms;
	int r = link_open(agent, timeout_ms, &agent->link, &agent->hello, err);
	while ((r == -EPIPE || r == -ECONNRESET) && ev_now_ms() + RETRY_MS < until &&
		rest(agent, RETRY_MS))
		r = link_open(agent, ev_left_ms(until), &agent->link, &agent->hello, err);
	return r;
}

static void set_link(struct agent *agent, struct link *link)
{
	pthread_mutex_lock(&agent->lock);
	struct link *old = agent->link;
	agent->link = link;
	if (link && agent->closing)
		shutdown(link->fd, SHUT_RDWR);
	if (old)
		shutdown(old->fd, SHUT_RDWR);
	pthread_cond_broadcast(&agent->changed);
	pthread_mutex_unlock(&agent->lock);
	if (old)
		link_put(agent, old);
}

static bool agent_is_closing(struct agent *agent)
{
	pthread_mutex_lock(&agent->lock);
	bool closing = agent->closing;
	pthread_mutex_unlock(&agent->lock);
	return closing;
}

static void deliver(struct agent *agent, const Bulkhead__Agent__NextEventsResponse *response)
{
	for (size_t i = 0; i < response->n_events; i++) {
		int r = agent->callbacks.on_event(agent->callbacks.userdata, response->events[i]);
		if (r < 0) {
			rest(agent, REFUSED_RETRY_MS);
			return;
		}
		agent->after = response->events[i]->sequence;
		if (r == AGENT_EVENT_STRAY)
			rest(agent, STRAY_MS);
		if (agent_is_closing(agent))
			return;
	}
}

/*
 * Where records come from a backup, the agent of a pod that has lived on was told to forget more
 * events than they know of. Those are lost; the pod is not.
 */
static void skip_forgotten(struct agent *agent, const Bulkhead__Agent__NextEventsResponse *response)
{
	if (!response->n_events || agent->told)
		return;
	uint64_t first = response->events[0]->sequence;
	if (agent->hello->configured && first > agent->after)
		agent->after = first - 1;
	agent->told = true;
}

/* One round of the long poll. */
static int poll_events(struct agent *agent, struct err *err)
{
	Bulkhead__Agent__NextEventsRequest request = BULKHEAD__AGENT__NEXT_EVENTS_REQUEST__INIT;
	request.after = agent->after;
	request.wait_ms = EVENTS_WAIT_MS;
	ProtobufCMessage *response = NULL;
	uint64_t asked = ev_now_ms();
	int r = agent_call(
		agent, "NextEvents", &request.base, agent->transport.silent_ms, &response, err);
	if (r != 0)
		return r;
	const Bulkhead__Agent__NextEventsResponse *events = (const void *)response;
	if (agent->hello->version >= AGENT_PROTOCOL_CLOCK)
		clock_watch(agent, &agent->clock, events->realtime_ns);
	skip_forgotten(agent, events);
	r = check_events(events, agent->after, err);
	if (r == 0)
		deliver(agent, events);
	/* One that has nothing to tell and does not wait is not to be asked as fast as it answers.
	 */
	if (r == 0 && !events->n_events && ev_now_ms() - asked < EVENTS_WAIT_MS - EARLY_MS)
		rest(agent, EARLY_MS);
	protobuf_c_message_free_unpacked(response, NULL);
	return r;
}

static int reconnect(struct agent *agent, struct err *err)
{
	Bulkhead__Agent__HelloResponse *hello = NULL;
	struct link *link = NULL;
	set_link(agent, NULL);
	if (!rest(agent, RETRY_MS))
		return err_set(err, -ECANCELED, "closing");
	int r = link_open(agent, CONNECT_SLICE_MS, &link, &hello, err);
	if (r < 0)
		return r;
	bulkhead__agent__hello_response__free_unpacked(hello, NULL);
	set_link(agent, link);
	return 0;
}

static void declare_lost(struct agent *agent, const struct err *err)
{
	pthread_mutex_lock(&agent->lock);
	agent->lost = true;
	bool closing = agent->closing;
	pthread_cond_broadcast(&agent->changed);
	pthread_mutex_unlock(&agent->lock);
	if (!closing)
		agent->callbacks.on_lost(agent->callbacks.userdata, err->msg);
}

/* Only a good answer ends the time of trouble: an agent that accepts and answers nonsense is lost
 * too. */
static void *event_thread(void *userdata)
{
	struct agent *agent = userdata;
	uint64_t trouble_since = 0;
	while (!agent_is_closing(agent)) {
		struct err err = ERR_INIT;
		uint64_t asked = ev_now_ms();
		int r = poll_events(agent, &err);
		if (r == 0) {
			trouble_since = 0;
			continue;
		}
		uint64_t now = ev_now_ms();
		/* A connection that held for so long was good: its loss is another one. */
		bool held = r != -ETIMEDOUT && now - asked >= agent->transport.lost_ms;
		if (!trouble_since || held)
			trouble_since = now;
		while (r < 0 && r != -EHOSTDOWN && r != -ECANCELED &&
			now - trouble_since < agent->transport.lost_ms) {
			r = reconnect(agent, &err);
			now = ev_now_ms();
		}
		if (r < 0) {
			set_link(agent, NULL);
			declare_lost(agent, &err);
			break;
		}
	}
	return NULL;
}

static int start_thread(struct agent *agent, struct err *err)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = pthread_create(&agent->thread, NULL, event_thread, agent);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r ? err_set(err, -r, "start the agent's event thread: %s", strerror(r)) : 0;
}

static void agent_init_sync(struct agent *agent)
{
	ev_cond_init(&agent->changed);
	pthread_mutex_init(&agent->lock, NULL);
}

static void agent_free(struct agent *agent)
{
	link_free(agent->link);
	if (agent->hello)
		bulkhead__agent__hello_response__free_unpacked(agent->hello, NULL);
	pthread_cond_destroy(&agent->changed);
	pthread_mutex_destroy(&agent->lock);
	free(agent);
}

int agent_open(struct ev_loop *loop, const struct agent_transport *transport,
	const struct agent_callbacks *callbacks, uint64_t after, uint64_t timeout_ms,
	struct agent **ret, struct err *err)
{
	struct agent *agent = calloc(1, sizeof(*agent));
	if (!agent)
		return err_nomem(err);
	agent->loop = loop;
	agent->transport = *transport;
	if (!transport->silent_ms)
		agent->transport.silent_ms = SILENT_MS;
	if (!transport->lost_ms)
		agent->transport.lost_ms = LOST_MS;
	agent->callbacks = *callbacks;
	agent->after = after;
	agent_init_sync(agent);
	int r = link_open_patiently(agent, timeout_ms, err);
	if (r == 0)
		r = start_thread(agent, err);
	if (r < 0) {
		agent_free(agent);
		return err_wrap(err, "connect to the agent");
	}
	*ret = agent;
	return 0;
}

struct agent *agent_close(struct agent *agent)
{
	if (!agent)
		return NULL;
	pthread_mutex_lock(&agent->lock);
	agent->closing = true;
	if (agent->link)
		shutdown(agent->link->fd, SHUT_RDWR);
	pthread_cond_broadcast(&agent->changed);
	pthread_mutex_unlock(&agent->lock);
	pthread_join(agent->thread, NULL);
	agent_free(agent);
	return NULL;
}

const Bulkhead__Agent__HelloResponse *agent_hello(const struct agent *agent)
{
	return agent->hello;
}

const struct agent_transport *agent_transport_of(const struct agent *agent)
{
	return &agent->transport;
}
