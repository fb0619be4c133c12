#include "agent/usage_process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"

#define PROCESSES_MAX   256
#define DESCRIPTORS_MAX 4096

static DIR *open_directory(int parent, const char *name)
{
	_cleanup_close_ int fd =
		openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (dir)
		(void)TAKE_FD(fd);
	return dir;
}

static void count_descriptors(int pid, struct usage_processes *sum)
{
	char path[32], target[16];
	const struct dirent *entry;
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	DIR *dir = open_directory(AT_FDCWD, path);
	while (dir && sum->descriptors < DESCRIPTORS_MAX && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		sum->descriptors++;
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target));
		sum->sockets += n > 7 && strncmp(target, "socket:", 7) == 0;
	}
	if (dir)
		closedir(dir);
}

static void count_group(int cgroup, struct usage_processes *sum)
{
	_cleanup_close_ int fd = openat(cgroup, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
	int pid;
	if (!file)
		return;
	(void)TAKE_FD(fd);
	while (fscanf(file, "%d", &pid) == 1) {
		if (sum->processes++ < PROCESSES_MAX)
			count_descriptors(pid, sum);
	}
	fclose(file);
}

void usage_processes(int cgroup, struct usage_processes *ret)
{
	const struct dirent *entry;
	*ret = (struct usage_processes){0};
	count_group(cgroup, ret);
	DIR *dir = open_directory(cgroup, ".");
	while (dir && (entry = readdir(dir))) {
		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		_cleanup_close_ int child = openat(
			dirfd(dir), entry->d_name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (child >= 0)
			count_group(child, ret);
	}
	if (dir)
		closedir(dir);
}
