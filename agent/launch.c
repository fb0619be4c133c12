#include "agent/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/clone.h"
#include "agent/container.h"
#include "agent/devices.h"
#include "agent/mounts.h"

#include "agent/process.h"
#include "agent/program.h"
#include "agent/quota.h"
#include "agent/root_path.h"
#include "agent/rootfs.h"
#include "agent/security.h"
#include "agent/user.h"
#include "agent/volumes.h"
#include "common/fd.h"

/* Exit codes of a child whose program never ran, as shells have them. */
#define EXIT_NOT_FOUND  127
#define EXIT_CANNOT_RUN 126

static void begin(const struct stdio_child *stdio, const struct ids *ids, int report, int other)
{
	const int all[] = {
		stdio->in, stdio->out, stdio->err, stdio->terminal, report, other, ids->userns};
	int keep[ARRAY_SIZE(all)];
	unsigned n = 0;
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		if (all[i] > STDERR_FILENO)
			keep[n++] = all[i];
	}
	process_child_begin(keep, n);
}

static _Noreturn void fail(int report, const struct err *err)
{
	process_error_send(report, err);
	_exit(err->code == -ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN);
}

/*
 * As runc has it: before root's rights are given up, for the user's may not suffice, and after
 * that, for root's may not, as on a share that a server squashes.
 */
static int enter_cwd_as_root(const char *cwd, bool *ret_entered, struct err *err)
{
	*ret_entered = chdir(cwd) == 0;
	return *ret_entered || errno == EACCES || errno == EPERM
		       ? 0
		       : err_errno(err, "change to directory %s", cwd);
}

/*
 * As the user. A path like /proc/self/fd/7 must not lead out of the root: a directory that getcwd()
 * cannot name from here is refused.
 */
static int enter_cwd(const char *cwd, bool entered, struct err *err)
{
	char now[PATH_MAX];
	if (!entered && chdir(cwd) < 0)
		return err_errno(err, "change to directory %s", cwd);
	if (!getcwd(now, sizeof(now)) || now[0] != '/')
		return err_set(err, -ENOENT, "directory %s is outside of the container", cwd);
	return 0;
}

/* What init and exec have in common, once their streams are in place. */
static int become_user(const Bulkhead__Agent__Process *process, bool privileged,
	struct security security, const struct user *user, struct err *err)
{
	const char *cwd = *process->cwd ? process->cwd : "/";
	bool entered;
	security.capabilities = security_all_capabilities();
	security.no_new_privs = process->no_new_privs;
	if (!privileged && security_capabilities(process->capabilities, process->n_capabilities,
				   &security.capabilities, err) < 0)
		return err->code;
	if (security_capabilities(process->ambient_capabilities, process->n_ambient_capabilities,
		    &security.ambient, err) < 0 ||
		enter_cwd_as_root(cwd, &entered, err) < 0 ||
		security_apply(user, &security, err) < 0)
		return err->code;
	return enter_cwd(cwd, entered, err);
}

/* A missing working directory is made; where that cannot be, entering it says so. */
static int find_user_and_cwd(
	const Bulkhead__Agent__Process *process, struct user *user, struct err *err)
{
	_cleanup_close_ int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return err_errno(err, "open the root");
	if (*process->cwd)
		fd_close(root_make(root, process->cwd, true, NULL));
	return user_resolve(root, process->user, user, err);
}

/* Before it has files. */
static int limit_writable_layer(const struct launch_init *launch, struct err *err)
{
	uint64_t bytes = launch->request->writable_layer_bytes;
	if (!bytes)
		return 0;
	_cleanup_close_ int disk = open(CONTAINER_SCRATCH, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (disk < 0)
		return err_errno(err, "open the scratch disk");
	return quota_project_limit(disk, launch->project, bytes, err);
}

static int init_root(
	const struct launch_init *launch, struct device_rules *devices, struct err *err)
{
	const Bulkhead__Agent__CreateContainerRequest *request = launch->request;
	_cleanup_close_ int root = -EBADF;
	if (security_oom_score_adj(request->process->oom_score_adj, err) < 0)
		return err->code;
	/* Now, not by the clone: the namespace's root is the cgroup in which this runs. */
	if (unshare(CLONE_NEWCGROUP) < 0)
		return err_errno(err, "unshare the cgroup namespace");
	const struct ids *ids = launch->ids;
	if (ids_make_as_root(ids, err) < 0 || rootfs_begin(err) < 0 ||
		rootfs_layers(request->layer_targets, request->n_layer_targets, ids, err) < 0 ||
		limit_writable_layer(launch, err) < 0 ||
		rootfs_overlay(request->n_layer_targets, launch->scratch, launch->project, &root,
			err) < 0 ||
		mounts_populate(root, request, ids, err) < 0 ||
		devices_add(root, request, ids, devices, err) < 0 ||
		volumes_mount(root, request, ids, err) < 0)
		return err->code;
	return rootfs_enter(root, err);
}

static int init_prepare(const struct launch_init *launch, struct user *user,
	struct device_rules *devices, struct err *err)
{
	const Bulkhead__Agent__CreateContainerRequest *request = launch->request;
	const Bulkhead__Agent__Process *process = request->process;
	if (init_root(launch, devices, err) < 0 || find_user_and_cwd(process, user, err) < 0 ||
		stdio_child_install(launch->stdio, ids_uid(launch->ids, user->uid), err) < 0)
		return err->code;
	if (process->terminal && mounts_console(err) < 0)
		return err->code;
	if (mounts_seal(request, err) < 0)
		return err->code;
	/* What the namespace owns is its own: made by the guest's root, it would be out of reach.
	 */
	const struct security security = {.filtered = launch->filter->len > 0,
		.userns = launch->ids->userns,
		.unshare = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWCGROUP};
	return become_user(process, request->privileged, security, user, err);
}

static int launch_ready_send(
	int socket, const struct user *user, const struct device_rules *devices)
{
	struct launch_ready ready = {.uid = user->uid,
		.gid = user->gid,
		.n_groups = (uint32_t)user->n_groups,
		.devices = *devices};
	memcpy(ready.groups, user->groups, sizeof(ready.groups));
	return send(socket, &ready, sizeof(ready), MSG_NOSIGNAL) == sizeof(ready) ? 0 : -EPIPE;
}

void launch_init(const struct launch_init *launch)
{
	struct err err = ERR_INIT;
	struct user user;
	struct device_rules devices = {0};
	begin(launch->stdio, launch->ids, launch->report, launch->socket);
	if (init_prepare(launch, &user, &devices, &err) < 0)
		fail(launch->report, &err);
	if (launch_ready_send(launch->socket, &user, &devices) < 0)
		_exit(EXIT_CANNOT_RUN);
	char byte;
	ssize_t n;
	do {
		n = recv(launch->socket, &byte, 1, 0);
	} while (n < 0 && errno == EINTR);
	/* The container was removed before it started. */
	if (n != 1)
		_exit(EXIT_CANNOT_RUN);
	program_exec(launch->request->process, user.home, launch->filter, &err);
	fail(launch->report, &err);
}

static int exec_prepare(const struct launch_exec *launch, struct user *user, struct err *err)
{
	if (security_oom_score_adj(launch->process->oom_score_adj, err) < 0)
		return err->code;
	if (launch->init >= 0 &&
		clone_join(launch->init, CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWCGROUP, err) < 0)
		return err->code;
	fd_close(launch->init);
	if (ids_make_as_root(launch->ids, err) < 0 ||
		find_user_and_cwd(launch->process, user, err) < 0 ||
		stdio_child_install(launch->stdio, ids_uid(launch->ids, user->uid), err) < 0)
		return err->code;
	const struct security security = {
		.filtered = launch->filter->len > 0, .userns = launch->ids->userns};
	return become_user(launch->process, launch->privileged, security, user, err);
}

void launch_exec(const struct launch_exec *launch)
{
	struct err err = ERR_INIT;
	struct user user;
	begin(launch->stdio, launch->ids, launch->report, launch->init);
	if (exec_prepare(launch, &user, &err) == 0)
		program_exec(launch->process, user.home, launch->filter, &err);
	fail(launch->report, &err);
}

static int empty_root(struct err *err)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("tmpfs", ROOTFS_STAGE, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k") <
			0)
		return err_errno(err, "mount an empty root");
	_cleanup_close_ int root = open(ROOTFS_STAGE, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return err_errno(err, "open an empty root");
	return rootfs_enter(root, err);
}

void launch_pause(void)
{
	process_child_begin(NULL, 0);
	prctl(PR_SET_NAME, "pause");
	struct err err = ERR_INIT;
	/* The streams are the agent's: nothing is to be read or written here. */
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		dup2(null, fd);
	fd_close(null);
	if (empty_root(&err) < 0)
		_exit(EXIT_CANNOT_RUN);
	/* The kernel reaps for whoever ignores SIGCHLD. */
	signal(SIGCHLD, SIG_IGN);
	for (;;)
		pause();
}
