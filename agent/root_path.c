#include "agent/root_path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"

/* Missing parents and dangling links that one path may take us through. */
#define LEVELS_MAX 64
/* openat2() asks for another try when a directory was renamed under it. */
#define TRIES_MAX 16

int root_open(int root, const char *path, int flags)
{
	for (int i = 0; i < TRIES_MAX; i++) {
		int fd = fd_openat2(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
		if (fd >= 0)
			return fd;
		if (errno != EAGAIN && errno != EINTR)
			break;
	}
	return -errno;
}

static int make(int root, const char *path, bool directory, unsigned levels, struct err *err);

/* path is a symbolic link that leads nowhere: makes what it points at. */
static int make_link_target(int root, int parent, const char *parent_path, const char *name,
	bool directory, unsigned levels, struct err *err)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(parent, name, target, sizeof(target) - 1);
	if (n < 0)
		return err_errno(err, "read the link %s/%s", parent_path, name);
	target[n] = '\0';
	_cleanup_free_ char *path =
		target[0] == '/' ? strdup(target) : str_printf("%s/%s", parent_path, target);
	if (!path)
		return err_nomem(err);
	return make(root, path, directory, levels, err);
}

static int make(int root, const char *path, bool directory, unsigned levels, struct err *err)
{
	int fd = root_open(root, path, O_PATH);
	if (fd >= 0)
		return fd;
	if (fd != -ENOENT)
		return err_set(err, fd, "open %s: %s", path, strerror(-fd));
	if (levels == 0)
		return err_set(err, -ELOOP, "make %s: too many levels", path);

	_cleanup_free_ char *parent_path = strdup(path);
	if (!parent_path)
		return err_nomem(err);
	size_t len = strlen(parent_path);
	while (len > 0 && parent_path[len - 1] == '/')
		parent_path[--len] = '\0';
	char *slash = strrchr(parent_path, '/');
	const char *name = slash ? slash + 1 : parent_path;
	if (slash)
		*slash = '\0';
	const char *above = slash && slash != parent_path ? parent_path : "/";
	_cleanup_close_ int parent = make(root, above, true, levels - 1, err);
	if (parent < 0)
		return parent;

	int r = 0;
	if (directory) {
		r = mkdirat(parent, name, 0755);
	} else {
		_cleanup_close_ int made = openat(
			parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
		r = made < 0 ? -1 : 0;
	}
	if (r < 0 && errno == EEXIST && strcmp(name, "..") != 0)
		return make_link_target(root, parent, above, name, directory, levels - 1, err);
	if (r < 0 && errno != EEXIST)
		return err_errno(err, "make %s", path);
	fd = root_open(root, path, O_PATH);
	return fd >= 0 ? fd : err_set(err, fd, "open %s: %s", path, strerror(-fd));
}

int root_make(int root, const char *path, bool directory, struct err *err)
{
	if (strlen(path) >= PATH_MAX)
		return err_set(err, -ENAMETOOLONG, "a path of %zu bytes", strlen(path));
	_cleanup_close_ int fd = make(root, path, directory, LEVELS_MAX, err);
	if (fd < 0)
		return fd;
	struct stat st;
	if (fstat(fd, &st) < 0)
		return err_errno(err, "examine %s", path);
	if (directory && !S_ISDIR(st.st_mode))
		return err_set(err, -ENOTDIR, "%s: not a directory", path);
	if (!directory && S_ISDIR(st.st_mode))
		return err_set(err, -EISDIR, "%s: is a directory", path);
	return TAKE_FD(fd);
}
