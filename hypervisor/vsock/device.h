/*
 * The device: two virtqueues (ring 0 to the guest, ring 1 from it), the guest's memory they lie in,
 * and the mux that makes and takes their packets.
 *
 * vhost_user.c sets it up as QEMU says. Rings are served while both are mapped, kicked and enabled;
 * that is the time in which the guest has a driver, and connections live no longer. A driver that
 * breaks the rules of rings makes the device `broken`: it loses all connections and is not served
 * any more until a ring is stopped (a reset of the guest's device does that). The log says so
 * once a minute at most.
 *
 * The loop's thread alone uses it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/log.h"
#include "common/loop.h"
#include "hypervisor/vsock/memory.h"
#include "hypervisor/vsock/mux.h"
#include "hypervisor/vsock/ring.h"

enum vs_queue_index {
	VS_QUEUE_TO_GUEST,
	VS_QUEUE_FROM_GUEST,
	VS_QUEUES,
};

struct vs_device;

struct vs_queue {
	struct vs_device *device;
	struct vs_ring ring;
	bool enabled;
	int kick_fd;
	int call_fd;
	int error_fd;
	struct ev_source *kick;
};

struct vs_device {
	struct ev_loop *loop;
	const struct log *log;
	struct vs_memory memory;
	struct vs_queue queues[VS_QUEUES];
	struct vs_mux mux;
	struct ev_source *again; /* goes on where a turn's share was used up */
	bool broken;
	unsigned n_broken;      /* how often it was */
	uint64_t broken_log_ms; /* before this the log says nothing of it */
	struct vs_chain chain;  /* scratch: too large for the stack */
};

int vs_device_new(struct ev_loop *loop, const struct log *log, uint64_t guest_cid,
	const char *dial_prefix, struct vs_device **ret, struct err *err);
struct vs_device *vs_device_free(struct vs_device *device);

/* Puts another table in place of the present one, which is unmapped; rings are found anew in it. */
int vs_device_set_memory(struct vs_device *device, const struct vs_memory *memory, struct err *err);

void vs_device_set_event_idx(struct vs_device *device, bool event_idx);
int vs_device_set_size(struct vs_device *device, unsigned queue, uint32_t size, struct err *err);
int vs_device_set_addr(
	struct vs_device *device, unsigned queue, const struct vs_ring_addr *addr, struct err *err);
int vs_device_set_base(struct vs_device *device, unsigned queue, uint32_t base, struct err *err);
/* Descriptors are taken, also on failure; negative: none. */
int vs_device_set_kick(struct vs_device *device, unsigned queue, int fd, struct err *err);
int vs_device_set_call(struct vs_device *device, unsigned queue, int fd, struct err *err);
int vs_device_set_error(struct vs_device *device, unsigned queue, int fd, struct err *err);
void vs_device_enable(struct vs_device *device, unsigned queue, bool enabled);

/* Stops the queue and returns the index at which it may go on. */
uint16_t vs_device_stop(struct vs_device *device, unsigned queue);
