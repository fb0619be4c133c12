/*
 * One container in the guest: its namespaces, cgroup, root and processes.
 *
 * States: container_create() → on_done: created → container_start() → done: running → on_exit:
 * exited; from each of them, and from an on_done with an error, container_remove().
 *
 * container_create() clones the container's init at once: into new mount and UTS namespaces, its
 * cgroup and, as asked, a PID namespace. That child waits for its layers' disks, mounts them and
 * the overlay inside its own mount namespace, so that all mounts end with the container, sets
 * everything up, reports over a socket, and blocks until container_start() makes it exec the user's
 * program. What exec itself fails with is reported too, with its errno:
 * `exec: "foo": executable file not found in $PATH`.
 *
 * Nothing here blocks: what may is done in a child (process.h). Completions are callbacks, never
 * called from within the function that takes them, unless memory is out in container_remove().
 * Threads: the loop's alone.
 *
 * Who owns what: the server keeps the table of containers and processes by id, validates states,
 * owns each process's stdio and queues events. container.c owns pids, cgroups, namespaces and files
 * (/run/scratch/<id>/ for upper and work). It never sees stdio beyond `struct stdio_child`.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "agent/ids.h"
#include "agent/process.h"
#include "agent/proto/agent.pb-c.h"
#include "agent/proto/ports.h"
#include "agent/stdio.h"
#include "agent/usage.h"
#include "common/err.h"
#include "common/loop.h"

/*
 * The scratch disk and the volumes' share; mounted by the server before the first
 * container_create().
 */
#define CONTAINER_SCRATCH "/run/scratch"
#define CONTAINER_SHARE   "/run/share"
/* The volumes that are file systems of the guest; volumes.h. */
#define CONTAINER_VOLUMES AGENT_VOLUMES
/*
 * The pod's /dev/shm: POSIX shared memory belongs to the IPC namespace, which containers share.
 */
#define CONTAINER_SHM "/run/shm"
/*
 * The pod's files that each container gets at /etc/…, writable where its root is; those that do not
 * exist are left out. Written by netconf at ConfigureSandbox.
 */
#define CONTAINER_FILES       "/run/agent"
#define CONTAINER_RESOLV_CONF CONTAINER_FILES "/resolv.conf"
#define CONTAINER_HOSTS       CONTAINER_FILES "/hosts"
#define CONTAINER_HOSTNAME    CONTAINER_FILES "/hostname"

/* What containers of one guest share: the cgroup tree, the pod's PID namespace. One per agent. */
struct container_host;

/*
 * cgroup2 is mounted at /sys/fs/cgroup. Enables controllers and makes the containers' parent
 * cgroup. The pod's PID namespace is made when a container first asks for it. `ids` is the caller's
 * and outlives it.
 */
int container_host_new(struct ev_loop *loop, struct reaper *reaper, const struct ids *ids,
	struct container_host **ret, struct err *err);
struct container_host *container_host_free(struct container_host *host);

struct container;
struct container_exec;

/* err->code 0: done. pid: of the process in the guest's namespace, where there is one, else 0. */
typedef void (*container_done_fn)(void *userdata, pid_t pid, const struct err *err);
/* The process ended: status as of waitpid(2); oom_killed: memory.events of the container counted a
 * kill. */
typedef void (*container_exit_fn)(void *userdata, int status, bool oom_killed);

struct container_callbacks {
	container_done_fn on_done; /* of create or exec; exactly once */
	container_exit_fn on_exit; /* exactly once, after on_done succeeded; not when that failed */
	void *userdata;
};

/*
 * Fails at once only for what is wrong with the request itself or when it cannot clone; then no
 * callback comes. `request` is the caller's and is not needed after the return (the child has its
 * copy). `target` is the running container whose PID namespace the request wants, else
 * NULL. On an error in on_done the caller calls container_remove(), which also deletes what was
 * made.
 */
int container_create(struct container_host *host,
	const Bulkhead__Agent__CreateContainerRequest *request, const struct container *target,
	const struct stdio_child *stdio, const struct container_callbacks *callbacks,
	struct container **ret, struct err *err);

/* Whom a created container runs as; groups are borrowed from it. */
void container_user(
	const struct container *container, Bulkhead__Agent__CreateContainerResponse *ret);

/*
 * Lets the init exec. done comes with the pid when the user's program runs, or with the exec's
 * error (then on_exit follows, as the init ends).
 */
int container_start(
	struct container *container, container_done_fn done, void *userdata, struct err *err);

/* Sends to the init or, with all, to every process of the cgroup. An ended one is success. */
int container_signal(struct container *container, int signo, bool all, struct err *err);

/* What the container, or with all of the pod's, has used; the message's id is the caller's to set.
 */
void container_usage(struct container *container, struct usage *ret);
void container_host_usage(struct container_host *host, struct usage *ret);

/*
 * Kills what runs, waits for its end, removes the cgroup and /run/scratch/<id>. done comes when
 * nothing is left, and the container is freed before it is called; or with the error that says what
 * is, and then it may be tried again. No on_exit of it or its execs is called any more once this
 * was called.
 */
void container_remove(struct container *container, container_done_fn done, void *userdata);

/*
 * Starts a process in a running container: its cgroup and namespaces, its root. on_done comes when
 * the program runs (pid) or failed to. *ret is to be freed with container_exec_free(), at the
 * latest before container_remove().
 */
int container_exec(struct container *container, const Bulkhead__Agent__Process *process,
	const struct stdio_child *stdio, const struct container_callbacks *callbacks,
	struct container_exec **ret, struct err *err);
/* The same in the guest itself: the agent's own namespaces and root, all rights, no filter. */
int container_host_exec(struct container_host *host, const Bulkhead__Agent__Process *process,
	const struct stdio_child *stdio, const struct container_callbacks *callbacks,
	struct container_exec **ret, struct err *err);
/* With all: the process and everything it started (a cgroup of its own below the container's). */
int container_exec_signal(struct container_exec *exec, int signo, bool all, struct err *err);
/*
 * Forgets it: no callback comes any more. If it still runs, it is killed with all it started; what
 * an ended one left behind goes on until the container ends, as under runc.
 */
struct container_exec *container_exec_free(struct container_exec *exec);
