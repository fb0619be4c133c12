/*
 * The client against the real server that dies and comes back, and against one that lies.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "agent/client/check.h"
#include "agent/client/client.h"
#include "agent/client/clock.h"
#include "agent/proto/ports.h"
#include "agent/test_server.h"
#include "common/fd.h"
#include "common/ttrpc.h"

#define CALL_MS     30000
#define LIAR_MAX    64
#define LIAR_EVENTS 4
#define FLOOD       50

/* What the liar answers with. */
struct liar {
	uint32_t version;
	const char *release;
	bool configured;
	uint64_t first_sequence;
	size_t n_events;
	bool one_by_one; /* in answers of their own */
	bool in_haste;   /* answers at once, also where there is nothing to tell */
	atomic_int n_polls;
	int32_t exit_code;
	_Atomic int64_t ahead_ns; /* of its clock */
	bool stuck;               /* its clock cannot be moved */
	unsigned hangs_until;     /* after its first hello it hangs, until it is said this one */
	unsigned n_hellos;
	unsigned n_cut; /* so many connections end when it is said hello first */
	atomic_int n_clock_calls;
	size_t n_interfaces, n_containers; /* of its statistics */
	const char *name;                  /* of each of these */
	struct ev_loop *loop;
	struct ttrpc_service service;
	struct ttrpc_call *waiting[LIAR_MAX];
	size_t n_waiting;
	struct ttrpc_conn *conns[LIAR_MAX];
	size_t n_conns;
};

struct context {
	struct test_server server;
	struct liar liar;
	struct ev_loop *loop;
	pthread_t thread;
	struct agent_transport transport;
	struct agent *agent;
	atomic_int n_events;
	atomic_int n_refusals; /* how often on_event is to fail first */
	bool stray;            /* no event tells of anything */
	uint64_t after;        /* as recorded before it is opened */
	uint64_t skipped;      /* events that went by since */
	atomic_int n_lost;
	atomic_bool off; /* the transport says that the machine has ended */
	uint64_t open_ms;
};

static int on_event(void *userdata, const Bulkhead__Agent__Event *event)
{
	struct context *context = userdata;
	if (atomic_load(&context->n_refusals) > 0) {
		atomic_fetch_sub(&context->n_refusals, 1);
		return -EIO;
	}
	int n = atomic_fetch_add(&context->n_events, 1) + 1;
	assert_int_equal(event->sequence, context->after + context->skipped + (uint64_t)n);
	return context->stray ? AGENT_EVENT_STRAY : 0;
}

static void on_lost(void *userdata, const char *reason)
{
	struct context *context = userdata;
	(void)reason;
	atomic_fetch_add(&context->n_lost, 1);
}

static int connect_server(
	void *userdata, uint32_t port, uint64_t timeout_ms, int *ret_fd, struct err *err)
{
	struct context *context = userdata;
	if (atomic_load(&context->off))
		return err_set(err, -EHOSTDOWN, "the machine has ended");
	return context->server.transport.connect(&context->server, port, timeout_ms, ret_fd, err);
}

static void *loop_thread(void *userdata)
{
	ev_loop_run(userdata, NULL);
	return NULL;
}

static int setup(void **state)
{
	struct context *context = calloc(1, sizeof(*context));
	*state = context;
	test_server_start(&context->server);
	if (ev_loop_new(&context->loop, NULL) < 0)
		return -1;
	context->transport =
		(struct agent_transport){.connect = connect_server, .userdata = context};
	context->open_ms = CALL_MS;
	pthread_create(&context->thread, NULL, loop_thread, context->loop);
	return 0;
}

static void liar_done(struct liar *liar)
{
	struct err err = {.code = -ECANCELED};
	for (size_t i = 0; i < liar->n_conns; i++)
		ttrpc_conn_free(liar->conns[i]);
	for (size_t i = 0; i < liar->n_waiting; i++)
		ttrpc_fail(liar->waiting[i], &err);
}

static int teardown(void **state)
{
	struct context *context = *state;
	agent_close(context->agent);
	ev_loop_stop(context->loop);
	pthread_join(context->thread, NULL);
	liar_done(&context->liar);
	ev_loop_free(context->loop);
	test_server_stop(&context->server);
	free(context);
	return 0;
}

static int open_agent(struct context *context, struct err *err)
{
	struct agent_callbacks callbacks = {
		.on_event = on_event, .on_lost = on_lost, .userdata = context};
	return agent_open(context->loop, &context->transport, &callbacks, context->after,
		context->open_ms, &context->agent, err);
}

static int list(struct context *context, struct err *err)
{
	Bulkhead__Agent__ListContainersRequest request =
		BULKHEAD__AGENT__LIST_CONTAINERS_REQUEST__INIT;
	return agent_call(context->agent, "ListContainers", &request.base, CALL_MS, NULL, err);
}

static bool wait_for(atomic_int *value, int at_least)
{
	for (int i = 0; i < 3000 && atomic_load(value) < at_least; i++)
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	return atomic_load(value) >= at_least;
}

static void lose_and_find(struct context *context)
{
	int r = -EPIPE;
	test_server_kill(&context->server);
	test_server_restart(&context->server);
	/* Calls fail until the loss was noticed, then they wait for the new connection. */
	for (int i = 0; i < 1000 && r == -EPIPE && !atomic_load(&context->n_lost); i++) {
		r = list(context, NULL);
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	}
	assert_int_equal(r, 0);
	assert_int_equal(atomic_load(&context->n_lost), 0);
}

/* Each loss has its own time, also where nothing happened in between that was to be told. */
static void test_server_comes_back(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	context->transport.lost_ms = 3000;
	assert_int_equal(open_agent(context, &err), 0);
	assert_int_equal(list(context, &err), 0);
	lose_and_find(context);
	nanosleep(&(struct timespec){.tv_sec = 3, .tv_nsec = 100000000}, NULL);
	lose_and_find(context);
}

static void test_machine_ends(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	assert_int_equal(open_agent(context, &err), 0);
	atomic_store(&context->off, true);
	test_server_kill(&context->server);
	assert_true(wait_for(&context->n_lost, 1));
	assert_int_equal(list(context, &err), -EPIPE);
	assert_int_equal(atomic_load(&context->n_lost), 1);
}

static void test_nobody_there(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	context->open_ms = 300;
	test_server_kill(&context->server);
	assert_true(open_agent(context, &err) < 0);
	assert_null(context->agent);
}

/* Errors keep code and message on their way. */
static void test_errors(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	int fd;
	assert_int_equal(open_agent(context, &err), 0);
	Bulkhead__Agent__StartContainerRequest start =
		BULKHEAD__AGENT__START_CONTAINER_REQUEST__INIT;
	start.container_id = (char *)"nobody";
	assert_int_equal(
		agent_call(context->agent, "StartContainer", &start.base, CALL_MS, NULL, &err),
		-ENOENT);
	assert_non_null(strstr(err.msg, "no container 'nobody'"));
	Bulkhead__Agent__StreamOpen open = BULKHEAD__AGENT__STREAM_OPEN__INIT;
	open.container_id = (char *)"nobody";
	assert_int_equal(
		agent_stream_open(context->agent, &open, CALL_MS, &fd, NULL, &err), -ENOENT);
}

#define DRIP_US 20000

/* A guest that answers in time, byte by byte, and never ends. */
static void *drip(void *userdata)
{
	const int *fd = userdata;
	const uint8_t length[] = {0, 0, AGENT_STREAM_HEADER_MAX >> 8, 0};
	size_t i = 0;
	do
		usleep(DRIP_US);
	while (send(*fd, i < sizeof(length) ? &length[i] : length, 1, MSG_NOSIGNAL) == 1 &&
		++i < AGENT_STREAM_HEADER_MAX);
	return NULL;
}

struct dripping {
	struct context *context;
	int theirs;
	pthread_t thread;
};

static int connect_dripping(
	void *userdata, uint32_t port, uint64_t timeout_ms, int *ret_fd, struct err *err)
{
	struct dripping *dripping = userdata;
	int fds[2];
	if (port != AGENT_STREAM_PORT)
		return connect_server(dripping->context, port, timeout_ms, ret_fd, err);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	dripping->theirs = fds[1];
	*ret_fd = fds[0];
	return pthread_create(&dripping->thread, NULL, drip, &dripping->theirs) ? -EAGAIN : 0;
}

/* The time is for the whole answer: who calls may hold the pod's lock. */
static void test_stream_answer_that_drips(void **state)
{
	struct context *context = *state;
	struct dripping dripping = {.context = context};
	struct err err = ERR_INIT;
	int fd;
	context->transport =
		(struct agent_transport){.connect = connect_dripping, .userdata = &dripping};
	assert_int_equal(open_agent(context, &err), 0);
	Bulkhead__Agent__StreamOpen open = BULKHEAD__AGENT__STREAM_OPEN__INIT;
	open.container_id = (char *)"any";
	uint64_t begin = ev_now_ms();
	int r = agent_stream_open(context->agent, &open, 500, &fd, NULL, &err);
	uint64_t took_ms = ev_now_ms() - begin;
	pthread_join(dripping.thread, NULL);
	close(dripping.theirs);
	context->agent = agent_close(context->agent);
	assert_int_equal(r, -ETIMEDOUT);
	assert_in_range(took_ms, 500, 5000);
}

/* Neither answered nor refused, as in a long poll. */
static void liar_keep(struct liar *liar, struct ttrpc_call *call)
{
	if (liar->n_waiting < LIAR_MAX)
		liar->waiting[liar->n_waiting++] = call;
}

static void liar_on_close(void *userdata, struct ttrpc_conn *conn)
{
	struct liar *liar = userdata;
	for (size_t i = 0; i < liar->n_conns; i++)
		if (liar->conns[i] == conn)
			liar->conns[i] = NULL;
}

static void liar_hello(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct liar *liar = userdata;
	(void)msg;
	if (liar->n_cut) {
		struct ttrpc_conn *conn = ttrpc_call_conn(call);
		liar->n_cut--;
		liar_on_close(liar, conn);
		ttrpc_conn_free(conn);
		ttrpc_fail(call, &(struct err){.code = -EIO}); /* to nobody */
		return;
	}
	if (++liar->n_hellos > 1 && liar->n_hellos < liar->hangs_until) {
		liar_keep(liar, call);
		return;
	}
	Bulkhead__Agent__HelloResponse response = BULKHEAD__AGENT__HELLO_RESPONSE__INIT;
	response.version = liar->version;
	response.kernel_release = (char *)liar->release;
	response.configured = liar->configured;
	ttrpc_reply(call, &response.base);
}

static void liar_events(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct liar *liar = userdata;
	const Bulkhead__Agent__NextEventsRequest *request = (const void *)msg;
	Bulkhead__Agent__Event events[FLOOD];
	Bulkhead__Agent__Event *pointers[FLOOD];
	Bulkhead__Agent__Exit exit = BULKHEAD__AGENT__EXIT__INIT;
	exit.code = liar->exit_code;
	Bulkhead__Agent__NextEventsResponse response = BULKHEAD__AGENT__NEXT_EVENTS_RESPONSE__INIT;
	response.events = pointers;
	for (size_t i = 0; i < liar->n_events; i++) {
		uint64_t sequence = liar->first_sequence + i;
		if (sequence <= request->after || (liar->one_by_one && response.n_events))
			continue;
		bulkhead__agent__event__init(&events[i]);
		events[i].sequence = sequence;
		events[i].container_id = (char *)"c";
		events[i].exit = &exit;
		pointers[response.n_events++] = &events[i];
	}
	response.realtime_ns = clock_now_ns() + atomic_load(&liar->ahead_ns);
	atomic_fetch_add(&liar->n_polls, 1);
	if ((response.n_events || liar->in_haste) && liar->n_hellos >= liar->hangs_until)
		ttrpc_reply(call, &response.base);
	else
		liar_keep(liar, call);
}

static void liar_list(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	(void)userdata;
	(void)msg;
	struct err err = ERR_INIT;
	err_set(&err, -ENOSPC, "red \033[31m text\nand a line");
	ttrpc_fail(call, &err);
}

static void liar_clock(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct liar *liar = userdata;
	const Bulkhead__Agent__AdjustClockRequest *request = (const void *)msg;
	Bulkhead__Agent__AdjustClockResponse response =
		BULKHEAD__AGENT__ADJUST_CLOCK_RESPONSE__INIT;
	if (!liar->stuck)
		atomic_fetch_add(&liar->ahead_ns, request->by_ns);
	response.realtime_ns = clock_now_ns() + atomic_load(&liar->ahead_ns);
	ttrpc_reply(call, &response.base);
	atomic_fetch_add(&liar->n_clock_calls, 1);
}

static void liar_stats(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const struct liar *liar = userdata;
	_cleanup_free_ Bulkhead__Agent__InterfaceUsage **interfaces =
		calloc(liar->n_interfaces + 1, sizeof(*interfaces));
	_cleanup_free_ Bulkhead__Agent__Usage **containers =
		calloc(liar->n_containers + 1, sizeof(*containers));
	Bulkhead__Agent__InterfaceUsage interface = BULKHEAD__AGENT__INTERFACE_USAGE__INIT;
	Bulkhead__Agent__Usage container = BULKHEAD__AGENT__USAGE__INIT;
	Bulkhead__Agent__StatsResponse response = BULKHEAD__AGENT__STATS_RESPONSE__INIT;
	(void)msg;
	interface.name = (char *)liar->name;
	container.container_id = (char *)liar->name;
	for (size_t i = 0; i < liar->n_interfaces; i++)
		interfaces[i] = &interface;
	for (size_t i = 0; i < liar->n_containers; i++)
		containers[i] = &container;
	response.interfaces = interfaces;
	response.n_interfaces = liar->n_interfaces;
	response.containers = containers;
	response.n_containers = liar->n_containers;
	ttrpc_reply(call, &response.base);
}

static const struct ttrpc_method liar_methods[] = {
	{"Hello", liar_hello},
	{"NextEvents", liar_events},
	{"ListContainers", liar_list},
	{"AdjustClock", liar_clock},
	{"Stats", liar_stats},
};

struct liar_connection {
	struct liar *liar;
	int fd;
};

static void liar_accept(void *userdata)
{
	struct liar_connection *connection = userdata;
	struct liar *liar = connection->liar;
	assert_true(liar->n_conns < LIAR_MAX);
	ttrpc_conn_new(
		liar->loop, connection->fd, &liar->service, &liar->conns[liar->n_conns], NULL);
	liar->n_conns++;
	free(connection);
}

static int connect_liar(
	void *userdata, uint32_t port, uint64_t timeout_ms, int *ret_fd, struct err *err)
{
	struct context *context = userdata;
	(void)port;
	(void)timeout_ms;
	if (atomic_load(&context->off))
		return err_set(err, -EHOSTDOWN, "the machine has ended");
	int fds[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_errno(err, "socketpair");
	fcntl(fds[1], F_SETFL, O_NONBLOCK);
	struct liar_connection *connection = malloc(sizeof(*connection));
	*connection = (struct liar_connection){&context->liar, fds[1]};
	ev_post(context->loop, liar_accept, connection);
	*ret_fd = fds[0];
	return 0;
}

static struct liar *use_liar(struct context *context)
{
	struct liar *liar = &context->liar;
	context->transport = (struct agent_transport){.connect = connect_liar, .userdata = context};
	*liar = (struct liar){.version = AGENT_PROTOCOL_VERSION,
		.release = "6.1",
		.first_sequence = 1,
		.loop = context->loop,
		.service = {.descriptor = &bulkhead__agent__agent__descriptor,
			.methods = liar_methods,
			.n_methods = ARRAY_SIZE(liar_methods),
			.userdata = liar,
			.on_close = liar_on_close}};
	return liar;
}

static void test_bad_hello(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	struct liar *liar = use_liar(context);
	liar->version = AGENT_PROTOCOL_VERSION + 1;
	assert_int_equal(open_agent(context, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "the agent speaks version"));
	liar->version = AGENT_PROTOCOL_OLDEST - 1;
	assert_int_equal(open_agent(context, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "remove it"));
	liar->version = AGENT_PROTOCOL_VERSION;
	liar->release = "6.1\033[2J";
	assert_int_equal(open_agent(context, &err), -EPROTO);
	liar->release = "0123456789012345678901234567890123456789012345678901234567890123456789";
	assert_int_equal(open_agent(context, &err), -EPROTO);
	assert_null(context->agent);
}

/* Others who crowd the port may push a connection out before its hello has come. */
static void test_hello_is_cut_off(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	struct liar *liar = use_liar(context);
	liar->n_cut = 3;
	assert_int_equal(open_agent(context, &err), 0);
	assert_int_equal(liar->n_cut, 0);
	context->agent = agent_close(context->agent);
	context->open_ms = 300;
	liar->n_cut = UINT_MAX;
	assert_int_equal(open_agent(context, &err), -EPIPE);
}

static void test_events_in_order(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	use_liar(context)->n_events = 3;
	atomic_store(&context->n_refusals, 1);
	assert_int_equal(open_agent(context, &err), 0);
	assert_true(wait_for(&context->n_events, 3));
	assert_int_equal(atomic_load(&context->n_events), 3);
}

/* A guest that stood still, or whose clock somebody has set, gets the host's time with the next
 * event. */
static void assert_clock_is_set(struct context *context, int64_t ahead_ns)
{
	struct err err = ERR_INIT;
	struct liar *liar = use_liar(context);
	liar->n_events = 1;
	atomic_store(&liar->ahead_ns, ahead_ns);
	assert_int_equal(open_agent(context, &err), 0);
	assert_true(wait_for(&context->n_events, 1)); /* after the clock */
	assert_in_range(atomic_load(&liar->n_clock_calls), 4, 4);
	assert_in_range(atomic_load(&liar->ahead_ns) + INT64_C(10000000000), 0, 20000000000);
}

static void test_clock_behind(void **state)
{
	assert_clock_is_set(*state, -INT64_C(3600000000000));
}

static void test_clock_ahead(void **state)
{
	assert_clock_is_set(*state, INT64_C(60000000000));
}

static void test_clock_right(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	struct liar *liar = use_liar(context);
	liar->n_events = 1;
	assert_int_equal(open_agent(context, &err), 0);
	assert_true(wait_for(&context->n_events, 1));
	assert_int_equal(atomic_load(&liar->ahead_ns), 0);
}

/* An agent that lies about its clock with every event does not keep the host busy. */
static void test_clock_stuck(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	struct liar *liar = use_liar(context);
	liar->n_events = LIAR_EVENTS;
	liar->stuck = true;
	liar->one_by_one = true;
	atomic_store(&liar->ahead_ns, INT64_MAX / 2);
	uint64_t begin = ev_now_ms();
	assert_int_equal(open_agent(context, &err), 0);
	assert_true(wait_for(&context->n_events, LIAR_EVENTS));
	uint64_t seconds = (ev_now_ms() - begin) / 1000;
	assert_in_range(atomic_load(&liar->n_clock_calls), 4, 4 * (seconds + 1));
}

/* Events that tell of nothing are taken fifty times in a second at most. */
static void test_stray_events(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	context->stray = true;
	use_liar(context)->n_events = FLOOD;
	uint64_t begin = ev_now_ms();
	assert_int_equal(open_agent(context, &err), 0);
	assert_true(wait_for(&context->n_events, FLOOD));
	assert_in_range(ev_now_ms() - begin, (FLOOD - 1) * 20, UINT32_MAX);
}

/* One that floods with answers has them read about once in a second, what they tell excepted. */
static void test_nothing_to_tell(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	struct liar *liar = use_liar(context);
	liar->n_events = LIAR_EVENTS;
	liar->one_by_one = true;
	liar->in_haste = true;
	uint64_t begin = ev_now_ms();
	assert_int_equal(open_agent(context, &err), 0);
	assert_true(wait_for(&liar->n_polls, LIAR_EVENTS + 2));
	int polls = atomic_load(&liar->n_polls);
	uint64_t seconds = (ev_now_ms() - begin) / 1000;
	assert_int_equal(atomic_load(&context->n_events), LIAR_EVENTS);
	assert_in_range(seconds, 1, UINT32_MAX);
	assert_in_range(polls, LIAR_EVENTS + 2, LIAR_EVENTS + 1 + seconds);
}

/* The agent of a pod that a build before this one has started. */
static void test_older_agent(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	struct liar *liar = use_liar(context);
	liar->version = AGENT_PROTOCOL_OLDEST;
	liar->n_events = 2;
	atomic_store(&liar->ahead_ns, INT64_C(60000000000));
	assert_int_equal(open_agent(context, &err), 0);
	assert_int_equal(agent_hello(context->agent)->version, AGENT_PROTOCOL_OLDEST);
	assert_true(wait_for(&context->n_events, 2));
	assert_int_equal(list(context, &err), -ENOSPC);
	assert_int_equal(atomic_load(&liar->n_clock_calls), 0);
}

/* What the agent says about an error ends in logs and on terminals. */
static void test_text_is_cleaned(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	use_liar(context);
	assert_int_equal(open_agent(context, &err), 0);
	assert_int_equal(list(context, &err), -ENOSPC);
	assert_non_null(strstr(err.msg, "red ?[31m text?and a line"));
}

/* A guest that stands still: its connection stays, and nothing comes. */
static void test_hangs(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	struct liar *liar = use_liar(context);
	context->transport.silent_ms = 300;
	context->transport.lost_ms = 500;
	liar->n_events = 1;
	liar->hangs_until = UINT_MAX;
	uint64_t begin = ev_now_ms();
	assert_int_equal(open_agent(context, &err), 0);
	assert_true(wait_for(&context->n_lost, 1));
	assert_in_range(ev_now_ms() - begin, 300 + 500, UINT32_MAX);
	assert_int_equal(list(context, &err), -EPIPE);
	assert_int_equal(atomic_load(&context->n_events), 0);
	assert_int_equal(atomic_load(&context->n_lost), 1);
}

/* One that was paused is not lost, nor what it has to tell. */
static void test_hangs_for_a_while(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	struct liar *liar = use_liar(context);
	context->transport.silent_ms = 300;
	context->transport.lost_ms = CALL_MS;
	liar->n_events = LIAR_EVENTS;
	liar->hangs_until = 3;
	assert_int_equal(open_agent(context, &err), 0);
	assert_true(wait_for(&context->n_events, LIAR_EVENTS));
	assert_int_equal(atomic_load(&context->n_lost), 0);
}

/* An agent that answers nonsense is one that is lost. */
static void test_false_events(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	struct liar *liar = use_liar(context);
	liar->n_events = 1;
	liar->first_sequence = 2;
	assert_int_equal(open_agent(context, &err), 0);
	nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
	atomic_store(&context->off, true);
	assert_true(wait_for(&context->n_lost, 1));
	assert_int_equal(atomic_load(&context->n_events), 0);
}

/* Records that come from a backup know of fewer events than the agent was told to forget. */
static void test_events_since_a_backup(void **state)
{
	struct context *context = *state;
	struct err err = ERR_INIT;
	struct liar *liar = use_liar(context);
	context->transport.lost_ms = 500;
	context->after = 3;
	context->skipped = 4;
	liar->n_events = LIAR_EVENTS;
	liar->configured = true;
	liar->first_sequence = 8;
	liar->one_by_one = true;
	assert_int_equal(open_agent(context, &err), 0);
	wait_for(&context->n_events, LIAR_EVENTS);
	assert_int_equal(atomic_load(&context->n_lost), 0);
	assert_int_equal(atomic_load(&context->n_events), LIAR_EVENTS);
}

/* All pods' figures go into one answer of limited size, which one guest must not fill. */
static void test_false_stats(void **state)
{
	struct context *context = *state;
	struct liar *liar = use_liar(context);
	struct err err = ERR_INIT;
	char *long_name = malloc(1 << 20);
	memset(long_name, 'x', (1 << 20) - 1);
	long_name[(1 << 20) - 1] = '\0';
	const struct {
		size_t n_interfaces, n_containers;
		const char *name;
		int result;
	} rows[] = {
		{0, 0, "", 0},
		{32, 0, "of_fifteen_char", 0},
		{0, 256, "00112233445566778899aabbccddeeff", 0},
		{100000, 0, "e", -EPROTO},
		{0, 100000, "c", -EPROTO},
		{1, 0, long_name, -EPROTO},
		{0, 1, long_name, -EPROTO},
	};
	assert_int_equal(open_agent(context, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		Bulkhead__Agent__StatsRequest request = BULKHEAD__AGENT__STATS_REQUEST__INIT;
		liar->n_interfaces = rows[i].n_interfaces;
		liar->n_containers = rows[i].n_containers;
		liar->name = rows[i].name;
		assert_int_equal(
			agent_call(context->agent, "Stats", &request.base, CALL_MS, NULL, &err),
			rows[i].result);
	}
	free(long_name);
}

static void test_check_events(void **state)
{
	(void)state;
	Bulkhead__Agent__Exit exit = BULKHEAD__AGENT__EXIT__INIT;
	Bulkhead__Agent__Event event = BULKHEAD__AGENT__EVENT__INIT;
	Bulkhead__Agent__Event *events[] = {&event};
	Bulkhead__Agent__NextEventsResponse response = BULKHEAD__AGENT__NEXT_EVENTS_RESPONSE__INIT;
	response.n_events = 1;
	response.events = events;
	event.sequence = 8;
	event.container_id = (char *)"c";
	event.exit = &exit;
	assert_int_equal(check_events(&response, 7, NULL), 0);
	assert_int_equal(check_events(&response, 8, NULL), -EPROTO);
	exit.code = 256;
	assert_int_equal(check_events(&response, 7, NULL), -EPROTO);
	exit.code = 0;
	event.exit = NULL;
	assert_int_equal(check_events(&response, 7, NULL), -EPROTO);
	event.exit = &exit;
	event.container_id = (char *)"../c";
	assert_int_equal(check_events(&response, 7, NULL), -EPROTO);
	event.container_id = (char *)"";
	assert_int_equal(check_events(&response, 7, NULL), -EPROTO);
}

/* Each that tells of nothing is waited for, with all of the answer in memory. */
static void test_check_many_events(void **state)
{
	(void)state;
	Bulkhead__Agent__Exit exit = BULKHEAD__AGENT__EXIT__INIT;
	Bulkhead__Agent__Event events[AGENT_EVENTS_MAX + 1];
	Bulkhead__Agent__Event *pointers[AGENT_EVENTS_MAX + 1];
	Bulkhead__Agent__NextEventsResponse response = BULKHEAD__AGENT__NEXT_EVENTS_RESPONSE__INIT;
	for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
		bulkhead__agent__event__init(&events[i]);
		events[i].sequence = i + 1;
		events[i].container_id = (char *)"c";
		events[i].exit = &exit;
		pointers[i] = &events[i];
	}
	response.events = pointers;
	response.n_events = AGENT_EVENTS_MAX;
	assert_int_equal(check_events(&response, 0, NULL), 0);
	response.n_events = AGENT_EVENTS_MAX + 1;
	assert_int_equal(check_events(&response, 0, NULL), -EPROTO);
}

static void test_check_text(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		const char *clean;
	} rows[] = {
		{"plain", "plain"}, {"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80", NULL},
		{"tab\tline\n", "tab?line?"}, {"\xc2\x9b", "??"}, /* C1 */
		{"\xc0\xaf", "??"},                               /* overlong */
		{"\xed\xa0\x80", "???"},                          /* surrogate */
		{"\xf4\x90\x80\x80", "????"},                     /* beyond Unicode */
		{"\xe2\x82", "??"},                               /* cut */
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_free_ char *text = strdup(rows[i].text);
		check_clean(text);
		assert_string_equal(text, rows[i].clean ? rows[i].clean : rows[i].text);
	}
}

#define CLIENT_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CLIENT_TEST(test_server_comes_back),
		CLIENT_TEST(test_machine_ends),
		CLIENT_TEST(test_nobody_there),
		CLIENT_TEST(test_errors),
		CLIENT_TEST(test_stream_answer_that_drips),
		CLIENT_TEST(test_bad_hello),
		CLIENT_TEST(test_hello_is_cut_off),
		CLIENT_TEST(test_events_in_order),
		CLIENT_TEST(test_clock_behind),
		CLIENT_TEST(test_clock_ahead),
		CLIENT_TEST(test_clock_right),
		CLIENT_TEST(test_clock_stuck),
		CLIENT_TEST(test_stray_events),
		CLIENT_TEST(test_nothing_to_tell),
		CLIENT_TEST(test_older_agent),
		CLIENT_TEST(test_text_is_cleaned),
		CLIENT_TEST(test_hangs),
		CLIENT_TEST(test_hangs_for_a_while),
		CLIENT_TEST(test_false_events),
		CLIENT_TEST(test_events_since_a_backup),
		CLIENT_TEST(test_false_stats),
		cmocka_unit_test(test_check_events),
		cmocka_unit_test(test_check_many_events),
		cmocka_unit_test(test_check_text),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
