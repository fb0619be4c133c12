#include "common/ttrpc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "common/ttrpc.pb-c.h"
#include "common/ttrpc_internal.h"

typedef Bulkhead__Ttrpc__KeyValue KeyValue;
#define KEY_VALUE (&bulkhead__ttrpc__key_value__descriptor)

/* A service of KeyValue → KeyValue methods, as protoc-c would describe it. */
enum { ECHO, FAIL, HOLD, RELEASE, BIG, LEAVE, MISSING, N_METHODS };
#define METHOD(n)                                                                                  \
	{                                                                                          \
		.name = (n), .input = KEY_VALUE, .output = KEY_VALUE                               \
	}
static const ProtobufCMethodDescriptor method_descriptors[N_METHODS] = {
	[ECHO] = METHOD("Echo"),
	[FAIL] = METHOD("Fail"),
	[HOLD] = METHOD("Hold"),
	[RELEASE] = METHOD("Release"),
	[BIG] = METHOD("Big"),
	[LEAVE] = METHOD("Leave"),
	[MISSING] = METHOD("Missing"),
};
static const unsigned by_name[N_METHODS] = {BIG, ECHO, FAIL, HOLD, LEAVE, MISSING, RELEASE};
static const ProtobufCServiceDescriptor service_descriptor = {
	.magic = PROTOBUF_C__SERVICE_DESCRIPTOR_MAGIC,
	.name = "test.Service",
	.short_name = "Service",
	.c_name = "Test__Service",
	.package = "test",
	.n_methods = N_METHODS,
	.methods = method_descriptors,
	.method_indices_by_name = by_name,
};

/*
 * A loop in a thread of its own, a socket pair, and on each end of it ours or the bare socket.
 * `held` belongs to the loop's thread, and to the test once that has ended.
 */
struct world {
	struct ev_loop *loop;
	pthread_t thread;
	bool running;
	int raw;
	struct ttrpc_service service;
	struct ttrpc_conn *conn;
	struct ttrpc_client *client;
	struct ttrpc_call *held[2 * TTRPC_CALLS_MAX];
	atomic_size_t n_held;
	atomic_int server_closes;
	atomic_int client_closes;
	size_t descriptors;
};

static void reply(struct ttrpc_call *call, char *key, char *value)
{
	KeyValue answer = BULKHEAD__TTRPC__KEY_VALUE__INIT;
	answer.key = key;
	answer.value = value;
	ttrpc_reply(call, &answer.base);
}

static void handle_echo(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	(void)userdata;
	ttrpc_reply(call, message);
}

static void handle_fail(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	(void)userdata;
	struct err err = ERR_INIT;
	err_set(&err, -atoi(((const KeyValue *)message)->key), "%s",
		((const KeyValue *)message)->value);
	ttrpc_fail(call, &err);
}

static void handle_hold(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	struct world *world = userdata;
	(void)message;
	assert_true(world->n_held < ARRAY_SIZE(world->held));
	world->held[world->n_held++] = call;
}

static void release_held(struct world *world)
{
	for (size_t i = world->n_held; i-- > 0;) /* not in the order of asking */
		reply(world->held[i], "held", "");
	world->n_held = 0;
}

static void handle_release(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	release_held(userdata);
	ttrpc_reply(call, message);
}

static void handle_big(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	(void)userdata;
	size_t size = strtoul(((const KeyValue *)message)->key, NULL, 10);
	_cleanup_free_ char *value = malloc(size + 1);
	assert_non_null(value);
	memset(value, 'v', size);
	value[size] = '\0';
	reply(call, "", value);
}

static void handle_leave(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	struct world *world = userdata;
	world->conn = ttrpc_conn_free(world->conn);
	ttrpc_reply(call, message);
}

static const struct ttrpc_method methods[] = {
	{"Echo", handle_echo},
	{"Fail", handle_fail},
	{"Hold", handle_hold},
	{"Release", handle_release},
	{"Big", handle_big},
	{"Leave", handle_leave},
};

static void server_closed(void *userdata, struct ttrpc_conn *conn)
{
	struct world *world = userdata;
	assert_ptr_equal(conn, world->conn);
	world->conn = NULL;
	world->server_closes++;
}

static void client_closed(void *userdata)
{
	struct world *world = userdata;
	world->client_closes++;
}

static void *run_loop(void *userdata)
{
	struct world *world = userdata;
	ev_loop_run(world->loop, NULL);
	return NULL;
}

static size_t open_descriptors(void)
{
	size_t n = 0;
	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static int setup(void **state, bool server, bool client)
{
	struct world *world = calloc(1, sizeof(*world));
	int pair[2];
	assert_non_null(world);
	world->descriptors = open_descriptors();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(ev_loop_new(&world->loop, NULL), 0);
	world->raw = -EBADF;
	world->service = (struct ttrpc_service){
		.descriptor = &service_descriptor,
		.methods = methods,
		.n_methods = ARRAY_SIZE(methods),
		.userdata = world,
		.on_close = server_closed,
	};
	if (server)
		assert_int_equal(
			ttrpc_conn_new(world->loop, pair[0], &world->service, &world->conn, NULL),
			0);
	else
		world->raw = pair[0];
	if (client)
		assert_int_equal(ttrpc_client_new(world->loop, pair[1], client_closed, world,
					 &world->client, NULL),
			0);
	else
		world->raw = pair[1];
	assert_int_equal(pthread_create(&world->thread, NULL, run_loop, world), 0);
	while (!ev_loop_is_running(world->loop))
		sched_yield();
	world->running = true;
	*state = world;
	return 0;
}

static int setup_both(void **state)
{
	return setup(state, true, true);
}

static int setup_server(void **state)
{
	return setup(state, true, false);
}

static int setup_client(void **state)
{
	return setup(state, false, true);
}

static void stop_loop(struct world *world)
{
	if (!world->running)
		return;
	ev_loop_stop(world->loop);
	pthread_join(world->thread, NULL);
	world->running = false;
}

static int teardown(void **state)
{
	struct world *world = *state;
	world->client = ttrpc_client_close(world->client);
	stop_loop(world);
	world->conn = ttrpc_conn_free(world->conn);
	release_held(world);
	ev_loop_free(world->loop);
	fd_close(world->raw);
	assert_int_equal(open_descriptors(), world->descriptors);
	free(world);
	return 0;
}

static int call(struct world *world, const char *method, const char *key, const char *value,
	uint64_t timeout_ms, KeyValue **ret, struct err *err)
{
	KeyValue request = BULKHEAD__TTRPC__KEY_VALUE__INIT;
	request.key = (char *)key;
	request.value = (char *)value;
	ProtobufCMessage *response = NULL;
	int r = ttrpc_client_call(world->client, &service_descriptor, method, &request.base,
		timeout_ms, ret ? &response : NULL, err);
	if (ret)
		*ret = (KeyValue *)response;
	return r;
}

static void check_echo(struct world *world)
{
	struct err err = ERR_INIT;
	KeyValue *answer = NULL;
	assert_int_equal(call(world, "Echo", "k", "v", 20000, &answer, &err), 0);
	assert_string_equal(answer->key, "k");
	assert_string_equal(answer->value, "v");
	protobuf_c_message_free_unpacked(&answer->base, NULL);
}

static void wait_for(const atomic_int *count, int value)
{
	for (int i = 0; i < 5000 && atomic_load(count) != value; i++)
		usleep(1000);
	assert_int_equal(atomic_load(count), value);
}

/* Frames. */

static void frames_go_through(void **state)
{
	(void)state;
	struct buf buf = buf_init(64);
	struct ttrpc_frame in = {
		.stream_id = 0x01020305,
		.type = TTRPC_RESPONSE,
		.payload = (const uint8_t *)"abc",
		.payload_len = 3,
	};
	struct ttrpc_frame out;
	assert_int_equal(ttrpc_encode(&buf, &in), 0);
	assert_memory_equal(buf.data, "\0\0\0\3\1\2\3\5\2\0abc", 13);
	for (size_t len = 0; len < 13; len++)
		assert_int_equal(ttrpc_decode(buf.data, len, &out, NULL), 0);
	assert_int_equal(ttrpc_decode(buf.data, buf.len, &out, NULL), 13);
	assert_int_equal(out.stream_id, 0x01020305);
	assert_int_equal(out.type, TTRPC_RESPONSE);
	assert_int_equal(out.payload_len, 3);
	assert_ptr_equal(out.payload, buf.data + 10);

	in.payload_len = 0;
	assert_int_equal(ttrpc_encode(&buf, &in), 0);
	assert_int_equal(ttrpc_decode(buf.data + 13, 10, &out, NULL), 10);
	in.payload_len = TTRPC_PAYLOAD_MAX + 1;
	assert_int_equal(ttrpc_encode(&buf, &in), -EMSGSIZE);
	in.payload_len = 64 - 23 - 9;
	assert_int_equal(ttrpc_encode(&buf, &in), -ENOBUFS);
	assert_int_equal(buf.len, 23);
	buf_done(&buf);
}

static void bad_headers_are_refused_at_once(void **state)
{
	(void)state;
	static const struct {
		const char *bytes;
		const char *says;
	} bad[] = {
		{"\0\100\0\1\0\0\0\1\1\0", "4194305 bytes"},
		{"\377\377\377\377\0\0\0\1\1\0", "4294967295 bytes"},
		{"\0\0\0\1\0\0\0\2\1\0", "even stream id 2"},
		{"\0\0\0\1\0\0\0\0\1\0", "even stream id 0"},
		{"\0\0\0\1\0\0\0\1\0\0", "unknown type 0"},
		{"\0\0\0\1\0\0\0\1\3\0", "unknown type 3"},
		{"\0\0\0\1\0\0\0\1\1\2", "flags 0x02"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = ERR_INIT;
		struct ttrpc_frame frame;
		assert_int_equal(ttrpc_decode(bad[i].bytes, 10, &frame, &err), -EPROTO);
		assert_non_null(strstr(err.msg, bad[i].says));
	}
	struct ttrpc_frame frame;
	assert_int_equal(ttrpc_decode("\0\0\0\0\0\0\0\1\1\1", 10, &frame, NULL), 10);
	assert_int_equal(ttrpc_decode("\0\100\0\0\0\0\0\1\1\0", 10, &frame, NULL), 0);
}

static void unpacking_has_a_budget(void **state)
{
	(void)state;
	/* Two bytes of wire for each entry of metadata: a structure each. */
	size_t len = TTRPC_PAYLOAD_MAX;
	_cleanup_free_ uint8_t *data = malloc(len);
	assert_non_null(data);
	for (size_t i = 0; i + 1 < len; i += 2) {
		data[i] = 5 << 3 | 2;
		data[i + 1] = 0;
	}
	assert_null(ttrpc_unpack(&bulkhead__ttrpc__request__descriptor, data, len));
	ProtobufCMessage *message = ttrpc_unpack(&bulkhead__ttrpc__request__descriptor, data, 2000);
	assert_non_null(message);
	assert_int_equal(((Bulkhead__Ttrpc__Request *)message)->n_metadata, 1000);
	protobuf_c_message_free_unpacked(message, NULL);
	assert_null(ttrpc_unpack(&bulkhead__ttrpc__request__descriptor, "\377\377", 2));
}

/* Both ends together. */

static void calls_are_answered(void **state)
{
	struct world *world = *state;
	for (int i = 0; i < 50; i++)
		check_echo(world);
	assert_int_equal(call(world, "Echo", "", "", 0, NULL, NULL), 0);
}

static void errors_travel(void **state)
{
	struct world *world = *state;
	struct err err = ERR_INIT;
	KeyValue *answer = NULL;
	assert_int_equal(call(world, "Fail", "17", "it is there", 0, &answer, &err), -EEXIST);
	assert_int_equal(err.code, -EEXIST);
	assert_string_equal(err.msg, "call Fail: it is there");
	assert_null(answer);
	/* A failure without a code is one nevertheless. */
	assert_int_equal(call(world, "Fail", "0", "x", 0, &answer, &err), -EIO);
	/* And a code that cannot be one. */
	assert_int_equal(call(world, "Fail", "100000", "x", 0, NULL, &err), -EPROTO);
	check_echo(world);
}

static void what_is_not_built_is_named(void **state)
{
	struct world *world = *state;
	struct err err = ERR_INIT;
	assert_int_equal(call(world, "Missing", "", "", 0, NULL, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.msg, "test.Service.Missing"));
	ProtobufCServiceDescriptor other = service_descriptor;
	other.name = "test.Other";
	KeyValue request = BULKHEAD__TTRPC__KEY_VALUE__INIT;
	assert_int_equal(
		ttrpc_client_call(world->client, &other, "Echo", &request.base, 0, NULL, &err),
		-EOPNOTSUPP);
	assert_non_null(strstr(err.msg, "test.Other.Echo"));
	ProtobufCMethodDescriptor renamed = METHOD("Nonsense");
	static const unsigned zero;
	other = service_descriptor;
	other.n_methods = 1;
	other.methods = &renamed;
	other.method_indices_by_name = &zero;
	assert_int_equal(
		ttrpc_client_call(world->client, &other, "Nonsense", &request.base, 0, NULL, &err),
		-EOPNOTSUPP);
	check_echo(world);
}

static void big_messages(void **state)
{
	struct world *world = *state;
	struct err err = ERR_INIT;
	KeyValue *answer = NULL;
	assert_int_equal(call(world, "Big", "4000000", "", 20000, &answer, &err), 0);
	assert_int_equal(strlen(answer->value), 4000000);
	_cleanup_free_ char *value = TAKE_PTR(answer->value);
	protobuf_c_message_free_unpacked(&answer->base, NULL);
	assert_int_equal(call(world, "Echo", "", value, 20000, &answer, &err), 0);
	assert_string_equal(answer->value, value);
	protobuf_c_message_free_unpacked(&answer->base, NULL);
	/* The server's answer is too large, then our request; neither ends the connection. */
	assert_int_equal(call(world, "Big", "4194304", "", 20000, &answer, &err), -EMSGSIZE);
	_cleanup_free_ char *huge = malloc(TTRPC_PAYLOAD_MAX + 1);
	assert_non_null(huge);
	memset(huge, 'h', TTRPC_PAYLOAD_MAX);
	huge[TTRPC_PAYLOAD_MAX] = '\0';
	assert_int_equal(call(world, "Echo", "", huge, 20000, &answer, &err), -EMSGSIZE);
	/* Just below the limit the envelope makes it too large. */
	huge[TTRPC_PAYLOAD_MAX - 8] = '\0';
	assert_int_equal(call(world, "Echo", "", huge, 20000, &answer, &err), -EMSGSIZE);
	check_echo(world);
}

struct caller {
	pthread_t thread;
	struct world *world;
	const char *method;
	uint64_t timeout_ms;
	int rounds;
	int result;
};

static void *call_often(void *userdata)
{
	struct caller *caller = userdata;
	struct err err = ERR_INIT;
	char key[32];
	char value[3000];
	snprintf(key, sizeof(key), "%p", (void *)caller);
	memset(value, 'v', sizeof(value));
	value[sizeof(value) - 1] = '\0';
	for (int i = 0; i < caller->rounds && caller->result == 0; i++) {
		KeyValue *answer = NULL;
		caller->result = call(caller->world, caller->method, key, value, caller->timeout_ms,
			&answer, &err);
		if (caller->result == 0 && strcmp(caller->method, "Echo") == 0 &&
			strcmp(answer->key, key) != 0)
			caller->result = -EBADMSG;
		if (answer)
			protobuf_c_message_free_unpacked(&answer->base, NULL);
	}
	return NULL;
}

static void start_caller(struct caller *caller)
{
	assert_int_equal(pthread_create(&caller->thread, NULL, call_often, caller), 0);
}

static void many_threads_call_at_once(void **state)
{
	struct world *world = *state;
	struct caller callers[8];
	for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
		callers[i] = (struct caller){
			.world = world, .method = "Echo", .timeout_ms = 60000, .rounds = 200};
		start_caller(&callers[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
		pthread_join(callers[i].thread, NULL);
		assert_int_equal(callers[i].result, 0);
	}
}

static void wait_held(struct world *world, size_t n)
{
	for (int i = 0; i < 5000 && world->n_held < n; i++)
		usleep(1000);
	assert_int_equal(world->n_held, n);
}

static void answers_come_in_any_order(void **state)
{
	struct world *world = *state;
	struct caller callers[5];
	for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
		callers[i] = (struct caller){.world = world, .method = "Hold", .rounds = 1};
		start_caller(&callers[i]);
	}
	wait_held(world, ARRAY_SIZE(callers));
	check_echo(world);
	assert_int_equal(call(world, "Release", "", "", 20000, NULL, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
		pthread_join(callers[i].thread, NULL);
		assert_int_equal(callers[i].result, 0);
	}
}

static void a_late_answer_is_dropped(void **state)
{
	struct world *world = *state;
	struct err err = ERR_INIT;
	uint64_t begin = ev_now_ms();
	assert_int_equal(call(world, "Hold", "", "", 50, NULL, &err), -ETIMEDOUT);
	assert_true(ev_now_ms() - begin >= 50);
	assert_string_equal(err.msg, "call Hold: no answer in time");
	assert_int_equal(call(world, "Release", "", "", 20000, NULL, &err), 0);
	check_echo(world);
	assert_int_equal(world->client_closes, 0);
}

static void a_server_that_leaves(void **state)
{
	struct world *world = *state;
	struct caller held = {.world = world, .method = "Hold", .rounds = 1};
	start_caller(&held);
	wait_held(world, 1);
	struct err err = ERR_INIT;
	assert_int_equal(call(world, "Leave", "", "", 20000, NULL, &err), -EPIPE);
	pthread_join(held.thread, NULL);
	assert_int_equal(held.result, -EPIPE);
	wait_for(&world->client_closes, 1);
	assert_int_equal(world->server_closes, 0); /* not where it was the owner's wish */
	assert_int_equal(call(world, "Echo", "", "", 20000, NULL, &err), -EPIPE);
	/* Closing after the peer has: once is once. */
	world->client = ttrpc_client_close(world->client);
	assert_int_equal(world->client_closes, 1);
}

static void closing_wakes_the_callers(void **state)
{
	struct world *world = *state;
	struct caller held[3];
	for (size_t i = 0; i < ARRAY_SIZE(held); i++) {
		held[i] = (struct caller){.world = world, .method = "Hold", .rounds = 1};
		start_caller(&held[i]);
	}
	wait_held(world, ARRAY_SIZE(held));
	world->client = ttrpc_client_close(world->client);
	for (size_t i = 0; i < ARRAY_SIZE(held); i++) {
		pthread_join(held[i].thread, NULL);
		assert_int_equal(held[i].result, -EPIPE);
	}
	wait_for(&world->server_closes, 1);
	assert_int_equal(world->client_closes, 0);
	assert_null(ttrpc_client_close(NULL));
	assert_null(ttrpc_conn_free(NULL));
	/* `held` in the world is answered to nobody in teardown. */
}

static void close_job(void *userdata)
{
	struct world *world = userdata;
	ttrpc_client_close(world->client);
}

static void a_client_may_be_closed_on_the_loop(void **state)
{
	struct world *world = *state;
	check_echo(world);
	assert_int_equal(ev_post(world->loop, close_job, world), 0);
	wait_for(&world->server_closes, 1);
	stop_loop(world);
	world->client = NULL;
	assert_int_equal(world->client_closes, 0);
}

static void a_client_may_be_closed_after_the_loop_stopped(void **state)
{
	struct world *world = *state;
	check_echo(world);
	stop_loop(world);
	world->client = ttrpc_client_close(world->client);
}

static void call_limits_hold(void **state)
{
	struct world *world = *state;
	/* Give-ups do not count at our end, but the server keeps them open until it answers. */
	KeyValue request = BULKHEAD__TTRPC__KEY_VALUE__INIT;
	struct err err = ERR_INIT;
	for (int i = 0; i < TTRPC_CALLS_MAX; i++)
		assert_int_equal(ttrpc_client_call(world->client, &service_descriptor, "Hold",
					 &request.base, 1, NULL, &err),
			-ETIMEDOUT);
	wait_held(world, TTRPC_CALLS_MAX);
	assert_int_equal(call(world, "Echo", "", "", 20000, NULL, &err), -EPIPE);
	wait_for(&world->server_closes, 1);
}

/* The server against a bare socket. */

/* False when the connection has ended. */
static bool send_request(int fd, uint32_t stream_id, const char *method, const char *key)
{
	KeyValue inner = BULKHEAD__TTRPC__KEY_VALUE__INIT;
	inner.key = (char *)key;
	ProtobufCBinaryData payload;
	assert_int_equal(ttrpc_pack(&inner.base, &payload, NULL), 0);
	Bulkhead__Ttrpc__Request request = BULKHEAD__TTRPC__REQUEST__INIT;
	request.service = "test.Service";
	request.method = (char *)method;
	request.payload = payload;
	struct buf out = buf_init(1 << 20);
	assert_int_equal(ttrpc_encode_message(&out, stream_id, TTRPC_REQUEST, &request.base), 0);
	bool sent = send(fd, out.data, out.len, MSG_NOSIGNAL) == (ssize_t)out.len;
	buf_done(&out);
	free(payload.data);
	return sent;
}

static Bulkhead__Ttrpc__Response *read_response(int fd, uint32_t *ret_stream_id)
{
	char data[TTRPC_HEADER_SIZE + 4096];
	assert_int_equal(fd_read_exact(fd, data, TTRPC_HEADER_SIZE, NULL), 0);
	size_t len = (size_t)(uint8_t)data[2] << 8 | (uint8_t)data[3];
	assert_true(len <= 4096);
	assert_int_equal(fd_read_exact(fd, data + TTRPC_HEADER_SIZE, len, NULL), 0);
	struct ttrpc_frame frame;
	assert_true(ttrpc_decode(data, TTRPC_HEADER_SIZE + len, &frame, NULL) > 0);
	assert_int_equal(frame.type, TTRPC_RESPONSE);
	*ret_stream_id = frame.stream_id;
	Bulkhead__Ttrpc__Response *response =
		bulkhead__ttrpc__response__unpack(NULL, frame.payload_len, frame.payload);
	assert_non_null(response);
	return response;
}

static int read_code(int fd, uint32_t stream_id)
{
	uint32_t got;
	Bulkhead__Ttrpc__Response *response = read_response(fd, &got);
	int code = response->status ? response->status->code : 0;
	assert_int_equal(got, stream_id);
	bulkhead__ttrpc__response__free_unpacked(response, NULL);
	return code;
}

static void expect_end(struct world *world)
{
	struct pollfd pollfd = {.fd = world->raw, .events = POLLIN};
	assert_int_equal(poll(&pollfd, 1, 5000), 1);
	char c;
	assert_true(read(world->raw, &c, 1) <= 0);
	wait_for(&world->server_closes, 1);
}

static void requests_arrive_in_any_pieces(void **state)
{
	struct world *world = *state;
	/* Two requests, byte by byte. */
	int pair[2];
	char data[200];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	send_request(pair[0], 1, "Echo", "a");
	send_request(pair[0], 3, "Echo", "b");
	ssize_t len = read(pair[1], data, sizeof(data));
	assert_true(len > 40);
	for (ssize_t i = 0; i < len; i++) {
		assert_int_equal(write(world->raw, data + i, 1), 1);
		if (i % 7 == 0)
			usleep(100);
	}
	assert_int_equal(read_code(world->raw, 1), 0);
	assert_int_equal(read_code(world->raw, 3), 0);
	close(pair[0]);
	close(pair[1]);
}

static void the_server_refuses_a_bad_frame(void **state)
{
	struct world *world = *state;
	assert_int_equal(write(world->raw, "\377\0\0\0\0\0\0\1\1\0", 10), 10);
	expect_end(world);
}

static void the_server_refuses_a_response(void **state)
{
	struct world *world = *state;
	assert_int_equal(write(world->raw, "\0\0\0\0\0\0\0\1\2\0", 10), 10);
	expect_end(world);
}

static void the_server_refuses_garbage_in_a_frame(void **state)
{
	struct world *world = *state;
	assert_int_equal(write(world->raw, "\0\0\0\2\0\0\0\1\1\0\377\377", 12), 12);
	expect_end(world);
}

static void a_used_stream_id_ends_the_connection(void **state)
{
	struct world *world = *state;
	send_request(world->raw, 5, "Echo", "");
	assert_int_equal(read_code(world->raw, 5), 0);
	send_request(world->raw, 5, "Echo", "");
	expect_end(world);
}

static void a_stream_id_in_use_ends_the_connection(void **state)
{
	struct world *world = *state;
	send_request(world->raw, 7, "Hold", "");
	send_request(world->raw, 7, "Hold", "");
	expect_end(world);
	stop_loop(world);
	assert_int_equal(world->n_held, 1);
}

static void a_bad_payload_fails_its_call_alone(void **state)
{
	struct world *world = *state;
	Bulkhead__Ttrpc__Request request = BULKHEAD__TTRPC__REQUEST__INIT;
	request.service = "test.Service";
	request.method = "Echo";
	request.payload = (ProtobufCBinaryData){.data = (uint8_t *)"\377", .len = 1};
	struct buf out = buf_init(1000);
	assert_int_equal(ttrpc_encode_message(&out, 1, TTRPC_REQUEST, &request.base), 0);
	assert_int_equal(fd_write_all(world->raw, out.data, out.len, NULL), 0);
	buf_done(&out);
	assert_int_equal(read_code(world->raw, 1), EINVAL);
	send_request(world->raw, 3, "Echo", "");
	assert_int_equal(read_code(world->raw, 3), 0);
}

static void a_half_closed_peer_gets_what_is_ready(void **state)
{
	struct world *world = *state;
	send_request(world->raw, 1, "Hold", "");
	send_request(world->raw, 3, "Echo", "");
	shutdown(world->raw, SHUT_WR);
	assert_int_equal(read_code(world->raw, 3), 0);
	expect_end(world);
}

static void a_frame_cut_by_the_end(void **state)
{
	struct world *world = *state;
	assert_int_equal(write(world->raw, "\0\0\1\0\0\0\0\1\1\0abc", 13), 13);
	shutdown(world->raw, SHUT_WR);
	expect_end(world);
}

static void a_peer_that_does_not_read_is_cut_off(void **state)
{
	struct world *world = *state;
	/* Each asks for 1 MB and never reads: some of it stays in the kernel, the rest is bounded.
	 */
	for (uint32_t i = 0; i < 30 && world->server_closes == 0; i++) {
		send_request(world->raw, 2 * i + 1, "Big", "1000000");
		usleep(5000);
	}
	wait_for(&world->server_closes, 1);
}

static void a_slow_reader_gets_all(void **state)
{
	struct world *world = *state;
	for (uint32_t i = 0; i < 10; i++)
		send_request(world->raw, 2 * i + 1, "Big", "1000000");
	usleep(50000);
	size_t total = 0;
	static char chunk[65536];
	while (total < 10 * 1000000) {
		ssize_t n = read(world->raw, chunk, sizeof(chunk));
		assert_true(n > 0);
		total += (size_t)n;
	}
	assert_int_equal(world->server_closes, 0);
}

/* The client against a bare socket. */

static void answer_raw(int fd, uint32_t stream_id, Bulkhead__Ttrpc__Response *response)
{
	struct buf out = buf_init(1000);
	assert_int_equal(ttrpc_encode_message(&out, stream_id, TTRPC_RESPONSE, &response->base), 0);
	assert_int_equal(fd_write_all(fd, out.data, out.len, NULL), 0);
	buf_done(&out);
}

static void read_request(int fd)
{
	char data[8192];
	assert_int_equal(fd_read_exact(fd, data, TTRPC_HEADER_SIZE, NULL), 0);
	size_t len = (size_t)(uint8_t)data[2] << 8 | (uint8_t)data[3];
	assert_true(len <= sizeof(data));
	assert_int_equal(fd_read_exact(fd, data, len, NULL), 0);
}

static int call_answered_with(struct world *world, const void *bytes, size_t len)
{
	struct caller caller = {.world = world, .method = "Echo", .timeout_ms = 5000, .rounds = 1};
	start_caller(&caller);
	read_request(world->raw);
	assert_int_equal(fd_write_all(world->raw, bytes, len, NULL), 0);
	pthread_join(caller.thread, NULL);
	return caller.result;
}

static void an_answer_nobody_asked_for_is_a_breach(void **state)
{
	struct world *world = *state;
	assert_int_equal(call_answered_with(world, "\0\0\0\0\0\0\0\3\2\0", 10), -EPIPE);
	wait_for(&world->client_closes, 1);
}

static void a_request_to_the_client_is_a_breach(void **state)
{
	struct world *world = *state;
	assert_int_equal(call_answered_with(world, "\0\0\0\0\0\0\0\1\1\0", 10), -EPIPE);
	wait_for(&world->client_closes, 1);
}

static void a_garbled_envelope_is_a_breach(void **state)
{
	struct world *world = *state;
	assert_int_equal(call_answered_with(world, "\0\0\0\1\0\0\0\1\2\0\377", 11), -EPIPE);
	wait_for(&world->client_closes, 1);
}

static void an_oversize_answer_is_a_breach(void **state)
{
	struct world *world = *state;
	assert_int_equal(call_answered_with(world, "\1\0\0\0\0\0\0\1\2\0", 10), -EPIPE);
	wait_for(&world->client_closes, 1);
}

static void a_garbled_answer_fails_its_call(void **state)
{
	struct world *world = *state;
	/* Response.payload = 1 byte that is no message. */
	assert_int_equal(call_answered_with(world, "\0\0\0\3\0\0\0\1\2\0\x12\1\377", 13), -EPROTO);
	/* An answer without anything is an empty message. */
	assert_int_equal(call_answered_with(world, "\0\0\0\0\0\0\0\3\2\0", 10), -EBADMSG);
	assert_int_equal(world->client_closes, 0);
}

static void an_answer_given_twice_is_dropped(void **state)
{
	struct world *world = *state;
	Bulkhead__Ttrpc__Response response = BULKHEAD__TTRPC__RESPONSE__INIT;
	Bulkhead__Ttrpc__Status status = BULKHEAD__TTRPC__STATUS__INIT;
	status.code = ENOENT;
	status.message = "x";
	response.status = &status;
	for (uint32_t i = 0; i < 3; i++) {
		struct caller caller = {
			.world = world, .method = "Echo", .timeout_ms = 5000, .rounds = 1};
		start_caller(&caller);
		read_request(world->raw);
		if (i)
			answer_raw(world->raw, 2 * i - 1, &response);
		answer_raw(world->raw, 2 * i + 1, &response);
		pthread_join(caller.thread, NULL);
		assert_int_equal(caller.result, -ENOENT);
	}
	assert_int_equal(world->client_closes, 0);
}

static void a_peer_that_half_closes_is_gone(void **state)
{
	struct world *world = *state;
	struct caller caller = {.world = world, .method = "Echo", .rounds = 1};
	start_caller(&caller);
	read_request(world->raw);
	shutdown(world->raw, SHUT_WR);
	pthread_join(caller.thread, NULL);
	assert_int_equal(caller.result, -EPIPE);
	wait_for(&world->client_closes, 1);
}

static void calls_to_a_peer_that_does_not_read_end_in_time(void **state)
{
	struct world *world = *state;
	struct err err = ERR_INIT;
	_cleanup_free_ char *value = malloc(TTRPC_PAYLOAD_MAX);
	assert_non_null(value);
	memset(value, 'v', TTRPC_PAYLOAD_MAX);
	value[TTRPC_PAYLOAD_MAX - 1000] = '\0';
	int r = -ETIMEDOUT;
	for (int i = 0; i < 8 && !strstr(err.msg, "does not read"); i++)
		r = call(world, "Echo", "", value, 50, NULL, &err);
	assert_int_equal(r, -ETIMEDOUT);
	assert_string_equal(err.msg, "call Echo: the peer does not read");
	/* One who waits for room is woken by the end, too. */
	struct caller caller = {.world = world, .method = "Echo", .rounds = 5000};
	start_caller(&caller);
	usleep(50000);
	world->raw = fd_close(world->raw);
	pthread_join(caller.thread, NULL);
	assert_int_equal(caller.result, -EPIPE);
}

static void failing_to_begin_closes_the_descriptor(void **state)
{
	(void)state;
	struct ev_loop *loop;
	struct ttrpc_client *client = NULL;
	struct ttrpc_conn *conn = NULL;
	struct ttrpc_service service = {.descriptor = &service_descriptor};
	assert_int_equal(ev_loop_new(&loop, NULL), 0);
	/* epoll does not take regular files. */
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	assert_int_equal(ttrpc_client_new(loop, fd, NULL, NULL, &client, NULL), -EPERM);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	assert_int_equal(ttrpc_conn_new(loop, fd, &service, &conn, NULL), -EPERM);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_null(client);
	assert_null(conn);
	ev_loop_free(loop);
}

#define BOTH(f)   cmocka_unit_test_setup_teardown(f, setup_both, teardown)
#define SERVER(f) cmocka_unit_test_setup_teardown(f, setup_server, teardown)
#define CLIENT(f) cmocka_unit_test_setup_teardown(f, setup_client, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_go_through),
		cmocka_unit_test(bad_headers_are_refused_at_once),
		cmocka_unit_test(unpacking_has_a_budget),
		cmocka_unit_test(failing_to_begin_closes_the_descriptor),
		BOTH(calls_are_answered),
		BOTH(errors_travel),
		BOTH(what_is_not_built_is_named),
		BOTH(big_messages),
		BOTH(many_threads_call_at_once),
		BOTH(answers_come_in_any_order),
		BOTH(a_late_answer_is_dropped),
		BOTH(a_server_that_leaves),
		BOTH(closing_wakes_the_callers),
		BOTH(a_client_may_be_closed_on_the_loop),
		BOTH(a_client_may_be_closed_after_the_loop_stopped),
		BOTH(call_limits_hold),
		SERVER(requests_arrive_in_any_pieces),
		SERVER(the_server_refuses_a_bad_frame),
		SERVER(the_server_refuses_a_response),
		SERVER(the_server_refuses_garbage_in_a_frame),
		SERVER(a_used_stream_id_ends_the_connection),
		SERVER(a_stream_id_in_use_ends_the_connection),
		SERVER(a_bad_payload_fails_its_call_alone),
		SERVER(a_half_closed_peer_gets_what_is_ready),
		SERVER(a_frame_cut_by_the_end),
		SERVER(a_peer_that_does_not_read_is_cut_off),
		SERVER(a_slow_reader_gets_all),
		CLIENT(an_answer_nobody_asked_for_is_a_breach),
		CLIENT(a_request_to_the_client_is_a_breach),
		CLIENT(a_garbled_envelope_is_a_breach),
		CLIENT(an_oversize_answer_is_a_breach),
		CLIENT(a_garbled_answer_fails_its_call),
		CLIENT(an_answer_given_twice_is_dropped),
		CLIENT(a_peer_that_half_closes_is_gone),
		CLIENT(calls_to_a_peer_that_does_not_read_end_in_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
