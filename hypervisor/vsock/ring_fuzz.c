/*
 * A hostile guest: the input is a program of small steps that fill rings with descriptors and
 * packets, right ones and wrong ones, while clients on the host connect, write, read and go away.
 *
 * Each step is a byte, modulo the number of rows an index into the table below, and its operands.
 * An input that ends within a step ends before it.
 */
#include <endian.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/vsock/connection.h"
#include "hypervisor/vsock/testing.h"

#define CLIENTS 4
#define STEPS   400

struct target {
	struct vst_world world;
	int listener;
	int clients[CLIENTS];         /* hosts' ends: of CONNECT, or accepted from the listener */
	struct virtio_vsock_hdr last; /* what the device sent last: the guest answers it */
	const uint8_t *data;
	size_t len;
};

static bool take(struct target *target, void *value, size_t len)
{
	if (target->len < len) {
		target->len = 0;
		return false;
	}
	memcpy(value, target->data, len);
	target->data += len;
	target->len -= len;
	return true;
}

static int *client_slot(struct target *target, uint8_t which)
{
	return &target->clients[which % CLIENTS];
}

static void step_run(struct target *target)
{
	vst_world_run(&target->world);
}

/* A descriptor: any address and length, or ones that lie near the end of a region. */
static void step_descriptor(struct target *target)
{
	struct {
		uint8_t queue;
		uint8_t index;
		uint8_t near;
		uint8_t flags;
		uint16_t next;
		uint32_t len;
		uint64_t addr;
	} __attribute__((packed)) op;
	if (!take(target, &op, sizeof(op)))
		return;
	if (op.near % 4)
		op.addr = (op.near % 4) * (uint64_t)VST_REGION_SIZE - op.addr % 256;
	vst_set_desc(&target->world.guest, op.queue % VS_QUEUES, op.index % VST_RING_SIZE,
		(struct vring_desc){
			.addr = op.addr,
			.len = op.len,
			.flags = op.flags,
			.next = op.next,
		});
}

static void step_offer(struct target *target)
{
	uint8_t op[2];
	if (take(target, op, sizeof(op)))
		vst_offer(&target->world.guest, op[0] % VS_QUEUES, op[1]);
}

static void step_available(struct target *target)
{
	struct {
		uint8_t queue;
		uint8_t flags;
		uint16_t idx;
		uint16_t event;
	} __attribute__((packed)) op;
	if (!take(target, &op, sizeof(op)))
		return;
	struct vring_avail *avail = target->world.guest.drivers[op.queue % VS_QUEUES].avail;
	avail->flags = htole16(op.flags);
	avail->idx = htole16((uint16_t)(le16toh(avail->idx) + op.idx));
	avail->ring[VST_RING_SIZE] = htole16(op.event);
}

/* Bytes at any place in the rings, the device's own fields included. */
static void step_scribble(struct target *target)
{
	struct {
		uint16_t addr;
		uint8_t data[8];
	} __attribute__((packed)) op;
	if (take(target, &op, sizeof(op)))
		memcpy(vst_guest_at(&target->world.guest, op.addr), op.data, sizeof(op.data));
}

/* A packet as it stands, for addresses, types and lengths that are wrong. */
static void step_raw_packet(struct target *target)
{
	struct {
		struct virtio_vsock_hdr hdr;
		uint16_t len;
	} __attribute__((packed)) op;
	static const uint8_t data[VST_PAYLOAD_MAX];
	if (take(target, &op, sizeof(op)))
		vst_send_raw(&target->world.guest, &op.hdr, data, op.len % (VST_PAYLOAD_MAX + 1));
}

/* An answer to the last packet from the device, or one from a few ports of the guest's own. */
static void step_packet(struct target *target)
{
	struct {
		uint8_t op;
		uint8_t port; /* 0: answers */
		uint8_t flags;
		uint16_t len;
		uint32_t buf_alloc;
		uint32_t fwd_cnt;
	} __attribute__((packed)) op;
	static const uint8_t data[VST_PAYLOAD_MAX];
	if (!take(target, &op, sizeof(op)))
		return;
	uint32_t len = op.op == VIRTIO_VSOCK_OP_RW ? op.len % (uint32_t)(VST_PAYLOAD_MAX + 1) : 0;
	vst_send(&target->world.guest,
		(struct virtio_vsock_hdr){
			.src_port = op.port ? op.port % 4 : target->last.dst_port,
			.dst_port = op.port ? 9 : target->last.src_port,
			.op = op.op,
			.len = len,
			.flags = op.flags,
			.buf_alloc = op.buf_alloc,
			.fwd_cnt = op.fwd_cnt,
		},
		data);
}

/* Fetches what came, as long as the device keeps to the rules, which this checks. */
static void step_receive(struct target *target)
{
	struct vst_driver *driver = &target->world.guest.drivers[VS_QUEUE_TO_GUEST];
	struct vring_used_elem elem;
	for (unsigned i = 0; i < VST_RING_SIZE; i++) {
		if (!vst_take_used(&target->world.guest, VS_QUEUE_TO_GUEST, &elem))
			return;
		if (elem.id >= VST_RING_SIZE)
			return; /* scribbled */
		struct virtio_vsock_hdr hdr;
		memcpy(&hdr,
			vst_guest_at(&target->world.guest,
				driver->buffers_addr + elem.id * VST_BUFFER_SIZE),
			sizeof(hdr));
		if (hdr.src_cid == VMADDR_CID_HOST)
			target->last = hdr;
		vst_offer(&target->world.guest, VS_QUEUE_TO_GUEST, (uint16_t)elem.id);
	}
}

static void step_connect(struct target *target)
{
	uint8_t op[2];
	if (!take(target, op, sizeof(op)))
		return;
	int *slot = client_slot(target, op[0]);
	static const char *const lines[] = {"CONNECT 1\n", "CONNECT 4294967295\n", "CONN", "\n"};
	const char *line = lines[op[1] % ARRAY_SIZE(lines)];
	fd_close(*slot);
	*slot = vst_client(&target->world);
	if (send(*slot, line, strlen(line), MSG_NOSIGNAL) < 0)
		abort();
}

static void step_accept(struct target *target)
{
	uint8_t which;
	if (!take(target, &which, 1))
		return;
	int *slot = client_slot(target, which);
	fd_close(*slot);
	*slot = accept4(target->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static void step_client_write(struct target *target)
{
	struct {
		uint8_t which;
		uint16_t len;
	} __attribute__((packed)) op;
	static const uint8_t data[1u << 16];
	if (take(target, &op, sizeof(op)))
		(void)!send(*client_slot(target, op.which), data, op.len, MSG_NOSIGNAL);
}

static void step_client_read(struct target *target)
{
	struct {
		uint8_t which;
		uint16_t len;
	} __attribute__((packed)) op;
	uint8_t data[1u << 16];
	if (take(target, &op, sizeof(op)))
		(void)!recv(*client_slot(target, op.which), data, op.len, MSG_DONTWAIT);
}

static void step_client_end(struct target *target)
{
	uint8_t op[2];
	if (!take(target, op, sizeof(op)))
		return;
	int *slot = client_slot(target, op[0]);
	if (op[1] % 4 < 3)
		shutdown(*slot, op[1] % 4); /* SHUT_RD, SHUT_WR, SHUT_RDWR */
	else
		*slot = fd_close(*slot);
}

static void step_restart(struct target *target)
{
	uint8_t event_idx;
	if (!take(target, &event_idx, 1))
		return;
	vst_world_restart(&target->world);
	vs_device_set_event_idx(target->world.device, event_idx & 1);
}

/* Packets that fill the backlog of a client that does not read. */
static void step_flood(struct target *target)
{
	uint8_t n;
	if (!take(target, &n, 1))
		return;
	static const uint8_t data[VST_PAYLOAD_MAX];
	for (unsigned i = 0; i < n % 64u; i++) {
		vst_send(&target->world.guest,
			(struct virtio_vsock_hdr){
				.src_port = target->last.dst_port,
				.dst_port = target->last.src_port,
				.op = VIRTIO_VSOCK_OP_RW,
				.len = sizeof(data),
				.buf_alloc = UINT32_MAX,
			},
			data);
	}
	vst_world_run(&target->world);
}

static void (*const steps[])(struct target *target) = {
	step_run,
	step_receive,
	step_packet,
	step_connect,
	step_accept,
	step_client_write,
	step_client_read,
	step_client_end,
	step_flood,
	step_restart,
	step_descriptor,
	step_offer,
	step_available,
	step_raw_packet,
	step_scribble,
};

/* What must hold whatever the guest does. */
static void check(const struct vs_device *device)
{
	const struct vs_mux *mux = &device->mux;
	unsigned n = 0;
	const struct vs_conn *conn;
	if (mux->n_replies > VS_REPLIES_MAX || mux->n_conns > VS_CONNECTIONS_MAX)
		abort();
	LIST_FOREACH(conn, &mux->conns, all) {
		n++;
		if (device->broken && conn->state != VS_CONN_HELLO)
			abort();
	}
	if (n != mux->n_conns)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct target target = {.data = data, .len = size};
	for (unsigned i = 0; i < CLIENTS; i++)
		target.clients[i] = -EBADF;
	vst_world_init(&target.world);
	vst_world_start(&target.world);
	target.listener = vst_listen(&target.world, 9);
	uint8_t step;
	for (unsigned i = 0; i < STEPS && take(&target, &step, 1); i++) {
		steps[step % ARRAY_SIZE(steps)](&target);
		check(target.world.device);
	}
	vst_world_run(&target.world);
	check(target.world.device);
	for (unsigned i = 0; i < CLIENTS; i++)
		fd_close(target.clients[i]);
	fd_close(target.listener);
	vst_world_run(&target.world);
	vst_world_done(&target.world);
	return 0;
}
