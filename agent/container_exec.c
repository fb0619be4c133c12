#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/cgroup.h"
#include "agent/container_internal.h"
#include "agent/launch.h"
#include "common/fd.h"

struct container_exec {
	struct container_host *host;
	int container_cgroup; /* a copy: for memory.events */
	int cgroup;
	pid_t pid; /* 0 once it was reaped */
	int pidfd;
	int report; /* closed once on_done was called */
	struct ev_source *report_source;
	bool *freed;        /* set by exec_free() while a callback runs */
	uint64_t oom_kills; /* of the container before it began */
	bool failed;
	bool kill_all;
	struct container_callbacks callbacks;
};

static struct container_exec *exec_free(struct container_exec *e)
{
	if (e->freed)
		*e->freed = true;
	if (e->pid > 0)
		reaper_forget(e->host->reaper, e->pid);
	ev_source_free(e->report_source);
	fd_close(e->report);
	fd_close(e->pidfd);
	fd_close(e->cgroup);
	fd_close(e->container_cgroup);
	free(e);
	return NULL;
}

static void executed(struct container_exec *e, pid_t pid, const struct err *err)
{
	e->report_source = ev_source_free(e->report_source);
	e->report = fd_close(e->report);
	e->failed = err->code != 0;
	e->callbacks.on_done(e->callbacks.userdata, err->code ? 0 : pid, err);
}

static void on_report(void *userdata, uint32_t events)
{
	struct container_exec *e = userdata;
	(void)events;
	struct err err = ERR_INIT;
	if (process_error_receive(e->report, &err) != -EAGAIN)
		executed(e, e->pid, &err);
}

static bool killed_by_oom(const struct container_exec *e, int status)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL &&
	       cgroup_oom_kills(e->container_cgroup) > e->oom_kills;
}

static void on_exit_of_exec(void *userdata, pid_t pid, int status)
{
	struct container_exec *e = userdata;
	struct err err = ERR_INIT;
	bool oom_killed = killed_by_oom(e, status);
	bool freed = false;
	e->pid = 0;
	if (e->report >= 0) {
		/* on_done is owed, with the pid; the caller may free the exec in it. */
		process_error_receive(e->report, &err);
		e->freed = &freed;
		executed(e, pid, &err);
		if (freed)
			return;
		e->freed = NULL;
	}
	if (!e->failed)
		e->callbacks.on_exit(e->callbacks.userdata, status, oom_killed);
}

/* Where an exec'd process goes, and what binds it there. */
struct exec_place {
	struct container_host *host;
	const char *name; /* of the cgroup, below which each gets its own */
	unsigned number;
	int cgroup;
	int init; /* pidfd of whose namespaces it joins; negative: the agent's */
	const struct security_filter *filter;
	const struct ids *ids;
	bool privileged;
	bool kill_all; /* of what it started, also once it has ended itself */
};

static int clone_exec(struct container_exec *e, const struct exec_place *place,
	const Bulkhead__Agent__Process *process, const struct stdio_child *stdio, struct err *err)
{
	const struct clone_spec spec = {
		.cgroup = e->cgroup, .pidns_of = place->init, .pidns_own = place->host->pidns};
	int pipe[2];
	if (pipe2(pipe, O_CLOEXEC) < 0)
		return err_errno(err, "pipe");
	e->report = pipe[0];
	_cleanup_close_ int report = pipe[1];
	if (fd_set_nonblock(e->report, err) < 0)
		return err->code;
	e->pid = clone_child(&spec, &e->pidfd, err);
	if (e->pid == 0) {
		const struct launch_exec launch = {.process = process,
			.filter = place->filter,
			.stdio = stdio,
			.ids = place->ids,
			.init = place->init,
			.privileged = place->privileged,
			.report = report};
		launch_exec(&launch);
	}
	if (e->pid < 0 || ev_io_new(place->host->loop, e->report, EPOLLIN, on_report, e,
				  &e->report_source, err) < 0)
		return err->code;
	return reaper_watch(place->host->reaper, e->pid, on_exit_of_exec, e, err);
}

static int exec_at(const struct exec_place *place, const Bulkhead__Agent__Process *process,
	const struct stdio_child *stdio, const struct container_callbacks *callbacks,
	struct container_exec **ret, struct err *err)
{
	if (process->n_args == 0)
		return err_set(err, -EINVAL, "no command");
	struct container_exec *e = calloc(1, sizeof(*e));
	if (!e)
		return err_nomem(err);
	*e = (struct container_exec){.host = place->host,
		.cgroup = -EBADF,
		.pidfd = -EBADF,
		.report = -EBADF,
		.oom_kills = cgroup_oom_kills(place->cgroup),
		.kill_all = place->kill_all,
		.callbacks = *callbacks};
	e->container_cgroup = fcntl(place->cgroup, F_DUPFD_CLOEXEC, 3);
	cgroup_sweep(place->cgroup);
	_cleanup_free_ char *name = str_printf("%s/exec-%u", place->name, place->number);
	if (e->container_cgroup < 0) {
		err_errno(err, "keep a cgroup");
	} else if (!name) {
		err_nomem(err);
	} else if (cgroup_make(name, &e->cgroup, err) == 0) {
		if (clone_exec(e, place, process, stdio, err) == 0) {
			*ret = e;
			return 0;
		}
		cgroup_kill(e->cgroup, NULL);
		cgroup_remove(name, NULL);
	}
	exec_free(e);
	return err->code;
}

int container_exec(struct container *c, const Bulkhead__Agent__Process *process,
	const struct stdio_child *stdio, const struct container_callbacks *callbacks,
	struct container_exec **ret, struct err *err)
{
	if (c->state != CONTAINER_RUNNING)
		return err_set(err, -EBADFD, "container %s is not running", c->id);
	const struct exec_place place = {.host = c->host,
		.name = c->id,
		.number = ++c->n_execs,
		.cgroup = c->cgroup,
		.init = c->pidfd,
		.filter = &c->filter,
		.ids = c->host->ids,
		.privileged = c->privileged};
	return exec_at(&place, process, stdio, callbacks, ret, err);
}

int container_host_exec(struct container_host *host, const Bulkhead__Agent__Process *process,
	const struct stdio_child *stdio, const struct container_callbacks *callbacks,
	struct container_exec **ret, struct err *err)
{
	static const struct security_filter none = {.program = NULL};
	static const struct ids own = IDS_INIT;
	if (host->guest_cgroup < 0 && cgroup_make(CGROUP_GUEST, &host->guest_cgroup, err) < 0)
		return err->code;
	const struct exec_place place = {.host = host,
		.name = CGROUP_GUEST,
		.number = ++host->n_execs,
		.cgroup = host->guest_cgroup,
		.init = -EBADF,
		.filter = &none,
		.ids = &own,
		.privileged = true,
		.kill_all = true};
	return exec_at(&place, process, stdio, callbacks, ret, err);
}

int container_exec_signal(struct container_exec *e, int signo, bool all, struct err *err)
{
	if (all)
		return cgroup_signal(e->cgroup, signo, err);
	if (e->pid > 0 && syscall(SYS_pidfd_send_signal, e->pidfd, signo, NULL, 0) < 0 &&
		errno != ESRCH)
		return err_errno(err, "signal an exec'd process");
	return 0;
}

struct container_exec *container_exec_free(struct container_exec *e)
{
	if (!e)
		return NULL;
	if (e->pid > 0 || e->kill_all)
		cgroup_kill(e->cgroup, NULL);
	return exec_free(e);
}
