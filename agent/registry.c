#include "agent/registry.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "common/fd.h"

#define DRAIN_MS 2000

int64_t realtime_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Ids become names of directories and cgroups. */
static int id_check(const char *what, const char *id, struct err *err)
{
	size_t len = strlen(id);
	if (!len || len > ID_LENGTH_MAX)
		return err_set(err, -EINVAL, "a %s id of %zu characters: 1 to %d are allowed", what,
			len, ID_LENGTH_MAX);
	size_t plain = strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				  "_.-");
	if (plain < len || id[0] == '.')
		return err_set(err, -EINVAL,
			"a %s id may have letters, digits, '-', '_' and '.', which is not the "
			"first",
			what);
	return 0;
}

static struct process *find(
	const struct registry *registry, const char *container_id, const char *process_id)
{
	for (struct process *p = registry->processes; p; p = p->next)
		if (!strcmp(p->container_id, container_id) && !strcmp(p->process_id, process_id))
			return p;
	return NULL;
}

static int limits_check(const struct registry *registry, bool init, struct err *err)
{
	if (init && registry->n_containers >= CONTAINERS_MAX)
		return err_set(err, -EAGAIN, "the pod has %d containers, which is the limit",
			CONTAINERS_MAX);
	if (registry->n_processes >= PROCESSES_MAX)
		return err_set(err, -EAGAIN,
			"the pod has %d processes that were not removed, "
			"which is the limit",
			PROCESSES_MAX);
	if (!events_have_room(registry->events, registry->n_processes + 1))
		return err_set(err, -EAGAIN, "%d exits were not acknowledged, which is the limit",
			EVENTS_MAX);
	return 0;
}

int registry_add(struct registry *registry, const char *container_id, const char *process_id,
	struct process **ret, struct err *err)
{
	bool init = !*process_id;
	bool in_guest = !init && strcmp(container_id, AGENT_GUEST) == 0;
	int r = in_guest ? 0 : id_check("container", container_id, err);
	if (r == 0 && !init)
		r = id_check("process", process_id, err);
	if (r < 0)
		return r;
	if (find(registry, container_id, process_id))
		return err_set(err, -EEXIST, "%s %s exists already", init ? "container" : "process",
			init ? container_id : process_id);
	r = limits_check(registry, init, err);
	if (r < 0)
		return r;
	struct process *process = calloc(1, sizeof(*process));
	if (!process)
		return err_nomem(err);
	process->registry = registry;
	snprintf(process->container_id, sizeof(process->container_id), "%s", container_id);
	snprintf(process->process_id, sizeof(process->process_id), "%s", process_id);
	process->next = registry->processes;
	registry->processes = process;
	registry->n_processes++;
	registry->n_containers += init;
	*ret = process;
	return 0;
}

int registry_find(const struct registry *registry, const char *container_id, const char *process_id,
	struct process **ret, struct err *err)
{
	struct process *process = find(registry, container_id, process_id);
	if (process) {
		*ret = process;
		return 0;
	}
	if (!*process_id)
		return err_set(err, -ENOENT, "no container '%.128s'", container_id);
	return err_set(err, -ENOENT, "no process '%.128s' in container '%.128s'", process_id,
		container_id);
}

void registry_fail_call(struct process *process)
{
	struct err err = ERR_INIT;
	if (!process->call)
		return;
	err_set(&err, -ECANCELED, "removed in the meantime");
	ttrpc_fail(TAKE_PTR(process->call), process->failure.code ? &process->failure : &err);
}

void registry_drop(struct process *process)
{
	struct registry *registry = process->registry;
	struct process **link = &registry->processes;
	while (*link != process)
		link = &(*link)->next;
	*link = process->next;
	registry->n_processes--;
	registry->n_containers -= !*process->process_id;
	container_exec_free(process->exec);
	stdio_free(process->stdio);
	registry_fail_call(process);
	free(process);
}

void registry_drop_execs(struct process *init)
{
	struct process *next;
	for (struct process *p = init->registry->processes; p; p = next) {
		next = p->next;
		if (p != init && !strcmp(p->container_id, init->container_id))
			registry_drop(p);
	}
}

void registry_done(struct registry *registry)
{
	while (registry->processes)
		registry_drop(registry->processes);
}

static int exit_code(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Without memory the event is lost to the host, which finds the state by ListContainers. */
static void process_finish(struct process *process)
{
	process->state = BULKHEAD__AGENT__PROCESS_STATE__PROCESS_EXITED;
	Bulkhead__Agent__Exit exit = BULKHEAD__AGENT__EXIT__INIT;
	exit.code = exit_code(process->status);
	exit.oom_killed = process->oom_killed;
	exit.started_ns = process->started_ns;
	exit.finished_ns = process->finished_ns;
	events_add(
		process->registry->events, process->container_id, process->process_id, &exit, NULL);
}

static void process_on_drained(void *userdata, bool all)
{
	(void)all;
	process_finish(userdata);
}

void process_on_exit(void *userdata, int status, bool oom_killed)
{
	struct process *process = userdata;
	process->ended = true;
	process->status = status;
	process->oom_killed = oom_killed;
	process->finished_ns = realtime_ns();
	if (stdio_drain(process->stdio, DRAIN_MS, process_on_drained, process, NULL) < 0)
		process_finish(process);
}
