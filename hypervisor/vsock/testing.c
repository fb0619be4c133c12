#include "hypervisor/vsock/testing.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/fd.h"

#define AVAIL_OFFSET 0x4000
#define USED_OFFSET  0x5000
#define RING_STEP    0x8000
#define RINGS_ADDR   0x1000
#define ROUNDS       8

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	abort();
}

void vst_guest_init(struct vst_guest *guest)
{
	*guest = (struct vst_guest){0};
	for (unsigned i = 0; i < VST_REGIONS; i++) {
		guest->fds[i] = memfd_create("guest", MFD_CLOEXEC);
		must(guest->fds[i] >= 0 && ftruncate(guest->fds[i], VST_REGION_SIZE) == 0, "memfd");
		guest->data[i] = mmap(NULL, VST_REGION_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			guest->fds[i], 0);
		must(guest->data[i] != MAP_FAILED, "map guest memory");
	}
	for (unsigned i = 0; i < VS_QUEUES; i++) {
		struct vst_driver *driver = &guest->drivers[i];
		driver->ring_addr = RINGS_ADDR + i * RING_STEP;
		driver->buffers_addr =
			VST_REGION_SIZE + i * (uint64_t)VST_RING_SIZE * VST_BUFFER_SIZE;
		uint8_t *ring = vst_guest_at(guest, driver->ring_addr);
		driver->desc = (struct vring_desc *)ring;
		driver->avail = (struct vring_avail *)(ring + AVAIL_OFFSET);
		driver->used = (struct vring_used *)(ring + USED_OFFSET);
	}
	vst_guest_reset(guest);
}

void vst_guest_done(struct vst_guest *guest)
{
	for (unsigned i = 0; i < VST_REGIONS; i++) {
		munmap(guest->data[i], VST_REGION_SIZE);
		guest->fds[i] = fd_close(guest->fds[i]);
	}
}

struct vs_region_spec vst_region_spec(unsigned region)
{
	return (struct vs_region_spec){
		.guest_addr = (uint64_t)region * VST_REGION_SIZE,
		.user_addr = VST_USER_ADDR + region * VST_USER_STEP,
		.size = VST_REGION_SIZE,
	};
}

struct vs_memory vst_guest_map(const struct vst_guest *guest)
{
	struct vs_memory memory = {0};
	for (unsigned i = 0; i < VST_REGIONS; i++) {
		struct vs_region_spec spec = vst_region_spec(i);
		must(vs_memory_add(&memory, &spec, guest->fds[i], NULL) == 0, "add region");
	}
	return memory;
}

uint8_t *vst_guest_at(const struct vst_guest *guest, uint64_t addr)
{
	must(addr < (uint64_t)VST_REGIONS * VST_REGION_SIZE, "guest address");
	return guest->data[addr / VST_REGION_SIZE] + addr % VST_REGION_SIZE;
}

struct vs_ring_addr vst_ring_addr(const struct vst_guest *guest, unsigned queue)
{
	uint64_t base = VST_USER_ADDR + guest->drivers[queue].ring_addr;
	return (struct vs_ring_addr){
		.desc = base,
		.avail = base + AVAIL_OFFSET,
		.used = base + USED_OFFSET,
	};
}

void vst_set_desc(struct vst_guest *guest, unsigned queue, uint16_t index, struct vring_desc desc)
{
	guest->drivers[queue].desc[index] = (struct vring_desc){
		.addr = htole64(desc.addr),
		.len = htole32(desc.len),
		.flags = htole16(desc.flags),
		.next = htole16(desc.next),
	};
}

void vst_offer(struct vst_guest *guest, unsigned queue, uint16_t head)
{
	struct vring_avail *avail = guest->drivers[queue].avail;
	uint16_t idx = le16toh(avail->idx);
	avail->ring[idx % VST_RING_SIZE] = htole16(head);
	__atomic_store_n(&avail->idx, htole16((uint16_t)(idx + 1)), __ATOMIC_RELEASE);
}

bool vst_take_used(struct vst_guest *guest, unsigned queue, struct vring_used_elem *ret)
{
	struct vst_driver *driver = &guest->drivers[queue];
	if (le16toh(__atomic_load_n(&driver->used->idx, __ATOMIC_ACQUIRE)) == driver->next_used)
		return false;
	const struct vring_used_elem *elem =
		&driver->used->ring[driver->next_used++ % VST_RING_SIZE];
	*ret = (struct vring_used_elem){.id = le32toh(elem->id), .len = le32toh(elem->len)};
	return true;
}

void vst_guest_reset(struct vst_guest *guest)
{
	for (unsigned i = 0; i < VS_QUEUES; i++) {
		struct vst_driver *driver = &guest->drivers[i];
		memset(driver->desc, 0, RING_STEP);
		driver->next_used = 0;
		for (uint16_t j = 0; j < VST_RING_SIZE; j++) {
			vst_set_desc(guest, i, j,
				(struct vring_desc){
					.addr = driver->buffers_addr + j * VST_BUFFER_SIZE,
					.len = VST_BUFFER_SIZE,
					.flags = i == VS_QUEUE_TO_GUEST ? VRING_DESC_F_WRITE : 0,
				});
			if (i == VS_QUEUE_TO_GUEST)
				vst_offer(guest, i, j);
		}
	}
}

void vst_send_raw(
	struct vst_guest *guest, const struct virtio_vsock_hdr *hdr, const void *data, size_t len)
{
	struct vst_driver *driver = &guest->drivers[VS_QUEUE_FROM_GUEST];
	uint16_t slot = le16toh(driver->avail->idx) % VST_RING_SIZE;
	must(len <= VST_PAYLOAD_MAX, "length of a packet");
	uint64_t addr = driver->buffers_addr + slot * VST_BUFFER_SIZE;
	memcpy(vst_guest_at(guest, addr), hdr, sizeof(*hdr));
	if (len)
		memcpy(vst_guest_at(guest, addr + sizeof(*hdr)), data, len);
	vst_set_desc(guest, VS_QUEUE_FROM_GUEST, slot,
		(struct vring_desc){.addr = addr, .len = (uint32_t)(sizeof(*hdr) + len)});
	vst_offer(guest, VS_QUEUE_FROM_GUEST, slot);
}

void vst_send(struct vst_guest *guest, struct virtio_vsock_hdr hdr, const void *data)
{
	hdr.src_cid = VST_CID;
	hdr.dst_cid = VMADDR_CID_HOST;
	hdr.type = VIRTIO_VSOCK_TYPE_STREAM;
	vst_send_raw(guest, &hdr, data, data ? hdr.len : 0);
}

bool vst_receive(struct vst_guest *guest, struct vst_packet *ret)
{
	struct vring_used_elem elem;
	if (!vst_take_used(guest, VS_QUEUE_TO_GUEST, &elem))
		return false;
	must(elem.id < VST_RING_SIZE && elem.len >= sizeof(ret->hdr) && elem.len <= VST_BUFFER_SIZE,
		"what the device gave back");
	uint64_t addr = guest->drivers[VS_QUEUE_TO_GUEST].buffers_addr + elem.id * VST_BUFFER_SIZE;
	memcpy(&ret->hdr, vst_guest_at(guest, addr), sizeof(ret->hdr));
	memcpy(ret->data, vst_guest_at(guest, addr + sizeof(ret->hdr)),
		elem.len - sizeof(ret->hdr));
	must(ret->hdr.len == elem.len - sizeof(ret->hdr), "length of a packet");
	vst_offer(guest, VS_QUEUE_TO_GUEST, (uint16_t)elem.id);
	return true;
}

/* The world. */

void vst_world_init(struct vst_world *world)
{
	*world = (struct vst_world){
		.log = {.fd = -EBADF, .level = LOG_LEVEL_ERROR},
		.dir = "/tmp/vst-XXXXXX",
	};
	vst_guest_init(&world->guest);
	must(mkdtemp(world->dir) != NULL, "mkdtemp");
	snprintf(world->dial_path, sizeof(world->dial_path), "%s/v", world->dir);
	must(ev_loop_new(&world->loop, NULL) == 0 &&
			vs_device_new(world->loop, &world->log, VST_CID, world->dial_path,
				&world->device, NULL) == 0,
		"new device");
	for (unsigned i = 0; i < VS_QUEUES; i++) {
		world->kick_fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		world->call_fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
}

void vst_world_done(struct vst_world *world)
{
	vs_device_free(world->device);
	ev_loop_free(world->loop);
	for (unsigned i = 0; i < VS_QUEUES; i++) {
		fd_close(world->kick_fds[i]);
		fd_close(world->call_fds[i]);
	}
	vst_guest_done(&world->guest);
	fd_remove_tree(world->dir, NULL);
}

void vst_world_start(struct vst_world *world)
{
	struct vs_device *device = world->device;
	struct vs_memory memory = vst_guest_map(&world->guest);
	int r = vs_device_set_memory(device, &memory, NULL);
	for (unsigned i = 0; i < VS_QUEUES && r == 0; i++) {
		struct vs_ring_addr addr = vst_ring_addr(&world->guest, i);
		r = vs_device_set_size(device, i, VST_RING_SIZE, NULL);
		if (r == 0)
			r = vs_device_set_base(device, i, 0, NULL);
		if (r == 0)
			r = vs_device_set_addr(device, i, &addr, NULL);
		if (r == 0)
			r = vs_device_set_call(
				device, i, fcntl(world->call_fds[i], F_DUPFD_CLOEXEC, 0), NULL);
		if (r == 0)
			r = vs_device_set_kick(
				device, i, fcntl(world->kick_fds[i], F_DUPFD_CLOEXEC, 0), NULL);
	}
	must(r == 0, "start the device");
	for (unsigned i = 0; i < VS_QUEUES; i++)
		vs_device_enable(device, i, true);
}

void vst_world_restart(struct vst_world *world)
{
	for (unsigned i = 0; i < VS_QUEUES; i++)
		vs_device_stop(world->device, i);
	vst_guest_reset(&world->guest);
	vst_world_start(world);
}

static void stop(void *userdata)
{
	ev_loop_stop(userdata);
}

void vst_round(struct ev_loop *loop)
{
	must(ev_post(loop, stop, loop) == 0 && ev_loop_run(loop, NULL) == 0, "run the loop");
}

void vst_world_run(struct vst_world *world)
{
	for (unsigned i = 0; i < VS_QUEUES; i++)
		must(eventfd_write(world->kick_fds[i], 1) == 0, "kick");
	for (unsigned i = 0; i < ROUNDS; i++)
		vst_round(world->loop);
}

int vst_client(struct vst_world *world)
{
	int pair[2];
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0,
		"socketpair");
	must(vs_mux_accept(&world->device->mux, pair[0], NULL) == 0, "accept");
	return pair[1];
}

int vst_listen(struct vst_world *world, unsigned port)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", world->dial_path, port);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	must(fd >= 0 && bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 &&
			listen(fd, SOMAXCONN) == 0,
		"listen");
	return fd;
}

ssize_t vst_send_fds(int socket, const void *data, size_t len, const int *fds, unsigned n)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * VST_FDS_MAX)];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	if (n) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
	}
	return sendmsg(socket, &msg, MSG_NOSIGNAL);
}
