#include "agent/container.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/cgroup.h"
#include "agent/container_internal.h"
#include "agent/launch.h"
#include "common/fd.h"

#define ID_MAX 128
/* A killed process ends at once unless the kernel holds it. */
#define KILL_TIMEOUT_MS 10000

/* The id is a file's and a cgroup's name. */
static bool id_valid(const char *id)
{
	size_t len = strlen(id);
	return len > 0 && len <= ID_MAX && id[0] != '.' && id[0] != '-' &&
	       strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") ==
		       len;
}

static struct container *container_free(struct container *c)
{
	if (!c)
		return NULL;
	ev_source_free(c->report_source);
	ev_source_free(c->socket_source);
	ev_source_free(c->events_source);
	ev_source_free(c->timer);
	if (c->pid > 0)
		reaper_forget(c->host->reaper, c->pid);
	fd_close(c->report);
	fd_close(c->socket);
	fd_close(c->events);
	fd_close(c->pidfd);
	fd_close(c->cgroup);
	free(c->id);
	free(c->filter_program);
	free(c);
	return NULL;
}

/* The child has no more to report. */
static void close_channels(struct container *c)
{
	c->report_source = ev_source_free(c->report_source);
	c->socket_source = ev_source_free(c->socket_source);
	c->report = fd_close(c->report);
	c->socket = fd_close(c->socket);
}

static void created(struct container *c, const struct err *err)
{
	c->socket_source = ev_source_free(c->socket_source);
	if (err->code)
		close_channels(c);
	c->state = err->code ? CONTAINER_ENDED : CONTAINER_CREATED;
	c->callbacks.on_done(c->callbacks.userdata, err->code ? 0 : c->pid, err);
}

static void started(struct container *c, pid_t pid, const struct err *err)
{
	close_channels(c);
	c->state = CONTAINER_RUNNING;
	c->start_done(c->start_userdata, err->code ? 0 : pid, err);
}

/* The program that all share, or one of its own for a container that has more devices. */
static int attach_devices(const struct container *c, struct err *err)
{
	_cleanup_close_ int own = -EBADF;
	if (c->ready.devices.n && cgroup_devices_load(&c->ready.devices, &own, err) < 0)
		return err->code;
	return cgroup_devices_attach(own >= 0 ? own : c->host->device_program, c->cgroup, err);
}

/*
 * The child is ready and waits.
 The device rules come only now: it had to open its layers' disks.
 */
static void on_socket(void *userdata, uint32_t events)
{
	struct container *c = userdata;
	(void)events;
	ssize_t n = recv(c->socket, &c->ready, sizeof(c->ready), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n != sizeof(c->ready)) {
		/* It ended; what there is to say is in the report. */
		ev_io_set(c->socket_source, 0);
		c->socket_source = ev_source_free(c->socket_source);
		return;
	}
	struct err err = ERR_INIT;
	if (!c->privileged)
		attach_devices(c, &err);
	created(c, &err);
}

/* SIGKILL to all in the cgroup (cgroup.kill), also of a container whose init has ended. */
static void kill_all(struct container *c)
{
	cgroup_kill(c->cgroup, NULL);
}

static void on_report(void *userdata, uint32_t events)
{
	struct container *c = userdata;
	(void)events;
	struct err err = ERR_INIT;
	int r = process_error_receive(c->report, &err);
	if (r == -EAGAIN)
		return;
	if (c->state == CONTAINER_STARTING) {
		started(c, c->pid, &err);
	} else if (c->state == CONTAINER_CREATING && r < 0) {
		created(c, &err);
	} else {
		/* End of file before the exec: it was killed, on_exit() tells. */
		c->report_source = ev_source_free(c->report_source);
	}
}

static void on_exit_of_init(void *userdata, pid_t pid, int status)
{
	struct container *c = userdata;
	struct err err = ERR_INIT;
	c->pid = 0;
	/* Its last words may still be in the pipe: they come first. */
	int r = c->report >= 0 ? process_error_receive(c->report, &err) : 0;
	/* In a PID namespace that is not its own it may leave others behind. */
	kill_all(c);
	if (c->state == CONTAINER_CREATING) {
		if (r == 0 || r == -EAGAIN)
			err_set(&err, -EIO, "the container's init %s during its set-up",
				cgroup_oom_kills(c->cgroup)
					? "was killed for lack of memory (memory limit too low?)"
					: "ended");
		created(c, &err);
		return;
	}
	/* A failed creation was reported, its exit is nobody's business. */
	if (c->state == CONTAINER_ENDED)
		return;
	if (c->state == CONTAINER_STARTING)
		started(c, pid, &err);
	if (c->state == CONTAINER_REMOVING)
		return;
	close_channels(c);
	c->state = CONTAINER_ENDED;
	c->callbacks.on_exit(c->callbacks.userdata, status, cgroup_oom_kills(c->cgroup) > 0);
}

static int watch(struct container *c, struct err *err)
{
	struct ev_loop *loop = c->host->loop;
	if (ev_io_new(loop, c->report, EPOLLIN, on_report, c, &c->report_source, err) < 0 ||
		ev_io_new(loop, c->socket, EPOLLIN, on_socket, c, &c->socket_source, err) < 0)
		return err->code;
	return reaper_watch(c->host->reaper, c->pid, on_exit_of_init, c, err);
}

static int clone_init(struct container *c, const Bulkhead__Agent__CreateContainerRequest *request,
	const struct container *target, const struct stdio_child *stdio, struct err *err)
{
	struct clone_spec spec = {.flags = CLONE_NEWNS | CLONE_NEWUTS,
		.cgroup = c->cgroup,
		.pidns_of = -EBADF,
		.pidns_own = c->host->pidns};
	if (request->pid_namespace == BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_CONTAINER)
		spec.flags |= CLONE_NEWPID;
	if (request->pid_namespace == BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_TARGET)
		spec.pidns_of = target->pidfd;
	if (request->pid_namespace == BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_POD &&
		container_host_pod_pidns(c->host, &spec.pidns_of, err) < 0)
		return err->code;

	_cleanup_free_ char *scratch = str_printf("%s/%s", CONTAINER_SCRATCH, c->id);
	if (!scratch)
		return err_nomem(err);
	int pipe[2], sockets[2];
	if (pipe2(pipe, O_CLOEXEC) < 0)
		return err_errno(err, "pipe");
	c->report = pipe[0];
	_cleanup_close_ int report = pipe[1];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
		return err_errno(err, "socketpair");
	c->socket = sockets[0];
	_cleanup_close_ int socket = sockets[1];
	if (fd_set_nonblock(c->report, err) < 0)
		return err->code;
	c->pid = clone_child(&spec, &c->pidfd, err);
	if (c->pid == 0) {
		const struct launch_init launch = {.request = request,
			.filter = &c->filter,
			.stdio = stdio,
			.ids = c->host->ids,
			.scratch = scratch,
			.project = c->project,
			.report = report,
			.socket = socket};
		launch_init(&launch);
	}
	return c->pid < 0 ? err->code : watch(c, err);
}

static int keep_filter(struct container *c, const Bulkhead__Agent__CreateContainerRequest *request,
	struct err *err)
{
	const ProtobufCBinaryData *filter = &request->seccomp_filter;
	if (!filter->len)
		return 0;
	c->filter_program = malloc(filter->len);
	if (!c->filter_program)
		return err_nomem(err);
	memcpy(c->filter_program, filter->data, filter->len);
	c->filter =
		(struct security_filter){c->filter_program, filter->len, request->seccomp_flags};
	return 0;
}

int container_create(struct container_host *host,
	const Bulkhead__Agent__CreateContainerRequest *request, const struct container *target,
	const struct stdio_child *stdio, const struct container_callbacks *callbacks,
	struct container **ret, struct err *err)
{
	if (!id_valid(request->container_id))
		return err_set(err, -EINVAL, "a container id of other than letters, digits, _.-");
	if (!request->process || request->process->n_args == 0)
		return err_set(err, -EINVAL, "no command");
	if (request->pid_namespace == BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_TARGET &&
		(!target || target->pid <= 0))
		return err_set(err, -EINVAL, "the target container does not run");
	struct container *c = calloc(1, sizeof(*c));
	if (!c)
		return err_nomem(err);
	*c = (struct container){.host = host,
		.state = CONTAINER_CREATING,
		.privileged = request->privileged,
		.pidfd = -EBADF,
		.cgroup = -EBADF,
		.report = -EBADF,
		.project = ++host->last_project,
		.socket = -EBADF,
		.events = -EBADF,
		.callbacks = *callbacks};
	c->id = strdup(request->container_id);
	if (!c->id) {
		err_nomem(err);
	} else if (keep_filter(c, request, err) == 0 && cgroup_make(c->id, &c->cgroup, err) == 0) {
		usage_rate_begin(&c->rate);
		if (cgroup_limit(c->cgroup, request->resources, err) == 0 &&
			clone_init(c, request, target, stdio, err) == 0) {
			*ret = c;
			return 0;
		}
		/* A child that could not be watched is reaped by nobody's order. */
		cgroup_kill(c->cgroup, NULL);
		cgroup_remove(c->id, NULL);
	}
	container_free(c);
	return err->code;
}

void container_user(const struct container *c, Bulkhead__Agent__CreateContainerResponse *ret)
{
	ret->uid = c->ready.uid;
	ret->gid = c->ready.gid;
	ret->groups = (uint32_t *)c->ready.groups;
	ret->n_groups = c->ready.n_groups;
}

int container_start(struct container *c, container_done_fn done, void *userdata, struct err *err)
{
	if (c->state != CONTAINER_CREATED)
		return err_set(err, -EBADFD, "container %s is not in the state created", c->id);
	char byte = 'G';
	if (send(c->socket, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT) != 1)
		return err_errno(err, "start container %s", c->id);
	c->state = CONTAINER_STARTING;
	c->start_done = done;
	c->start_userdata = userdata;
	return 0;
}

int container_signal(struct container *c, int signo, bool all, struct err *err)
{
	if (all)
		return cgroup_signal(c->cgroup, signo, err);
	if (c->pid > 0 && syscall(SYS_pidfd_send_signal, c->pidfd, signo, NULL, 0) < 0 &&
		errno != ESRCH)
		return err_errno(err, "signal container %s", c->id);
	return 0;
}

static void removed(void *userdata, const struct err *err)
{
	struct container *c = userdata;
	container_done_fn done = c->remove_done;
	void *done_userdata = c->remove_userdata;
	c->events_source = ev_source_free(c->events_source);
	c->timer = ev_source_free(c->timer);
	c->events = fd_close(c->events);
	if (err->code >= 0)
		container_free(c);
	done(done_userdata, 0, err);
}

/* A job: the cgroup may hold a container's own, the directory anything. */
static int remove_files(void *arg, struct err *err)
{
	const struct container *c = arg;
	_cleanup_free_ char *scratch = str_printf("%s/%s", CONTAINER_SCRATCH, c->id);
	if (!scratch)
		return err_nomem(err);
	if (fd_remove_tree(scratch, err) < 0)
		return err->code;
	return cgroup_remove(c->id, err);
}

static void remove_when_empty(struct container *c)
{
	struct err err = ERR_INIT;
	c->events_source = ev_source_free(c->events_source);
	c->timer = ev_source_free(c->timer);
	if (job_start(c->host->reaper, "remove container", remove_files, c, removed, c, &err) < 0)
		removed(c, &err);
}

static void on_cgroup_events(void *userdata, uint32_t events)
{
	struct container *c = userdata;
	(void)events;
	if (!cgroup_events_populated(c->events))
		remove_when_empty(c);
}

/* The first time at once, and never from within container_remove(). */
static void on_remove_timer(void *userdata)
{
	struct container *c = userdata;
	struct err err = ERR_INIT;
	if (!c->events_source) {
		if (cgroup_events_open(c->cgroup, &c->events, &err) < 0 ||
			ev_io_new(c->host->loop, c->events, EPOLLPRI, on_cgroup_events, c,
				&c->events_source, &err) < 0) {
			removed(c, &err);
			return;
		}
		ev_timer_set(c->timer, KILL_TIMEOUT_MS);
		on_cgroup_events(c, 0);
		return;
	}
	err_set(&err, -EBUSY, "container %s: processes are left %d ms after SIGKILL", c->id,
		KILL_TIMEOUT_MS);
	removed(c, &err);
}

void container_remove(struct container *c, container_done_fn done, void *userdata)
{
	c->state = CONTAINER_REMOVING;
	c->remove_done = done;
	c->remove_userdata = userdata;
	close_channels(c);
	if (c->pid > 0)
		reaper_forget(c->host->reaper, c->pid);
	c->pid = 0;
	kill_all(c);
	struct err err = ERR_INIT;
	if (ev_timer_new(c->host->loop, 0, on_remove_timer, c, &c->timer, &err) < 0)
		removed(c, &err);
}
