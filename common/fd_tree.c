/*
 * fd_remove_tree(): trees made by others, so nothing is taken for granted: symbolic links are
 * removed and never followed, a directory is entered only through openat2(RESOLVE_NO_XDEV), which
 * also refuses bind mounts of the same file system, and depth costs neither stack nor descriptors:
 * a directory DEPTH_MAX levels down is renamed into the top directory and removed from there in the
 * next pass.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"

#define DEPTH_MAX 32

struct removal {
	const char *path; /* for messages */
	int top_fd;       /* the uppermost directory's; not owned */
	uint64_t next_lifted;
	bool lifted; /* in this pass something was moved to the top */
};

static void close_dirp(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

/* -EBADF with errno; EXDEV where name is a mount point. */
static int open_directory(int parent, const char *name)
{
	int fd = fd_openat2(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW,
		RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS);
	return fd < 0 ? -EBADF : fd;
}

static int fail_entry(const struct removal *removal, const char *name, struct err *err)
{
	if (errno == EXDEV)
		errno = EBUSY;
	return err_errno(err, "remove %s (entry '%s')", removal->path, name);
}

/* Moves a directory that is too deep to the top, under a name that is free there. */
static int lift(struct removal *removal, int parent, const char *name, struct err *err)
{
	for (;;) {
		char lifted[64];
		snprintf(lifted, sizeof(lifted), ".removing-%llu",
			(unsigned long long)removal->next_lifted++);
		if (renameat2(parent, name, removal->top_fd, lifted, RENAME_NOREPLACE) == 0)
			break;
		if (errno != EEXIST)
			return fail_entry(removal, name, err);
	}
	removal->lifted = true;
	return 0;
}

static void clear_flags(int parent, const char *name)
{
	_cleanup_close_ int fd = fd_openat2(parent, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK,
		RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS);
	int flags;
	if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
		return;
	flags &= ~(FS_IMMUTABLE_FL | FS_APPEND_FL);
	ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

/* What chattr(1) forbids, of the file or of a directory of the tree that it is in, is no hindrance.
 */
static int unlink_entry(int parent, const char *name, unsigned depth, int how)
{
	struct stat st;
	if (unlinkat(parent, name, how) == 0 || errno == ENOENT)
		return 0;
	if (errno != EPERM)
		return -errno;
	if (depth > 0)
		clear_flags(parent, ".");
	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
		clear_flags(parent, name);
	return unlinkat(parent, name, how) == 0 || errno == ENOENT ? 0 : -errno;
}

static int remove_content(struct removal *removal, int fd, unsigned depth, struct err *err);

static int remove_entry(
	struct removal *removal, int parent, const char *name, unsigned depth, struct err *err)
{
	if (unlink_entry(parent, name, depth, 0) == 0)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return fail_entry(removal, name, err);

	int saved = errno;
	_cleanup_close_ int fd = open_directory(parent, name);
	if (fd < 0) {
		if (errno == ENOTDIR)
			errno = saved;
		return fail_entry(removal, name, err);
	}
	if (depth == DEPTH_MAX)
		return lift(removal, parent, name, err);
	if (depth == 0)
		removal->top_fd = fd;
	do {
		if (depth == 0)
			removal->lifted = false;
		int r = remove_content(removal, fd, depth + 1, err);
		if (r < 0)
			return r;
	} while (depth == 0 && removal->lifted);
	return unlink_entry(parent, name, depth, AT_REMOVEDIR) < 0 ? fail_entry(removal, name, err)
								   : 0;
}

static int remove_content(struct removal *removal, int fd, unsigned depth, struct err *err)
{
	int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_(close_dirp) DIR *dir = own < 0 ? NULL : fdopendir(own);
	if (!dir) {
		int r = fail_entry(removal, ".", err);
		fd_close(own);
		return r;
	}
	for (;;) {
		errno = 0;
		const struct dirent *entry = readdir(dir);
		if (!entry)
			return errno ? fail_entry(removal, ".", err) : 0;
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		int r = remove_entry(removal, fd, entry->d_name, depth, err);
		if (r < 0)
			return r;
	}
}

int fd_remove_tree(const char *path, struct err *err)
{
	_cleanup_free_ char *parent = strdup(path);
	if (!parent)
		return err_nomem(err);
	size_t len = strlen(parent);
	while (len > 1 && parent[len - 1] == '/')
		parent[--len] = '\0';
	char *slash = strrchr(parent, '/');
	const char *name = slash ? slash + 1 : parent;
	if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return err_set(err, -EINVAL, "remove %s: not a name of a tree", path);

	struct removal removal = {.path = path, .top_fd = -EBADF};
	const char *directory = slash == parent ? "/" : slash ? parent : ".";
	if (slash)
		*slash = '\0';
	_cleanup_close_ int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_errno(err, "open the directory of %s", path);
	return remove_entry(&removal, fd, name, 0, err);
}
