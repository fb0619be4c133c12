/* What a guest does to a device as a whole: its packets, its connections, breaking the rules. */
#include "hypervisor/vsock/device.h"

#include <linux/vm_sockets.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "hypervisor/vsock/testing.h"

#define MANY 200

static int setup(void **state)
{
	struct vst_world *world = calloc(1, sizeof(*world));
	assert_non_null(world);
	vst_world_init(world);
	world->log.fd = memfd_create("log", MFD_CLOEXEC);
	vst_world_start(world);
	*state = world;
	return 0;
}

static int teardown(void **state)
{
	struct vst_world *world = *state;
	fd_close(world->log.fd);
	vst_world_done(world);
	free(world);
	return 0;
}

static const struct virtio_vsock_hdr a_request = {
	.src_port = 5,
	.dst_port = 9,
	.op = VIRTIO_VSOCK_OP_REQUEST,
	.buf_alloc = 1000,
};

static struct vst_packet expect(struct vst_world *world, uint16_t op)
{
	struct vst_packet packet;
	if (!vst_receive(&world->guest, &packet)) {
		vst_world_run(world);
		assert_true(vst_receive(&world->guest, &packet));
	}
	assert_int_equal(packet.hdr.op, op);
	return packet;
}

static void expect_none(struct vst_world *world)
{
	struct vst_packet packet;
	vst_world_run(world);
	assert_false(vst_receive(&world->guest, &packet));
}

static unsigned log_lines(const struct vst_world *world)
{
	static char text[4096];
	ssize_t n = pread(world->log.fd, text, sizeof(text), 0);
	unsigned lines = 0;
	for (ssize_t i = 0; i < n; i++)
		lines += text[i] == '\n';
	return lines;
}

static void test_guest_dials(void **state)
{
	struct vst_world *world = *state;
	vst_send(&world->guest, a_request, NULL);
	struct vst_packet rst = expect(world, VIRTIO_VSOCK_OP_RST); /* nobody listens */
	assert_int_equal(rst.hdr.src_port, 9);
	assert_int_equal(rst.hdr.dst_port, 5);

	_cleanup_close_ int listener = vst_listen(world, 9);
	assert_true(listener >= 0);
	vst_send(&world->guest, a_request, NULL);
	expect(world, VIRTIO_VSOCK_OP_RESPONSE);
	_cleanup_close_ int fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	assert_int_equal(send(fd, "hello", 5, 0), 5);
	assert_memory_equal(expect(world, VIRTIO_VSOCK_OP_RW).data, "hello", 5);
}

static void test_packets_of_nobody(void **state)
{
	struct vst_world *world = *state;
	static const uint16_t ops[] = {VIRTIO_VSOCK_OP_INVALID, VIRTIO_VSOCK_OP_RESPONSE,
		VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_OP_CREDIT_UPDATE,
		VIRTIO_VSOCK_OP_CREDIT_REQUEST, 8, UINT16_MAX};
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		struct virtio_vsock_hdr hdr = a_request;
		hdr.op = ops[i];
		vst_send(&world->guest, hdr, NULL);
		expect(world, VIRTIO_VSOCK_OP_RST);
	}
	struct virtio_vsock_hdr hdr = a_request;
	hdr.op = VIRTIO_VSOCK_OP_RST;
	vst_send(&world->guest, hdr, NULL);
	expect_none(world); /* or two devices would talk for ever */
}

static void test_packets_refused(void **state)
{
	struct vst_world *world = *state;
	_cleanup_close_ int listener = vst_listen(world, 9);
	assert_true(listener >= 0);
	struct virtio_vsock_hdr hdr = a_request;
	hdr.type = VIRTIO_VSOCK_TYPE_STREAM;
	hdr.src_cid = VST_CID + 1; /* another guest's address */
	hdr.dst_cid = VMADDR_CID_HOST;
	vst_send_raw(&world->guest, &hdr, NULL, 0);
	hdr.src_cid = VST_CID;
	hdr.dst_cid = VST_CID + 1; /* to another guest */
	vst_send_raw(&world->guest, &hdr, NULL, 0);
	expect_none(world);
	hdr.dst_cid = VMADDR_CID_HOST;
	hdr.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
	vst_send_raw(&world->guest, &hdr, NULL, 0);
	assert_int_equal(expect(world, VIRTIO_VSOCK_OP_RST).hdr.type, VIRTIO_VSOCK_TYPE_SEQPACKET);
	assert_int_equal(world->device->mux.n_conns, 0);
	assert_false(world->device->broken);
}

static void test_many(void **state)
{
	struct vst_world *world = *state;
	int fds[MANY];
	struct virtio_vsock_hdr hdrs[MANY];
	for (unsigned i = 0; i < MANY; i++) {
		fds[i] = vst_client(world);
		assert_int_equal(send(fds[i], "CONNECT 1\n", 10, 0), 10);
	}
	for (unsigned i = 0; i < MANY; i++) {
		struct vst_packet request = expect(world, VIRTIO_VSOCK_OP_REQUEST);
		struct virtio_vsock_hdr hdr = a_request;
		hdr.dst_port = request.hdr.src_port;
		hdr.src_port = request.hdr.dst_port;
		hdr.op = VIRTIO_VSOCK_OP_RESPONSE;
		vst_send(&world->guest, hdr, NULL);
		vst_world_run(world);
		for (unsigned j = 0; j < i; j++)
			assert_true(hdrs[j].dst_port != hdr.dst_port);
		hdrs[i] = hdr;
	}
	for (unsigned i = 0; i < MANY; i++) {
		hdrs[i].op = VIRTIO_VSOCK_OP_RW;
		hdrs[i].len = sizeof(i);
		vst_send(&world->guest, hdrs[i], &i);
		vst_world_run(world);
	}
	for (unsigned i = 0; i < MANY; i++) {
		/* Which client got which port it was told in the first line. */
		char line[64] = "";
		ssize_t n = recv(fds[i], line, sizeof(line), 0);
		unsigned port;
		unsigned index;
		assert_int_equal(sscanf(line, "OK %u\n", &port), 1);
		memcpy(&index, line + n - sizeof(index), sizeof(index));
		assert_in_range(index, 0, MANY - 1);
		assert_int_equal(hdrs[index].dst_port, port);
	}
	assert_int_equal(world->device->mux.n_conns, MANY);
	vs_device_stop(world->device, VS_QUEUE_TO_GUEST);
	assert_int_equal(world->device->mux.n_conns, 0);
	for (unsigned i = 0; i < MANY; i++) {
		char c;
		assert_int_equal(recv(fds[i], &c, 1, 0), 0);
		fd_close(fds[i]);
	}
}

/* A guest that sends and never fetches the answers is not served beyond what we remember. */
static void test_pending_answers(void **state)
{
	struct vst_world *world = *state;
	struct vst_driver *to_guest = &world->guest.drivers[VS_QUEUE_TO_GUEST];
	to_guest->avail->idx = 0; /* no buffers */
	const unsigned in_all = 3 * VS_REPLIES_MAX;
	unsigned sent = 0;
	unsigned taken = 0;
	struct vring_used_elem elem;
	for (unsigned round = 0; round < 4; round++) {
		while (sent < in_all && sent - taken < VST_RING_SIZE) {
			struct virtio_vsock_hdr hdr = a_request;
			hdr.src_port = sent++;
			vst_send(&world->guest, hdr, NULL);
		}
		vst_world_run(world);
		while (vst_take_used(&world->guest, VS_QUEUE_FROM_GUEST, &elem))
			taken++;
	}
	assert_int_equal(taken, VS_REPLIES_MAX);
	assert_int_equal(world->device->mux.n_replies, VS_REPLIES_MAX);

	/* With buffers it goes on where it stopped, and each is answered, in order. */
	to_guest->avail->idx = VST_RING_SIZE;
	for (unsigned i = 0; i < in_all; i++) {
		while (vst_take_used(&world->guest, VS_QUEUE_FROM_GUEST, &elem))
			taken++;
		while (sent < in_all && sent - taken < VST_RING_SIZE) {
			struct virtio_vsock_hdr hdr = a_request;
			hdr.src_port = sent++;
			vst_send(&world->guest, hdr, NULL);
		}
		assert_int_equal(expect(world, VIRTIO_VSOCK_OP_RST).hdr.dst_port, i);
	}
	expect_none(world);
}

static void break_rules(struct vst_world *world)
{
	vst_set_desc(&world->guest, VS_QUEUE_FROM_GUEST, 0,
		(struct vring_desc){.addr = UINT64_MAX, .len = 10});
	vst_offer(&world->guest, VS_QUEUE_FROM_GUEST, 0);
	vst_world_run(world);
}

static void test_broken(void **state)
{
	struct vst_world *world = *state;
	int fd = vst_client(world);
	break_rules(world);
	assert_true(world->device->broken);
	char c;
	assert_int_equal(recv(fd, &c, 1, 0), 0);
	fd_close(fd);
	/* Not served any more … */
	vst_send(&world->guest, a_request, NULL);
	expect_none(world);
	/* … until it is reset. */
	vst_world_restart(world);
	assert_false(world->device->broken);
	vst_send(&world->guest, a_request, NULL);
	expect(world, VIRTIO_VSOCK_OP_RST);
}

static void test_broken_in_a_loop(void **state)
{
	struct vst_world *world = *state;
	for (unsigned i = 0; i < 100; i++) {
		break_rules(world);
		assert_true(world->device->broken);
		vst_world_restart(world);
	}
	assert_int_equal(world->device->n_broken, 100);
	assert_int_equal(log_lines(world), 1);
	world->device->broken_log_ms = 0; /* a minute later */
	break_rules(world);
	assert_int_equal(log_lines(world), 2);
}

static void test_packets_cut_off(void **state)
{
	struct vst_world *world = *state;
	/* Shorter than a header; less data than it says; no room for an answer. */
	vst_offer(&world->guest, VS_QUEUE_FROM_GUEST, 0);
	vst_set_desc(&world->guest, VS_QUEUE_FROM_GUEST, 0,
		(struct vring_desc){.addr = VST_REGION_SIZE, .len = 43});
	vst_world_run(world);
	assert_true(world->device->broken);

	vst_world_restart(world);
	struct virtio_vsock_hdr hdr = a_request;
	hdr.len = 1;
	vst_send(&world->guest, hdr, NULL);
	vst_world_run(world);
	assert_true(world->device->broken);

	vst_world_restart(world);
	vst_set_desc(&world->guest, VS_QUEUE_TO_GUEST, 0,
		(struct vring_desc){
			.addr = VST_REGION_SIZE,
			.len = sizeof(hdr),
			.flags = VRING_DESC_F_WRITE,
		});
	vst_send(&world->guest, a_request, NULL);
	vst_world_run(world);
	assert_true(world->device->broken);
}

static void test_too_many(void **state)
{
	struct vst_world *world = *state;
	/* Pretended, for descriptors are few in a test. */
	unsigned real = world->device->mux.n_conns;
	world->device->mux.n_conns = VS_CONNECTIONS_MAX;
	_cleanup_close_ int listener = vst_listen(world, 9);
	assert_true(listener >= 0);
	vst_send(&world->guest, a_request, NULL);
	expect(world, VIRTIO_VSOCK_OP_RST);
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_true(vs_mux_accept(&world->device->mux, pair[0], NULL) < 0);
	char c;
	assert_int_equal(recv(pair[1], &c, 1, 0), 0);
	fd_close(pair[1]);
	world->device->mux.n_conns = real;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_guest_dials, setup, teardown),
		cmocka_unit_test_setup_teardown(test_packets_of_nobody, setup, teardown),
		cmocka_unit_test_setup_teardown(test_packets_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pending_answers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_broken, setup, teardown),
		cmocka_unit_test_setup_teardown(test_broken_in_a_loop, setup, teardown),
		cmocka_unit_test_setup_teardown(test_packets_cut_off, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_many, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
