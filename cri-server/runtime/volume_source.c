#include "cri-server/runtime/volume_source.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/fd.h"

#define EMPTY_DIR "/volumes/kubernetes.io~empty-dir/"
#define SUB_PATHS "/volume-subpaths/"
/* A tmpfs that the kubelet gave no size may have half of the host's memory. */
#define MOUNTINFO_MAX (16u << 20)

/* Those that the kubelet writes itself, and small: an API object holds 1 MiB. */
static const char *const mirrored[] = {
	"/volumes/kubernetes.io~configmap/",
	"/volumes/kubernetes.io~secret/",
	"/volumes/kubernetes.io~projected/",
	"/volumes/kubernetes.io~downward-api/",
};

void volume_source_done(struct volume_source *source)
{
	free(source->path);
	free(source->sub_path);
	source->path = source->sub_path = NULL;
	source->fd = fd_close(source->fd);
}

/* ---- the mount table ---- */

struct mount_row {
	uint64_t id;
	char device[32];
	char root[PATH_MAX];
	char point[PATH_MAX];
	bool follows; /* shared or a slave: told of what is mounted below it elsewhere */
};

/* Blanks and backslashes are written as three octal digits. */
static void unescape(char *text)
{
	char *out = text;
	for (const char *p = text; *p; p++) {
		unsigned c;
		if (p[0] == '\\' && sscanf(p + 1, "%3o", &c) == 1) {
			*out++ = (char)c;
			p += 3;
		} else {
			*out++ = *p;
		}
	}
	*out = '\0';
}

static bool parse_row(const char *line, struct mount_row *row)
{
	unsigned long long id;
	/* id, parent, device, root, mount point: proc_pid_mountinfo(5) */
	if (sscanf(line, "%llu %*u %31s %4095s %4095s", &id, row->device, row->root, row->point) !=
		4)
		return false;
	row->id = id;
	row->follows = strstr(line, " shared:") || strstr(line, " master:");
	unescape(row->root);
	unescape(row->point);
	return true;
}

/* Whether path is `above` or lies below it. */
static bool is_within(const char *path, const char *above)
{
	size_t len = strlen(above);
	if (len == 1)
		return true;
	return strncmp(path, above, len) == 0 && (!path[len] || path[len] == '/');
}

/* The row of the mount that fd is on; *ret_submounts: whether path, which it is, has mounts below.
 */
static int find_row(
	int fd, const char *path, struct mount_row *ret, bool *ret_submounts, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_free_ struct mount_row *row = calloc(1, sizeof(*row));
	struct statx stx;
	bool found = false;
	if (!row)
		return err_nomem(err);
	if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &stx) < 0)
		return err_errno(err, "examine %s", path);
	int r = fd_read_file("/proc/self/mountinfo", MOUNTINFO_MAX, &text, NULL, err);
	if (r < 0)
		return r;
	*ret_submounts = false;
	char *rest = text;
	for (char *line; (line = strsep(&rest, "\n"));) {
		if (!parse_row(line, row))
			continue;
		if (row->id == stx.stx_mnt_id) {
			*ret = *row;
			found = true;
		} else if (is_within(row->point, path) && strcmp(row->point, path) != 0) {
			*ret_submounts = true;
		}
	}
	return found ? 0 : err_set(err, -ESTALE, "%s is on no mount that we see", path);
}

/* Where path lies in its file system. */
static char *path_in_fs(const struct mount_row *row, const char *path)
{
	const char *rest = path + (strcmp(row->point, "/") == 0 ? 0 : strlen(row->point));
	return str_printf("%s%s", strcmp(row->root, "/") == 0 ? "" : row->root, rest);
}

/* ---- where kubelets keep what ---- */

/* The part after `directory`, when path is `…<directory><name>`, with nothing below the name. */
static bool is_volume_of(const char *path, const char *directory)
{
	const char *at = strstr(path, directory);
	if (!at)
		return false;
	const char *name = at + strlen(directory);
	return *name && !strchr(name, '/');
}

/*
 * A subPath of an emptyDir: the kubelet binds the directory to a path of its own, for each
 * container another. Through that, containers that share it would see two files where there is one,
 * and of one in memory nothing at all. "…/pods/UID/volume-subpaths/VOLUME/CONTAINER/N" → the
 * volume's path, which the caller frees; NULL when it is none.
 */
static char *empty_dir_of(const char *path)
{
	const char *at = strstr(path, SUB_PATHS);
	if (!at)
		return NULL;
	const char *name = at + strlen(SUB_PATHS);
	size_t len = strcspn(name, "/");
	if (!len || !name[len])
		return NULL;
	return str_printf("%.*s%s%.*s", (int)(at - path), path, EMPTY_DIR, (int)len, name);
}

/* A guest that may write above it puts a link into the way of what was resolved: refused. */
static int open_path(const char *path, struct volume_source *source, struct err *err)
{
	fd_close(source->fd);
	source->fd = fd_open_no_links(path, O_PATH, err);
	if (source->fd < 0)
		return source->fd;
	return fstat(source->fd, &source->st) < 0 ? err_errno(err, "examine %s", path) : 0;
}

/* Makes the source the emptyDir of which it is a subPath. */
static int lift_sub_path(struct volume_source *source, struct mount_row *row, struct err *err)
{
	_cleanup_free_ char *volume = empty_dir_of(source->path);
	_cleanup_free_ struct mount_row *above = calloc(1, sizeof(*above));
	struct volume_source lifted = VOLUME_SOURCE_INIT;
	if (!above)
		return err_nomem(err);
	if (!volume || open_path(volume, &lifted, NULL) < 0)
		return 0;
	int r = find_row(lifted.fd, volume, above, &lifted.submounts, err);
	_cleanup_free_ char *own = path_in_fs(row, source->path);
	_cleanup_free_ char *parent = r == 0 ? path_in_fs(above, volume) : NULL;
	if (r == 0 && own && parent && strcmp(row->device, above->device) == 0 &&
		is_within(own, *parent ? parent : "/") && strlen(own) > strlen(parent)) {
		lifted.path = TAKE_PTR(volume);
		lifted.sub_path = strdup(own + strlen(parent) + 1);
		lifted.directory = source->directory;
		lifted.kind = source->kind;
		volume_source_done(source);
		*source = lifted;
		*row = *above;
		return source->sub_path ? 0 : err_nomem(err);
	}
	volume_source_done(&lifted);
	return r;
}

static int classify(struct volume_source *source, struct err *err)
{
	struct statfs fs;
	struct statvfs vfs;
	if (fstatfs(source->fd, &fs) < 0 || fstatvfs(source->fd, &vfs) < 0)
		return err_errno(err, "examine the file system of %s", source->path);
	source->read_only = vfs.f_flag & ST_RDONLY;
	source->kind = BULKHEAD__STORE__VOLUME_KIND__VOLUME_BIND;
	if (!S_ISDIR(source->st.st_mode))
		return 0;
	if (fs.f_type == TMPFS_MAGIC && is_volume_of(source->path, EMPTY_DIR)) {
		source->kind = BULKHEAD__STORE__VOLUME_KIND__VOLUME_MEMORY;
		source->size_bytes = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize;
	}
	for (size_t i = 0; i < ARRAY_SIZE(mirrored) && !source->submounts; i++)
		if (is_volume_of(source->path, mirrored[i]))
			source->kind = BULKHEAD__STORE__VOLUME_KIND__VOLUME_MIRROR;
	return 0;
}

/* Those that a container may use anyway, as containerd has it. */
static const char *common_device(const struct stat *st)
{
	static const struct {
		unsigned major, minor;
		const char *name;
	} devices[] = {
		{1, 3, "null"},
		{1, 5, "zero"},
		{1, 7, "full"},
		{1, 8, "random"},
		{1, 9, "urandom"},
		{5, 0, "tty"},
	};
	for (size_t i = 0; S_ISCHR(st->st_mode) && i < ARRAY_SIZE(devices); i++)
		if (st->st_rdev == makedev(devices[i].major, devices[i].minor))
			return devices[i].name;
	return NULL;
}

static int check_type(mode_t mode, const char *path, struct err *err)
{
	if (S_ISREG(mode) || S_ISDIR(mode))
		return 0;
	const char *what = S_ISSOCK(mode) ? "a socket" : S_ISFIFO(mode) ? "a FIFO" : "a device";
	return err_set(err, -EOPNOTSUPP,
		"host path '%s' is %s, which does not work in a pod that is a machine of its own%s",
		path, what,
		S_ISBLK(mode) || S_ISCHR(mode) ? "; what it can be given is given as devices" : "");
}

int volume_source_find(const char *host_path, struct volume_source *source, struct err *err)
{
	struct stat st;
	if (host_path[0] != '/')
		return err_set(err, -EINVAL, "host path '%s' is not absolute", host_path);
	if (stat(host_path, &st) < 0) {
		if (errno != ENOENT)
			return err_errno(err, "examine host path '%s'", host_path);
		if (fd_mkdir_all(host_path, 0755, err) < 0)
			return err_wrap(err, "make host path '%s'", host_path);
	}
	source->path = realpath(host_path, NULL);
	if (!source->path)
		return err_errno(err, "resolve host path '%s'", host_path);
	int r = open_path(source->path, source, err);
	source->device = r == 0 ? common_device(&source->st) : NULL;
	if (source->device)
		return 0;
	if (r == 0)
		r = check_type(source->st.st_mode, host_path, err);
	if (r < 0)
		return r;
	source->directory = S_ISDIR(source->st.st_mode);
	_cleanup_free_ struct mount_row *row = calloc(1, sizeof(*row));
	if (!row)
		return err_nomem(err);
	r = find_row(source->fd, source->path, row, &source->submounts, err);
	if (r == 0)
		r = lift_sub_path(source, row, err);
	source->follows = row->follows;
	return r < 0 ? r : classify(source, err);
}
