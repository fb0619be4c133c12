#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/cgroup.h"
#include "agent/container_internal.h"
#include "agent/launch.h"
#include "agent/quota.h"
#include "agent/rootfs.h"
#include "agent/usage_process.h"
#include "common/fd.h"

/* The size that CRI runtimes give a pod's /dev/shm. */
#define SHM_OPTIONS "mode=1777,size=67108864,uid=%u,gid=%u"

static int make_directories(const struct ids *ids, struct err *err)
{
	char options[sizeof(SHM_OPTIONS) + 24];
	snprintf(options, sizeof(options), SHM_OPTIONS, ids_uid(ids, 0), ids_gid(ids, 0));
	if (fd_mkdir_all(ROOTFS_STAGE, 0700, err) < 0 || fd_mkdir_all(CONTAINER_SHM, 0700, err) < 0)
		return err->code;
	if (mount("shm", CONTAINER_SHM, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) < 0)
		return err_errno(err, "mount %s", CONTAINER_SHM);
	return 0;
}

int container_host_new(struct ev_loop *loop, struct reaper *reaper, const struct ids *ids,
	struct container_host **ret, struct err *err)
{
	struct container_host *host = calloc(1, sizeof(*host));
	if (!host)
		return err_nomem(err);
	*host = (struct container_host){.loop = loop,
		.reaper = reaper,
		.ids = ids,
		.pidns = -EBADF,
		.device_program = -EBADF,
		.pause_pidfd = -EBADF,
		.guest_cgroup = -EBADF};
	usage_rate_begin(&host->rate);
	host->pidns = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	if (host->pidns < 0) {
		err_errno(err, "open the PID namespace");
	} else if (cgroup_setup(err) == 0 &&
		   cgroup_devices_load(NULL, &host->device_program, err) == 0 &&
		   make_directories(ids, err) == 0) {
		*ret = host;
		return 0;
	}
	container_host_free(host);
	return err->code;
}

struct container_host *container_host_free(struct container_host *host)
{
	if (!host)
		return NULL;
	if (host->pause) {
		reaper_forget(host->reaper, host->pause);
		kill(host->pause, SIGKILL);
	}
	fd_close(host->pause_pidfd);
	fd_close(host->guest_cgroup);
	fd_close(host->device_program);
	fd_close(host->pidns);
	umount2(CONTAINER_SHM, MNT_DETACH);
	free(host);
	return NULL;
}

/* Every process of the namespace has ended with it; the next container gets a new one. */
static void on_pause_exit(void *userdata, pid_t pid, int status)
{
	struct container_host *host = userdata;
	(void)pid;
	(void)status;
	host->pause = 0;
	host->pause_pidfd = fd_close(host->pause_pidfd);
}

int container_host_pod_pidns(struct container_host *host, int *ret_pidfd, struct err *err)
{
	if (!host->pause) {
		const struct clone_spec spec = {.flags = CLONE_NEWPID | CLONE_NEWNS,
			.cgroup = -EBADF,
			.pidns_of = -EBADF,
			.pidns_own = host->pidns};
		int pidfd = -EBADF;
		pid_t pid = clone_child(&spec, &pidfd, err);
		if (pid == 0)
			launch_pause();
		if (pid < 0)
			return err_wrap(err, "the pod's PID namespace");
		if (reaper_watch(host->reaper, pid, on_pause_exit, host, err) < 0) {
			kill(pid, SIGKILL);
			fd_close(pidfd);
			return err->code;
		}
		host->pause = pid;
		host->pause_pidfd = pidfd;
	}
	*ret_pidfd = host->pause_pidfd;
	return 0;
}

void container_usage(struct container *c, struct usage *ret)
{
	struct usage_processes processes;
	usage_read(c->cgroup, &c->rate, ret);
	usage_processes(c->cgroup, &processes);
	ret->message.processes = processes.processes;
	ret->message.file_descriptors = processes.descriptors;
	ret->message.sockets = processes.sockets;
	_cleanup_close_ int disk = open(CONTAINER_SCRATCH, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (disk >= 0)
		quota_project_usage(
			disk, c->project, &ret->message.layer_bytes, &ret->message.layer_inodes);
}

void container_host_usage(struct container_host *host, struct usage *ret)
{
	_cleanup_close_ int cgroup = open(CGROUP_PARENT, O_PATH | O_DIRECTORY | O_CLOEXEC);
	usage_read(cgroup, &host->rate, ret);
}
