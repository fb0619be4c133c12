/*
 * How large a pod's machine is: at its start, and what the limits in it come to need.
 *
 * A limit is what containers may use; the guest's kernel, agent and caches need room beside it, and
 * QEMU with its helpers some on the host. The kubelet sends the pod's overhead for both: the host's
 * part is taken off, what is left, but never less than the guest needs, is added to the limit. So
 * machine and helpers together fit into the limit with its overhead, where that is large enough.
 *
 * Pure functions; any thread.
 */
#pragma once

#include "cri-server/config.h"
#include "cri-server/proto/cri.pb-c.h"
#include "hypervisor/vm.h"

/* What the guest needs for itself. */
#define SIZING_GUEST_MIB 64
/* What a machine costs the host beside its memory: QEMU, virtiofsd and our helpers. */
#define SIZING_HOST_MIB 96
/* As much and more of it, so that nothing is ended for a little. */
#define SIZING_HOST_ROOM_MIB 256
/* Nobody means more than this. */
#define SIZING_MEMORY_MIB_MAX (4u << 20)

struct sizing {
	unsigned vcpus;
	unsigned memory_mib;
};

/* By the pod's limits, where it has any, else the handler's size. linux may be NULL. */
struct sizing sizing_at_start(
	const struct config_handler *handler, const Runtime__V1__LinuxPodSandboxConfig *linux);

/* Limits that are added up; what has none adds nothing. */
struct sizing_sum {
	uint64_t milli_cpus;
	uint64_t memory_mib;
};
void sizing_add(struct sizing_sum *sum, const Runtime__V1__LinuxContainerResources *resources);
/* What a machine must have for them; 0 where there is no limit. */
struct sizing sizing_needed(
	const struct sizing_sum *sum, const Runtime__V1__LinuxPodSandboxConfig *linux);

/*
 * What the machine's processes together may take of the host: the memory that the guest has, and
 * room for the rest: the pod's overhead, or more, for who meets this limit ends the pod. Tables of
 * pages grow with the memory. What the kubelet bounds the pod's own cgroup to holds beside it.
 */
struct hv_limits sizing_limits(
	const Runtime__V1__LinuxPodSandboxConfig *linux, unsigned memory_mib);
