/* The real server in a process of its own, through the real client and by hand. Containers need a
 * guest: see agent_vm_test.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/test_server.h"
#include "common/fd.h"
#include "common/ttrpc.h"

#define CALL_MS 30000

static int call(void **state, const char *method, const void *request, struct err *err)
{
	struct test_client *context = *state;
	return agent_call(context->agent, method, request, CALL_MS, NULL, err);
}

static ProtobufCBinaryData key_of(uint8_t *bytes)
{
	return (ProtobufCBinaryData){AGENT_KEY_BYTES, bytes};
}

static void test_hello(void **state)
{
	struct test_client *context = *state;
	struct err err = ERR_INIT;
	const Bulkhead__Agent__HelloResponse *hello = agent_hello(context->agent);
	assert_int_equal(hello->version, AGENT_PROTOCOL_VERSION);
	assert_int_equal(hello->boot_ns, 12345);
	assert_false(hello->configured);
	assert_true(strlen(hello->kernel_release) > 0);
	Bulkhead__Agent__HelloRequest request = BULKHEAD__AGENT__HELLO_REQUEST__INIT;
	request.version = AGENT_PROTOCOL_KEY - 1;
	assert_int_equal(call(state, "Hello", &request, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "the host speaks version 2"));
	request.version = AGENT_PROTOCOL_VERSION;
	request.key = key_of(context->server.transport.key);
	request.realtime_ns = -1;
	assert_int_equal(call(state, "Hello", &request, &err), -EINVAL);
	request.realtime_ns = 1;
	assert_int_equal(call(state, "Hello", &request, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "a strange time"));
}

static void assert_spoken(void **state, uint32_t host, uint32_t expected)
{
	struct test_client *context = *state;
	struct err err = ERR_INIT;
	ProtobufCMessage *response = NULL;
	Bulkhead__Agent__HelloRequest request = BULKHEAD__AGENT__HELLO_REQUEST__INIT;
	request.version = host;
	request.key = key_of(context->server.transport.key);
	assert_int_equal(
		agent_call(context->agent, "Hello", &request.base, CALL_MS, &response, &err), 0);
	assert_int_equal(((Bulkhead__Agent__HelloResponse *)response)->version, expected);
	protobuf_c_message_free_unpacked(response, NULL);
}

/* What both can is spoken: an older host is answered in its version, a newer one in ours. */
static void test_versions(void **state)
{
	assert_spoken(state, AGENT_PROTOCOL_KEY, AGENT_PROTOCOL_KEY);
	assert_spoken(state, AGENT_PROTOCOL_VERSION, AGENT_PROTOCOL_VERSION);
	assert_spoken(state, AGENT_PROTOCOL_VERSION + 1, AGENT_PROTOCOL_VERSION);
}

static void test_configure(void **state)
{
	struct err err = ERR_INIT;
	Bulkhead__Agent__ConfigureSandboxRequest request =
		BULKHEAD__AGENT__CONFIGURE_SANDBOX_REQUEST__INIT;
	request.hostname = (char *)"refuse";
	assert_int_equal(call(state, "ConfigureSandbox", &request, &err), -ENODEV);
	assert_non_null(strstr(err.msg, "refused"));
	request.hostname = (char *)"crash";
	assert_int_equal(call(state, "ConfigureSandbox", &request, &err), -EIO);
	assert_non_null(strstr(err.msg, "signal 6"));
	request.hostname = (char *)"name";
	Bulkhead__Agent__UpdateInterfacesRequest update =
		BULKHEAD__AGENT__UPDATE_INTERFACES_REQUEST__INIT;
	assert_int_equal(call(state, "UpdateInterfaces", &update, &err), -EBADFD);
	assert_int_equal(call(state, "ConfigureSandbox", &request, &err), 0);
	assert_int_equal(call(state, "ConfigureSandbox", &request, &err), -EEXIST);
	/* A job is told of what the last one that succeeded left, and of what was tried since. */
	Bulkhead__Agent__Interface interface = BULKHEAD__AGENT__INTERFACE__INIT, other = interface;
	Bulkhead__Agent__Interface *interfaces[] = {&interface, &other};
	interface.mtu = 1400;
	update.interfaces = interfaces;
	update.n_interfaces = 1;
	assert_int_equal(call(state, "UpdateInterfaces", &update, &err), 0);
	static const unsigned known[] = {1, 2, 2};
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		char text[32];
		update.n_interfaces = 2;
		assert_int_equal(call(state, "UpdateInterfaces", &update, &err), -ENODEV);
		snprintf(text, sizeof(text), "before it was %u", known[i]);
		assert_non_null(strstr(err.msg, text));
	}
	update.n_interfaces = 1;
	assert_int_equal(call(state, "UpdateInterfaces", &update, &err), 0);
	update.n_interfaces = 2;
	assert_int_equal(call(state, "UpdateInterfaces", &update, &err), -ENODEV);
	assert_non_null(strstr(err.msg, "before it was 1"));
}

static void test_unknown_ids(void **state)
{
	struct err err = ERR_INIT;
	Bulkhead__Agent__StartContainerRequest start =
		BULKHEAD__AGENT__START_CONTAINER_REQUEST__INIT;
	start.container_id = (char *)"nobody";
	assert_int_equal(call(state, "StartContainer", &start, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "no container 'nobody'"));
	Bulkhead__Agent__SignalProcessRequest signal_request =
		BULKHEAD__AGENT__SIGNAL_PROCESS_REQUEST__INIT;
	signal_request.container_id = (char *)"nobody";
	signal_request.process_id = (char *)"exec";
	signal_request.signal = SIGTERM;
	assert_int_equal(call(state, "SignalProcess", &signal_request, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "no process 'exec' in container 'nobody'"));
	Bulkhead__Agent__ResizeTerminalRequest resize =
		BULKHEAD__AGENT__RESIZE_TERMINAL_REQUEST__INIT;
	resize.container_id = (char *)"nobody";
	assert_int_equal(call(state, "ResizeTerminal", &resize, &err), -ENOENT);
	Bulkhead__Agent__ExecRequest exec = BULKHEAD__AGENT__EXEC_REQUEST__INIT;
	exec.container_id = (char *)"nobody";
	assert_int_equal(call(state, "Exec", &exec, &err), -ENOENT);

	/* Removing what is not there succeeds. */
	Bulkhead__Agent__RemoveContainerRequest remove =
		BULKHEAD__AGENT__REMOVE_CONTAINER_REQUEST__INIT;
	remove.container_id = (char *)"nobody";
	assert_int_equal(call(state, "RemoveContainer", &remove, &err), 0);
	Bulkhead__Agent__RemoveProcessRequest remove_process =
		BULKHEAD__AGENT__REMOVE_PROCESS_REQUEST__INIT;
	remove_process.container_id = (char *)"nobody";
	remove_process.process_id = (char *)"exec";
	assert_int_equal(call(state, "RemoveProcess", &remove_process, &err), 0);
}

static void test_bad_containers(void **state)
{
	struct err err = ERR_INIT;
	char *args[] = {(char *)"true"};
	Bulkhead__Agent__Process process = BULKHEAD__AGENT__PROCESS__INIT;
	Bulkhead__Agent__CreateContainerRequest request =
		BULKHEAD__AGENT__CREATE_CONTAINER_REQUEST__INIT;
	request.container_id = (char *)"id";
	assert_int_equal(call(state, "CreateContainer", &request, &err), -EBADFD);
	Bulkhead__Agent__ExecRequest exec = BULKHEAD__AGENT__EXEC_REQUEST__INIT;
	exec.container_id = (char *)AGENT_GUEST;
	exec.process_id = (char *)"exec";
	assert_int_equal(call(state, "Exec", &exec, &err), -EBADFD);
	Bulkhead__Agent__ConfigureSandboxRequest configure =
		BULKHEAD__AGENT__CONFIGURE_SANDBOX_REQUEST__INIT;
	assert_int_equal(call(state, "ConfigureSandbox", &configure, &err), 0);

	assert_int_equal(call(state, "CreateContainer", &request, &err), -EINVAL);
	request.process = &process;
	assert_int_equal(call(state, "CreateContainer", &request, &err), -EINVAL);
	process.n_args = 1;
	process.args = args;
	process.cwd = (char *)"relative";
	assert_int_equal(call(state, "CreateContainer", &request, &err), -EINVAL);
	process.cwd = (char *)"/";
	char long_id[200];
	memset(long_id, 'a', sizeof(long_id));
	long_id[sizeof(long_id) - 1] = '\0';
	const char *const bad[] = {"", ".", "..", "a/b", "a b", "a\n", AGENT_GUEST, long_id};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		request.container_id = (char *)bad[i];
		assert_int_equal(call(state, "CreateContainer", &request, &err), -EINVAL);
	}
	/* The guest itself needs a program and an id of the process too. */
	assert_int_equal(call(state, "Exec", &exec, &err), -EINVAL);
	exec.process = &process;
	exec.process_id = (char *)"";
	assert_int_equal(call(state, "Exec", &exec, &err), -EINVAL);
}

static int connect_port(void **state, uint32_t port)
{
	struct test_client *context = *state;
	int fd = -EBADF;
	assert_int_equal(context->server.transport.connect(
				 context->server.transport.userdata, port, CALL_MS, &fd, NULL),
		0);
	return fd;
}

static void assert_hangs_up(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	char byte;
	assert_int_equal(poll(&poll_fd, 1, 30000), 1);
	ssize_t n = read(fd, &byte, 1);
	assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
	close(fd);
}

/* A second frame of nonsense does not disturb the first connection. */
static void test_broken_connections(void **state)
{
	struct err err = ERR_INIT;
	static const uint8_t oversize[TTRPC_HEADER_SIZE] = {0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1};
	int fd = connect_port(state, AGENT_CONTROL_PORT);
	assert_int_equal(write(fd, oversize, sizeof(oversize)), sizeof(oversize));
	assert_hangs_up(fd);
	uint32_t length = htonl(AGENT_STREAM_HEADER_MAX + 1);
	fd = connect_port(state, AGENT_STREAM_PORT);
	assert_int_equal(write(fd, &length, sizeof(length)), sizeof(length));
	assert_hangs_up(fd);
	fd = connect_port(state, AGENT_STREAM_PORT);
	assert_int_equal(write(fd, "\0\0\0\4\xff\xff\xff\xff", 8), 8);
	assert_hangs_up(fd);
	Bulkhead__Agent__ListContainersRequest request =
		BULKHEAD__AGENT__LIST_CONTAINERS_REQUEST__INIT;
	assert_int_equal(call(state, "ListContainers", &request, &err), 0);
}

static void test_streams_of_nobody(void **state)
{
	struct test_client *context = *state;
	struct err err = ERR_INIT;
	int fd;
	Bulkhead__Agent__StreamOpen open = BULKHEAD__AGENT__STREAM_OPEN__INIT;
	open.container_id = (char *)"nobody";
	open.stream = BULKHEAD__AGENT__STREAM__STDOUT;
	assert_int_equal(
		agent_stream_open(context->agent, &open, CALL_MS, &fd, NULL, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "no container 'nobody'"));
}

/* What the agent answers to a StreamOpen: an errno, or 0. */
static uint32_t open_by_hand(void **state, const Bulkhead__Agent__StreamOpen *open)
{
	uint8_t bytes[AGENT_STREAM_HEADER_MAX];
	size_t len = bulkhead__agent__stream_open__pack(open, bytes);
	uint32_t length = htonl((uint32_t)len);
	int fd = connect_port(state, AGENT_STREAM_PORT);
	assert_int_equal(write(fd, &length, sizeof(length)), sizeof(length));
	assert_int_equal(write(fd, bytes, len), len);
	assert_int_equal(fd_read_exact(fd, &length, sizeof(length), NULL), 0);
	length = ntohl(length);
	assert_in_range(length, 1, sizeof(bytes));
	assert_int_equal(fd_read_exact(fd, bytes, length, NULL), 0);
	close(fd);
	Bulkhead__Agent__StreamOpened *opened =
		bulkhead__agent__stream_opened__unpack(NULL, length, bytes);
	assert_non_null(opened);
	uint32_t error = opened->error;
	bulkhead__agent__stream_opened__free_unpacked(opened, NULL);
	return error;
}

/* Neither a process's stream nor a port of the pod is for who does not say the key. */
static void test_streams_without_the_key(void **state)
{
	struct test_client *context = *state;
	Bulkhead__Agent__StreamOpen open = BULKHEAD__AGENT__STREAM_OPEN__INIT;
	assert_int_equal(open_by_hand(state, &open), EACCES);
	open.key = key_of((uint8_t[AGENT_KEY_BYTES]){'t', 'e', 's', 't', '!'});
	assert_int_equal(open_by_hand(state, &open), EACCES);
	open.stream = BULKHEAD__AGENT__STREAM__FORWARD;
	assert_int_equal(open_by_hand(state, &open), EACCES);
	open.key = key_of(context->server.transport.key);
	assert_int_equal(open_by_hand(state, &open), EINVAL); /* there is no port 0 */
}

/* Idle connections to the stream port do not keep others out for longer than their time. */
static void test_many_handshakes(void **state)
{
	int fds[60];
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = connect_port(state, AGENT_STREAM_PORT);
	test_streams_of_nobody(state);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
}

static int next_events(struct ttrpc_client *client, uint64_t after, uint32_t wait_ms)
{
	Bulkhead__Agent__NextEventsRequest request = BULKHEAD__AGENT__NEXT_EVENTS_REQUEST__INIT;
	request.after = after;
	request.wait_ms = wait_ms;
	return ttrpc_client_call(client, &bulkhead__agent__agent__descriptor, "NextEvents",
		&request.base, CALL_MS, NULL, NULL);
}

static void *run_loop(void *loop)
{
	ev_loop_run(loop, NULL);
	return NULL;
}

/* A connection beside the client's, which is its loop's thread's own to make. */
static struct ttrpc_client *connect_by_hand(void **state)
{
	struct test_client *context = *state;
	struct ttrpc_client *client;
	ev_loop_stop(context->loop);
	pthread_join(context->thread, NULL);
	int fd = connect_port(state, AGENT_CONTROL_PORT);
	assert_int_equal(ttrpc_client_new(context->loop, fd, NULL, NULL, &client, NULL), 0);
	assert_int_equal(pthread_create(&context->thread, NULL, run_loop, context->loop), 0);
	return client;
}

static int say_hello(struct ttrpc_client *client, ProtobufCBinaryData key, int64_t realtime_ns)
{
	Bulkhead__Agent__HelloRequest request = BULKHEAD__AGENT__HELLO_REQUEST__INIT;
	request.version = AGENT_PROTOCOL_VERSION;
	request.key = key;
	request.realtime_ns = realtime_ns;
	return ttrpc_client_call(client, &bulkhead__agent__agent__descriptor, "Hello",
		&request.base, CALL_MS, NULL, NULL);
}

/* Nor may a stranger have the guest keep more than a Hello has. */
static void test_a_stranger_sends_little(void **state)
{
	static const uint8_t frame[TTRPC_HEADER_SIZE + 8192] = {0, 0, 8192 >> 8, 0, 0, 0, 0, 1, 1};
	int fd = connect_port(state, AGENT_CONTROL_PORT);
	assert_in_range(send(fd, frame, sizeof(frame), MSG_NOSIGNAL), 1, sizeof(frame));
	assert_hangs_up(fd);
}

static void test_who_does_not_say_the_key_is_not_served(void **state)
{
	struct test_client *context = *state;
	struct ttrpc_client *stranger = connect_by_hand(state);
	uint8_t key[AGENT_KEY_BYTES];
	memcpy(key, context->server.transport.key, sizeof(key));
	assert_int_equal(next_events(stranger, 0, 0), -EACCES);
	assert_int_equal(
		say_hello(stranger, (ProtobufCBinaryData){AGENT_KEY_BYTES - 1, key}, 0), -EINVAL);
	key[AGENT_KEY_BYTES - 1] ^= 1;
	assert_int_equal(say_hello(stranger, key_of(key), 0), -EACCES);
	assert_int_equal(next_events(stranger, 0, 0), -EACCES);
	assert_int_equal(say_hello(stranger, key_of(context->server.transport.key), 0), 0);
	assert_int_equal(next_events(stranger, 0, 0), 0);
	ttrpc_client_close(stranger);
}

static int64_t adjusted(struct ttrpc_client *client, int64_t by_ns)
{
	Bulkhead__Agent__AdjustClockRequest request = BULKHEAD__AGENT__ADJUST_CLOCK_REQUEST__INIT;
	ProtobufCMessage *response = NULL;
	request.by_ns = by_ns;
	assert_int_equal(ttrpc_client_call(client, &bulkhead__agent__agent__descriptor,
				 "AdjustClock", &request.base, CALL_MS, &response, NULL),
		0);
	int64_t now = ((Bulkhead__Agent__AdjustClockResponse *)response)->realtime_ns;
	protobuf_c_message_free_unpacked(response, NULL);
	return now;
}

/*
 * A guest that runs has been told the time: what a later Hello says is as late as it was long on
 * its way. This one says a time that the server's set_clock() refuses.
 */
static void test_a_hello_sets_no_clock_back(void **state)
{
	struct test_client *context = *state;
	struct ttrpc_client *client = connect_by_hand(state);
	ProtobufCBinaryData key = key_of(context->server.transport.key);
	Bulkhead__Agent__ConfigureSandboxRequest request =
		BULKHEAD__AGENT__CONFIGURE_SANDBOX_REQUEST__INIT;
	assert_int_equal(say_hello(client, key, 0), 0);
	int64_t now = adjusted(client, INT64_C(-3600000000000));
	assert_int_equal(say_hello(client, key, now), -EINVAL);
	assert_int_equal(call(state, "ConfigureSandbox", &request, NULL), 0);
	int r = -EINVAL;
	for (int i = 0; i < 100 && r < 0; i++) /* where the machine is slow */
		r = say_hello(client, key, adjusted(client, 0));
	assert_int_equal(r, 0);
	assert_int_equal(say_hello(client, key, now - 1000000000), -EINVAL);
	ttrpc_client_close(client);
}

/* However many come: who has said the key stays. */
static void test_strangers_make_room_for_each_other(void **state)
{
	struct test_client *context = *state;
	struct ttrpc_client *client = connect_by_hand(state);
	int fds[70];
	assert_int_equal(say_hello(client, key_of(context->server.transport.key), 0), 0);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = connect_port(state, AGENT_CONTROL_PORT);
	assert_hangs_up(fds[0]);
	assert_int_equal(next_events(client, 0, 0), 0);
	for (size_t i = 1; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	ttrpc_client_close(client);
}

/* By hand: the client polls too, and the newer call ends the older. */
static void test_polling(void **state)
{
	struct test_client *context = *state;
	context->agent = agent_close(context->agent);
	struct ttrpc_client *client = connect_by_hand(state);
	assert_int_equal(say_hello(client, key_of(context->server.transport.key), 0), 0);
	assert_int_equal(next_events(client, 5, 0), -EINVAL);
	assert_int_equal(next_events(client, 0, 0), 0);
	uint64_t begin = ev_now_ms();
	assert_int_equal(next_events(client, 0, 30), 0);
	assert_in_range(ev_now_ms() - begin, 30, 20000);
	ttrpc_client_close(client);
}

static void test_power_off(void **state)
{
	struct test_client *context = *state;
	struct err err = ERR_INIT;
	int status;
	Bulkhead__Agent__PowerOffRequest request = BULKHEAD__AGENT__POWER_OFF_REQUEST__INIT;
	assert_int_equal(call(state, "PowerOff", &request, &err), 0);
	assert_int_equal(waitpid(context->server.pid, &status, 0), context->server.pid);
	assert_int_equal(status, 0);
	context->server.pid = 0;
}

#define SERVER_TEST(test)                                                                          \
	cmocka_unit_test_setup_teardown(test, test_client_setup, test_client_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(test_hello),
		SERVER_TEST(test_versions),
		SERVER_TEST(test_configure),
		SERVER_TEST(test_unknown_ids),
		SERVER_TEST(test_bad_containers),
		SERVER_TEST(test_broken_connections),
		SERVER_TEST(test_streams_of_nobody),
		SERVER_TEST(test_many_handshakes),
		SERVER_TEST(test_streams_without_the_key),
		SERVER_TEST(test_who_does_not_say_the_key_is_not_served),
		SERVER_TEST(test_a_stranger_sends_little),
		SERVER_TEST(test_a_hello_sets_no_clock_back),
		SERVER_TEST(test_strangers_make_room_for_each_other),
		SERVER_TEST(test_polling),
		SERVER_TEST(test_power_off),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
