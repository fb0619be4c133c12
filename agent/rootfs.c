#include "agent/rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/disk.h"
#include "agent/implied.h"
#include "agent/mount_fs.h"
#include "agent/quota.h"
#include "agent/root_path.h"
#include "common/fd.h"

#define DISK_TIMEOUT_MS 10000
/* A directory of the guest's root; in a container's mount namespace nobody misses it. */
#define IMAGE_STAGE "/tmp"

int rootfs_begin(struct err *err)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_errno(err, "make mounts private");
	if (mount("tmpfs", ROOTFS_STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700") < 0)
		return err_errno(err, "mount the stage");
	if (chdir(ROOTFS_STAGE) < 0)
		return err_errno(err, "enter the stage");
	return 0;
}

static int mount_layer(size_t index, uint32_t target, const struct ids *ids, struct err *err)
{
	char device[DISK_PATH_MAX];
	if (disk_wait(target, DISK_TIMEOUT_MS, device, err) < 0)
		return err->code;
	const struct mount_option options[] = {{"source", device}, {"ro", NULL}, {NULL, NULL}};
	_cleanup_close_ int layer = -EBADF;
	if (mount_fs("erofs", options, MOUNT_ATTR_RDONLY, &layer, err) < 0 ||
		ids_map_mount(ids, layer, err) < 0)
		return err_wrap(err, "%s", device);
	char name[16];
	snprintf(name, sizeof(name), "%zu", index);
	if (mkdir(name, 0755) < 0)
		return err_errno(err, "make a mount point");
	_cleanup_close_ int point = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (point < 0)
		return err_errno(err, "open a mount point");
	return mount_attach(layer, point, err);
}

int rootfs_layers(const uint32_t *targets, size_t n, const struct ids *ids, struct err *err)
{
	if (n > ROOTFS_LAYERS_MAX)
		return err_set(
			err, -EINVAL, "%zu layers, at most %d are possible", n, ROOTFS_LAYERS_MAX);
	for (size_t i = 0; i < n; i++) {
		if (mount_layer(i, targets[i], ids, err) < 0)
			return err_wrap(err, "layer %zu (disk %u)", i, targets[i]);
	}
	return 0;
}

/* "2:1:0": the highest first. Relative to the stage, or 127 layers would not fit overlayfs' page.
 */
static int lower_dirs(size_t n, char *out, size_t size, struct err *err)
{
	if (n == 0) {
		if (mkdir("0", 0755) < 0)
			return err_errno(err, "make an empty layer");
		n = 1;
	}
	size_t len = 0;
	for (size_t i = n; i-- > 0 && len < size;)
		len += (size_t)snprintf(out + len, size - len, i ? "%zu:" : "%zu", i);
	return len < size ? 0 : err_set(err, -E2BIG, "too many layers: %zu", n);
}

/* Its files are one account; a disk without accounts does as well. */
static int make_scratch(const char *scratch, uint32_t project, struct err *err)
{
	if (mkdir(scratch, 0700) < 0)
		return err_errno(err, "make %s", scratch);
	_cleanup_close_ int directory = open(scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0)
		return err_errno(err, "open %s", scratch);
	int r = project ? quota_project_set(directory, project, err) : 0;
	return r == -EOPNOTSUPP || r == -ENOTTY ? 0 : r;
}

#define CAPABILITY_WORDS _LINUX_CAPABILITY_U32S_3

/*
 * An overlay writes with the rights of whoever mounted it, and who has CAP_SYS_RESOURCE is bound by
 * no quota: without it the limit of the writable layer holds, for a privileged container too.
 */
static int mount_overlay(const char *options, struct err *err)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct all[CAPABILITY_WORDS], less[CAPABILITY_WORDS];
	if (syscall(SYS_capget, &header, all) < 0)
		return err_errno(err, "read capabilities");
	memcpy(less, all, sizeof(less));
	less[0].effective &= ~(1u << CAP_SYS_RESOURCE);
	if (syscall(SYS_capset, &header, less) < 0)
		return err_errno(err, "set capabilities");
	/* Not by fsconfig(2): it takes no value beyond 255 bytes, and many layers need more. */
	if (mkdir("root", 0755) < 0 || mount("overlay", "root", "overlay", 0, options) < 0)
		return err_errno(err, "mount the overlay");
	return syscall(SYS_capset, &header, all) < 0 ? err_errno(err, "set capabilities") : 0;
}

int rootfs_overlay(
	size_t n_layers, const char *scratch, uint32_t project, int *ret_root, struct err *err)
{
	char lower[1024];
	if (lower_dirs(n_layers, lower, sizeof(lower), err) < 0)
		return err->code;
	_cleanup_free_ char *upper = str_printf("%s/upper", scratch);
	_cleanup_free_ char *work = str_printf("%s/work", scratch);
	if (!upper || !work)
		return err_nomem(err);
	if (make_scratch(scratch, project, err) < 0)
		return err->code;
	if (mkdir(upper, 0755) < 0 || mkdir(work, 0700) < 0)
		return err_errno(err, "make %s", scratch);

	char options[4096];
	int n = snprintf(options, sizeof(options), "volatile,lowerdir=%s,upperdir=%s,workdir=%s",
		lower, upper, work);
	if (n < 0 || (size_t)n >= sizeof(options))
		return err_set(err, -E2BIG, "too long a path: %s", scratch);
	/*
	 * volatile: the files end with the pod, so nobody needs them synced; without it each end of
	 * a container would wait for the scratch disk.
	 */
	if (mount_overlay(options, err) < 0)
		return err->code;
	_cleanup_close_ int merged = open("root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (merged < 0)
		return err_errno(err, "open the overlay");
	if (implied_settle(n_layers, merged, err) < 0)
		return err->code;
	_cleanup_close_ int root = -EBADF;
	if (mount_copy(merged, &root, err) < 0)
		return err->code;
	/* The overlay has its own copies of the layers' mounts; the stage is in the way now. */
	if (chdir("/") < 0 || umount2(ROOTFS_STAGE, MNT_DETACH) < 0)
		return err_errno(err, "leave the stage");
	_cleanup_close_ int point = open(ROOTFS_STAGE, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (point < 0)
		return err_errno(err, "open %s", ROOTFS_STAGE);
	if (mount_attach(root, point, err) < 0)
		return err->code;
	*ret_root = TAKE_FD(root);
	return 0;
}

static int image_mount(
	const Bulkhead__Agent__Mount *image, const struct ids *ids, int *ret_mount, struct err *err)
{
	char lower[1024], options[1100];
	size_t n = image->n_layer_targets;
	const char *sub_path = image->sub_path;
	if (chdir(IMAGE_STAGE) < 0)
		return err_errno(err, "enter the stage");
	if (rootfs_layers(image->layer_targets, n, ids, err) < 0 ||
		lower_dirs(n, lower, sizeof(lower), err) < 0)
		return err->code;
	const char *top = "0";
	if (n > 1) {
		snprintf(options, sizeof(options), "lowerdir=%s", lower);
		top = "root";
		if (mkdir(top, 0755) < 0 ||
			mount("overlay", top, "overlay", MS_RDONLY, options) < 0)
			return err_errno(err, "mount the overlay");
	}
	_cleanup_close_ int merged = open(top, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (merged < 0)
		return err_errno(err, "open the image");
	_cleanup_close_ int part = root_open(merged, sub_path[0] ? sub_path : ".", O_PATH);
	if (part < 0)
		return err_set(err, part, "open '%s' in the image: %s", sub_path, strerror(-part));
	return mount_copy(part, ret_mount, err);
}

int rootfs_image(
	const Bulkhead__Agent__Mount *image, const struct ids *ids, int *ret_mount, struct err *err)
{
	if (mount("tmpfs", IMAGE_STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700") < 0)
		return err_errno(err, "mount the stage");
	int r = image_mount(image, ids, ret_mount, err);
	/* What it is made of stays as long as it does. */
	if (chdir("/") < 0 || umount2(IMAGE_STAGE, MNT_DETACH) < 0)
		return err_errno(err, "leave the stage");
	return r;
}

/*
 * The guest's root is a mount over the initramfs (machine.c), so pivot_root(2) works. With "." as
 * both places the old root lies over the new one, and goes with all that is mounted in it.
 */
int rootfs_enter(int root, struct err *err)
{
	if (fchdir(root) < 0)
		return err_errno(err, "enter the root");
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		return err_errno(err, "pivot the root");
	if (umount2(".", MNT_DETACH) < 0)
		return err_errno(err, "detach the guest's root");
	if (chdir("/") < 0)
		return err_errno(err, "enter the root");
	return 0;
}
