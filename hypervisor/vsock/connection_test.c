/* Streams through a whole device: the test is the guest's driver at one end, the client at the
 * other. */
#include "hypervisor/vsock/connection.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "hypervisor/vsock/testing.h"

#define GUEST_PORT 1000
#define BOTH       (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

static int setup(void **state)
{
	struct vst_world *world = calloc(1, sizeof(*world));
	assert_non_null(world);
	vst_world_init(world);
	vst_world_start(world);
	*state = world;
	return 0;
}

static int teardown(void **state)
{
	struct vst_world *world = *state;
	vst_world_done(world);
	free(world);
	return 0;
}

static unsigned n_conns(const struct vst_world *world)
{
	return world->device->mux.n_conns;
}

/* The next packet, which has to be this one. */
static struct vst_packet expect(struct vst_world *world, uint16_t op)
{
	struct vst_packet packet;
	if (!vst_receive(&world->guest, &packet)) {
		vst_world_run(world);
		assert_true(vst_receive(&world->guest, &packet));
	}
	assert_int_equal(packet.hdr.op, op);
	assert_int_equal(packet.hdr.src_cid, VMADDR_CID_HOST);
	assert_int_equal(packet.hdr.dst_cid, VST_CID);
	return packet;
}

static void expect_none(struct vst_world *world)
{
	struct vst_packet packet;
	vst_world_run(world);
	if (vst_receive(&world->guest, &packet))
		fail_msg("a packet with op %u, %u bytes", packet.hdr.op, packet.hdr.len);
}

/* The guest's answer to a packet of the device; the guest grants `credit` bytes in all. */
static struct virtio_vsock_hdr answer(const struct vst_packet *to, uint16_t op, uint32_t credit)
{
	return (struct virtio_vsock_hdr){
		.src_port = to->hdr.dst_port,
		.dst_port = to->hdr.src_port,
		.op = op,
		.buf_alloc = credit,
	};
}

static void send_op(struct vst_world *world, struct virtio_vsock_hdr hdr, uint16_t op)
{
	hdr.op = op;
	vst_send(&world->guest, hdr, NULL);
	vst_world_run(world);
}

static void send_data(
	struct vst_world *world, struct virtio_vsock_hdr hdr, const void *data, uint32_t len)
{
	hdr.op = VIRTIO_VSOCK_OP_RW;
	hdr.len = len;
	vst_send(&world->guest, hdr, data);
	vst_world_run(world);
}

static void send_shutdown(struct vst_world *world, struct virtio_vsock_hdr hdr, uint32_t flags)
{
	hdr.flags = flags;
	send_op(world, hdr, VIRTIO_VSOCK_OP_SHUTDOWN);
}

static void write_text(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static void expect_text(int fd, const char *text)
{
	char data[64];
	assert_int_equal(recv(fd, data, sizeof(data), 0), strlen(text));
	assert_memory_equal(data, text, strlen(text));
}

static void expect_end(int fd)
{
	char c;
	assert_int_equal(recv(fd, &c, 1, 0), 0);
}

static void expect_silence(int fd)
{
	char c;
	assert_int_equal(recv(fd, &c, 1, 0), -1);
	assert_int_equal(errno, EAGAIN);
}

/* An open connection: the client's end, and the header of what the guest sends on it. */
struct stream {
	int fd;
	struct virtio_vsock_hdr hdr;
};

static struct stream open_stream(struct vst_world *world, uint32_t credit)
{
	struct stream stream = {.fd = vst_client(world)};
	write_text(stream.fd, "CONNECT 1000\n");
	struct vst_packet request = expect(world, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(request.hdr.dst_port, GUEST_PORT);
	assert_int_equal(request.hdr.type, VIRTIO_VSOCK_TYPE_STREAM);
	assert_int_equal(request.hdr.buf_alloc, VS_BACKLOG_SIZE);
	expect_silence(stream.fd);
	stream.hdr = answer(&request, VIRTIO_VSOCK_OP_RESPONSE, credit);
	send_op(world, stream.hdr, VIRTIO_VSOCK_OP_RESPONSE);
	char ok[32];
	snprintf(ok, sizeof(ok), "OK %u\n", request.hdr.src_port);
	expect_text(stream.fd, ok);
	return stream;
}

static void test_exchange(void **state)
{
	struct vst_world *world = *state;
	struct stream s = open_stream(world, 1000);
	write_text(s.fd, "ping");
	struct vst_packet data = expect(world, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(data.hdr.len, 4);
	assert_memory_equal(data.data, "ping", 4);
	send_data(world, s.hdr, "pong!", 5);
	expect_text(s.fd, "pong!");
	send_op(world, s.hdr, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	data = expect(world, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	assert_int_equal(data.hdr.fwd_cnt, 5);
	fd_close(s.fd);
	assert_int_equal(
		expect(world, VIRTIO_VSOCK_OP_SHUTDOWN).hdr.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	assert_int_equal(expect(world, VIRTIO_VSOCK_OP_SHUTDOWN).hdr.flags, BOTH);
	assert_int_equal(n_conns(world), 1);
	send_op(world, s.hdr, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(n_conns(world), 0);
}

static void test_first_line(void **state)
{
	struct vst_world *world = *state;
	static const char *const bad[] = {"\n", "CONNECT\n", "CONNECT \n", "CONNECT -1\n",
		"CONNECT 4294967295\n", "CONNECT 99999999999\n", "CONNECT 1 \n", "connect 1\n",
		"CONNECT 1\r\n", "GET / HTTP/1.1\r\n",
		"CONNECT 11111111111111111111111111111111111"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_close_ int fd = vst_client(world);
		write_text(fd, bad[i]);
		expect_none(world);
		char c;
		assert_true(recv(fd, &c, 1, 0) <= 0 && errno != EAGAIN);
		errno = 0;
	}
	assert_int_equal(n_conns(world), 0);

	/* In pieces, and the stream right behind it. */
	_cleanup_close_ int fd = vst_client(world);
	write_text(fd, "CONN");
	expect_none(world);
	write_text(fd, "ECT 7\nfirst");
	struct vst_packet request = expect(world, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(request.hdr.dst_port, 7);
	send_op(world, answer(&request, 0, 100), VIRTIO_VSOCK_OP_RESPONSE);
	assert_memory_equal(expect(world, VIRTIO_VSOCK_OP_RW).data, "first", 5);
}

static void test_refused(void **state)
{
	struct vst_world *world = *state;
	_cleanup_close_ int fd = vst_client(world);
	write_text(fd, "CONNECT 7\n");
	struct vst_packet request = expect(world, VIRTIO_VSOCK_OP_REQUEST);
	send_op(world, answer(&request, 0, 0), VIRTIO_VSOCK_OP_RST);
	expect_end(fd);
	assert_int_equal(n_conns(world), 0);
	expect_none(world);
}

static void test_client_gives_up(void **state)
{
	struct vst_world *world = *state;
	int fd = vst_client(world);
	write_text(fd, "CONNECT 7\n");
	struct vst_packet request = expect(world, VIRTIO_VSOCK_OP_REQUEST);
	fd_close(fd);
	expect(world, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(n_conns(world), 0);
	/* The guest's answer was under way. */
	send_op(world, answer(&request, 0, 0), VIRTIO_VSOCK_OP_RESPONSE);
	expect(world, VIRTIO_VSOCK_OP_RST);
}

static void test_half_close_by_client(void **state)
{
	struct vst_world *world = *state;
	struct stream s = open_stream(world, 1000);
	write_text(s.fd, "last");
	shutdown(s.fd, SHUT_WR);
	assert_memory_equal(expect(world, VIRTIO_VSOCK_OP_RW).data, "last", 4);
	assert_int_equal(
		expect(world, VIRTIO_VSOCK_OP_SHUTDOWN).hdr.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	send_data(world, s.hdr, "answer", 6);
	expect_text(s.fd, "answer");
	expect_silence(s.fd);
	send_shutdown(world, s.hdr, BOTH);
	expect(world, VIRTIO_VSOCK_OP_RST);
	expect_end(s.fd);
	assert_int_equal(n_conns(world), 0);
	fd_close(s.fd);
}

static void test_half_close_by_guest(void **state)
{
	struct vst_world *world = *state;
	struct stream s = open_stream(world, 1000);
	send_data(world, s.hdr, "bye", 3);
	send_shutdown(world, s.hdr, VIRTIO_VSOCK_SHUTDOWN_SEND);
	expect_text(s.fd, "bye");
	expect_end(s.fd);
	write_text(s.fd, "still");
	assert_memory_equal(expect(world, VIRTIO_VSOCK_OP_RW).data, "still", 5);
	/* Data behind its own end is a lie. */
	send_data(world, s.hdr, "x", 1);
	expect(world, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(n_conns(world), 0);
	fd_close(s.fd);
}

static void test_guest_reads_no_more(void **state)
{
	struct vst_world *world = *state;
	struct stream s = open_stream(world, 1000);
	send_shutdown(world, s.hdr, VIRTIO_VSOCK_SHUTDOWN_RCV);
	expect(world, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(send(s.fd, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	send_data(world, s.hdr, "more", 4);
	expect_text(s.fd, "more");
	fd_close(s.fd);
	assert_int_equal(expect(world, VIRTIO_VSOCK_OP_SHUTDOWN).hdr.flags, BOTH);
	send_shutdown(world, s.hdr, BOTH);
	expect(world, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(n_conns(world), 0);
}

static void test_reset_by_guest(void **state)
{
	struct vst_world *world = *state;
	struct stream s = open_stream(world, 1000);
	send_data(world, s.hdr, "last words", 10);
	send_op(world, s.hdr, VIRTIO_VSOCK_OP_RST);
	expect_text(s.fd, "last words");
	expect_end(s.fd);
	expect_none(world);
	assert_int_equal(n_conns(world), 0);
	fd_close(s.fd);
}

static void test_credit_of_guest(void **state)
{
	struct vst_world *world = *state;
	struct stream s = open_stream(world, 10);
	write_text(s.fd, "0123456789abcdefghij");
	struct vst_packet data = expect(world, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(data.hdr.len, 10);
	/* It asks once, and sends no byte beyond. */
	expect(world, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	expect_none(world);
	s.hdr.fwd_cnt = 4;
	send_op(world, s.hdr, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	data = expect(world, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(data.hdr.len, 4);
	assert_memory_equal(data.data, "abcd", 4);
	expect(world, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	/* The guest shrinks its buffer below what is under way: less than nothing is nothing. */
	s.hdr.buf_alloc = 2;
	send_op(world, s.hdr, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	expect_none(world);
	/* It claims to have taken more than was sent. */
	s.hdr.fwd_cnt = 1000;
	send_op(world, s.hdr, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	expect_none(world);
	s.hdr.fwd_cnt = 14;
	s.hdr.buf_alloc = UINT32_MAX;
	send_op(world, s.hdr, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	assert_memory_equal(expect(world, VIRTIO_VSOCK_OP_RW).data, "efghij", 6);
	fd_close(s.fd);
}

/* Sends as much as the device granted and its client does not read; returns how much that was. */
static uint32_t fill(struct vst_world *world, struct stream *s, uint32_t limit)
{
	static const uint8_t data[VST_PAYLOAD_MAX];
	uint32_t sent = 0;
	uint32_t forwarded = 0;
	for (;;) {
		uint32_t room = VS_BACKLOG_SIZE - (sent - forwarded);
		uint32_t len = room < sizeof(data) ? room : sizeof(data);
		if (!len || sent >= limit)
			return sent;
		send_data(world, s->hdr, data, len);
		sent += len;
		struct vst_packet packet;
		while (vst_receive(&world->guest, &packet)) {
			assert_int_equal(packet.hdr.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
			forwarded = packet.hdr.fwd_cnt;
		}
		send_op(world, s->hdr, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
		forwarded = expect(world, VIRTIO_VSOCK_OP_CREDIT_UPDATE).hdr.fwd_cnt;
	}
}

static uint32_t drain(struct vst_world *world, int fd)
{
	static uint8_t data[VST_PAYLOAD_MAX];
	uint32_t total = 0;
	for (ssize_t n; (n = recv(fd, data, sizeof(data), 0)) > 0; vst_world_run(world))
		total += (uint32_t)n;
	return total;
}

static void test_slow_client_stops_itself(void **state)
{
	struct vst_world *world = *state;
	struct stream slow = open_stream(world, 1000);
	struct stream other = open_stream(world, 1000);
	uint32_t sent = fill(world, &slow, UINT32_MAX);
	assert_true(sent >= VS_BACKLOG_SIZE);
	send_data(world, other.hdr, "goes on", 7);
	expect_text(other.fd, "goes on");
	write_text(other.fd, "both ways");
	assert_memory_equal(expect(world, VIRTIO_VSOCK_OP_RW).data, "both ways", 9);

	/* When it reads, it gets all, and the guest is granted more without asking. */
	assert_int_equal(drain(world, slow.fd), sent);
	struct vst_packet update = {0};
	while (vst_receive(&world->guest, &update))
		assert_int_equal(update.hdr.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	assert_true(sent - update.hdr.fwd_cnt < VS_BACKLOG_SIZE / 2);
	assert_int_equal(n_conns(world), 2);
	fd_close(slow.fd);
	fd_close(other.fd);
}

static void test_beyond_credit(void **state)
{
	struct vst_world *world = *state;
	struct stream s = open_stream(world, 1000);
	fill(world, &s, UINT32_MAX);
	send_data(world, s.hdr, "x", 1);
	expect(world, VIRTIO_VSOCK_OP_RST);
	expect_none(world);
	assert_int_equal(n_conns(world), 0);
	fd_close(s.fd);
}

static void test_backlog_outlives_guest(void **state)
{
	struct vst_world *world = *state;
	struct stream s = open_stream(world, 1000);
	uint32_t sent = fill(world, &s, UINT32_MAX);
	send_shutdown(world, s.hdr, BOTH);
	expect(world, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(n_conns(world), 1);
	assert_int_equal(drain(world, s.fd), sent);
	expect_end(s.fd);
	assert_int_equal(n_conns(world), 0);
	fd_close(s.fd);
}

static void test_ports_anew(void **state)
{
	struct vst_world *world = *state;
	_cleanup_close_ int listener = vst_listen(world, 9);
	struct virtio_vsock_hdr hdr = {.src_port = 5, .dst_port = 9, .buf_alloc = 100};
	send_op(world, hdr, VIRTIO_VSOCK_OP_REQUEST);
	expect(world, VIRTIO_VSOCK_OP_RESPONSE);
	struct stream first = {.fd = accept(listener, NULL, NULL), .hdr = hdr};
	uint32_t sent = fill(world, &first, UINT32_MAX);
	/* Over with the RST still queued, and the same ports at once: the new one is no less good.
	 */
	hdr.flags = BOTH;
	hdr.op = VIRTIO_VSOCK_OP_SHUTDOWN;
	vst_send(&world->guest, hdr, NULL);
	send_op(world, first.hdr, VIRTIO_VSOCK_OP_REQUEST);
	expect(world, VIRTIO_VSOCK_OP_RESPONSE);
	struct stream second = {.fd = accept(listener, NULL, NULL), .hdr = first.hdr};
	send_data(world, second.hdr, "new", 3);
	expect_text(second.fd, "new");
	assert_int_equal(n_conns(world), 2);
	fcntl(first.fd, F_SETFL, O_NONBLOCK);
	assert_int_equal(drain(world, first.fd), sent);
	assert_int_equal(n_conns(world), 1);
	/* But ports of a living connection are no one else's. */
	send_op(world, second.hdr, VIRTIO_VSOCK_OP_REQUEST);
	expect(world, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(n_conns(world), 0);
	fd_close(first.fd);
	fd_close(second.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_exchange, setup, teardown),
		cmocka_unit_test_setup_teardown(test_first_line, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_client_gives_up, setup, teardown),
		cmocka_unit_test_setup_teardown(test_half_close_by_client, setup, teardown),
		cmocka_unit_test_setup_teardown(test_half_close_by_guest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_guest_reads_no_more, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset_by_guest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_credit_of_guest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_slow_client_stops_itself, setup, teardown),
		cmocka_unit_test_setup_teardown(test_beyond_credit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_backlog_outlives_guest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ports_anew, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
