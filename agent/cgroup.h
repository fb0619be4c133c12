/*
 * The containers' cgroups (v2): /sys/fs/cgroup/pod/<id> for each container with its limits, and
 * below it exec-<n> for each exec'd process, so that it and all it started can be killed alone.
 *
 * Controllers are not enabled below a container: processes live in its cgroup and in the execs'
 * alike, and a privileged container may arrange its own subtree.
 *
 * cgroup descriptors are O_PATH directories; names are relative to the parent of the containers'.
 * Nothing here waits but cgroup_limit(). Threads: the loop's alone, or a child.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/proto/agent.pb-c.h"
#include "agent/proto/ports.h"
#include "common/err.h"

#define CGROUP_MOUNT  "/sys/fs/cgroup"
#define CGROUP_PARENT CGROUP_MOUNT "/pod"
/* As a name: beside the containers' parent, so out of the pod's limits and account. */
#define CGROUP_GUEST "../guest"

/* Makes the parent and enables for its children what controllers there are. */
int cgroup_setup(struct err *err);

/* Makes the cgroup "<id>" or "<id>/exec-<n>". -EEXIST. */
int cgroup_make(const char *name, int *ret_fd, struct err *err);
/* One that was made, or for an empty name their parent. -ENOENT. */
int cgroup_open(const char *name, int *ret_fd, struct err *err);
/* Removes it and those below it; -EBUSY while there are processes. Absent is success. */
int cgroup_remove(const char *name, struct err *err);
/* Removes empty exec-<n> of a container. */
void cgroup_sweep(int cgroup);

/*
 * Limits; NULL sets none. -EOPNOTSUPP: the kernel lacks the controller that a limit needs. Of less
 * memory than is used it waits until the kernel has taken that away.
 */
int cgroup_limit(int cgroup, const Bulkhead__Agent__Resources *resources, struct err *err);

/* SIGKILL to all in it and below. */
int cgroup_kill(int cgroup, struct err *err);
/* Any other signal, to those that are there now. */
int cgroup_signal(int cgroup, int signo, struct err *err);

/* cgroup.events, readable and pollable for EPOLLPRI. */
int cgroup_events_open(int cgroup, int *ret_fd, struct err *err);
/* Whether processes are left; clears the EPOLLPRI. */
bool cgroup_events_populated(int events);

/* Processes that the OOM killer took in it and below, since it was made. */
uint64_t cgroup_oom_kills(int cgroup);

/*
 * The device rules of unprivileged containers, those of runc: mknod of anything, and the use of
 * null, zero, full, random, urandom, tty, console, ptmx and pts; and `more`, unless it is NULL. The
 * descriptor is a BPF program for cgroup_devices_attach().
 */
struct device_rules {
	uint32_t n;
	struct {
		uint32_t type;   /* BPF_DEVCG_DEV_BLOCK or _CHAR */
		uint32_t access; /* BPF_DEVCG_ACC_… */
		uint32_t major;
		uint32_t minor;
	} rules[AGENT_DEVICES_MAX];
};

int cgroup_devices_load(const struct device_rules *more, int *ret_program, struct err *err);
int cgroup_devices_attach(int program, int cgroup, struct err *err);
