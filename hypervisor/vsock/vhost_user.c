#include "hypervisor/vsock/vhost_user.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_vsock.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fd.h"

/* The numbers of the specification; the protocol is in the host's byte order, x86's here. */
#define FLAGS_VERSION      0x3u
#define VERSION            0x1u
#define FLAG_REPLY         0x4u
#define FLAG_NEED_REPLY    0x8u
#define VRING_INDEX_MASK   0xffu
#define VRING_NO_FD        0x100u
#define F_PROTOCOL         (1ull << 30)
#define PROTOCOL_REPLY_ACK (1ull << 3)
#define PROTOCOL_CONFIG    (1ull << 9)
#define CONFIG_SIZE_MAX    256
#define PAYLOAD_SIZE_MAX   (sizeof(uint32_t[3]) + CONFIG_SIZE_MAX + sizeof(uint32_t))

#define FEATURES          (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX | F_PROTOCOL)
#define PROTOCOL_FEATURES (PROTOCOL_REPLY_ACK | PROTOCOL_CONFIG)

enum request {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	RESET_OWNER = 4,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	GET_VRING_BASE = 11,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	SET_VRING_ERR = 14,
	GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16,
	SET_VRING_ENABLE = 18,
	GET_CONFIG = 24,
};

struct header {
	uint32_t request;
	uint32_t flags;
	uint32_t size;
};

struct vring_state {
	uint32_t index;
	uint32_t num;
};

struct vring_address {
	uint32_t index;
	uint32_t flags;
	struct vs_ring_addr addr;
	uint64_t log;
};

struct region {
	uint64_t guest_addr;
	uint64_t size;
	uint64_t user_addr;
	uint64_t offset;
};

struct mem_table {
	uint32_t n_regions;
	uint32_t padding;
	struct region regions[VS_REGIONS_MAX];
};

struct config {
	uint32_t offset;
	uint32_t size;
	uint32_t flags;
	uint8_t data[CONFIG_SIZE_MAX];
};

union payload {
	uint64_t u64;
	struct vring_state state;
	struct vring_address address;
	struct mem_table table;
	struct config config;
	uint8_t bytes[PAYLOAD_SIZE_MAX];
};

struct vs_vhost {
	int fd;
	struct ev_source *io;
	struct vs_device *device;
	vs_vhost_end_fn on_end;
	void *userdata;
	uint64_t protocol_features;
	/* the message that is coming in, and its descriptors */
	struct header header;
	union payload payload; /* not right behind the header: it is aligned */
	size_t have;
	int fds[VS_REGIONS_MAX];
	unsigned n_fds;
};

static void close_fds(struct vs_vhost *vhost)
{
	for (unsigned i = 0; i < vhost->n_fds; i++)
		vhost->fds[i] = fd_close(vhost->fds[i]);
	vhost->n_fds = 0;
}

/* Handlers: 0; positive: the size of the payload that answers; -errno. */

static int get_features(struct vs_vhost *vhost, struct err *err)
{
	(void)err;
	vhost->payload.u64 = FEATURES;
	return sizeof(uint64_t);
}

static int set_features(struct vs_vhost *vhost, struct err *err)
{
	uint64_t features = vhost->payload.u64;
	if (features & ~FEATURES)
		return err_set(err, -EINVAL, "features 0x%llx were not offered",
			(unsigned long long)(features & ~FEATURES));
	vs_device_set_event_idx(vhost->device, features & (1ull << VIRTIO_RING_F_EVENT_IDX));
	return 0;
}

static int get_protocol_features(struct vs_vhost *vhost, struct err *err)
{
	(void)err;
	vhost->payload.u64 = PROTOCOL_FEATURES;
	return sizeof(uint64_t);
}

static int set_protocol_features(struct vs_vhost *vhost, struct err *err)
{
	uint64_t features = vhost->payload.u64;
	if (features & ~PROTOCOL_FEATURES)
		return err_set(err, -EINVAL, "protocol features 0x%llx were not offered",
			(unsigned long long)(features & ~PROTOCOL_FEATURES));
	vhost->protocol_features = features;
	return 0;
}

/* There is one QEMU per device: it owns it without saying so. */
static int set_owner(struct vs_vhost *vhost, struct err *err)
{
	(void)vhost;
	(void)err;
	return 0;
}

static int reset_owner(struct vs_vhost *vhost, struct err *err)
{
	(void)err;
	for (unsigned i = 0; i < VS_QUEUES; i++)
		vs_device_stop(vhost->device, i);
	return 0;
}

static int set_mem_table(struct vs_vhost *vhost, struct err *err)
{
	const struct mem_table *table = &vhost->payload.table;
	if (table->n_regions > VS_REGIONS_MAX || table->n_regions != vhost->n_fds ||
		vhost->header.size != offsetof(struct mem_table, regions[table->n_regions]))
		return err_set(err, -EINVAL, "%u memory regions with %u descriptors in %u bytes",
			table->n_regions, vhost->n_fds, vhost->header.size);
	struct vs_memory memory = {0};
	for (unsigned i = 0; i < table->n_regions; i++) {
		const struct region *region = &table->regions[i];
		struct vs_region_spec spec = {
			.guest_addr = region->guest_addr,
			.size = region->size,
			.user_addr = region->user_addr,
			.offset = region->offset,
		};
		int r = vs_memory_add(&memory, &spec, vhost->fds[i], err);
		if (r < 0) {
			vs_memory_done(&memory);
			return r;
		}
	}
	return vs_device_set_memory(vhost->device, &memory, err);
}

static int set_vring_num(struct vs_vhost *vhost, struct err *err)
{
	const struct vring_state *state = &vhost->payload.state;
	return vs_device_set_size(vhost->device, state->index, state->num, err);
}

static int set_vring_addr(struct vs_vhost *vhost, struct err *err)
{
	const struct vring_address *address = &vhost->payload.address;
	if (address->flags)
		return err_set(err, -EINVAL, "ring flags 0x%x", address->flags);
	return vs_device_set_addr(vhost->device, address->index, &address->addr, err);
}

static int set_vring_base(struct vs_vhost *vhost, struct err *err)
{
	const struct vring_state *state = &vhost->payload.state;
	return vs_device_set_base(vhost->device, state->index, state->num, err);
}

static int get_vring_base(struct vs_vhost *vhost, struct err *err)
{
	struct vring_state *state = &vhost->payload.state;
	if (state->index >= VS_QUEUES)
		return err_set(err, -EINVAL, "there is no queue %u", state->index);
	state->num = vs_device_stop(vhost->device, state->index);
	return sizeof(*state);
}

static int set_vring_fd(struct vs_vhost *vhost,
	int (*set)(struct vs_device *, unsigned, int, struct err *), struct err *err)
{
	uint64_t value = vhost->payload.u64;
	unsigned expected = value & VRING_NO_FD ? 0 : 1;
	if (value & ~(uint64_t)(VRING_INDEX_MASK | VRING_NO_FD) || vhost->n_fds != expected)
		return err_set(err, -EINVAL, "ring 0x%llx with %u descriptors",
			(unsigned long long)value, vhost->n_fds);
	int fd = expected ? TAKE_FD(vhost->fds[0]) : -EBADF;
	return set(vhost->device, value & VRING_INDEX_MASK, fd, err);
}

static int set_vring_kick(struct vs_vhost *vhost, struct err *err)
{
	return set_vring_fd(vhost, vs_device_set_kick, err);
}

static int set_vring_call(struct vs_vhost *vhost, struct err *err)
{
	return set_vring_fd(vhost, vs_device_set_call, err);
}

static int set_vring_err(struct vs_vhost *vhost, struct err *err)
{
	return set_vring_fd(vhost, vs_device_set_error, err);
}

static int set_vring_enable(struct vs_vhost *vhost, struct err *err)
{
	const struct vring_state *state = &vhost->payload.state;
	if (state->index >= VS_QUEUES || state->num > 1)
		return err_set(err, -EINVAL, "enable queue %u: %u", state->index, state->num);
	vs_device_enable(vhost->device, state->index, state->num);
	return 0;
}

static int get_config(struct vs_vhost *vhost, struct err *err)
{
	struct config *config = &vhost->payload.config;
	struct virtio_vsock_config ours = {.guest_cid = htole64(vhost->device->mux.guest_cid)};
	if (config->size > CONFIG_SIZE_MAX ||
		vhost->header.size != offsetof(struct config, data[config->size]))
		return err_set(err, -EINVAL, "configuration of %u bytes in %u", config->size,
			vhost->header.size);
	if (config->offset > sizeof(ours) || config->size > sizeof(ours) - config->offset)
		return err_set(err, -EINVAL, "configuration at %u, %u bytes", config->offset,
			config->size);
	memcpy(config->data, (const uint8_t *)&ours + config->offset, config->size);
	return (int)vhost->header.size;
}

static const struct {
	const char *name;
	int (*handle)(struct vs_vhost *vhost, struct err *err);
	uint32_t size_min;
	uint32_t size_max;
	unsigned fds_max;
} requests[] = {
	[GET_FEATURES] = {"GET_FEATURES", get_features, 0, 0, 0},
	[SET_FEATURES] = {"SET_FEATURES", set_features, 8, 8, 0},
	[SET_OWNER] = {"SET_OWNER", set_owner, 0, 0, 0},
	[RESET_OWNER] = {"RESET_OWNER", reset_owner, 0, 0, 0},
	[SET_MEM_TABLE] = {"SET_MEM_TABLE", set_mem_table, 8, sizeof(struct mem_table),
		VS_REGIONS_MAX},
	[SET_VRING_NUM] = {"SET_VRING_NUM", set_vring_num, 8, 8, 0},
	[SET_VRING_ADDR] = {"SET_VRING_ADDR", set_vring_addr, 40, 40, 0},
	[SET_VRING_BASE] = {"SET_VRING_BASE", set_vring_base, 8, 8, 0},
	[GET_VRING_BASE] = {"GET_VRING_BASE", get_vring_base, 8, 8, 0},
	[SET_VRING_KICK] = {"SET_VRING_KICK", set_vring_kick, 8, 8, 1},
	[SET_VRING_CALL] = {"SET_VRING_CALL", set_vring_call, 8, 8, 1},
	[SET_VRING_ERR] = {"SET_VRING_ERR", set_vring_err, 8, 8, 1},
	[GET_PROTOCOL_FEATURES] = {"GET_PROTOCOL_FEATURES", get_protocol_features, 0, 0, 0},
	[SET_PROTOCOL_FEATURES] = {"SET_PROTOCOL_FEATURES", set_protocol_features, 8, 8, 0},
	[SET_VRING_ENABLE] = {"SET_VRING_ENABLE", set_vring_enable, 8, 8, 0},
	[GET_CONFIG] = {"GET_CONFIG", get_config, 12, sizeof(struct config), 0},
};

static int reply(struct vs_vhost *vhost, size_t size, struct err *err)
{
	vhost->header.flags = VERSION | FLAG_REPLY;
	vhost->header.size = (uint32_t)size;
	struct iovec iov[] = {
		{.iov_base = &vhost->header, .iov_len = sizeof(vhost->header)},
		{.iov_base = &vhost->payload, .iov_len = size},
	};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = ARRAY_SIZE(iov)};
	ssize_t sent = sendmsg(vhost->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0)
		return err_errno(err, "answer");
	/* QEMU waits for each answer, so the socket is empty: a short one is its doing. */
	return (size_t)sent == sizeof(vhost->header) + size
		       ? 0
		       : err_set(err, -EPIPE, "the answer is not taken");
}

static int check_header(const struct header *header, struct err *err)
{
	if ((header->flags & FLAGS_VERSION) != VERSION || header->flags & FLAG_REPLY)
		return err_set(err, -EPROTO, "message flags 0x%x", header->flags);
	if (header->request >= ARRAY_SIZE(requests) || !requests[header->request].handle)
		return err_set(
			err, -EOPNOTSUPP, "message %u, which was not offered", header->request);
	if (header->size < requests[header->request].size_min ||
		header->size > requests[header->request].size_max)
		return err_set(err, -EPROTO, "%s of %u bytes", requests[header->request].name,
			header->size);
	return 0;
}

static int handle_message(struct vs_vhost *vhost, struct err *err)
{
	const struct header header = vhost->header;
	if (vhost->n_fds > requests[header.request].fds_max)
		return err_set(err, -EPROTO, "%s with %u descriptors",
			requests[header.request].name, vhost->n_fds);
	int r = requests[header.request].handle(vhost, err);
	bool ack = r <= 0 && header.flags & FLAG_NEED_REPLY &&
		   vhost->protocol_features & PROTOCOL_REPLY_ACK;
	if (r < 0)
		err_wrap(err, "%s", requests[header.request].name);
	if (ack) {
		vhost->payload.u64 = r < 0;
		int sent = reply(vhost, sizeof(uint64_t), r < 0 ? NULL : err);
		return r < 0 ? r : sent;
	}
	return r > 0 ? reply(vhost, (size_t)r, err) : r;
}

/* Descriptors come with the first byte of their message; all that came are ours to close. */
static int take_fds(struct vs_vhost *vhost, struct msghdr *msg, struct err *err)
{
	int r = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (vhost->n_fds < VS_REGIONS_MAX) {
				vhost->fds[vhost->n_fds++] = fd;
			} else {
				fd_close(fd);
				r = -EPROTO;
			}
		}
	}
	if (r < 0 || msg->msg_flags & MSG_CTRUNC)
		return err_set(err, -EPROTO, "message with too many descriptors");
	return 0;
}

/* Reads on in the present message: 0 it is whole; positive 1: not yet; -ENODATA QEMU closed. */
static int read_message(struct vs_vhost *vhost, struct err *err)
{
	struct header *header = &vhost->header;
	for (;;) {
		bool in_payload = vhost->have >= sizeof(*header);
		size_t at = in_payload ? vhost->have - sizeof(*header) : vhost->have;
		size_t want = in_payload ? header->size : sizeof(*header);
		if (in_payload && at == want)
			return 0;
		union {
			char bytes[CMSG_SPACE(sizeof(int) * VS_REGIONS_MAX)];
			struct cmsghdr align;
		} control;
		struct iovec iov = {
			.iov_base = (in_payload ? vhost->payload.bytes : (uint8_t *)header) + at,
			.iov_len = want - at,
		};
		struct msghdr msg = {
			.msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = control.bytes,
			.msg_controllen = sizeof(control.bytes),
		};
		ssize_t got = recvmsg(vhost->fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			return 1;
		if (got < 0)
			return errno == ECONNRESET ? -ENODATA : err_errno(err, "receive");
		int r = take_fds(vhost, &msg, err);
		if (r < 0)
			return r;
		if (got == 0)
			return -ENODATA;
		vhost->have += (size_t)got;
		if (vhost->have == sizeof(*header)) {
			r = check_header(header, err);
			if (r < 0)
				return r;
		}
	}
}

static void on_io(void *userdata, uint32_t events)
{
	struct vs_vhost *vhost = userdata;
	(void)events;
	struct err err = ERR_INIT;
	int r = read_message(vhost, &err);
	if (r > 0)
		return;
	if (r == 0) {
		r = handle_message(vhost, &err);
		close_fds(vhost);
		vhost->have = 0;
	}
	if (r < 0) {
		vhost->io = ev_source_free(vhost->io);
		bool closed = r == -ENODATA || r == -EPIPE;
		vhost->on_end(vhost->userdata, closed ? NULL : &err);
	}
}

int vs_vhost_new(struct ev_loop *loop, int fd, struct vs_device *device, vs_vhost_end_fn on_end,
	void *userdata, struct vs_vhost **ret, struct err *err)
{
	struct vs_vhost *vhost = calloc(1, sizeof(*vhost));
	if (!vhost) {
		fd_close(fd);
		return err_nomem(err);
	}
	vhost->fd = fd;
	vhost->device = device;
	vhost->on_end = on_end;
	vhost->userdata = userdata;
	int r = ev_io_new(loop, fd, EPOLLIN, on_io, vhost, &vhost->io, err);
	if (r < 0) {
		vs_vhost_free(vhost);
		return r;
	}
	*ret = vhost;
	return 0;
}

struct vs_vhost *vs_vhost_free(struct vs_vhost *vhost)
{
	if (!vhost)
		return NULL;
	ev_source_free(vhost->io);
	close_fds(vhost);
	fd_close(vhost->fd);
	free(vhost);
	return NULL;
}
