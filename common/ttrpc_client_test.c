#include "common/ttrpc_fixture.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"

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
	struct caller caller = {.world = world, .method = "Echo", .timeout_ms = 30000, .rounds = 1};
	caller_start(&caller);
	read_request(world->raw);
	assert_int_equal(fd_write_all(world->raw, bytes, len, NULL), 0);
	pthread_join(caller.thread, NULL);
	return caller.result;
}

static void an_answer_nobody_asked_for_is_a_breach(void **state)
{
	struct world *world = *state;
	assert_int_equal(call_answered_with(world, "\0\0\0\0\0\0\0\3\2\0", 10), -EPIPE);
	world_wait(&world->client_closes, 1);
}

static void a_request_to_the_client_is_a_breach(void **state)
{
	struct world *world = *state;
	assert_int_equal(call_answered_with(world, "\0\0\0\0\0\0\0\1\1\0", 10), -EPIPE);
	world_wait(&world->client_closes, 1);
}

static void a_garbled_envelope_is_a_breach(void **state)
{
	struct world *world = *state;
	assert_int_equal(call_answered_with(world, "\0\0\0\1\0\0\0\1\2\0\377", 11), -EPIPE);
	world_wait(&world->client_closes, 1);
}

/* The loop, which is all connections', takes it apart: 50 ms for 2 MiB of fields. */
static void an_envelope_of_many_fields_is_a_breach(void **state)
{
	struct world *world = *state;
	char frame[10 + 65534] = "\0\0\xff\xfe\0\0\0\1\2\0";
	for (size_t i = 10; i < sizeof(frame); i += 2)
		memcpy(frame + i, "\x78", 2); /* field 15 is 0 */
	assert_int_equal(call_answered_with(world, frame, sizeof(frame)), -EPIPE);
	world_wait(&world->client_closes, 1);
}

static void an_oversize_answer_is_a_breach(void **state)
{
	struct world *world = *state;
	assert_int_equal(call_answered_with(world, "\1\0\0\0\0\0\0\1\2\0", 10), -EPIPE);
	world_wait(&world->client_closes, 1);
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

static void an_answer_given_twice_is_a_breach(void **state)
{
	struct world *world = *state;
	Bulkhead__Ttrpc__Response response = BULKHEAD__TTRPC__RESPONSE__INIT;
	Bulkhead__Ttrpc__Status status = BULKHEAD__TTRPC__STATUS__INIT;
	struct err err = ERR_INIT;
	status.code = ENOENT;
	status.message = "x";
	response.status = &status;
	/* Given up before it was answered: the answer may come, once. */
	assert_int_equal(world_call(world, "Echo", "", "", 1, NULL, &err), -ETIMEDOUT);
	read_request(world->raw);
	for (uint32_t i = 0; i < 2; i++) {
		struct caller caller = {
			.world = world, .method = "Echo", .timeout_ms = 30000, .rounds = 1};
		caller_start(&caller);
		read_request(world->raw);
		answer_raw(world->raw, 1, &response);
		if (i == 0)
			answer_raw(world->raw, 3, &response);
		pthread_join(caller.thread, NULL);
		assert_int_equal(caller.result, i ? -EPIPE : -ENOENT);
	}
	world_wait(&world->client_closes, 1);
}

static void a_peer_that_half_closes_is_gone(void **state)
{
	struct world *world = *state;
	struct caller caller = {.world = world, .method = "Echo", .rounds = 1};
	caller_start(&caller);
	read_request(world->raw);
	shutdown(world->raw, SHUT_WR);
	pthread_join(caller.thread, NULL);
	assert_int_equal(caller.result, -EPIPE);
	world_wait(&world->client_closes, 1);
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
		r = world_call(world, "Echo", "", value, 50, NULL, &err);
	assert_int_equal(r, -ETIMEDOUT);
	assert_string_equal(err.msg, "call Echo: the peer does not read");
	/* One who waits for room is woken by the end, too. */
	struct caller caller = {.world = world, .method = "Echo", .rounds = 5000};
	caller_start(&caller);
	usleep(50000);
	world->raw = fd_close(world->raw);
	pthread_join(caller.thread, NULL);
	assert_int_equal(caller.result, -EPIPE);
}

#define CLIENT(f) cmocka_unit_test_setup_teardown(f, world_setup_client, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CLIENT(an_answer_nobody_asked_for_is_a_breach),
		CLIENT(a_request_to_the_client_is_a_breach),
		CLIENT(a_garbled_envelope_is_a_breach),
		CLIENT(an_envelope_of_many_fields_is_a_breach),
		CLIENT(an_oversize_answer_is_a_breach),
		CLIENT(a_garbled_answer_fails_its_call),
		CLIENT(an_answer_given_twice_is_a_breach),
		CLIENT(a_peer_that_half_closes_is_gone),
		CLIENT(calls_to_a_peer_that_does_not_read_end_in_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
