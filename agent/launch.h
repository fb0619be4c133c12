/*
 * The child's half of a container: from the clone to the exec of the user's program.
 *
 * An init sends a launch_ready on its socket when it is ready and waits there for 'G'. Errors go to
 * the report pipe (process.h), which exec closes. Neither function returns.
 */
#pragma once

#include <stdbool.h>

#include "agent/cgroup.h"
#include "agent/ids.h"
#include "agent/proto/agent.pb-c.h"

#include "agent/security.h"
#include "agent/stdio.h"
#include "agent/user.h"

/* One message of the socket, which keeps their bounds. */
struct launch_ready {
	uint32_t uid;
	uint32_t gid;
	uint32_t n_groups;
	uint32_t groups[USER_GROUPS_MAX];
	struct device_rules devices; /* beside those that all have */
};

struct launch_init {
	const Bulkhead__Agent__CreateContainerRequest *request;
	const struct security_filter *filter;
	const struct stdio_child *stdio;
	const struct ids *ids;
	const char *scratch; /* directory of the container's files, not made yet */
	uint32_t project;    /* quota.h: whose account those files are */
	int report;
	int socket;
};

_Noreturn void launch_init(const struct launch_init *launch);

struct launch_exec {
	const Bulkhead__Agent__Process *process;
	const struct security_filter *filter;
	const struct stdio_child *stdio;
	const struct ids *ids;
	int init; /* pidfd of the container's init, whose namespaces are joined; negative: none */
	bool privileged;
	int report;
};

_Noreturn void launch_exec(const struct launch_exec *launch);

/*
 * The init of the pod's PID namespace: reaps what is orphaned there. It has an empty root, so that
 * /proc/1/root shows nothing.
 */
_Noreturn void launch_pause(void);
