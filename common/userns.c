#include "common/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"

uint32_t userns_uid(const struct userns_map *map, uint32_t inside)
{
	return inside < map->n_uids ? map->uid + inside : USERNS_NOBODY;
}

uint32_t userns_gid(const struct userns_map *map, uint32_t inside)
{
	return inside < map->n_gids ? map->gid + inside : USERNS_NOBODY;
}

bool userns_map_equal(const struct userns_map *a, const struct userns_map *b)
{
	return a->uid == b->uid && a->n_uids == b->n_uids && a->gid == b->gid &&
	       a->n_gids == b->n_gids;
}

void userns_done(struct userns *ns)
{
	ns->user = fd_close(ns->user);
	ns->net = fd_close(ns->net);
	ns->ipc = fd_close(ns->ipc);
}

static int write_map(pid_t pid, const char *file, uint32_t first, uint32_t n, struct err *err)
{
	char path[64], line[48];
	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	int len = snprintf(line, sizeof(line), "0 %u %u", first, n);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, line, (size_t)len) != len)
		return err_errno(err, "map the ids 0 to %u to %u (%s)", n - 1, first, file);
	return 0;
}

static int open_namespace(pid_t pid, const char *kind, int *ret, struct err *err)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)pid, kind);
	*ret = open(path, O_RDONLY | O_CLOEXEC);
	return *ret < 0 ? err_errno(err, "open the %s namespace", kind) : 0;
}

static int hold(
	pid_t pid, const struct userns_map *map, bool others, struct userns *ns, struct err *err)
{
	if (write_map(pid, "uid_map", map->uid, map->n_uids, err) < 0 ||
		write_map(pid, "gid_map", map->gid, map->n_gids, err) < 0 ||
		open_namespace(pid, "user", &ns->user, err) < 0)
		return err->code;
	if (others && (open_namespace(pid, "net", &ns->net, err) < 0 ||
			      open_namespace(pid, "ipc", &ns->ipc, err) < 0))
		return err->code;
	return 0;
}

int userns_new(const struct userns_map *map, bool others, struct userns *ret, struct err *err)
{
	struct userns ns = USERNS_INIT;
	struct clone_args args;
	memset(&args, 0, sizeof(args));
	args.flags = CLONE_NEWUSER | (others ? CLONE_NEWNET | CLONE_NEWIPC : 0);
	args.exit_signal = SIGCHLD;
	pid_t parent = getpid();
	/* Not by fork(): what a process with threads does around it is of no use here. */
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		return err_errno(err, "make a user namespace");
	if (pid == 0) {
		/* The thread that made us waits for our end: without it there is none. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent) /* it died before that */
			_exit(1);
		for (;;)
			pause();
	}
	int r = hold(pid, map, others, &ns, err);
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (r < 0)
		userns_done(&ns);
	else
		*ret = ns;
	return r;
}
