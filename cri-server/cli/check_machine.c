/* The machine itself: privileges, acceleration, guest transport, memory, disk. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/cli/check.h"
#include "cri-server/cli/output.h"
#include "hypervisor/vm.h"

/* Below these, one pod of the default size and its image are a tight fit. */
#define MEMORY_MIN_BYTES ((uint64_t)512 << 20)
#define DISK_MIN_BYTES   ((uint64_t)2 << 30)
#define CGROUP2_MAGIC    0x63677270

static void check_kvm(struct check *check)
{
	char reason[256] = "";
	static const char remedy[] =
		"switch on virtualization in the firmware (or nested virtualization on the host)";
	if (access("/dev/kvm", F_OK) != 0)
		check_report(check, FINDING_WARN, "kvm", remedy,
			"no /dev/kvm: QEMU emulates, some ten times slower");
	else if (hv_probe_kvm(reason, sizeof(reason)) == 0)
		check_report(check, FINDING_OK, "kvm", NULL, "a test machine ran");
	else
		check_report(check, FINDING_WARN, "kvm", remedy,
			"/dev/kvm exists but does not work (%s): QEMU emulates, some ten times "
			"slower",
			reason);
}

static void check_vsock(struct check *check)
{
	_cleanup_close_ int fd = open("/dev/vhost-vsock", O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		check_report(check, FINDING_OK, "vhost-vsock", NULL, "the kernel's");
	else
		check_report(check, FINDING_OK, "vhost-vsock", NULL,
			"/dev/vhost-vsock: %s; bulkhead's own device serves instead",
			strerror(errno));
}

static void check_memory(struct check *check)
{
	char size[16];
	unsigned long long kib = 0;
	_cleanup_free_ char *info = NULL;
	if (fd_read_file("/proc/meminfo", 65536, &info, NULL, NULL) == 0) {
		const char *line = strstr(info, "MemAvailable:");
		if (line)
			kib = strtoull(line + 13, NULL, 10);
	}
	output_size(size, sizeof(size), kib * 1024);
	check_report(check, kib * 1024 < MEMORY_MIN_BYTES ? FINDING_WARN : FINDING_OK, "memory",
		"give the host more memory", "%s available", size);
}

/* The file system of path, or where path would be made. */
static int stat_fs(const char *path, struct statvfs *fs)
{
	_cleanup_free_ char *p = strdup(path);
	if (!p)
		return -ENOMEM;
	while (statvfs(p, fs) < 0) {
		char *slash = strrchr(p, '/');
		if (errno != ENOENT || !slash)
			return -errno;
		slash[slash == p] = '\0';
	}
	return 0;
}

static void check_disk(struct check *check)
{
	const char *dir = check->config->state_dir;
	struct statvfs fs;
	int r = stat_fs(dir, &fs);
	if (r < 0) {
		check_report(check, FINDING_MISSING, "disk", NULL, "%s: %s", dir, strerror(-r));
		return;
	}
	char size[16];
	uint64_t bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	output_size(size, sizeof(size), bytes);
	check_report(check, bytes < DISK_MIN_BYTES ? FINDING_WARN : FINDING_OK, "disk",
		"make room there, or choose another state_dir", "%s free for %s", size, dir);
}

static void check_cgroups(struct check *check)
{
	struct statfs fs;
	if (statfs("/sys/fs/cgroup", &fs) < 0)
		check_report(check, FINDING_WARN, "cgroups", "mount cgroup2 on /sys/fs/cgroup",
			"/sys/fs/cgroup: %s", strerror(errno));
	else if (fs.f_type == CGROUP2_MAGIC)
		check_report(check, FINDING_OK, "cgroups", NULL, "version 2");
	else
		check_report(check, FINDING_OK, "cgroups", NULL,
			"version 1 or hybrid on the host; containers have version 2 in their VM");
}

void check_machine(struct check *check)
{
	if (geteuid() == 0)
		check_report(check, FINDING_OK, "root", NULL, "yes");
	else
		check_report(check, FINDING_MISSING, "root", "sudo bulkheadctl check",
			"no: bulkheadd needs it, and some checks below do");
	check_kvm(check);
	check_vsock(check);
	check_memory(check);
	check_disk(check);
	check_cgroups(check);
}
