/* The test is QEMU: it speaks vhost-user over a socket, and is the guest's driver afterwards. */
#include "hypervisor/vsock/vhost_user.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "hypervisor/vsock/testing.h"

/* As the specification numbers them. */
enum {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	SET_MEM_TABLE = 5,
	SET_LOG_BASE = 6,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	GET_VRING_BASE = 11,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16,
	SET_VRING_ENABLE = 18,
	GET_CONFIG = 24,
};
#define NEED_REPLY (1u | 8u)

struct message {
	uint32_t request;
	uint32_t flags;
	uint32_t size;
	uint8_t payload[512];
};

struct world {
	struct vst_world vst;
	struct vs_vhost *vhost;
	int qemu;
	int ended;
	bool in_order;
	struct err err; /* what was wrong */
};

static void on_end(void *userdata, const struct err *err)
{
	struct world *world = userdata;
	world->ended++;
	world->in_order = !err;
	if (err)
		world->err = *err;
}

static int setup(void **state)
{
	struct world *world = calloc(1, sizeof(*world));
	assert_non_null(world);
	vst_world_init(&world->vst);
	int pair[2];
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(vs_vhost_new(world->vst.loop, pair[0], world->vst.device, on_end, world,
				 &world->vhost, NULL),
		0);
	world->qemu = pair[1];
	*state = world;
	return 0;
}

static int teardown(void **state)
{
	struct world *world = *state;
	vs_vhost_free(world->vhost);
	fd_close(world->qemu);
	vst_world_done(&world->vst);
	free(world);
	return 0;
}

static void run(struct world *world)
{
	for (unsigned i = 0; i < 4; i++)
		vst_round(world->vst.loop);
}

/* `size` bytes of payload whatever the header says. */
static void send_raw(
	struct world *world, const struct message *message, size_t size, const int *fds, unsigned n)
{
	size_t len = offsetof(struct message, payload) + size;
	assert_int_equal(vst_send_fds(world->qemu, message, len, fds, n), len);
	run(world);
}

static void send_fds(struct world *world, uint32_t request, const void *payload, uint32_t size,
	const int *fds, unsigned n)
{
	struct message message = {.request = request, .flags = 1, .size = size};
	memcpy(message.payload, payload, size);
	send_raw(world, &message, size, fds, n);
}

static void send_message(struct world *world, uint32_t request, const void *payload, uint32_t size)
{
	send_fds(world, request, payload, size, NULL, 0);
}

static void send_state(struct world *world, uint32_t request, uint32_t index, uint32_t num)
{
	send_message(world, request, (uint32_t[]){index, num}, 8);
}

static struct message expect_reply(struct world *world, uint32_t request, uint32_t size)
{
	struct message reply = {0};
	assert_int_equal(recv(world->qemu, &reply, sizeof(reply), 0),
		offsetof(struct message, payload) + size);
	assert_int_equal(reply.request, request);
	assert_int_equal(reply.flags, 1 | 4);
	assert_int_equal(reply.size, size);
	return reply;
}

static uint64_t get_u64(struct world *world, uint32_t request)
{
	send_message(world, request, "", 0);
	struct message reply = expect_reply(world, request, 8);
	uint64_t value;
	memcpy(&value, reply.payload, sizeof(value));
	return value;
}

static void assert_ended(struct world *world, const char *why)
{
	assert_int_equal(world->ended, 1);
	assert_false(world->in_order);
	if (!strstr(world->err.msg, why))
		fail_msg("\"%s\" instead of \"%s\"", world->err.msg, why);
}

static unsigned open_fds(void)
{
	unsigned n = 0;
	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

struct table {
	uint32_t n;
	uint32_t padding;
	struct {
		uint64_t guest_addr;
		uint64_t size;
		uint64_t user_addr;
		uint64_t offset;
	} regions[VS_REGIONS_MAX + 1];
};
#define TABLE_SIZE(n) ((uint32_t)offsetof(struct table, regions[n]))

static struct table guest_table(void)
{
	struct table table = {.n = VST_REGIONS};
	for (unsigned i = 0; i < VST_REGIONS; i++) {
		struct vs_region_spec spec = vst_region_spec(i);
		table.regions[i].guest_addr = spec.guest_addr;
		table.regions[i].user_addr = spec.user_addr;
		table.regions[i].size = spec.size;
	}
	return table;
}

static void send_table(struct world *world)
{
	struct table table = guest_table();
	send_fds(world, SET_MEM_TABLE, &table, TABLE_SIZE(VST_REGIONS), world->vst.guest.fds,
		VST_REGIONS);
}

static void send_addr(struct world *world, uint32_t queue)
{
	struct vs_ring_addr addr = vst_ring_addr(&world->vst.guest, queue);
	struct {
		uint32_t index;
		uint32_t flags;
		struct vs_ring_addr addr;
		uint64_t log;
	} payload = {.index = queue, .addr = addr};
	send_message(world, SET_VRING_ADDR, &payload, sizeof(payload));
}

/* What QEMU 7.2 sends when the guest's driver starts. */
static void set_up(struct world *world)
{
	uint64_t features = 1ull << VIRTIO_F_VERSION_1 | 1ull << 30;
	send_message(world, SET_FEATURES, &features, 8);
	send_table(world);
	for (uint32_t i = 0; i < VS_QUEUES; i++) {
		uint64_t index = i;
		send_state(world, SET_VRING_NUM, i, VST_RING_SIZE);
		send_state(world, SET_VRING_BASE, i, 0);
		send_addr(world, i);
		send_fds(world, SET_VRING_KICK, &index, 8, &world->vst.kick_fds[i], 1);
		send_fds(world, SET_VRING_CALL, &index, 8, &world->vst.call_fds[i], 1);
		send_state(world, SET_VRING_ENABLE, i, 1);
	}
}

static void expect_service(struct world *world)
{
	struct vst_packet packet;
	struct virtio_vsock_hdr hdr = {.op = VIRTIO_VSOCK_OP_RW, .src_port = 77};
	uint64_t called = 0;
	vst_send(&world->vst.guest, hdr, NULL);
	vst_world_run(&world->vst);
	assert_true(vst_receive(&world->vst.guest, &packet));
	assert_int_equal(packet.hdr.op, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(packet.hdr.dst_port, 77);
	for (unsigned i = 0; i < VS_QUEUES; i++)
		assert_int_equal(
			read(world->vst.call_fds[i], &called, sizeof(called)), sizeof(called));
}

static void test_handshake(void **state)
{
	struct world *world = *state;
	uint64_t features = get_u64(world, GET_FEATURES);
	assert_int_equal(features, 1ull << 32 | 1ull << 30 | 1ull << 29);
	assert_int_equal(get_u64(world, GET_PROTOCOL_FEATURES), 1ull << 9 | 1ull << 3);
	struct {
		uint32_t offset, size, flags;
		uint64_t cid;
	} __attribute__((packed)) config = {.size = 8};
	send_message(world, GET_CONFIG, &config, sizeof(config));
	struct message reply = expect_reply(world, GET_CONFIG, sizeof(config));
	memcpy(&config, reply.payload, sizeof(config));
	assert_int_equal(config.cid, VST_CID);
	send_message(world, SET_OWNER, "", 0);
	set_up(world);
	assert_true(world->vst.device->mux.up);
	expect_service(world);
	assert_int_equal(world->ended, 0);
}

static void test_stop_and_go_on(void **state)
{
	struct world *world = *state;
	set_up(world);
	expect_service(world);
	send_state(world, GET_VRING_BASE, 1, 0);
	struct message reply = expect_reply(world, GET_VRING_BASE, 8);
	uint32_t state_of[2];
	memcpy(state_of, reply.payload, sizeof(state_of));
	assert_int_equal(state_of[0], 1);
	assert_int_equal(state_of[1], 1);
	assert_false(world->vst.device->mux.up);
	send_state(world, GET_VRING_BASE, 0, 0);
	expect_reply(world, GET_VRING_BASE, 8);
	vst_guest_reset(&world->vst.guest);
	set_up(world);
	expect_service(world);
}

static void test_memory_changes_while_running(void **state)
{
	struct world *world = *state;
	set_up(world);
	send_table(world);
	expect_service(world);
	/* To a table in which the rings are not. */
	struct table table = guest_table();
	table.n = 1;
	table.regions[0] = table.regions[1];
	send_fds(world, SET_MEM_TABLE, &table, TABLE_SIZE(1), &world->vst.guest.fds[1], 1);
	assert_ended(world, "outside");
	assert_false(world->vst.device->mux.up);
	vst_world_run(&world->vst);
}

static void test_acks(void **state)
{
	struct world *world = *state;
	uint64_t features = 1ull << 3;
	send_message(world, SET_PROTOCOL_FEATURES, &features, 8);
	struct message message = {.request = SET_VRING_NUM, .flags = NEED_REPLY, .size = 8};
	memcpy(message.payload, (uint32_t[]){0, VST_RING_SIZE}, 8);
	send_raw(world, &message, 8, NULL, 0);
	struct message reply = expect_reply(world, SET_VRING_NUM, 8);
	assert_int_equal(reply.payload[0], 0);
	memcpy(message.payload, (uint32_t[]){0, VST_RING_SIZE + 1}, 8);
	send_raw(world, &message, 8, NULL, 0);
	reply = expect_reply(world, SET_VRING_NUM, 8);
	assert_int_equal(reply.payload[0], 1);
	assert_ended(world, "SET_VRING_NUM: ring of 129 entries");
}

static void test_message_in_pieces(void **state)
{
	struct world *world = *state;
	struct message message = {.request = SET_VRING_NUM, .flags = 1, .size = 8};
	memcpy(message.payload, (uint32_t[]){0, 64}, 8);
	for (size_t i = 0; i < offsetof(struct message, payload[8]); i++) {
		assert_int_equal(world->vst.device->queues[0].ring.size, 0);
		assert_int_equal(send(world->qemu, (uint8_t *)&message + i, 1, 0), 1);
		run(world);
	}
	assert_int_equal(world->vst.device->queues[0].ring.size, 64);
	assert_int_equal(world->ended, 0);
}

/* One wrong message, in a session of its own. */
static void refuse(
	const char *why, uint32_t request, const void *payload, uint32_t size, unsigned n_fds)
{
	unsigned before = open_fds();
	void *state;
	setup(&state);
	struct world *world = state;
	int fds[VST_FDS_MAX];
	for (unsigned i = 0; i < n_fds; i++)
		fds[i] = world->vst.guest.fds[i % VST_REGIONS];
	send_fds(world, request, payload, size, fds, n_fds);
	assert_ended(world, why);
	teardown(&state);
	assert_int_equal(open_fds(), before); /* whatever came is closed */
}

static void refuse_state(const char *why, uint32_t request, uint32_t index, uint32_t num)
{
	refuse(why, request, (uint32_t[]){index, num}, 8, 0);
}

static void test_states_refused(void **state)
{
	(void)state;
	static const uint32_t sizes[] = {0, 3, 127, VS_RING_SIZE_MAX * 2, UINT32_MAX};
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		refuse_state("SET_VRING_NUM: ring of", SET_VRING_NUM, 0, sizes[i]);
	refuse_state("no queue 2", SET_VRING_NUM, 2, 128);
	refuse_state("no queue", SET_VRING_BASE, UINT32_MAX, 0);
	refuse_state("begins at index 65536", SET_VRING_BASE, 0, 65536);
	refuse_state("no queue 2", GET_VRING_BASE, 2, 0);
	refuse_state("enable queue 2", SET_VRING_ENABLE, 2, 1);
	refuse_state("enable queue 0: 2", SET_VRING_ENABLE, 0, 2);
	uint64_t feature = 1ull << VIRTIO_RING_F_INDIRECT_DESC;
	refuse("not offered", SET_FEATURES, &feature, 8, 0);
	feature = 1;
	refuse("not offered", SET_PROTOCOL_FEATURES, &feature, 8, 0);
	uint32_t address[10] = {0};
	refuse("before its size", SET_VRING_ADDR, address, sizeof(address), 0);
	address[1] = 1; /* to log writes, for migration */
	refuse("ring flags", SET_VRING_ADDR, address, sizeof(address), 0);
}

static void test_descriptors_refused(void **state)
{
	(void)state;
	uint64_t index = 0;
	refuse("with 0 descriptors", SET_VRING_KICK, &index, 8, 0);
	refuse("with 2 descriptors", SET_VRING_CALL, &index, 8, 2);
	refuse("too many descriptors", SET_VRING_CALL, &index, 8, VS_REGIONS_MAX + 1);
	refuse("too many descriptors", GET_FEATURES, "", 0, VST_FDS_MAX);
	refuse("GET_FEATURES with 1 descriptors", GET_FEATURES, "", 0, 1);
	index = 0x100;
	refuse("with 1 descriptors", SET_VRING_KICK, &index, 8, 1);
	index = 2;
	refuse("no queue 2", SET_VRING_CALL, &index, 8, 1);
	refuse("no queue 2", SET_VRING_KICK, &index, 8, 1);
	index = 0;
	refuse("SET_VRING_KICK", SET_VRING_KICK, &index, 8, 1); /* a file cannot be waited for */
	index = 1ull << 32;
	refuse("ring 0x100000000", SET_VRING_KICK, &index, 8, 1);
}

static void test_tables_refused(void **state)
{
	(void)state;
	struct table table = guest_table();
	refuse("2 memory regions with 1 descr", SET_MEM_TABLE, &table, TABLE_SIZE(2), 1);
	refuse("2 memory regions with 3 descr", SET_MEM_TABLE, &table, TABLE_SIZE(2), 3);
	refuse("in 72 bytes", SET_MEM_TABLE, &table, TABLE_SIZE(2), 0);
	refuse("in 40 bytes", SET_MEM_TABLE, &table, TABLE_SIZE(1), 2);
	refuse("SET_MEM_TABLE of 4 bytes", SET_MEM_TABLE, &table, 4, 0);
	table.regions[1].guest_addr = VST_REGION_SIZE - 4096;
	refuse("overlap", SET_MEM_TABLE, &table, TABLE_SIZE(2), 2);
	table = guest_table();
	table.regions[1].guest_addr = UINT64_MAX - 4095;
	refuse("wraps", SET_MEM_TABLE, &table, TABLE_SIZE(2), 2);
	table = guest_table();
	table.regions[0].offset = 4096;
	refuse("beyond the end", SET_MEM_TABLE, &table, TABLE_SIZE(2), 2);
	table.n = VS_REGIONS_MAX + 1;
	refuse("SET_MEM_TABLE of 296 bytes", SET_MEM_TABLE, &table, TABLE_SIZE(VS_REGIONS_MAX + 1),
		VS_REGIONS_MAX);
	table.n = UINT32_MAX;
	refuse("4294967295 memory regions", SET_MEM_TABLE, &table, TABLE_SIZE(2), 2);
}

static void test_messages_refused(void **state)
{
	(void)state;
	static const uint8_t zeros[300];
	refuse("message 0,", 0, zeros, 0, 0);
	refuse("message 6,", SET_LOG_BASE, zeros, 16, 1);
	refuse("message 4294967295,", UINT32_MAX, zeros, 0, 0);
	refuse("GET_FEATURES of 8 bytes", GET_FEATURES, zeros, 8, 0);
	refuse("SET_VRING_NUM of 7 bytes", SET_VRING_NUM, zeros, 7, 0);
	refuse("GET_CONFIG of 300 bytes", GET_CONFIG, zeros, 300, 0);
	refuse("configuration of 0 bytes in 20", GET_CONFIG, zeros, 20, 0);
	refuse("configuration at 0, 9 bytes", GET_CONFIG, (uint32_t[6]){0, 9}, 21, 0);
	refuse("configuration at 9, 1 bytes", GET_CONFIG, (uint32_t[6]){9, 1}, 13, 0);
	refuse("configuration at 429", GET_CONFIG, (uint32_t[6]){UINT32_MAX, 1}, 13, 0);
	refuse("configuration of 257 bytes", GET_CONFIG, (uint32_t[6]){0, 257}, 12, 0);
}

/* A length is judged before a byte of the payload is waited for. */
static void test_header_alone(void **state)
{
	struct world *world = *state;
	struct message message = {.request = SET_FEATURES, .flags = 1, .size = UINT32_MAX};
	send_raw(world, &message, 0, NULL, 0);
	assert_ended(world, "SET_FEATURES of 4294967295 bytes");
}

static void test_version(void **state)
{
	struct world *world = *state;
	struct message message = {.request = GET_FEATURES, .flags = 2};
	send_raw(world, &message, 0, NULL, 0);
	assert_ended(world, "message flags 0x2");
}

static void test_no_change_while_running(void **state)
{
	struct world *world = *state;
	set_up(world);
	send_state(world, SET_VRING_NUM, 0, 64);
	assert_ended(world, "queue 0 is running");
}

static void test_end(void **state)
{
	struct world *world = *state;
	set_up(world);
	assert_int_equal(send(world->qemu, "\1\0", 2, 0), 2); /* within a message */
	world->qemu = fd_close(world->qemu);
	run(world);
	assert_int_equal(world->ended, 1);
	assert_true(world->in_order);
}

/* A kick descriptor that is no eventfd must not keep us busy. */
static void test_kick_ends(void **state)
{
	struct world *world = *state;
	set_up(world);
	int pair[2];
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	uint64_t index = 0;
	send_fds(world, SET_VRING_KICK, &index, 8, &pair[0], 1);
	assert_true(world->vst.device->mux.up);
	fd_close(pair[0]);
	fd_close(pair[1]);
	run(world);
	assert_null(world->vst.device->queues[0].kick);
	assert_false(world->vst.device->mux.up);
	assert_int_equal(world->ended, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_handshake, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_and_go_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory_changes_while_running, setup, teardown),
		cmocka_unit_test_setup_teardown(test_acks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_message_in_pieces, setup, teardown),
		cmocka_unit_test(test_states_refused),
		cmocka_unit_test(test_descriptors_refused),
		cmocka_unit_test(test_tables_refused),
		cmocka_unit_test(test_messages_refused),
		cmocka_unit_test_setup_teardown(test_header_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_version, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_change_while_running, setup, teardown),
		cmocka_unit_test_setup_teardown(test_end, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kick_ends, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
