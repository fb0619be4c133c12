/*
 * What container.c, container_exec.c and container_host.c share.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/clone.h"
#include "agent/container.h"
#include "agent/launch.h"
#include "agent/security.h"
#include "agent/usage.h"

struct container_host {
	struct ev_loop *loop;
	struct reaper *reaper;
	const struct ids *ids; /* the caller's */
	int pidns;             /* the agent's own */
	int device_program;    /* cgroup_devices_load() */
	pid_t pause;           /* init of the pod's PID namespace, 0: none */
	int pause_pidfd;
	uint32_t last_project;  /* of the container made last */
	int guest_cgroup;       /* of what runs in the guest itself; negative: nothing did */
	unsigned n_execs;       /* of those, ever */
	struct usage_rate rate; /* of all containers together */
};

/* The pod's PID namespace as a pidfd of its init, which is made when there is none. Borrowed. */
int container_host_pod_pidns(struct container_host *host, int *ret_pidfd, struct err *err);

enum container_state {
	CONTAINER_CREATING, /* on_done is owed */
	CONTAINER_CREATED,
	CONTAINER_STARTING, /* the start's done is owed */
	CONTAINER_RUNNING,
	CONTAINER_ENDED, /* init was reaped */
	CONTAINER_REMOVING,
};

struct container {
	struct container_host *host;
	char *id;
	enum container_state state;
	bool privileged;
	void *filter_program;          /* a copy, for those who come later */
	struct launch_ready ready;     /* whom it runs as */
	struct security_filter filter; /* of every process of the container */
	pid_t pid;
	int pidfd;
	int cgroup;
	unsigned n_execs; /* ever: names their cgroups */
	uint32_t project; /* of its files on the scratch disk */
	struct usage_rate rate;

	int report; /* the child's error; end of file is its exec */
	int socket; /* launch_ready from it, 'G' to it */
	struct ev_source *report_source;
	struct ev_source *socket_source;
	struct container_callbacks callbacks;
	container_done_fn start_done;
	void *start_userdata;

	int events; /* cgroup.events while it is removed */
	struct ev_source *events_source;
	struct ev_source *timer;
	container_done_fn remove_done;
	void *remove_userdata;
};
