/*
 * A tree that the host keeps the same as one of its own: changed by no more than what differs, and
 * in the order in which the kubelet changes it, so that whoever watches it sees what he would see
 * on the host.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/root_path.h"
#include "agent/volumes.h"
#include "common/fd.h"

/* A new file or link is made under this name and renamed into its place. */
#define TEMPORARY "..bulkhead-new"
/* The link whose change is the update, for all others lead through it. */
#define DATA_LINK "..data"
#define DEPTH_MAX 16

typedef Bulkhead__Agent__VolumeEntry Entry;

/* The directory that holds the entry; *ret_name is its last component. */
static int open_parent(int volume, const Entry *entry, const char **ret_name, struct err *err)
{
	const char *slash = strrchr(entry->path, '/');
	*ret_name = slash ? slash + 1 : entry->path;
	if (!**ret_name || strcmp(*ret_name, ".") == 0 || strcmp(*ret_name, "..") == 0)
		return err_set(err, -EINVAL, "'%s' names nothing", entry->path);
	_cleanup_free_ char *above =
		slash ? strndup(entry->path, (size_t)(slash - entry->path)) : strdup(".");
	if (!above)
		return err_nomem(err);
	int fd = root_open(volume, above, O_PATH | O_DIRECTORY);
	return fd < 0 ? err_set(err, fd, "open %s: %s", above, strerror(-fd)) : fd;
}

/* What stands in the way of a new kind of thing. */
static int make_room(int parent, const char *name, mode_t type, struct err *err);

/* Of what was looked at, though somebody put a link in its place since. */
static int set_mode(int fd, mode_t mode)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return chmod(path, mode & 07777);
}

static int set_owner(int parent, const char *name, const Entry *entry, struct err *err)
{
	_cleanup_close_ int fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(err, "examine %s", entry->path);
	if ((st.st_uid != entry->uid || st.st_gid != entry->gid) &&
		fchownat(fd, "", entry->uid, entry->gid, AT_EMPTY_PATH) < 0)
		return err_errno(err, "set the owner of %s", entry->path);
	if (!S_ISLNK(st.st_mode) && (st.st_mode & 07777) != (entry->mode & 07777) &&
		set_mode(fd, entry->mode) < 0)
		return err_errno(err, "set the mode of %s", entry->path);
	return 0;
}

static int write_directory(int parent, const char *name, const Entry *entry, struct err *err)
{
	if (make_room(parent, name, S_IFDIR, err) < 0)
		return err->code;
	if (mkdirat(parent, name, 0700) < 0 && errno != EEXIST)
		return err_errno(err, "make %s", entry->path);
	return set_owner(parent, name, entry, err);
}

static bool same_data(int parent, const char *name, const Entry *entry)
{
	_cleanup_close_ int fd =
		openat(parent, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
		st.st_size != (off_t)entry->data.len)
		return false;
	_cleanup_free_ char *data = malloc(entry->data.len + 1);
	return data && fd_read_exact(fd, data, entry->data.len, NULL) == 0 &&
	       (!entry->data.len || memcmp(data, entry->data.data, entry->data.len) == 0);
}

static int into_place(int parent, const char *name, const Entry *entry, struct err *err)
{
	if (set_owner(parent, TEMPORARY, entry, err) < 0 ||
		make_room(parent, name, entry->mode & S_IFMT, err) < 0)
		return err->code;
	return renameat(parent, TEMPORARY, parent, name) < 0
		       ? err_errno(err, "put %s in its place", entry->path)
		       : 0;
}

static int write_file(int parent, const char *name, const Entry *entry, struct err *err)
{
	if (same_data(parent, name, entry))
		return set_owner(parent, name, entry, err);
	unlinkat(parent, TEMPORARY, 0);
	_cleanup_close_ int fd = openat(
		parent, TEMPORARY, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(err, "make %s", entry->path);
	if (fd_write_all(fd, entry->data.data, entry->data.len, err) < 0)
		return err_wrap(err, "write %s", entry->path);
	return into_place(parent, name, entry, err);
}

static int write_link(int parent, const char *name, const Entry *entry, struct err *err)
{
	char target[4096];
	ssize_t n = readlinkat(parent, name, target, sizeof(target));
	if (n >= 0 && (size_t)n == strlen(entry->target) &&
		memcmp(target, entry->target, (size_t)n) == 0)
		return set_owner(parent, name, entry, err);
	unlinkat(parent, TEMPORARY, 0);
	if (symlinkat(entry->target, parent, TEMPORARY) < 0)
		return err_errno(err, "make the link %s", entry->path);
	return into_place(parent, name, entry, err);
}

static int write_entry(int volume, const Entry *entry, struct err *err)
{
	const char *name;
	_cleanup_close_ int parent = open_parent(volume, entry, &name, err);
	if (parent < 0)
		return parent;
	switch (entry->mode & S_IFMT) {
	case S_IFDIR:
		return write_directory(parent, name, entry, err);
	case S_IFREG:
		return write_file(parent, name, entry, err);
	case S_IFLNK:
		return write_link(parent, name, entry, err);
	default:
		return err_set(err, -EINVAL, "%s: neither directory, file nor link", entry->path);
	}
}

/* ---- what goes ---- */

static int remove_at(int parent, const char *name, unsigned levels, struct err *err)
{
	if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR)
		return err_errno(err, "remove %s", name);
	int below = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = below < 0 ? NULL : fdopendir(below);
	if (!dir || levels == 0) {
		if (dir)
			closedir(dir);
		else
			fd_close(below);
		return err_set(err, -ELOOP, "remove %s: too deep", name);
	}
	int r = 0;
	for (struct dirent *e; r == 0 && (e = readdir(dir));)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = remove_at(below, e->d_name, levels - 1, err);
	closedir(dir);
	if (r == 0 && unlinkat(parent, name, AT_REMOVEDIR) < 0)
		return err_errno(err, "remove %s", name);
	return r;
}

static int make_room(int parent, const char *name, mode_t type, struct err *err)
{
	struct stat st;
	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_errno(err, "examine %s", name);
	/* A rename replaces all but directories. */
	if (S_ISDIR(st.st_mode) == (type == S_IFDIR))
		return 0;
	return remove_at(parent, name, DEPTH_MAX, err);
}

static const Entry *find(const Bulkhead__Agent__WriteVolumeRequest *request, const char *path)
{
	for (size_t i = 0; i < request->n_entries; i++)
		if (strcmp(request->entries[i]->path, path) == 0)
			return request->entries[i];
	return NULL;
}

static int sweep(int directory, const char *path,
	const Bulkhead__Agent__WriteVolumeRequest *request, unsigned levels, struct err *err)
{
	int again = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = again < 0 ? NULL : fdopendir(again);
	if (!dir) {
		fd_close(again);
		return err_errno(err, "list %s", path);
	}
	int r = 0;
	for (struct dirent *e; r == 0 && (e = readdir(dir));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		_cleanup_free_ char *own =
			str_printf("%s%s%s", path, path[0] ? "/" : "", e->d_name);
		if (!own) {
			r = err_nomem(err);
			break;
		}
		const Entry *entry = find(request, own);
		if (!entry) {
			r = remove_at(again, e->d_name, DEPTH_MAX, err);
		} else if (S_ISDIR(entry->mode) && levels > 0) {
			_cleanup_close_ int below = openat(
				again, e->d_name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			r = below < 0 ? err_errno(err, "open %s", own)
				      : sweep(below, own, request, levels - 1, err);
		}
	}
	closedir(dir);
	return r;
}

int volume_write(int volume, const Bulkhead__Agent__WriteVolumeRequest *request, struct err *err)
{
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < request->n_entries; i++) {
			const Entry *entry = request->entries[i];
			bool last = strcmp(entry->path, DATA_LINK) == 0;
			if (last == (pass == 1) && write_entry(volume, entry, err) < 0)
				return err->code;
		}
	return sweep(volume, "", request, DEPTH_MAX, err);
}
