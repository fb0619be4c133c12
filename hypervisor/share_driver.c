#include "hypervisor/share_driver.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"

#define ANSWER_MS 10000
#define CALL_SLOT (SD_SLOTS - 1)

/* As the specification of vhost-user numbers them. */
enum {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16,
	SET_VRING_ENABLE = 18,
};
#define VERSION            1u
#define NEED_REPLY         8u
#define VERSION_1          (1ull << 32)
#define PROTOCOL_FEATURES  (1ull << 30)
#define PROTOCOL_REPLY_ACK (1ull << 3)

struct message {
	uint32_t request;
	uint32_t flags;
	uint32_t size;
	uint8_t payload[256];
};
#define HEADER_SIZE offsetof(struct message, payload)

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	abort();
}

/* ---- QEMU ---- */

static void send_message(
	const struct sd *sd, const struct message *message, const int *fds, unsigned n)
{
	size_t len = HEADER_SIZE + message->size;

	must(vst_send_fds(sd->socket, message, len, fds, n) == (ssize_t)len, "send to virtiofsd");
}

static uint64_t receive_u64(const struct sd *sd, uint32_t request)
{
	struct pollfd pollfd = {.fd = sd->socket, .events = POLLIN};
	struct message reply = {0};
	uint64_t value;

	must(poll(&pollfd, 1, ANSWER_MS) == 1, "wait for virtiofsd");
	must(recv(sd->socket, &reply, HEADER_SIZE + sizeof(value), MSG_WAITALL) ==
				(ssize_t)(HEADER_SIZE + sizeof(value)) &&
			reply.request == request,
		"virtiofsd's reply");
	memcpy(&value, reply.payload, sizeof(value));
	return value;
}

static uint64_t get(const struct sd *sd, uint32_t request)
{
	send_message(sd, &(struct message){.request = request, .flags = VERSION}, NULL, 0);
	return receive_u64(sd, request);
}

/* Once virtiofsd is told to acknowledge, each message is waited for. */
static void set_fds(const struct sd *sd, uint32_t request, const void *payload, uint32_t size,
	const int *fds, unsigned n)
{
	bool acknowledged = request != SET_FEATURES && request != SET_PROTOCOL_FEATURES;
	struct message message = {
		.request = request,
		.flags = VERSION | (acknowledged ? NEED_REPLY : 0),
		.size = size,
	};

	memcpy(message.payload, payload, size);
	send_message(sd, &message, fds, n);
	if (acknowledged)
		must(receive_u64(sd, request) == 0, "virtiofsd refuses a message");
}

static void set(const struct sd *sd, uint32_t request, const void *payload, uint32_t size)
{
	set_fds(sd, request, payload, size, NULL, 0);
}

static void set_memory(const struct sd *sd)
{
	struct {
		uint32_t n, padding;
		struct {
			uint64_t guest_addr, size, user_addr, offset;
		} regions[VST_REGIONS];
	} table = {.n = VST_REGIONS};

	for (unsigned i = 0; i < VST_REGIONS; i++) {
		struct vs_region_spec spec = vst_region_spec(i);
		table.regions[i].guest_addr = spec.guest_addr;
		table.regions[i].user_addr = spec.user_addr;
		table.regions[i].size = spec.size;
	}
	set_fds(sd, SET_MEM_TABLE, &table, sizeof(table), sd->guest.fds, VST_REGIONS);
}

static void set_queue(struct sd *sd, uint32_t queue)
{
	const struct {
		uint32_t index, flags;
		struct vs_ring_addr addr;
		uint64_t log;
	} addr = {.index = queue, .addr = vst_ring_addr(&sd->guest, queue)};
	uint64_t index = queue;

	sd->kick_fds[queue] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	sd->call_fds[queue] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	set(sd, SET_VRING_NUM, (uint32_t[]){queue, VST_RING_SIZE}, 8);
	set(sd, SET_VRING_BASE, (uint32_t[]){queue, 0}, 8);
	set(sd, SET_VRING_ADDR, &addr, sizeof(addr));
	set_fds(sd, SET_VRING_KICK, &index, sizeof(index), &sd->kick_fds[queue], 1);
	set_fds(sd, SET_VRING_CALL, &index, sizeof(index), &sd->call_fds[queue], 1);
	set(sd, SET_VRING_ENABLE, (uint32_t[]){queue, 1}, 8);
}

void sd_start(struct sd *sd, const char *socket)
{
	*sd = (struct sd){.unique = 2};
	vst_guest_init(&sd->guest);
	/* A vsock device's first queue begins with all buffers offered. */
	sd->guest.drivers[SD_HIPRIO].avail->idx = 0;
	must(fd_unix_connect(socket, &sd->socket, NULL) == 0, "connect to virtiofsd");
	uint64_t features = VERSION_1 | PROTOCOL_FEATURES, protocol = PROTOCOL_REPLY_ACK;
	must((get(sd, GET_FEATURES) & features) == features &&
			(get(sd, GET_PROTOCOL_FEATURES) & protocol) == protocol,
		"virtiofsd's features");
	set(sd, SET_FEATURES, &features, sizeof(features));
	set(sd, SET_PROTOCOL_FEATURES, &protocol, sizeof(protocol));
	set(sd, SET_OWNER, "", 0);
	set_memory(sd);
	for (uint32_t queue = 0; queue < VS_QUEUES; queue++)
		set_queue(sd, queue);
}

void sd_done(struct sd *sd)
{
	sd->socket = fd_close(sd->socket);
	for (unsigned queue = 0; queue < VS_QUEUES; queue++) {
		sd->kick_fds[queue] = fd_close(sd->kick_fds[queue]);
		sd->call_fds[queue] = fd_close(sd->call_fds[queue]);
	}
	vst_guest_done(&sd->guest);
}

/* ---- the guest's driver ---- */

uint64_t sd_buffer(const struct sd *sd, unsigned queue, unsigned slot)
{
	return sd->guest.drivers[queue].buffers_addr + 2ull * slot * VST_BUFFER_SIZE;
}

uint32_t sd_write(struct sd *sd, unsigned queue, unsigned slot, const struct sd_request *request)
{
	uint8_t *begin = vst_guest_at(&sd->guest, sd_buffer(sd, queue, slot));
	uint8_t *out = begin + sizeof(struct fuse_in_header);
	struct fuse_in_header header = {
		.opcode = request->opcode,
		.unique = sd->unique,
		.nodeid = request->node,
		.uid = request->uid,
		.gid = request->uid,
		.pid = 1,
	};

	sd->unique += 2;
	if (request->arg_size)
		out = mempcpy(out, request->arg, request->arg_size);
	for (size_t i = 0; i < ARRAY_SIZE(request->names); i++)
		if (request->names[i])
			out = mempcpy(out, request->names[i], strlen(request->names[i]) + 1);
	if (request->data_size)
		out = mempcpy(out, request->data, request->data_size);
	header.len = (uint32_t)(out - begin);
	must(header.len <= VST_BUFFER_SIZE, "length of a request");
	memcpy(begin, &header, sizeof(header));
	return header.len;
}

void sd_offer(struct sd *sd, unsigned queue, unsigned slot, uint32_t size, uint32_t reply_size)
{
	uint16_t head = (uint16_t)(2 * slot);
	uint64_t addr = sd_buffer(sd, queue, slot);

	vst_set_desc(&sd->guest, queue, head,
		(struct vring_desc){
			.addr = addr,
			.len = size,
			.flags = reply_size ? VRING_DESC_F_NEXT : 0,
			.next = (uint16_t)(head + 1),
		});
	vst_set_desc(&sd->guest, queue, (uint16_t)(head + 1),
		(struct vring_desc){
			.addr = addr + VST_BUFFER_SIZE,
			.len = reply_size,
			.flags = VRING_DESC_F_WRITE,
		});
	/* No old reply is taken for a new one. */
	memset(vst_guest_at(&sd->guest, addr + VST_BUFFER_SIZE), 0, VST_BUFFER_SIZE);
	sd->done[queue][head] = false;
	vst_offer(&sd->guest, queue, head);
}

void sd_kick(struct sd *sd, unsigned queue)
{
	must(eventfd_write(sd->kick_fds[queue], 1) == 0, "kick");
}

static void take_all(struct sd *sd, unsigned queue)
{
	struct vring_used_elem elem;

	while (vst_take_used(&sd->guest, queue, &elem))
		if (elem.id < VST_RING_SIZE)
			sd->done[queue][elem.id] = true;
}

int sd_wait(struct sd *sd, unsigned queue, unsigned slot)
{
	const uint64_t until_ms = ev_now_ms() + ANSWER_MS;
	uint64_t left_ms;
	eventfd_t count;

	for (;;) {
		struct pollfd fds[] = {
			{.fd = sd->call_fds[queue], .events = POLLIN},
			{.fd = sd->socket, .events = POLLIN},
		};

		take_all(sd, queue);
		if (sd->done[queue][2 * slot])
			return 0;
		left_ms = ev_left_ms(until_ms);
		if (!left_ms)
			return SD_SILENT;
		if (poll(fds, ARRAY_SIZE(fds), (int)left_ms) < 0)
			must(errno == EINTR, "poll");
		if (fds[1].revents)
			return SD_ENDED;
		if (fds[0].revents)
			eventfd_read(sd->call_fds[queue], &count);
	}
}

int sd_read(const struct sd *sd, unsigned queue, unsigned slot, struct sd_reply *ret)
{
	const uint8_t *data =
		vst_guest_at(&sd->guest, sd_buffer(sd, queue, slot) + VST_BUFFER_SIZE);
	struct fuse_out_header header;

	memcpy(&header, data, sizeof(header));
	if (ret) {
		*ret = (struct sd_reply){0};
		if (header.len > sizeof(header) && header.len <= VST_BUFFER_SIZE)
			ret->size = header.len - sizeof(header);
		memcpy(ret->data, data + sizeof(header), ret->size);
	}
	return header.error;
}

int sd_call(struct sd *sd, const struct sd_request *request, struct sd_reply *ret)
{
	uint32_t size = sd_write(sd, SD_REQUESTS, CALL_SLOT, request);
	int r;

	sd_offer(sd, SD_REQUESTS, CALL_SLOT, size, VST_BUFFER_SIZE);
	sd_kick(sd, SD_REQUESTS);
	r = sd_wait(sd, SD_REQUESTS, CALL_SLOT);
	return r ? r : sd_read(sd, SD_REQUESTS, CALL_SLOT, ret);
}

int sd_init(struct sd *sd)
{
	const struct fuse_init_in init = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = 1u << 20,
		/* What Linux offers, as far as it matters here. */
		.flags = FUSE_MAX_PAGES | FUSE_DO_READDIRPLUS | FUSE_SUBMOUNTS |
			 FUSE_HANDLE_KILLPRIV_V2 | FUSE_ATOMIC_O_TRUNC,
	};

	return sd_call(sd,
		&(struct sd_request){.opcode = FUSE_INIT, .arg = &init, .arg_size = sizeof(init)},
		NULL);
}
