#include "agent/machine.h"

#include <errno.h>
#include <linux/vm_sockets.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "agent/container.h"
#include "agent/disk.h"
#include "agent/netconf.h"
#include "agent/registry.h"
#include "agent/server.h"
#include "agent/sysctl.h"
#include "common/fd.h"

#define SCRATCH_TARGET  0
#define SCRATCH_WAIT_MS 10000
#define BACKLOG         64
#define SHARE_TAG_BYTES 36 /* of the virtiofs device */
/* The most that the kernel takes, as systemd has it. */
#define PIDS_MAX  "4194304"
#define FILES_MAX "9223372036854775807"

int machine_listen(unsigned port, int *ret_fd, struct err *err)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
	_cleanup_close_ int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(err, "make a vsock socket");
	if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return err_errno(err, "bind to vsock port %u", port);
	if (listen(fd, BACKLOG) < 0)
		return err_errno(err, "listen on vsock port %u", port);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

struct mount_row {
	const char *source;
	const char *target;
	const char *type;
	unsigned long flags;
	const char *data;
};

static const struct mount_row mounts[] = {
	{"proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
	{"sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
	{"cgroup", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
	{"dev", "/dev", "devtmpfs", MS_NOSUID, "mode=0755"},
	{"devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
	{"shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777"},
	{"mqueue", "/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
	{"run", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"},
	{"tmp", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"},
};

/*
 * pivot_root(2) refuses to leave the initial ramfs, because nothing is below it. A bind mount of
 * it, moved over it, is an ordinary mount with the same content. /tmp serves as the place to make
 * it.
 */
static int make_root(struct err *err)
{
	if (mount("/", "/tmp", NULL, MS_BIND, NULL) < 0)
		return err_errno(err, "bind the root");
	if (chdir("/tmp") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
		chdir("/") < 0)
		return err_errno(err, "move the root");
	return 0;
}

int machine_mount(struct err *err)
{
	int r = make_root(err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		const struct mount_row *m = &mounts[i];
		if (mkdir(m->target, 0755) < 0 && errno != EEXIST)
			return err_errno(err, "make %s", m->target);
		if (mount(m->source, m->target, m->type, m->flags, m->data) < 0)
			return err_errno(err, "mount %s on %s", m->type, m->target);
	}
	return 0;
}

int machine_lift_limits(struct err *err)
{
	int r = sysctl_write("/proc/sys/kernel/pid_max", PIDS_MAX, err);
	return r < 0 ? r : sysctl_write("/proc/sys/fs/file-max", FILES_MAX, err);
}

int machine_set_clock(int64_t realtime_ns, struct err *err)
{
	struct timespec now = {
		.tv_sec = realtime_ns / 1000000000, .tv_nsec = realtime_ns % 1000000000};
	return clock_settime(CLOCK_REALTIME, &now) < 0 ? err_errno(err, "set the clock") : 0;
}

int machine_adjust_clock(int64_t by_ns, int64_t *ret_realtime_ns, struct err *err)
{
	int64_t wanted;
	int r = 0;
	if (by_ns > -CLOCK_STEP_NS && by_ns < CLOCK_STEP_NS) {
		const struct timeval by = {
			.tv_sec = by_ns < 0 ? -1 : 0,
			.tv_usec = by_ns / 1000 + (by_ns < 0 ? 1000000 : 0),
		};
		if (by_ns && adjtime(&by, NULL) < 0)
			r = err_errno(err, "adjust the clock");
	} else if (__builtin_add_overflow(realtime_ns(), by_ns, &wanted) || wanted < 0) {
		r = err_set(err, -EINVAL, "a clock before 1970, or beyond all time");
	} else {
		r = machine_set_clock(wanted, err);
	}
	if (r == 0)
		*ret_realtime_ns = realtime_ns();
	return r;
}

/*
 * A container's files are deleted when it goes: discard gives their room back to the host. The disk
 * does not outlive the machine: times need not be written with each write.
 */
static int mount_scratch(struct err *err)
{
	char disk[DISK_PATH_MAX];
	int r = disk_wait(SCRATCH_TARGET, SCRATCH_WAIT_MS, disk, err);
	if (r == 0)
		r = fd_mkdir_all(CONTAINER_SCRATCH, 0700, err);
	if (r < 0)
		return err_wrap(err, "scratch disk");
	if (mount(disk, CONTAINER_SCRATCH, "ext4", MS_NOATIME | MS_LAZYTIME, "discard,prjquota") <
			0 &&
		errno != EBUSY)
		return err_errno(err, "mount the scratch disk %s", disk);
	return 0;
}

static int mount_share(const char *tag, struct err *err)
{
	if (!tag[0])
		return 0;
	if (strlen(tag) > SHARE_TAG_BYTES)
		return err_set(err, -EINVAL, "the share's tag has more than %d characters",
			SHARE_TAG_BYTES);
	int r = fd_mkdir_all(CONTAINER_SHARE, 0700, err);
	if (r < 0)
		return r;
	if (mount(tag, CONTAINER_SHARE, "virtiofs", MS_NODEV, NULL) < 0 && errno != EBUSY)
		return err_errno(err, "mount the volumes' share '%s'", tag);
	return 0;
}

/* The files are root's as the containers see it, who may write them where the root may. */
static int give_files(const Bulkhead__Agent__ConfigureSandboxRequest *request, struct err *err)
{
	static const char *const files[] = {
		CONTAINER_RESOLV_CONF, CONTAINER_HOSTS, CONTAINER_HOSTNAME};
	const Bulkhead__Agent__UserNamespace *ns = request->user_namespace;
	for (size_t i = 0; ns && i < ARRAY_SIZE(files); i++)
		if (chown(files[i], ns->uid, ns->gid) < 0 && errno != ENOENT)
			return err_errno(err, "set the owner of %s", files[i]);
	return 0;
}

int machine_configure(const Bulkhead__Agent__ConfigureSandboxRequest *request, struct err *err)
{
	int r = netconf_interfaces(request, err);
	if (r == 0)
		r = netconf_names(request, CONTAINER_FILES, err);
	if (r == 0)
		r = give_files(request, err);
	if (r == 0)
		r = netconf_sysctls(request, err);
	if (r == 0)
		r = mount_scratch(err);
	if (r == 0)
		r = mount_share(request->share_tag, err);
	return r;
}

int machine_sync(void *arg, struct err *err)
{
	(void)arg;
	(void)err;
	sync();
	return 0;
}

void machine_power_off(void)
{
	reboot(RB_POWER_OFF);
	/* Only without ACPI: halted at least, the host then ends the machine. */
	for (;;)
		pause();
}
