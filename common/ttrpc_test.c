#include "common/ttrpc_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"

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
	assert_null(
		ttrpc_unpack(&bulkhead__ttrpc__request__descriptor, data, len, TTRPC_UNPACKED_MAX));
	ProtobufCMessage *message =
		ttrpc_unpack(&bulkhead__ttrpc__request__descriptor, data, 2000, TTRPC_UNPACKED_MAX);
	assert_non_null(message);
	assert_int_equal(((Bulkhead__Ttrpc__Request *)message)->n_metadata, 1000);
	protobuf_c_message_free_unpacked(message, NULL);
	assert_null(ttrpc_unpack(
		&bulkhead__ttrpc__request__descriptor, "\377\377", 2, TTRPC_UNPACKED_MAX));
}

/* Who keeps a message would keep what a peer put into it beside what we know, 50 MiB of it. */
static void unknown_fields_are_dropped(void **state)
{
	(void)state;
	static const char data[] = "\x0a\x01s"                 /* service */
				   "\x78\x01"                  /* field 15 */
				   "\x2a\x05\x0a\x01k\x78\x02" /* metadata: key, field 15 */
				   "\x7a\x03xyz";              /* field 15 again */
	ProtobufCMessage *message = ttrpc_unpack(
		&bulkhead__ttrpc__request__descriptor, data, sizeof(data) - 1, TTRPC_UNPACKED_MAX);
	assert_non_null(message);
	const Bulkhead__Ttrpc__Request *request = (const void *)message;
	assert_string_equal(request->service, "s");
	assert_int_equal(request->n_metadata, 1);
	assert_string_equal(request->metadata[0]->key, "k");
	assert_int_equal(message->n_unknown_fields, 0);
	assert_int_equal(request->metadata[0]->base.n_unknown_fields, 0);
	protobuf_c_message_free_unpacked(message, NULL);
}

/* Both ends together. */

static void calls_are_answered(void **state)
{
	struct world *world = *state;
	for (int i = 0; i < 50; i++)
		world_check_echo(world);
	assert_int_equal(world_call(world, "Echo", "", "", 0, NULL, NULL), 0);
}

static void errors_travel(void **state)
{
	struct world *world = *state;
	struct err err = ERR_INIT;
	KeyValue *answer = NULL;
	assert_int_equal(world_call(world, "Fail", "17", "it is there", 0, &answer, &err), -EEXIST);
	assert_int_equal(err.code, -EEXIST);
	assert_string_equal(err.msg, "call Fail: it is there");
	assert_null(answer);
	/* A failure without a code is one nevertheless. */
	assert_int_equal(world_call(world, "Fail", "0", "x", 0, &answer, &err), -EIO);
	/* And a code that cannot be one. */
	assert_int_equal(world_call(world, "Fail", "100000", "x", 0, NULL, &err), -EPROTO);
	world_check_echo(world);
}

static void what_is_not_built_is_named(void **state)
{
	struct world *world = *state;
	struct err err = ERR_INIT;
	assert_int_equal(world_call(world, "Missing", "", "", 0, NULL, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.msg, "test.Service.Missing"));
	ProtobufCServiceDescriptor other = world_service;
	other.name = "test.Other";
	KeyValue request = BULKHEAD__TTRPC__KEY_VALUE__INIT;
	assert_int_equal(
		ttrpc_client_call(world->client, &other, "Echo", &request.base, 0, NULL, &err),
		-EOPNOTSUPP);
	assert_non_null(strstr(err.msg, "test.Other.Echo"));
	ProtobufCMethodDescriptor renamed = WORLD_METHOD("Nonsense");
	static const unsigned zero;
	other = world_service;
	other.n_methods = 1;
	other.methods = &renamed;
	other.method_indices_by_name = &zero;
	assert_int_equal(
		ttrpc_client_call(world->client, &other, "Nonsense", &request.base, 0, NULL, &err),
		-EOPNOTSUPP);
	world_check_echo(world);
}

static void big_messages(void **state)
{
	struct world *world = *state;
	struct err err = ERR_INIT;
	KeyValue *answer = NULL;
	assert_int_equal(world_call(world, "Big", "4000000", "", 20000, &answer, &err), 0);
	assert_int_equal(strlen(answer->value), 4000000);
	_cleanup_free_ char *value = TAKE_PTR(answer->value);
	protobuf_c_message_free_unpacked(&answer->base, NULL);
	assert_int_equal(world_call(world, "Echo", "", value, 20000, &answer, &err), 0);
	assert_string_equal(answer->value, value);
	protobuf_c_message_free_unpacked(&answer->base, NULL);
	/* The server's answer is too large, then our request; neither ends the connection. */
	assert_int_equal(world_call(world, "Big", "4194304", "", 20000, &answer, &err), -EMSGSIZE);
	_cleanup_free_ char *huge = malloc(TTRPC_PAYLOAD_MAX + 1);
	assert_non_null(huge);
	memset(huge, 'h', TTRPC_PAYLOAD_MAX);
	huge[TTRPC_PAYLOAD_MAX] = '\0';
	assert_int_equal(world_call(world, "Echo", "", huge, 20000, &answer, &err), -EMSGSIZE);
	/* Just below the limit the envelope makes it too large. */
	huge[TTRPC_PAYLOAD_MAX - 8] = '\0';
	assert_int_equal(world_call(world, "Echo", "", huge, 20000, &answer, &err), -EMSGSIZE);
	world_check_echo(world);
}

static void many_threads_call_at_once(void **state)
{
	struct world *world = *state;
	struct caller callers[8];
	for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
		callers[i] = (struct caller){
			.world = world, .method = "Echo", .timeout_ms = 60000, .rounds = 200};
		caller_start(&callers[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
		pthread_join(callers[i].thread, NULL);
		assert_int_equal(callers[i].result, 0);
	}
}

static void answers_come_in_any_order(void **state)
{
	struct world *world = *state;
	struct caller callers[5];
	for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
		callers[i] = (struct caller){.world = world, .method = "Hold", .rounds = 1};
		caller_start(&callers[i]);
	}
	world_wait_held(world, ARRAY_SIZE(callers));
	world_check_echo(world);
	assert_int_equal(world_call(world, "Release", "", "", 20000, NULL, NULL), 0);
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
	assert_int_equal(world_call(world, "Hold", "", "", 50, NULL, &err), -ETIMEDOUT);
	assert_true(ev_now_ms() - begin >= 50);
	assert_string_equal(err.msg, "call Hold: no answer in time");
	assert_int_equal(world_call(world, "Release", "", "", 20000, NULL, &err), 0);
	world_check_echo(world);
	assert_int_equal(world->client_closes, 0);
}

static void a_server_that_leaves(void **state)
{
	struct world *world = *state;
	struct caller held = {.world = world, .method = "Hold", .rounds = 1};
	caller_start(&held);
	world_wait_held(world, 1);
	struct err err = ERR_INIT;
	assert_int_equal(world_call(world, "Leave", "", "", 20000, NULL, &err), -EPIPE);
	pthread_join(held.thread, NULL);
	assert_int_equal(held.result, -EPIPE);
	world_wait(&world->client_closes, 1);
	assert_int_equal(world->server_closes, 0); /* not where it was the owner's wish */
	assert_int_equal(world_call(world, "Echo", "", "", 20000, NULL, &err), -EPIPE);
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
		caller_start(&held[i]);
	}
	world_wait_held(world, ARRAY_SIZE(held));
	world->client = ttrpc_client_close(world->client);
	for (size_t i = 0; i < ARRAY_SIZE(held); i++) {
		pthread_join(held[i].thread, NULL);
		assert_int_equal(held[i].result, -EPIPE);
	}
	world_wait(&world->server_closes, 1);
	assert_int_equal(world->client_closes, 0);
	assert_null(ttrpc_client_close(NULL));
	assert_null(ttrpc_conn_free(NULL));
	/* `held` in the world is answered to nobody in world_teardown. */
}

static void close_job(void *userdata)
{
	struct world *world = userdata;
	ttrpc_client_close(world->client);
}

static void a_client_may_be_closed_on_the_loop(void **state)
{
	struct world *world = *state;
	world_check_echo(world);
	assert_int_equal(ev_post(world->loop, close_job, world), 0);
	world_wait(&world->server_closes, 1);
	world_stop_loop(world);
	world->client = NULL;
	assert_int_equal(world->client_closes, 0);
}

static void a_client_may_be_closed_after_the_loop_stopped(void **state)
{
	struct world *world = *state;
	world_check_echo(world);
	world_stop_loop(world);
	world->client = ttrpc_client_close(world->client);
}

static void call_limits_hold(void **state)
{
	struct world *world = *state;
	/* Give-ups do not count at our end, but the server keeps them open until it answers. */
	KeyValue request = BULKHEAD__TTRPC__KEY_VALUE__INIT;
	struct err err = ERR_INIT;
	for (int i = 0; i < TTRPC_CALLS_MAX; i++)
		assert_int_equal(ttrpc_client_call(world->client, &world_service, "Hold",
					 &request.base, 1, NULL, &err),
			-ETIMEDOUT);
	world_wait_held(world, TTRPC_CALLS_MAX);
	assert_int_equal(world_call(world, "Echo", "", "", 20000, NULL, &err), -EPIPE);
	world_wait(&world->server_closes, 1);
}

static void failing_to_begin_closes_the_descriptor(void **state)
{
	(void)state;
	struct ev_loop *loop;
	struct ttrpc_client *client = NULL;
	struct ttrpc_conn *conn = NULL;
	struct ttrpc_service service = {.descriptor = &world_service};
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

#define BOTH(f) cmocka_unit_test_setup_teardown(f, world_setup_both, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_go_through),
		cmocka_unit_test(bad_headers_are_refused_at_once),
		cmocka_unit_test(unpacking_has_a_budget),
		cmocka_unit_test(unknown_fields_are_dropped),
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
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
