/*
 * A guest's figures as CRI's messages, with the storage for all they point to.
 *
 * Pure functions; messages borrow their strings from container and sandbox, so runtime->lock is
 * held until the answer was copied.
 */
#pragma once

#include "cri-server/runtime/usage.h"

/* UInt64Values and what else is one message per figure. */
#define STATS_VALUES_MAX 20

struct stats_storage {
	Runtime__V1__UInt64Value values[STATS_VALUES_MAX];
	size_t n_values;
	Runtime__V1__PsiStats psi[3];
	Runtime__V1__PsiData psi_data[6];
	Runtime__V1__CpuUsage cpu;
	Runtime__V1__MemoryUsage memory;
	Runtime__V1__IoUsage io;
};

struct stats_container {
	Runtime__V1__ContainerStats stats;
	struct stats_storage storage;
	ProtobufCMessageUnknownField attributes; /* the container's, packed */
	Runtime__V1__FilesystemUsage layer;
	Runtime__V1__FilesystemIdentifier layer_id;
	Runtime__V1__SwapUsage swap;
};

struct stats_sandbox {
	Runtime__V1__PodSandboxStats stats;
	struct stats_storage storage;
	Runtime__V1__PodSandboxAttributes attributes;
	Runtime__V1__LinuxPodSandboxStats linux;
	Runtime__V1__NetworkUsage network;
	Runtime__V1__ProcessUsage process;
	Runtime__V1__NetworkInterfaceUsage *interfaces;
	Runtime__V1__NetworkInterfaceUsage **interface_pointers;
	Runtime__V1__UInt64Value *interface_values;
	struct stats_container *containers;
	Runtime__V1__ContainerStats **container_pointers;
};

/*
 * One that does not run, or whose guest never answered, has attributes only, as in containerd.
 * scratch_dir: where the host keeps the writable layers.
 */
int stats_fill_container(struct stats_container *ret, struct container *container,
	const char *scratch_dir, struct err *err);

/* With the n containers, which are the sandbox's. stats_sandbox_done() in any case. */
int stats_fill_sandbox(struct stats_sandbox *ret, const struct sandbox *sandbox,
	struct container *const *containers, size_t n, const char *scratch_dir, struct err *err);
void stats_sandbox_done(struct stats_sandbox *stats);

/* What a kubelet evicts by: usage without the page cache that nobody touched for long. */
uint64_t stats_working_set(const Bulkhead__Agent__Usage *usage);
