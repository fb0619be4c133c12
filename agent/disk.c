#include "agent/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define POLL_NS 2000000 /* a hot-attached disk takes about 10 ms */

static void closedirp(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

/*
 * The kernel shows the entry in sysfs first, makes the node later, and lets it be opened last:
 * until then that fails with ENXIO.
 */
static bool can_open(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

/* The only entry of the disk's block/ directory is the block device's name. */
static int disk_find(unsigned target, char path[static DISK_PATH_MAX])
{
	char directory[64];
	snprintf(directory, sizeof(directory), "/sys/bus/scsi/devices/0:0:%u:0/block", target);
	__attribute__((cleanup(closedirp))) DIR *dir = opendir(directory);
	if (!dir)
		return -ENOENT;
	struct dirent *entry;
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.') {
			int n = snprintf(path, DISK_PATH_MAX, "/dev/%s", entry->d_name);
			return n < DISK_PATH_MAX && can_open(path) ? 0 : -ENOENT;
		}
	return -ENOENT;
}

int disk_wait(
	unsigned target, unsigned timeout_ms, char ret_path[static DISK_PATH_MAX], struct err *err)
{
	struct timespec start, now;
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (;;) {
		if (disk_find(target, ret_path) == 0)
			return 0;
		clock_gettime(CLOCK_MONOTONIC, &now);
		if ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 >=
			(long)timeout_ms)
			return err_set(err, -ETIMEDOUT,
				"SCSI target %u did not become a disk within %u ms", target,
				timeout_ms);
		nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
	}
}
