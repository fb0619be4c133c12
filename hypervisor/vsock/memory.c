#include "hypervisor/vsock/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PAGE_SIZE_BYTES 4096u

static bool wraps(uint64_t addr, uint64_t size)
{
	return addr + size < addr;
}

static bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return a < b + b_size && b < a + a_size;
}

static int check_spec(
	const struct vs_memory *memory, const struct vs_region_spec *spec, int fd, struct err *err)
{
	if (memory->n_regions == VS_REGIONS_MAX)
		return err_set(err, -EINVAL, "more than %d memory regions", VS_REGIONS_MAX);
	uint64_t all = spec->guest_addr | spec->user_addr | spec->offset | spec->size;
	if (!spec->size || spec->size > SIZE_MAX / 2 || all % PAGE_SIZE_BYTES)
		return err_set(err, -EINVAL, "memory region is empty or not of whole pages");
	if (wraps(spec->guest_addr, spec->size) || wraps(spec->user_addr, spec->size) ||
		wraps(spec->offset, spec->size))
		return err_set(err, -EINVAL, "memory region wraps around");
	for (unsigned i = 0; i < memory->n_regions; i++) {
		const struct vs_region *other = &memory->regions[i];
		if (overlaps(spec->guest_addr, spec->size, other->guest_addr, other->size) ||
			overlaps(spec->user_addr, spec->size, other->user_addr, other->size))
			return err_set(err, -EINVAL, "memory regions overlap");
	}
	/* Beyond the end of the file a mapping kills who touches it. */
	struct stat st;
	if (fstat(fd, &st) < 0)
		return err_errno(err, "stat memory region");
	if (st.st_size < 0 || (uint64_t)st.st_size < spec->offset + spec->size)
		return err_set(err, -EINVAL, "memory region lies beyond the end of its file");
	return 0;
}

int vs_memory_add(
	struct vs_memory *memory, const struct vs_region_spec *spec, int fd, struct err *err)
{
	int r = check_spec(memory, spec, fd, err);
	if (r < 0)
		return r;
	void *data = mmap(NULL, spec->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
		(off_t)spec->offset);
	if (data == MAP_FAILED)
		return err_errno(err, "map %" PRIu64 " bytes of guest memory", spec->size);
	memory->regions[memory->n_regions++] = (struct vs_region){
		.guest_addr = spec->guest_addr,
		.user_addr = spec->user_addr,
		.size = spec->size,
		.data = data,
	};
	return 0;
}

void vs_memory_done(struct vs_memory *memory)
{
	for (unsigned i = 0; i < memory->n_regions; i++)
		munmap(memory->regions[i].data, memory->regions[i].size);
	*memory = (struct vs_memory){0};
}

void *vs_memory_user(const struct vs_memory *memory, uint64_t addr, uint64_t len)
{
	for (unsigned i = 0; i < memory->n_regions; i++) {
		const struct vs_region *region = &memory->regions[i];
		/* Differences cannot wrap where sums of outside numbers could. */
		if (addr < region->user_addr || addr - region->user_addr >= region->size)
			continue;
		uint64_t offset = addr - region->user_addr;
		return len <= region->size - offset ? region->data + offset : NULL;
	}
	return NULL;
}

static const struct vs_region *find_guest(const struct vs_memory *memory, uint64_t addr)
{
	for (unsigned i = 0; i < memory->n_regions; i++) {
		const struct vs_region *region = &memory->regions[i];
		if (addr >= region->guest_addr && addr - region->guest_addr < region->size)
			return region;
	}
	return NULL;
}

int vs_memory_guest(
	const struct vs_memory *memory, uint64_t addr, uint64_t len, struct iovec *iov, size_t max)
{
	size_t n = 0;
	while (len) {
		const struct vs_region *region = find_guest(memory, addr);
		if (!region)
			return -EFAULT;
		if (n == max)
			return -E2BIG;
		uint64_t offset = addr - region->guest_addr;
		uint64_t part = region->size - offset;
		if (part > len)
			part = len;
		iov[n++] = (struct iovec){.iov_base = region->data + offset, .iov_len = part};
		addr += part;
		len -= part;
	}
	return (int)n;
}
