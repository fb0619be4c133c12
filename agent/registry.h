/*
 * The processes that the host knows of: the inits of containers and what was exec'd in them, or in
 * the guest itself, whose container_id is AGENT_GUEST then.
 *
 *	init: created → running → exited          exec: running → exited
 *
 * A record lives from the call that makes it to the call that removes it, so exit codes and streams
 * can be asked for after the end. An init's record is its container's; it outlives its execs'.
 *
 * How a process ends: on_exit (what its container leaves behind was killed by then) → its streams
 * are drained, for 2 s at most → the exit is an event. So the last output is in the rings before
 * the host hears of the exit, and nobody who holds a pipe can hold that up for long.
 *
 * Owner: the server. Threads: the loop's alone.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/container.h"
#include "agent/events.h"
#include "agent/stdio.h"
#include "common/ttrpc.h"

#define CONTAINERS_MAX 256
#define PROCESSES_MAX  1024
#define ID_LENGTH_MAX  128
#define REMOVERS_MAX   8

struct process {
	struct registry *registry;
	struct process *next;
	char container_id[ID_LENGTH_MAX + 1];
	char process_id[ID_LENGTH_MAX + 1]; /* empty: an init */

	Bulkhead__Agent__ProcessState state;
	bool ended; /* reaped; its streams may still be drained */
	pid_t pid;
	int64_t started_ns;
	int status; /* as of waitpid(2) */
	bool oom_killed;
	int64_t finished_ns;

	struct stdio *stdio;
	struct container *container; /* an init's */
	struct container_exec *exec; /* an exec's */
	struct ttrpc_call *call;     /* that creates, starts or execs it; not answered yet */
	bool removing;
	bool stuck;         /* its removal failed: whoever asks for it begins it anew */
	struct err failure; /* why it is removed although nobody asked */
	struct ttrpc_call *removers[REMOVERS_MAX];
	unsigned n_removers;
};

struct registry {
	struct ev_loop *loop;
	struct events *events;
	struct process *processes;
	size_t n_processes;
	size_t n_containers;
};

/* Makes an empty record. Checks ids and limits: -EINVAL, -EEXIST, -EAGAIN. */
int registry_add(struct registry *registry, const char *container_id, const char *process_id,
	struct process **ret, struct err *err);
/* -ENOENT. Records being removed are still found. */
int registry_find(const struct registry *registry, const char *container_id, const char *process_id,
	struct process **ret, struct err *err);
/* The call that it has not answered yet fails, for it is removed. */
void registry_fail_call(struct process *process);
/* Takes the record out and frees it with its stdio and exec. The container must be gone. */
void registry_drop(struct process *process);
/* Drops the execs of the container; calls in progress for them fail. */
void registry_drop_execs(struct process *init);
void registry_done(struct registry *registry);

/* container_exit_fn of every process; userdata is the record. */
void process_on_exit(void *userdata, int status, bool oom_killed);

/* CLOCK_REALTIME. */
int64_t realtime_ns(void);
