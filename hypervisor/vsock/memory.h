/*
 * The guest's memory as QEMU shares it: a small table of regions, each one mapped from a
 * descriptor.
 *
 * A place in it has two names: the guest's physical address (in descriptors) and QEMU's virtual
 * address (in the addresses of rings). Both come from outside; a translation succeeds only for
 * ranges that lie wholly inside the table. What is behind the pointers may change at any moment:
 * the guest runs. Owned by the device; the loop's thread alone uses it.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/err.h"

#define VS_REGIONS_MAX 8

struct vs_region {
	uint64_t guest_addr;
	uint64_t user_addr;
	uint64_t size;
	uint8_t *data;
};

struct vs_memory {
	struct vs_region regions[VS_REGIONS_MAX];
	unsigned n_regions;
};

/* One region as the message names it. */
struct vs_region_spec {
	uint64_t guest_addr;
	uint64_t size;
	uint64_t user_addr;
	uint64_t offset; /* in the descriptor */
};

/*
 * Maps one more region from fd, which stays the caller's. -EINVAL: empty, unaligned, wrapping,
 * beyond the end of the file, overlapping another region, or one too many.
 */
int vs_memory_add(
	struct vs_memory *memory, const struct vs_region_spec *spec, int fd, struct err *err);

/* Unmaps all; the table is empty and usable again. */
void vs_memory_done(struct vs_memory *memory);

/* QEMU's address → ours; NULL unless [addr, addr+len) lies in one region. */
void *vs_memory_user(const struct vs_memory *memory, uint64_t addr, uint64_t len);

/*
 * The guest's range as a list of ours: it may span regions that lie one behind the other. Returns
 * the number of entries written (0 for an empty range), -EFAULT when any part is outside the table,
 * -E2BIG when there are more than max.
 */
int vs_memory_guest(
	const struct vs_memory *memory, uint64_t addr, uint64_t len, struct iovec *iov, size_t max);
