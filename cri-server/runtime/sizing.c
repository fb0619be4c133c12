#include "cri-server/runtime/sizing.h"

#define VCPUS_MAX 64
#define MIB       (1 << 20)

static uint64_t mib_of(int64_t bytes)
{
	uint64_t mib = bytes > 0 ? ((uint64_t)bytes + MIB - 1) / MIB : 0;
	return mib > SIZING_MEMORY_MIB_MAX ? SIZING_MEMORY_MIB_MAX : mib;
}

void sizing_add(struct sizing_sum *sum, const Runtime__V1__LinuxContainerResources *resources)
{
	if (!resources)
		return;
	sum->memory_mib += mib_of(resources->memory_limit_in_bytes);
	/* Huge pages are beside the limit of memory. */
	for (size_t i = 0; i < resources->n_hugepage_limits; i++) {
		uint64_t bytes = resources->hugepage_limits[i]->limit;
		sum->memory_mib += mib_of(bytes > INT64_MAX ? INT64_MAX : (int64_t)bytes);
	}
	if (resources->cpu_quota <= 0 || resources->cpu_period <= 0)
		return;
	if (resources->cpu_quota / resources->cpu_period >= VCPUS_MAX)
		sum->milli_cpus += VCPUS_MAX * 1000;
	else /* the quota has at most 64 periods, which leave room for a factor */
		sum->milli_cpus +=
			(uint64_t)resources->cpu_quota / (uint64_t)resources->cpu_period * 1000 +
			(uint64_t)resources->cpu_quota % (uint64_t)resources->cpu_period * 1000 /
				(uint64_t)resources->cpu_period;
}

static unsigned guest_share_mib(const Runtime__V1__LinuxPodSandboxConfig *linux)
{
	uint64_t overhead =
		linux && linux->overhead ? mib_of(linux->overhead->memory_limit_in_bytes) : 0;
	if (overhead <= SIZING_HOST_MIB + SIZING_GUEST_MIB)
		return SIZING_GUEST_MIB;
	return (unsigned)overhead - SIZING_HOST_MIB;
}

struct sizing sizing_needed(
	const struct sizing_sum *sum, const Runtime__V1__LinuxPodSandboxConfig *linux)
{
	struct sizing needed = {0};
	uint64_t cpus = (sum->milli_cpus + 999) / 1000;
	uint64_t mib = sum->memory_mib ? sum->memory_mib + guest_share_mib(linux) : 0;
	needed.vcpus = cpus > VCPUS_MAX ? VCPUS_MAX : (unsigned)cpus;
	needed.memory_mib = mib > SIZING_MEMORY_MIB_MAX ? SIZING_MEMORY_MIB_MAX : (unsigned)mib;
	return needed;
}

struct sizing sizing_at_start(
	const struct config_handler *handler, const Runtime__V1__LinuxPodSandboxConfig *linux)
{
	struct sizing_sum sum = {0};
	if (linux)
		sizing_add(&sum, linux->resources);
	struct sizing size = sizing_needed(&sum, linux);
	if (!size.vcpus)
		size.vcpus = handler->vcpus;
	if (!size.memory_mib)
		size.memory_mib = handler->memory_mib;
	return size;
}

struct hv_limits sizing_limits(const Runtime__V1__LinuxPodSandboxConfig *linux, unsigned memory_mib)
{
	const Runtime__V1__LinuxContainerResources *resources = linux ? linux->resources : NULL;
	const Runtime__V1__LinuxContainerResources *overhead = linux ? linux->overhead : NULL;
	struct hv_limits limits = {0};
	uint64_t room = overhead ? mib_of(overhead->memory_limit_in_bytes) : 0;
	if (room < SIZING_HOST_ROOM_MIB)
		room = SIZING_HOST_ROOM_MIB;
	limits.memory_mib = memory_mib + memory_mib / 64 + room;
	if (!resources)
		return limits;
	if (resources->cpu_shares > 0)
		limits.cpu_shares = (uint64_t)resources->cpu_shares;
	if (resources->cpu_quota <= 0 || resources->cpu_period <= 0)
		return limits;
	limits.cpu_period_us = (uint64_t)resources->cpu_period;
	limits.cpu_quota_us = (uint64_t)resources->cpu_quota;
	if (overhead && overhead->cpu_quota > 0 && overhead->cpu_period == resources->cpu_period)
		limits.cpu_quota_us += (uint64_t)overhead->cpu_quota;
	return limits;
}
