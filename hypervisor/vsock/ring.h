/*
 * A split virtqueue seen from the device (virtio 1.2, 2.7), where the driver is hostile.
 *
 * The device looks at the next available chain with vs_ring_peek() and gives it back with
 * vs_ring_push() before it looks at another one. So chains are used in the order they came, one
 * index is both the next to take and the next to use, and nothing of the guest's is held between
 * two turns of the loop. Indirect descriptors are not offered, so one is an error, as is everything
 * else that a driver must not do: the ring is then unusable until it is set up anew.
 *
 * Descriptors and indices are read once into our own memory and judged there. The loop's thread
 * alone uses it.
 */
#pragma once

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/err.h"
#include "hypervisor/vsock/memory.h"

/* QEMU gives its vsock queues 128 entries. Also the bound of a chain's parts, and below IOV_MAX. */
#define VS_RING_SIZE_MAX 1024

/* QEMU's virtual addresses, as SET_VRING_ADDR brings them. */
struct vs_ring_addr {
	uint64_t desc;
	uint64_t used;
	uint64_t avail;
};

struct vs_ring {
	uint16_t size; /* entries; a power of two, or 0: not set */
	bool event_idx;
	struct vs_ring_addr addr;
	/* NULL: not mapped */
	const struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t next;      /* the next chain to take, and to use */
	uint16_t signalled; /* `next` when the driver was last told */
};

/* A chain: what the device reads, then what it writes. */
struct vs_chain {
	uint16_t head;
	size_t n_out;
	size_t n_in;
	size_t out_len;
	size_t in_len;
	struct iovec iov[VS_RING_SIZE_MAX]; /* n_out entries, then n_in */
};

/* 0, or -EINVAL for a size that is no power of two or above VS_RING_SIZE_MAX. */
int vs_ring_set_size(struct vs_ring *ring, uint32_t size, struct err *err);

/*
 * Translates the addresses; anew whenever the memory table changed. -EFAULT outside the table,
 * -EINVAL unaligned or no size. On failure the ring is unmapped.
 */
int vs_ring_map(struct vs_ring *ring, const struct vs_memory *memory, struct err *err);
void vs_ring_unmap(struct vs_ring *ring);

/* 0 and the next chain; positive 1: there is none; -EPROTO: the driver broke the rules. */
int vs_ring_peek(const struct vs_ring *ring, const struct vs_memory *memory,
	struct vs_chain *ret_chain, struct err *err);

/* Gives the chain back, of which `written` bytes were written. */
void vs_ring_push(struct vs_ring *ring, const struct vs_chain *chain, uint32_t written);

/* Whether the driver wants to be told of what was pushed since this was last asked. */
bool vs_ring_take_signal(struct vs_ring *ring);

/* Asks for a kick when a chain comes; true: one is there already, no kick may come for it. */
bool vs_ring_enable_kick(struct vs_ring *ring);
/* A hint that kicks are not needed at present. */
void vs_ring_disable_kick(struct vs_ring *ring);
