#include "agent/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent/container.h"
#include "agent/devices.h"
#include "agent/mount_fs.h"
#include "agent/root_path.h"
#include "common/fd.h"

#define NOSUID_NOEXEC (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
#define STRICT        (NOSUID_NOEXEC | MOUNT_ATTR_NODEV)

/* The tty group of every distribution; grantpt(3) expects it. */
#define TTY_GROUP 5

struct mount_row {
	const char *path;
	const char *type;
	struct mount_option options[3];
	unsigned attributes;
	bool read_only; /* for those who are not privileged */
};

/* In this order: each may be the place of a later one. */
static const struct mount_row rows[] = {
	{.path = "/proc", .type = "proc", .attributes = STRICT},
	{.path = "/sys", .type = "sysfs", .attributes = STRICT, .read_only = true},
	{.path = "/sys/fs/cgroup", .type = "cgroup2", .attributes = STRICT, .read_only = true},
	{.path = "/dev",
		.type = "tmpfs",
		.options = {{"mode", "0755"}, {"size", "65536k"}},
		.attributes = MOUNT_ATTR_NOSUID},
	{.path = "/dev/mqueue", .type = "mqueue", .attributes = STRICT},
};

/*
 * The place of one of our mounts. An image may hold a link there, to have procfs mounted where no
 * masked path applies to it: the kernel's file systems go to real directories only.
 */
static int mount_point(int root, const char *path, struct err *err)
{
	int fd = root_make(root, path, true, err);
	if (fd < 0)
		return fd;
	struct stat direct, resolved;
	if (fstat(fd, &resolved) < 0 || fstatat(root, path + 1, &direct, AT_SYMLINK_NOFOLLOW) < 0) {
		err_errno(err, "examine %s", path);
	} else if (direct.st_ino != resolved.st_ino || direct.st_dev != resolved.st_dev) {
		err_set(err, -ENOTDIR, "%s of the image is a symbolic link", path);
	} else {
		return fd;
	}
	fd_close(fd);
	return err->code;
}

static int mount_row(int root, const struct mount_row *row, bool privileged, struct err *err)
{
	unsigned attributes = row->attributes;
	if (row->read_only && !privileged)
		attributes |= MOUNT_ATTR_RDONLY;
	_cleanup_close_ int mount = -EBADF;
	if (mount_fs(row->type, row->options, attributes, &mount, err) < 0)
		return err->code;
	_cleanup_close_ int point = mount_point(root, row->path, err);
	if (point < 0)
		return point;
	return mount_attach(mount, point, err);
}

static int mount_terminals(int root, const struct ids *ids, struct err *err)
{
	char group[16];
	snprintf(group, sizeof(group), "%u", ids_gid(ids, TTY_GROUP));
	const struct mount_option options[] = {{"newinstance", NULL}, {"ptmxmode", "0666"},
		{"mode", "0620"}, {"gid", group}, {NULL, NULL}};
	_cleanup_close_ int mount = -EBADF;
	if (mount_fs("devpts", options, NOSUID_NOEXEC, &mount, err) < 0)
		return err->code;
	_cleanup_close_ int point = mount_point(root, "/dev/pts", err);
	return point < 0 ? point : mount_attach(mount, point, err);
}

/* Binds a file or directory of the guest; positive when there is none. */
static int bind(int root, const char *source, const char *path, bool directory, bool read_only,
	struct err *err)
{
	_cleanup_close_ int from = open(source, O_PATH | O_CLOEXEC);
	if (from < 0 && errno == ENOENT)
		return 1;
	if (from < 0)
		return err_errno(err, "open %s", source);
	_cleanup_close_ int mount = -EBADF;
	if (mount_copy(from, &mount, err) < 0)
		return err->code;
	if (read_only && mount_read_only(mount, AT_RECURSIVE, err) < 0)
		return err->code;
	_cleanup_close_ int point = root_make(root, path, directory, err);
	if (point < 0)
		return point;
	return mount_attach(mount, point, err);
}

/* As containerd does it: the files may be written where the root may. */
static int bind_pod_files(int root, bool read_only, struct err *err)
{
	static const struct {
		const char *source;
		const char *path;
	} files[] = {
		{CONTAINER_RESOLV_CONF, "/etc/resolv.conf"},
		{CONTAINER_HOSTS, "/etc/hosts"},
		{CONTAINER_HOSTNAME, "/etc/hostname"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		if (bind(root, files[i].source, files[i].path, false, read_only, err) < 0)
			return err_wrap(err, "%s", files[i].path);
	}
	return 0;
}

/*
 * A volume of the image: containerd copies what the image has there into a directory of the
 * container's own. Here the overlay is that already; as a mount of itself it can be written where
 * the root cannot.
 */
static int mount_image_volume(int root, const char *path, struct err *err)
{
	_cleanup_close_ int point = root_make(root, path, true, err);
	if (point < 0)
		return point;
	struct stat st, top;
	if (fstat(point, &st) < 0 || fstat(root, &top) < 0)
		return err_errno(err, "examine it");
	if (st.st_dev == top.st_dev && st.st_ino == top.st_ino)
		return 0; /* the root is no volume */
	_cleanup_close_ int mount = -EBADF;
	if (mount_copy(point, &mount, err) < 0)
		return err->code;
	return mount_attach(mount, point, err);
}

static int mount_image_volumes(
	int root, const Bulkhead__Agent__CreateContainerRequest *request, struct err *err)
{
	for (size_t i = 0; i < request->n_image_volumes; i++) {
		if (mount_image_volume(root, request->image_volumes[i], err) < 0)
			return err_wrap(err, "volume %s of the image", request->image_volumes[i]);
	}
	return 0;
}

int mounts_populate(int root, const Bulkhead__Agent__CreateContainerRequest *request,
	const struct ids *ids, struct err *err)
{
	if (mount_image_volumes(root, request, err) < 0)
		return err->code;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		if (mount_row(root, &rows[i], request->privileged, err) < 0)
			return err_wrap(err, "%s", rows[i].path);
	}
	if (mount_terminals(root, ids, err) < 0)
		return err_wrap(err, "/dev/pts");
	if (bind(root, CONTAINER_SHM, "/dev/shm", true, false, err) < 0)
		return err_wrap(err, "/dev/shm");
	_cleanup_close_ int dev = root_open(root, "/dev", O_RDONLY | O_DIRECTORY);
	if (dev < 0)
		return err_set(err, dev, "open /dev: %s", strerror(-dev));
	if (devices_make(dev, request->privileged, err) < 0)
		return err_wrap(err, "/dev");
	return bind_pod_files(root, request->read_only_root, err);
}

int mounts_console(struct err *err)
{
	char slave[PATH_MAX];
	if (ttyname_r(STDIN_FILENO, slave, sizeof(slave)) != 0)
		return err_errno(err, "find the terminal's name");
	_cleanup_close_ int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return err_errno(err, "open the root");
	if (bind(root, slave, "/dev/console", false, false, err) < 0)
		return err_wrap(err, "/dev/console");
	return 0;
}

/* Hides the path: a directory behind an empty one, all else behind /dev/null. */
static int mask(int root, const char *path, struct err *err)
{
	_cleanup_close_ int point = root_open(root, path, O_PATH);
	if (point == -ENOENT || point == -ENOTDIR)
		return 0;
	struct stat st;
	if (point < 0)
		return err_set(err, point, "open: %s", strerror(-point));
	if (fstat(point, &st) < 0)
		return err_errno(err, "examine");
	_cleanup_close_ int mount = -EBADF;
	if (S_ISDIR(st.st_mode)) {
		static const struct mount_option options[] = {{"mode", "0555"}, {NULL, NULL}};
		if (mount_fs("tmpfs", options, STRICT | MOUNT_ATTR_RDONLY, &mount, err) < 0)
			return err->code;
	} else {
		_cleanup_close_ int null = root_open(root, "/dev/null", O_PATH);
		if (null < 0)
			return err_set(err, null, "open /dev/null: %s", strerror(-null));
		if (mount_copy(null, &mount, err) < 0)
			return err->code;
	}
	return mount_attach(mount, point, err);
}

static int seal_path(int root, const char *path, struct err *err)
{
	_cleanup_close_ int point = root_open(root, path, O_PATH);
	if (point == -ENOENT || point == -ENOTDIR)
		return 0;
	if (point < 0)
		return err_set(err, point, "open: %s", strerror(-point));
	_cleanup_close_ int mount = -EBADF;
	if (mount_copy(point, &mount, err) < 0 || mount_read_only(mount, AT_RECURSIVE, err) < 0)
		return err->code;
	return mount_attach(mount, point, err);
}

int mounts_seal(const Bulkhead__Agent__CreateContainerRequest *request, struct err *err)
{
	_cleanup_close_ int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return err_errno(err, "open the root");
	if (!request->privileged) {
		for (size_t i = 0; i < request->n_read_only_paths; i++) {
			if (seal_path(root, request->read_only_paths[i], err) < 0)
				return err_wrap(
					err, "read-only path %s", request->read_only_paths[i]);
		}
		for (size_t i = 0; i < request->n_masked_paths; i++) {
			if (mask(root, request->masked_paths[i], err) < 0)
				return err_wrap(err, "masked path %s", request->masked_paths[i]);
		}
	}
	return request->read_only_root ? mount_read_only(root, 0, err) : 0;
}
