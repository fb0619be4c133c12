/*
 * StopContainer with a guest that notes which signals it is asked to send, and that ends a
 * container by those that the test names.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/proto/ports.h"
#include "common/fd.h"
#include "common/ttrpc.h"
#include "cri-server/rpc/call.h"
#include "cri-server/runtime/internal.h"

#define OPEN_MS     30000
#define SIGNALS_MAX 8
/* For a caller that goes away, and for a grace period that ends. */
#define SHORT_MS 300
#define LONG_MS  20000

struct guest {
	struct runtime rt;
	struct sandbox *sandbox;
	struct container *container;
	struct machine machine;
	struct ev_loop *loop;
	pthread_t thread;
	struct ttrpc_service service;
	struct ttrpc_conn *conn;
	struct ttrpc_call *poll; /* for events, of which there are none */
	/* The loop's, and looked at between calls. */
	unsigned signals[SIGNALS_MAX], n_signals;
	unsigned n_failures; /* so many signals are not sent first */
	unsigned deadly;     /* beside SIGKILL; 0: none */
};

static void hello(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	Bulkhead__Agent__HelloResponse response = BULKHEAD__AGENT__HELLO_RESPONSE__INIT;
	(void)userdata;
	(void)request;
	response.version = AGENT_PROTOCOL_VERSION;
	ttrpc_reply(call, &response.base);
}

static void next_events(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	struct guest *guest = userdata;
	(void)request;
	assert_null(guest->poll);
	guest->poll = call;
}

static void end_container(struct guest *guest)
{
	pthread_mutex_lock(&guest->rt.lock);
	guest->container->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED;
	pthread_cond_broadcast(&guest->container->changed);
	pthread_mutex_unlock(&guest->rt.lock);
}

static void signal_process(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	struct guest *guest = userdata;
	const Bulkhead__Agent__SignalProcessRequest *request = (const void *)message;
	Bulkhead__Agent__SignalProcessResponse response =
		BULKHEAD__AGENT__SIGNAL_PROCESS_RESPONSE__INIT;
	struct err err = ERR_INIT;

	assert_true(guest->n_signals < SIGNALS_MAX);
	guest->signals[guest->n_signals++] = request->signal;
	if (guest->n_failures) {
		guest->n_failures--;
		err_set(&err, -EIO, "it was not sent");
		ttrpc_fail(call, &err);
		return;
	}
	ttrpc_reply(call, &response.base);
	if (request->signal == SIGKILL || request->signal == guest->deadly)
		end_container(guest);
}

static const struct ttrpc_method methods[] = {
	{"Hello", hello},
	{"NextEvents", next_events},
	{"SignalProcess", signal_process},
};

static void on_close(void *userdata, struct ttrpc_conn *conn)
{
	struct guest *guest = userdata;
	if (guest->conn == conn)
		guest->conn = NULL;
}

struct connection {
	struct guest *guest;
	int fd;
};

static void take_connection(void *userdata)
{
	struct connection *connection = userdata;
	struct guest *guest = connection->guest;
	assert_int_equal(
		ttrpc_conn_new(guest->loop, connection->fd, &guest->service, &guest->conn, NULL),
		0);
	free(connection);
}

static int connect_guest(
	void *userdata, uint32_t port, uint64_t timeout_ms, int *ret_fd, struct err *err)
{
	struct connection *connection = malloc(sizeof(*connection));
	int fds[2];
	(void)port;
	(void)timeout_ms;
	(void)err;
	assert_non_null(connection);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(fcntl(fds[1], F_SETFL, O_NONBLOCK), 0);
	*connection = (struct connection){userdata, fds[1]};
	assert_int_equal(ev_post(connection->guest->loop, take_connection, connection), 0);
	*ret_fd = fds[0];
	return 0;
}

static int on_event(void *userdata, const Bulkhead__Agent__Event *event)
{
	(void)userdata;
	(void)event;
	return 0;
}

static void on_lost(void *userdata, const char *reason)
{
	(void)userdata;
	(void)reason;
}

static void *loop_main(void *userdata)
{
	ev_loop_run(userdata, NULL);
	return NULL;
}

static void start_guest(struct guest *guest)
{
	const struct agent_transport transport = {.connect = connect_guest, .userdata = guest};
	const struct agent_callbacks callbacks = {.on_event = on_event, .on_lost = on_lost};
	struct err err = ERR_INIT;

	guest->service = (struct ttrpc_service){.descriptor = &bulkhead__agent__agent__descriptor,
		.methods = methods,
		.n_methods = ARRAY_SIZE(methods),
		.userdata = guest,
		.on_close = on_close};
	assert_int_equal(ev_loop_new(&guest->loop, &err), 0);
	assert_int_equal(pthread_create(&guest->thread, NULL, loop_main, guest->loop), 0);
	assert_int_equal(agent_open(guest->loop, &transport, &callbacks, 0, OPEN_MS,
				 &guest->machine.agent, &err),
		0);
}

static int setup(void **state)
{
	Runtime__V1__PodSandboxConfig pod = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__ContainerConfig config = RUNTIME__V1__CONTAINER_CONFIG__INIT;
	struct guest *guest = calloc(1, sizeof(*guest));
	struct err err = ERR_INIT;

	assert_non_null(guest);
	pthread_mutex_init(&guest->rt.lock, NULL);
	TAILQ_INIT(&guest->rt.sandboxes);
	TAILQ_INIT(&guest->rt.containers);
	start_guest(guest);
	atomic_init(&guest->machine.refs, 1);
	guest->sandbox = sandbox_new(&guest->rt, "00000000000000000000000000000000", &pod, &err);
	assert_non_null(guest->sandbox);
	guest->sandbox->machine = &guest->machine;
	guest->container =
		container_new(guest->sandbox, "11111111111111111111111111111111", &config, &err);
	assert_non_null(guest->container);
	guest->container->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING;
	*state = guest;
	return 0;
}

static int teardown(void **state)
{
	struct guest *guest = *state;
	const struct err gone = {.code = -ECANCELED};

	agent_close(guest->machine.agent);
	ev_loop_stop(guest->loop);
	pthread_join(guest->thread, NULL);
	ttrpc_conn_free(guest->conn);
	if (guest->poll)
		ttrpc_fail(guest->poll, &gone);
	ev_loop_free(guest->loop);
	container_unref(guest->container);
	sandbox_unref(guest->sandbox);
	pthread_mutex_destroy(&guest->rt.lock);
	free(guest);
	return 0;
}

/* As a kubelet does when its pod is given a shorter grace period. */
static void test_signal_is_sent_once(void **state)
{
	struct guest *guest = *state;
	struct rpc_call call = {.details.deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
					gpr_time_from_millis(SHORT_MS, GPR_TIMESPAN))};
	struct err err = ERR_INIT;

	pthread_mutex_init(&call.lock, NULL);
	assert_int_equal(container_stop(guest->container, LONG_MS, &call, &err), -ECANCELED);
	pthread_mutex_destroy(&call.lock);
	assert_int_equal(guest->n_signals, 1);
	assert_int_equal(guest->signals[0], SIGTERM);
	/* To many a program a second one means that it shall not finish what it is at. */
	assert_int_equal(container_stop(guest->container, SHORT_MS, NULL, &err), 0);
	assert_int_equal(guest->n_signals, 2);
	assert_int_equal(guest->signals[1], SIGKILL);
}

/* It may not have heard of its end: the grace period has not begun. */
static void test_signal_that_was_not_sent(void **state)
{
	struct guest *guest = *state;
	struct err err = ERR_INIT;

	guest->n_failures = 1;
	guest->deadly = SIGTERM;
	assert_int_equal(container_stop(guest->container, LONG_MS, NULL, &err), -EIO);
	assert_non_null(strstr(err.msg, "it was not sent"));
	assert_int_equal(guest->n_signals, 1);
	assert_int_equal(container_stop(guest->container, LONG_MS, NULL, &err), 0);
	assert_int_equal(guest->n_signals, 2);
	assert_int_equal(guest->signals[1], SIGTERM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_signal_is_sent_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_signal_that_was_not_sent, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
