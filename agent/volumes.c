#include "agent/volumes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/container.h"
#include "agent/mount_fs.h"
#include "agent/proto/ports.h"
#include "agent/root_path.h"
#include "agent/rootfs.h"
#include "common/fd.h"

/* Ten times as long as the share is cached. */
#define LET_GO_MS      1000
#define LET_GO_STEP_MS 20

/* ---- a container's mounts ---- */

/* One component: the host's names, but what is mounted must not depend on its mistakes. */
static int name_check(const char *name, struct err *err)
{
	if (!name[0] || name[0] == '.' || strchr(name, '/'))
		return err_set(err, -EINVAL, "'%s' is not the name of a volume", name);
	return 0;
}

/*
 * With O_DIRECTORY the kernel mounts what the host announces as a mount of its own; a mere O_PATH
 * would stay outside of it.
 */
static int open_in(const char *parent, const char *name, bool directory, struct err *err)
{
	if (name_check(name, err) < 0)
		return err->code;
	_cleanup_free_ char *path = str_printf("%s/%s", parent, name);
	if (!path)
		return err_nomem(err);
	int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC | (directory ? O_DIRECTORY : 0));
	return fd < 0 ? err_errno(err, "open volume %s", name) : fd;
}

int volumes_open(const char *name, int *ret_fd, struct err *err)
{
	*ret_fd = open_in(CONTAINER_VOLUMES, name, true, err);
	return *ret_fd < 0 ? *ret_fd : 0;
}

/* A node of the guest's own: the host names those alone that every kernel has. */
static int open_device(const char *name, struct err *err)
{
	_cleanup_close_ int fd = open_in("/dev", name, false, err);
	struct stat st;
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return err_errno(err, "examine device %s", name);
	return S_ISCHR(st.st_mode) ? TAKE_FD(fd)
				   : err_set(err, -EINVAL, "/dev/%s is no character device", name);
}

static int open_source(const Bulkhead__Agent__Mount *mount, struct err *err)
{
	if (mount->from == BULKHEAD__AGENT__MOUNT_FROM__MOUNT_FROM_DEVICE)
		return open_device(mount->source, err);
	bool in_guest = mount->from == BULKHEAD__AGENT__MOUNT_FROM__MOUNT_FROM_VOLUME;
	const char *parent = in_guest ? CONTAINER_VOLUMES : CONTAINER_SHARE;
	bool whole = !mount->sub_path[0];
	_cleanup_close_ int source =
		open_in(parent, mount->source, !whole || mount->directory, err);
	if (source < 0)
		return source;
	if (whole)
		return TAKE_FD(source);
	if (in_guest)
		return root_make(source, mount->sub_path, mount->directory, err);
	int fd = root_open(source, mount->sub_path, O_PATH | (mount->directory ? O_DIRECTORY : 0));
	return fd < 0 ? err_set(err, fd, "open %s: %s", mount->sub_path, strerror(-fd)) : fd;
}

/* What is to be mounted, attached nowhere yet. */
static int copy_source(
	const Bulkhead__Agent__Mount *mount, const struct ids *ids, int *ret_tree, struct err *err)
{
	if (mount->from == BULKHEAD__AGENT__MOUNT_FROM__MOUNT_FROM_IMAGE)
		return rootfs_image(mount, ids, ret_tree, err);
	_cleanup_close_ int source = open_source(mount, err);
	return source < 0 ? source : mount_copy(source, ret_tree, err);
}

static int mount_one(int root, const Bulkhead__Agent__Mount *mount, const struct ids *ids,
	int *ret_tree, struct err *err)
{
	_cleanup_close_ int tree = -EBADF;
	struct stat st;
	if (copy_source(mount, ids, &tree, err) < 0)
		return err->code;
	if (fstat(tree, &st) < 0)
		return err_errno(err, "examine the volume");
	_cleanup_close_ int point = root_make(root, mount->destination, S_ISDIR(st.st_mode), err);
	if (point < 0)
		return point;
	if (mount_attach(tree, point, err) < 0)
		return err->code;
	*ret_tree = TAKE_FD(tree);
	return 0;
}

static unsigned depth(const char *path)
{
	unsigned n = 0;
	for (; *path; path += strcspn(path, "/")) {
		path += strspn(path, "/");
		n += *path != '\0';
	}
	return n;
}

/* In the order of depth, and where that is equal, as the host named them. */
static const Bulkhead__Agent__Mount **sorted(
	const Bulkhead__Agent__CreateContainerRequest *request, struct err *err)
{
	size_t n = request->n_mounts;
	const Bulkhead__Agent__Mount **list = calloc(n + 1, sizeof(*list));
	if (!list) {
		err_nomem(err);
		return NULL;
	}
	for (size_t i = 0; i < n; i++) {
		size_t at = i;
		unsigned own = depth(request->mounts[i]->destination);
		for (; at > 0 && depth(list[at - 1]->destination) > own; at--)
			list[at] = list[at - 1];
		list[at] = request->mounts[i];
	}
	return list;
}

int volumes_mount(int root, const Bulkhead__Agent__CreateContainerRequest *request,
	const struct ids *ids, struct err *err)
{
	size_t n = request->n_mounts;
	if (n > AGENT_MOUNTS_MAX)
		return err_set(
			err, -EINVAL, "%zu mounts, at most %d are possible", n, AGENT_MOUNTS_MAX);
	_cleanup_free_ const Bulkhead__Agent__Mount **list = sorted(request, err);
	_cleanup_free_ int *trees = calloc(n + 1, sizeof(int));
	if (!list || !trees)
		return err_nomem(err);
	size_t done = 0;
	int r = 0;
	for (; done < n && r == 0; done += r == 0) {
		r = mount_one(root, list[done], ids, &trees[done], err);
		if (r < 0)
			err_wrap(err, "mount %s", list[done]->destination);
	}
	for (size_t i = 0; i < done; i++) {
		if (r == 0 && list[i]->read_only)
			r = mount_read_only(trees[i], 0, err);
		fd_close(trees[i]);
	}
	return r;
}

/* ---- volumes of the guest ---- */

/* Two containers of a pod may ask for the same one at a time. */
static int mount_memory(
	const Bulkhead__Agent__MakeVolumeRequest *request, const char *path, struct err *err)
{
	char size[32], mode[16], uid[16], gid[16];
	snprintf(size, sizeof(size), "%llu", (unsigned long long)request->size_bytes);
	snprintf(mode, sizeof(mode), "%o", request->mode & 07777);
	snprintf(uid, sizeof(uid), "%u", request->uid);
	snprintf(gid, sizeof(gid), "%u", request->gid);
	const struct mount_option options[] = {{"source", "tmpfs"}, {"size", size}, {"mode", mode},
		{"uid", uid}, {"gid", gid}, {NULL, NULL}};
	_cleanup_close_ int mount = -EBADF, point = -EBADF;
	if (mount_fs("tmpfs", options, MOUNT_ATTR_NODEV, &mount, err) < 0)
		return err->code;
	point = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return point < 0 ? err_errno(err, "open %s", path) : mount_attach(mount, point, err);
}

int volumes_make(const Bulkhead__Agent__MakeVolumeRequest *request, struct err *err)
{
	if (name_check(request->name, err) < 0)
		return err->code;
	if (!request->size_bytes) {
		/* Each mount namespace whose processes look first would mount it anew, with its
		 * own page cache and locks; what is mounted here the containers take copies of. */
		int share = open_in(CONTAINER_SHARE, request->name, true, err);
		fd_close(share);
		return share < 0 ? share : 0;
	}

	_cleanup_free_ char *path = str_printf("%s/%s", CONTAINER_VOLUMES, request->name);
	if (!path)
		return err_nomem(err);
	if (fd_mkdir_all(CONTAINER_VOLUMES, 0700, err) < 0)
		return err->code;
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_errno(err, "make volume %s", request->name);
	struct stat above, own;
	if (stat(CONTAINER_VOLUMES, &above) < 0 || stat(path, &own) < 0)
		return err_errno(err, "examine volume %s", request->name);
	if (above.st_dev != own.st_dev)
		return 0; /* a file system of its own: it was made */
	return mount_memory(request, path, err);
}

/*
 * Looked for and not found, so the kernel drops all that it keeps below, a mount also; what it
 * keeps, virtiofsd keeps open. For as long as the share is cached, it would not ask.
 */
static void let_go(const char *shared)
{
	struct stat st;
	for (unsigned ms = 0; ms < LET_GO_MS && lstat(shared, &st) == 0; ms += LET_GO_STEP_MS)
		nanosleep(&(struct timespec){.tv_nsec = LET_GO_STEP_MS * 1000000}, NULL);
}

int volumes_remove(const Bulkhead__Agent__RemoveVolumesRequest *request, struct err *err)
{
	for (size_t i = 0; i < request->n_names; i++) {
		if (name_check(request->names[i], err) < 0)
			return err->code;
		_cleanup_free_ char *own =
			str_printf("%s/%s", CONTAINER_VOLUMES, request->names[i]);
		_cleanup_free_ char *shared =
			str_printf("%s/%s", CONTAINER_SHARE, request->names[i]);
		if (!own || !shared)
			return err_nomem(err);
		if (umount2(own, MNT_DETACH) < 0 && errno != ENOENT && errno != EINVAL)
			return err_errno(err, "unmount volume %s", request->names[i]);
		if (rmdir(own) < 0 && errno != ENOENT)
			return err_errno(err, "remove volume %s", request->names[i]);
		let_go(shared);
	}
	return 0;
}
