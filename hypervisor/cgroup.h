/*
 * The host's cgroups, v1, v2 or both at once: a machine's processes sit together in one below the
 * pod's, so that the kubelet counts and bounds them, and nothing of a machine is left when it is
 * gone.
 *
 * A path is one and the same below each hierarchy: "/kubepods/pod1/bulkhead-2". The v1 hierarchies
 * for devices, where libvirt has QEMU in a cgroup of its own with a filter, and those without a
 * controller are left alone.
 *
 * Threads: any; a cgroup is its machine's. Nothing waits but cgroups_remove().
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/err.h"
#include "hypervisor/vm.h"

#define CGROUPS_MAX 16

struct cgroups {
	struct cgroup_hierarchy {
		char *mount;
		char device[24]; /* that of its file system: "0:29" */
		bool v2;
		bool memory, cpu, cpuset; /* what it controls, of what is set here */
	} items[CGROUPS_MAX];
	size_t n;
};

/* One cgroup. */
struct cgroup_place {
	const struct cgroups *cgroups;
	const char *path;
};

/* mountinfo: "/proc/self/mountinfo". Hierarchies that cannot be written are left out. */
int cgroups_read(const char *mountinfo, struct cgroups *ret, struct err *err);
void cgroups_done(struct cgroups *cgroups);

/*
 * Makes it, and those above it that are missing. One that exists is success. The owner, the run_dir
 * of who made it, is noted on it where the hierarchy takes notes: several bulkheadd may have theirs
 * below one parent.
 */
int cgroups_make(
	const struct cgroups *cgroups, const char *path, const char *owner, struct err *err);
/* Whether the cgroup, a directory, has that note. */
bool cgroup_is_of(const char *dir, const char *owner);
/* Moves a process into it; its children begin there. -ESRCH: there is none, or pid is 0. */
int cgroups_enter(const struct cgroup_place *place, pid_t pid, struct err *err);
/*
 * Moves the kernel's own threads of that name into it. One that cannot be moved, or is not seen
 * from our process namespace, stays where it is: it is only not counted.
 */
void cgroups_enter_kernel_threads(const struct cgroup_place *place, const char *name);
int cgroups_limit(const struct cgroups *cgroups, const char *path, const struct hv_limits *limits,
	struct err *err);
/*
 * The processors and memory nodes that what is in it may use: "0-3,8"; empty: those of the one
 * above. -EOPNOTSUPP: there is no hierarchy for that, and some are named.
 */
int cgroups_pin(const struct cgroups *cgroups, const char *path, const char *cpus, const char *mems,
	struct err *err);
/*
 * Kills what is in it, waits for that, two seconds at most, and removes it; those above it stay.
 * Absent is success.
 */
int cgroups_remove(const struct cgroups *cgroups, const char *path, struct err *err);
