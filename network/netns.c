#include "network/netns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/fd.h"

/* How often one name may have been mounted over before netns_delete() gives up. */
#define MOUNTS_MAX 16

struct call {
	int netns_fd; /* negative: make a new one */
	netns_fn fn;
	void *userdata;
	struct err *err;
	int result;
};

static void *call_thread(void *userdata)
{
	struct call *call = userdata;
	int r;

	r = call->netns_fd < 0 ? unshare(CLONE_NEWNET) : setns(call->netns_fd, CLONE_NEWNET);
	if (r < 0)
		call->result = err_errno(
			call->err, "%s a network namespace", call->netns_fd < 0 ? "make" : "enter");
	else
		call->result = call->fn(call->userdata, call->err);
	return NULL;
}

static int call_run(struct call *call)
{
	pthread_t thread;
	int r;

	r = pthread_create(&thread, NULL, call_thread, call);
	if (r > 0)
		return err_set(call->err, -r, "start a thread for a network namespace");
	(void)pthread_join(thread, NULL);
	return call->result;
}

int netns_call(int netns_fd, netns_fn fn, void *userdata, struct err *err)
{
	struct call call = {.netns_fd = netns_fd, .fn = fn, .userdata = userdata, .err = err};

	return call_run(&call);
}

/*
 * Makes dir a mount point with shared propagation, as `ip netns` does. Where it is none yet, it is
 * bound to itself first. The lock keeps two callers, of which the other may be `ip netns`, from
 * both binding it: the upper mount would hide the names in the lower one. Whoever can open the
 * directory could hold the lock, a QEMU that its guest has taken over too; so that is root alone.
 */
static int share_dir(const char *dir, struct err *err)
{
	_cleanup_close_ int lock = -EBADF;
	int r;

	r = fd_mkdir_all(dir, 0700, err);
	if (r < 0)
		return r;
	lock = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (lock < 0 || fchmod(lock, 0700) < 0 || flock(lock, LOCK_EX) < 0)
		return err_errno(err, "lock %s", dir);
	if (mount("", dir, "none", MS_SHARED | MS_REC, NULL) == 0)
		return 0;
	if (errno != EINVAL)
		return err_errno(err, "make %s a shared mount", dir);
	if (mount(dir, dir, "none", MS_BIND | MS_REC, NULL) < 0)
		return err_errno(err, "bind %s to itself", dir);
	if (mount("", dir, "none", MS_SHARED | MS_REC, NULL) < 0)
		return err_errno(err, "make %s a shared mount", dir);
	return 0;
}

void netns_release_dir(const char *dir)
{
	/* Busy while a namespace is mounted below. */
	(void)umount2(dir, UMOUNT_NOFOLLOW);
}

static int mount_own_netns(void *userdata, struct err *err)
{
	const char *path = userdata;

	if (mount("/proc/thread-self/ns/net", path, "none", MS_BIND, NULL) < 0)
		return err_errno(err, "mount a network namespace on %s", path);
	return 0;
}

int netns_create(const char *dir, const char *name, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	_cleanup_free_ char *path = str_printf("%s/%s", dir, name);
	struct call call = {
		.netns_fd = -EBADF, .fn = mount_own_netns, .userdata = path, .err = err};
	int r;

	if (!path)
		return err_nomem(err);
	r = share_dir(dir, err);
	if (r < 0)
		return r;
	fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(err, "create %s", path);
	r = call_run(&call);
	if (r < 0)
		(void)unlink(path);
	return r;
}

int netns_open(const char *path, int *ret_fd, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	struct statfs fs;

	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return err_errno(err, "open network namespace %s", path);
	if (fstatfs(fd, &fs) < 0)
		return err_errno(err, "look at network namespace %s", path);
	if (fs.f_type != NSFS_MAGIC)
		return err_set(err, -ENOENT, "no network namespace is mounted on %s", path);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int netns_delete(const char *path, struct err *err)
{
	int i;

	for (i = 0; i < MOUNTS_MAX; i++) {
		if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
			continue;
		/* EINVAL: not a mount point, or no longer one. */
		if (errno == EINVAL || errno == ENOENT)
			break;
		return err_errno(err, "unmount network namespace %s", path);
	}
	if (unlink(path) < 0 && errno != ENOENT)
		return err_errno(err, "remove network namespace %s", path);
	return 0;
}
