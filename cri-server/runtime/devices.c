/*
 * A container's CRI devices. A block device of the host becomes a disk of the machine. Of character
 * devices those are given that the guest has of its own and that are the same everywhere; all
 * others are the host's hardware, which is not in the machine.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"

static const struct {
	unsigned major;
	unsigned minor;
} of_any_kernel[] = {
	{1, 3},    /* null */
	{1, 5},    /* zero */
	{1, 7},    /* full */
	{1, 8},    /* random */
	{1, 9},    /* urandom */
	{5, 0},    /* tty */
	{10, 200}, /* net/tun */
	{10, 229}, /* fuse */
};

static int parse_permissions(Bulkhead__Agent__Device *device, const char *text, struct err *err)
{
	if (text[strspn(text, "rwm")])
		return err_set(err, -EINVAL, "permissions '%s' are not made of r, w and m", text);
	device->read = !text[0] || strchr(text, 'r');
	device->write = !text[0] || strchr(text, 'w');
	device->make = !text[0] || strchr(text, 'm');
	return 0;
}

static int attach_disk(struct container *c, struct machine *machine, const char *path,
	Bulkhead__Agent__Device *device, struct err *err)
{
	Bulkhead__Store__Container *record = c->record;
	/* What may not be written is read-only for QEMU: the guest's rules are the guest's. */
	int r = disks_attach_device(
		c->sandbox, machine, path, !device->write, &device->target, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&c->runtime->lock);
	uint32_t *targets =
		realloc(record->device_targets, (record->n_device_targets + 1) * sizeof(*targets));
	if (targets) {
		record->device_targets = targets;
		targets[record->n_device_targets++] = device->target;
	}
	r = targets ? container_save_locked(c, err) : err_nomem(err);
	pthread_mutex_unlock(&c->runtime->lock);
	return r;
}

static int add_device(struct container *c, struct machine *machine, const Runtime__V1__Device *from,
	Bulkhead__Agent__Device *device, struct err *err)
{
	_cleanup_free_ char *path = realpath(from->host_path, NULL);
	struct stat st;
	if (from->host_path[0] != '/' || from->container_path[0] != '/')
		return err_set(err, -EINVAL, "a device needs absolute paths");
	if (!path || stat(path, &st) < 0)
		return err_errno(err, "examine '%s'", from->host_path);
	int r = parse_permissions(device, from->permissions, err);
	if (r == 0)
		r = message_set_string(&device->path, from->container_path, err);
	if (r < 0)
		return r;
	device->mode = st.st_mode & 0777;
	device->uid = st.st_uid;
	device->gid = st.st_gid;
	device->disk = S_ISBLK(st.st_mode);
	if (device->disk)
		return attach_disk(c, machine, path, device, err);
	device->major = major(st.st_rdev);
	device->minor = minor(st.st_rdev);
	for (size_t i = 0; S_ISCHR(st.st_mode) && i < ARRAY_SIZE(of_any_kernel); i++)
		if (device->major == of_any_kernel[i].major &&
			device->minor == of_any_kernel[i].minor)
			return 0;
	return err_set(err, -EOPNOTSUPP,
		"'%s' is %s: a pod that is a machine of its own is given block devices, and of "
		"character devices those that every kernel has (null, zero, fuse, tun and their "
		"like)",
		from->host_path,
		S_ISCHR(st.st_mode)   ? "a character device of the host"
		: S_ISDIR(st.st_mode) ? "a directory"
				      : "no device");
}

int devices_attach(struct container *c, struct machine *machine,
	Bulkhead__Agent__CreateContainerRequest *request, struct err *err)
{
	const Runtime__V1__ContainerConfig *config = c->config;
	request->devices = calloc(config->n_devices + 1, sizeof(*request->devices));
	if (!request->devices)
		return err_nomem(err);
	for (size_t i = 0; i < config->n_devices; i++) {
		Bulkhead__Agent__Device *device = calloc(1, sizeof(*device));
		if (!device)
			return err_nomem(err);
		bulkhead__agent__device__init(device);
		request->devices[request->n_devices++] = device;
		int r = add_device(c, machine, config->devices[i], device, err);
		if (r < 0)
			return err_wrap(err, "device '%s'", config->devices[i]->container_path);
	}
	return 0;
}
