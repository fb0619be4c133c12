#include "common/ttrpc_fixture.h"

#include <errno.h>
#include <poll.h>
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
	assert_int_equal(poll(&pollfd, 1, 30000), 1);
	char c;
	assert_true(read(world->raw, &c, 1) <= 0);
	world_wait(&world->server_closes, 1);
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
	world_stop_loop(world);
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
	world_wait(&world->server_closes, 1);
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

#define SERVER(f) cmocka_unit_test_setup_teardown(f, world_setup_server, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
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
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
