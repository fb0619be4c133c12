/*
 * Forks the children that become containers: into a cgroup and into a PID namespace from their
 * first instruction, so that there is no moment in which they are elsewhere.
 *
 * The child of another PID namespace is a direct child of the agent, which therefore reaps it: the
 * agent, having one thread, sets the namespace of its children for the moment of one clone3(2).
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

struct clone_spec {
	uint64_t flags; /* CLONE_NEW… */
	int cgroup;     /* O_PATH or open cgroup directory; negative: the agent's */
	int pidns_of;   /* pidfd of a process in the PID namespace to join; negative: no */
	int pidns_own;  /* the agent's own, to return to */
};

/*
 * As fork(2): 0 in the child, the pid (in the agent's namespace) in the agent, and there a pidfd.
 * The child cannot be traced or looked into by the container (PR_SET_DUMPABLE 0) until it execs.
 */
pid_t clone_child(const struct clone_spec *spec, int *ret_pidfd, struct err *err);

/* setns(2) into namespaces of a container's process. -EBADFD: it has ended, as an exec finds it
 * that comes before its end was seen. */
int clone_join(int pidfd, int namespaces, struct err *err);
