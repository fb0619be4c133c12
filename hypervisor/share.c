#include "hypervisor/share.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/helper.h"
#include "hypervisor/vm.h"

#define HELPER "virtiofsd"
/*
 * How long the guest takes names and attributes for true. What a pod's containers write they see at
 * once, in one page cache; what is written on the host they see after this time at the latest.
 * Without it, each component of each path would be a question to the host.
 */
#define CACHE_SECONDS "0.1"
/* Nodes for devices are made by the agent, in the guest. */
#define OPTIONS                                                                                    \
	"sandbox=namespace,cache=auto,timeout=" CACHE_SECONDS                                      \
	",xattr,announce_submounts,modcaps=-mknod,log_level=err"

/* virtiofsd ends an option at a comma. */
static char *source_option(const char *path)
{
	char *option = malloc(strlen("source=") + 2 * strlen(path) + 1);
	char *out = option;

	if (!option)
		return NULL;
	out = stpcpy(out, "source=");
	for (; *path; path++) {
		if (*path == ',' || *path == '\\')
			*out++ = '\\';
		*out++ = *path;
	}
	*out = '\0';
	return option;
}

int share_start(const struct share *share, char **ret_socket, int *ret_log, struct err *err)
{
	_cleanup_free_ char *root = str_printf("%s/share", share->dir);
	_cleanup_free_ char *socket = str_printf("%s/share.sock", share->dir);
	_cleanup_free_ char *source = root ? source_option(root) : NULL;
	_cleanup_close_ int listener = -EBADF, log = -EBADF;
	const char *argv[] = {share->program, "--fd=3", "-f", "--thread-pool-size=0", "-o", OPTIONS,
		"-o", source, NULL};
	int r;

	if (!source || !socket)
		return err_nomem(err);
	if (mkdir(root, 0700) < 0)
		return err_errno(err, "Make %s", root);
	r = fd_unix_listen(socket, 0600, &listener, err);
	if (r < 0)
		return r;
	/* virtiofsd waits in accept(2). */
	if (fcntl(listener, F_SETFL, 0) < 0)
		return err_errno(err, "Make %s blocking", socket);
	r = helper_start(&(struct helper){.dir = share->dir,
				 .name = HELPER,
				 .argv = argv,
				 .place = share->place,
				 .foreign = true,
				 .fd = listener,
				 .ret_log = &log},
		err);
	if (r < 0)
		return r;
	*ret_socket = TAKE_PTR(socket);
	*ret_log = TAKE_FD(log);
	return 0;
}

/* ---- inside virtiofsd's mount namespace ---- */

struct change {
	int namespace;
	int (*fn)(const struct change *change); /* 0 or errno */
	const char *path;                       /* below the share's root, which is "/" there */
	int tree;
};

static int seal(const struct change *change)
{
	struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};

	return mount_setattr(AT_FDCWD, change->path, 0, &attr, sizeof(attr)) < 0 ? errno : 0;
}

static int attach(const struct change *change)
{
	return move_mount(change->tree, "", AT_FDCWD, change->path, MOVE_MOUNT_F_EMPTY_PATH) < 0
		       ? errno
		       : 0;
}

static int make_writable(const struct change *change)
{
	struct mount_attr attr = {.attr_clr = MOUNT_ATTR_RDONLY};

	return mount_setattr(AT_FDCWD, change->path, 0, &attr, sizeof(attr)) < 0 ? errno : 0;
}

static int detach(const struct change *change)
{
	/* Not a mount point: it was never attached. */
	return umount2(change->path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL &&
			       errno != ENOENT
		       ? errno
		       : 0;
}

static int reap(pid_t pid, int *ret_status)
{
	while (waitpid(pid, ret_status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* In a child, for a process with threads cannot change its mount namespace. */
static int run_change(const struct change *change, const char *what, struct err *err)
{
	int status = 0;
	pid_t pid = fork();

	if (pid < 0)
		return err_errno(err, "%s: fork", what);
	if (pid == 0) {
		if (setns(change->namespace, CLONE_NEWNS) < 0 || chdir("/") < 0)
			_exit(errno & 0x7f);
		_exit(change->fn(change) & 0x7f);
	}
	if (reap(pid, &status) < 0)
		return err_errno(err, "%s: wait", what);
	if (!WIFEXITED(status))
		return err_set(err, -EIO, "%s: ended by a signal", what);
	if (WEXITSTATUS(status))
		return err_set(
			err, -WEXITSTATUS(status), "%s: %s", what, strerror(WEXITSTATUS(status)));
	return 0;
}

/*
 * virtiofsd's first process waits for the one that serves, its only child, in namespaces of its
 * own. -ESRCH: none serves.
 */
static int find_serving(const char *dir, pid_t *ret, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_close_ int pidfd = -EBADF;
	char path[64];
	pid_t pid;
	int r = helper_find(dir, HELPER, &pid, &pidfd, err);

	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	r = fd_read_file(path, 4096, &text, NULL, err);
	*ret = r < 0 ? 0 : atoi(text);
	if (r == -ENOENT || (r == 0 && *ret <= 1))
		return err_set(err, -ESRCH, "virtiofsd does not serve");
	return r;
}

static int open_namespace(const char *dir, int *ret, struct err *err)
{
	char path[64];
	pid_t pid;
	int r = find_serving(dir, &pid, err);

	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", pid);
	*ret = open(path, O_RDONLY | O_CLOEXEC);
	return *ret < 0 ? err_errno(err, "open %s", path) : 0;
}

static int change_share(const char *dir, const char *name, const char *what,
	int (*fn)(const struct change *), int tree, struct err *err)
{
	_cleanup_free_ char *path = str_printf("/%s", name);
	_cleanup_close_ int namespace = -EBADF;
	int r = path ? open_namespace(dir, &namespace, err) : err_nomem(err);

	if (r < 0)
		return err_wrap(err, "%s", what);
	const struct change change = {.namespace = namespace, .fn = fn, .path = path, .tree = tree};
	return run_change(&change, what, err);
}

int share_seal(const char *dir, struct err *err)
{
	return change_share(dir, "", "Make the share's root read-only", seal, -EBADF, err);
}

/* ---- what is in it ---- */

/* A name is one component, made of what nobody needs to escape. */
static int check_name(const char *name, struct err *err)
{
	size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");

	if (len == 0 || len > 64 || name[len])
		return err_set(err, -EINVAL, "a share's name is 1 to 64 of a-z, 0-9 and -");
	return 0;
}

static char *point_path(const char *dir, const char *name)
{
	return str_printf("%s/share/%s", dir, name);
}

/* Seen from the host's namespace this is a plain, empty file or directory, and always stays so. */
static int make_point(const char *dir, const char *name, bool directory, struct err *err)
{
	_cleanup_free_ char *path = point_path(dir, name);
	_cleanup_close_ int fd = -EBADF;

	if (!path)
		return err_nomem(err);
	if (directory)
		return mkdir(path, 0755) < 0 && errno != EEXIST ? err_errno(err, "Make %s", path)
								: 0;
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return fd < 0 && errno != EEXIST ? err_errno(err, "Make %s", path) : 0;
}

static int remove_point(const char *dir, const char *name, struct err *err)
{
	_cleanup_free_ char *path = point_path(dir, name);

	if (!path)
		return err_nomem(err);
	if (unlink(path) == 0 || errno == ENOENT)
		return 0;
	return rmdir(path) < 0 && errno != ENOENT ? err_errno(err, "Remove %s", path) : 0;
}

/* A copy of the mounts at `source` that belongs to nobody yet. */
static int copy_tree(int source, unsigned flags, int *ret, struct err *err)
{
	/* Devices of the host are no devices of the guest. */
	struct mount_attr attr = {
		.attr_set = MOUNT_ATTR_NODEV | (flags & HV_BIND_READ_ONLY ? MOUNT_ATTR_RDONLY : 0),
	};
	struct mount_attr below = {
		.attr_set = MOUNT_ATTR_NODEV |
			    (flags & HV_BIND_READ_ONLY_BELOW ? MOUNT_ATTR_RDONLY : 0),
		.propagation = flags & HV_BIND_FOLLOW ? MS_SLAVE : MS_PRIVATE,
	};
	_cleanup_close_ int tree = open_tree(
		source, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);

	if (tree < 0)
		return err_errno(err, "copy the mounts");
	if (mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &below, sizeof(below)) < 0 ||
		mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
		return err_errno(err, "set the mounts' attributes");
	*ret = TAKE_FD(tree);
	return 0;
}

/* Below it too: all that is seen through the share has the same ids. */
static int map_ids(int tree, const struct userns_map *map, struct err *err)
{
	struct userns ns = USERNS_INIT;
	int r = userns_new(map, false, &ns, err);

	if (r < 0)
		return r;
	struct mount_attr attr = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)ns.user};
	if (mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)) < 0)
		r = err_errno(err,
			"failed to set MOUNT_ATTR_IDMAP (maybe the file system used doesn't "
			"support idmap mounts on this kernel?)");
	userns_done(&ns);
	return r;
}

int share_bind(
	const char *dir, const char *name, const struct share_source *source, struct err *err)
{
	_cleanup_close_ int tree = -EBADF;
	struct stat st;
	int r = check_name(name, err);

	if (r < 0)
		return r;
	if (fstat(source->fd, &st) < 0)
		return err_errno(err, "examine what is to be shared");
	r = share_unbind(dir, name, err);
	if (r == 0)
		r = copy_tree(source->fd, source->flags, &tree, err);
	if (r == 0 && source->map)
		r = map_ids(tree, source->map, err);
	if (r == 0)
		r = make_point(dir, name, S_ISDIR(st.st_mode), err);
	if (r == 0)
		r = change_share(dir, name, "Attach to the share", attach, tree, err);
	if (r < 0)
		remove_point(dir, name, NULL);
	return r;
}

int share_writable(const char *dir, const char *name, struct err *err)
{
	int r = check_name(name, err);

	return r < 0 ? r
		     : change_share(
			       dir, name, "Make writable in the share", make_writable, -EBADF, err);
}

int share_unbind(const char *dir, const char *name, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	int r = check_name(name, err);

	if (r < 0)
		return r;
	path = point_path(dir, name);
	if (!path)
		return err_nomem(err);
	if (access(path, F_OK) < 0 && errno == ENOENT)
		return 0;
	r = change_share(dir, name, "Detach from the share", detach, -EBADF, err);
	return r < 0 ? r : remove_point(dir, name, err);
}

int share_each(const char *dir, int (*fn)(void *userdata, const char *name), void *userdata,
	struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/share", dir);
	const struct dirent *entry;
	int r = 0;

	if (!path)
		return err_nomem(err);
	DIR *stream = opendir(path);
	if (!stream)
		return errno == ENOENT ? 0 : err_errno(err, "Open %s", path);
	while (r == 0 && (entry = readdir(stream)))
		if (entry->d_name[0] != '.')
			r = fn(userdata, entry->d_name);
	closedir(stream);
	return r;
}

int share_pidfd(const char *dir, int *ret_pidfd, struct err *err)
{
	pid_t pid;

	return helper_find(dir, HELPER, &pid, ret_pidfd, err);
}

/*
 * It gets SIGTERM when its parent ends, which one that a guest has taken over need not heed. It is
 * the first of a process namespace: what it may have started ends with it.
 */
static int end_serving(const char *dir, struct err *err)
{
	_cleanup_close_ int pidfd = -EBADF;
	pid_t pid, again;
	int r = find_serving(dir, &pid, err);

	if (r == 0)
		pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	/* Asked again, for the id may have become another's before it was held. */
	if (r == 0)
		r = find_serving(dir, &again, err);
	if (r == -ESRCH || (r == 0 && (pidfd < 0 || again != pid)))
		return 0;
	return r < 0 ? r : helper_kill(pidfd, "virtiofsd, which serves", err);
}

int share_end(const char *dir, struct err *err)
{
	int r = end_serving(dir, err);

	return r < 0 ? r : helper_end(dir, HELPER, err);
}
