/* Shares of processors, in the guest's cgroups and in the host's. Pure. */
#pragma once

#include <stdint.h>

/* cgroup v1's cpu.shares, 2 to 262144, as cgroup v2's cpu.weight, 1 to 10000: runc's conversion. */
static inline uint64_t cpu_weight_of_shares(uint64_t shares)
{
	uint64_t bounded = shares < 2 ? 2 : shares > 262144 ? 262144 : shares;
	return 1 + (bounded - 2) * 9999 / 262142;
}
