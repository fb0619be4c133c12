#include "hypervisor/vsock/device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/fd.h"

/* Chains of one queue in one turn: then other events of the loop have theirs. */
#define CHAINS_PER_TURN 128
/* A guest can reset its device and break the rules again as often as it likes. */
#define BROKEN_LOG_INTERVAL_MS (60u * 1000)

static const char *const queue_names[VS_QUEUES] = {
	[VS_QUEUE_TO_GUEST] = "to guest",
	[VS_QUEUE_FROM_GUEST] = "from guest",
};

static bool is_served(const struct vs_device *device)
{
	for (unsigned i = 0; i < VS_QUEUES; i++) {
		const struct vs_queue *queue = &device->queues[i];
		if (!queue->ring.desc || !queue->enabled || !queue->kick)
			return false;
	}
	return !device->broken;
}

static void signal_eventfd(int fd)
{
	uint64_t one = 1;
	/* Full means that it is signalled already. */
	ssize_t ignored = fd < 0 ? 0 : write(fd, &one, sizeof(one));
	(void)ignored;
}

static void log_broken(struct vs_device *device, unsigned queue, const struct err *err)
{
	uint64_t now_ms = ev_now_ms();
	device->n_broken++;
	if (now_ms < device->broken_log_ms)
		return;
	char times[16];
	snprintf(times, sizeof(times), "%u", device->n_broken);
	log_event(device->log, LOG_LEVEL_ERROR, "the guest's vsock driver broke the rules", "queue",
		queue_names[queue], "times", times, "err", err->msg, NULL);
	device->broken_log_ms = now_ms + BROKEN_LOG_INTERVAL_MS;
}

static void break_device(struct vs_device *device, unsigned queue, const struct err *err)
{
	log_broken(device, queue, err);
	device->broken = true;
	vs_mux_set_up(&device->mux, false);
	signal_eventfd(device->queues[queue].error_fd);
}

/* True: there is more than this turn's share. */
static bool serve_from_guest(struct vs_device *device, struct err *err)
{
	struct vs_ring *ring = &device->queues[VS_QUEUE_FROM_GUEST].ring;
	vs_ring_disable_kick(ring);
	for (unsigned i = 0; i < CHAINS_PER_TURN; i++) {
		/* The guest has to fetch our answers first; serve() comes back after that. */
		if (!vs_mux_can_receive(&device->mux))
			return false;
		int r = vs_ring_peek(ring, &device->memory, &device->chain, err);
		if (r > 0) {
			if (!vs_ring_enable_kick(ring))
				return false;
			continue;
		}
		if (r == 0)
			r = vs_mux_receive(&device->mux, &device->chain, err);
		if (r < 0) {
			break_device(device, VS_QUEUE_FROM_GUEST, err);
			return false;
		}
		vs_ring_push(ring, &device->chain, 0);
	}
	return true;
}

static bool serve_to_guest(struct vs_device *device, struct err *err)
{
	struct vs_ring *ring = &device->queues[VS_QUEUE_TO_GUEST].ring;
	vs_ring_disable_kick(ring);
	for (unsigned i = 0; i < CHAINS_PER_TURN; i++) {
		if (!vs_mux_has_work(&device->mux))
			return false;
		int r = vs_ring_peek(ring, &device->memory, &device->chain, err);
		if (r > 0) {
			if (!vs_ring_enable_kick(ring))
				return false;
			continue;
		}
		int len = r < 0 ? r : vs_mux_transmit(&device->mux, &device->chain, err);
		if (len < 0) {
			break_device(device, VS_QUEUE_TO_GUEST, err);
			return false;
		}
		if (len > 0)
			vs_ring_push(ring, &device->chain, (uint32_t)len);
	}
	return true;
}

static void serve(void *userdata)
{
	struct vs_device *device = userdata;
	struct err err = ERR_INIT;
	if (!is_served(device))
		return;
	bool more = serve_from_guest(device, &err);
	bool was_full = !vs_mux_can_receive(&device->mux);
	if (!device->broken)
		more |= serve_to_guest(device, &err);
	more |= was_full && vs_mux_can_receive(&device->mux);
	for (unsigned i = 0; i < VS_QUEUES; i++) {
		if (vs_ring_take_signal(&device->queues[i].ring))
			signal_eventfd(device->queues[i].call_fd);
	}
	if (more && !device->broken)
		ev_timer_set(device->again, 0);
}

/* Rings became usable or ceased to be. */
static void update(struct vs_device *device)
{
	bool served = is_served(device);
	if (served != device->mux.up)
		vs_mux_set_up(&device->mux, served);
	if (served)
		ev_timer_set(device->again, 0); /* there may be chains that no kick will come for */
}

static void on_kick(void *userdata, uint32_t events)
{
	struct vs_queue *queue = userdata;
	(void)events;
	uint64_t count;
	ssize_t got = read(queue->kick_fd, &count, sizeof(count));
	if (got != sizeof(count) && !(got < 0 && (errno == EAGAIN || errno == EINTR))) {
		/* No eventfd after all: it would wake us for ever. */
		queue->kick = ev_source_free(queue->kick);
		update(queue->device);
		return;
	}
	serve(queue->device);
}

int vs_device_new(struct ev_loop *loop, const struct log *log, uint64_t guest_cid,
	const char *dial_prefix, struct vs_device **ret, struct err *err)
{
	struct vs_device *device = calloc(1, sizeof(*device));
	if (!device)
		return err_nomem(err);
	device->loop = loop;
	device->log = log;
	for (unsigned i = 0; i < VS_QUEUES; i++) {
		device->queues[i].device = device;
		device->queues[i].kick_fd = -EBADF;
		device->queues[i].call_fd = -EBADF;
		device->queues[i].error_fd = -EBADF;
	}
	vs_mux_init(&device->mux, loop, guest_cid, dial_prefix);
	device->mux.on_work = serve;
	device->mux.userdata = device;
	int r = ev_timer_new(loop, EV_NEVER, serve, device, &device->again, err);
	if (r < 0) {
		vs_device_free(device);
		return r;
	}
	*ret = device;
	return 0;
}

struct vs_device *vs_device_free(struct vs_device *device)
{
	if (!device)
		return NULL;
	vs_mux_set_up(&device->mux, false);
	for (unsigned i = 0; i < VS_QUEUES; i++) {
		ev_source_free(device->queues[i].kick);
		fd_close(device->queues[i].kick_fd);
		fd_close(device->queues[i].call_fd);
		fd_close(device->queues[i].error_fd);
	}
	ev_source_free(device->again);
	vs_memory_done(&device->memory);
	free(device);
	return NULL;
}

int vs_device_set_memory(struct vs_device *device, const struct vs_memory *memory, struct err *err)
{
	vs_memory_done(&device->memory);
	device->memory = *memory;
	int r = 0;
	for (unsigned i = 0; i < VS_QUEUES; i++) {
		struct vs_queue *queue = &device->queues[i];
		if (!queue->ring.desc)
			continue;
		vs_ring_unmap(&queue->ring);
		if (r == 0)
			r = vs_ring_map(&queue->ring, &device->memory, err);
	}
	update(device);
	return r;
}

void vs_device_set_event_idx(struct vs_device *device, bool event_idx)
{
	for (unsigned i = 0; i < VS_QUEUES; i++)
		device->queues[i].ring.event_idx = event_idx;
}

/* What defines a ring changes only while it is stopped. */
static int get_stopped(
	struct vs_device *device, unsigned queue, struct vs_queue **ret, struct err *err)
{
	if (queue >= VS_QUEUES)
		return err_set(err, -EINVAL, "there is no queue %u", queue);
	if (is_served(device))
		return err_set(err, -EBUSY, "queue %u is running", queue);
	*ret = &device->queues[queue];
	return 0;
}

int vs_device_set_size(struct vs_device *device, unsigned queue, uint32_t size, struct err *err)
{
	struct vs_queue *q = NULL;
	int r = get_stopped(device, queue, &q, err);
	if (r < 0)
		return r;
	vs_ring_unmap(&q->ring);
	return vs_ring_set_size(&q->ring, size, err);
}

int vs_device_set_addr(
	struct vs_device *device, unsigned queue, const struct vs_ring_addr *addr, struct err *err)
{
	struct vs_queue *q = NULL;
	int r = get_stopped(device, queue, &q, err);
	if (r < 0)
		return r;
	q->ring.addr = *addr;
	r = vs_ring_map(&q->ring, &device->memory, err);
	update(device);
	return r;
}

int vs_device_set_base(struct vs_device *device, unsigned queue, uint32_t base, struct err *err)
{
	struct vs_queue *q = NULL;
	int r = get_stopped(device, queue, &q, err);
	if (r < 0)
		return r;
	if (base > UINT16_MAX)
		return err_set(err, -EINVAL, "queue %u begins at index %u", queue, base);
	q->ring.next = q->ring.signalled = (uint16_t)base;
	return 0;
}

/* Takes an eventfd for a queue; one that blocks would stop us. */
static int take_eventfd(unsigned queue, int *slot, int fd, struct err *err)
{
	_cleanup_close_ int owned = fd;
	if (queue >= VS_QUEUES)
		return err_set(err, -EINVAL, "there is no queue %u", queue);
	if (owned >= 0 && fd_set_nonblock(owned, err) < 0)
		return err_wrap(err, "queue %u", queue);
	fd_close(*slot);
	*slot = TAKE_FD(owned);
	return 0;
}

int vs_device_set_kick(struct vs_device *device, unsigned queue, int fd, struct err *err)
{
	struct vs_queue *q = &device->queues[queue < VS_QUEUES ? queue : 0];
	if (queue < VS_QUEUES)
		q->kick = ev_source_free(q->kick);
	int r = take_eventfd(queue, &q->kick_fd, fd, err);
	if (r == 0 && q->kick_fd >= 0)
		r = ev_io_new(device->loop, q->kick_fd, EPOLLIN, on_kick, q, &q->kick, err);
	update(device);
	return r;
}

int vs_device_set_call(struct vs_device *device, unsigned queue, int fd, struct err *err)
{
	return take_eventfd(queue, &device->queues[queue % VS_QUEUES].call_fd, fd, err);
}

int vs_device_set_error(struct vs_device *device, unsigned queue, int fd, struct err *err)
{
	return take_eventfd(queue, &device->queues[queue % VS_QUEUES].error_fd, fd, err);
}

void vs_device_enable(struct vs_device *device, unsigned queue, bool enabled)
{
	device->queues[queue].enabled = enabled;
	update(device);
}

uint16_t vs_device_stop(struct vs_device *device, unsigned queue)
{
	struct vs_queue *q = &device->queues[queue];
	q->enabled = false;
	q->kick = ev_source_free(q->kick);
	q->kick_fd = fd_close(q->kick_fd);
	vs_ring_unmap(&q->ring);
	update(device);
	device->broken = false;
	return q->ring.next;
}
