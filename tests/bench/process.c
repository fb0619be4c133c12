#include "tests/bench/process.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"

#define COMMAND_LINE_MAX (64u << 10)
#define SMAPS_MAX        (64u << 10)

static void dir_closep(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

int process_command_line(pid_t pid, char **ret, size_t *ret_len, struct err *err)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	return fd_read_file(path, COMMAND_LINE_MAX, ret, ret_len, err);
}

int process_find(const char *id, pid_t pids[PROCESSES_MAX], struct err *err)
{
	_cleanup_(dir_closep) DIR *dir = opendir("/proc");
	const struct dirent *entry;
	int n = 0;
	if (!dir)
		return err_errno(err, "open /proc");
	while ((entry = readdir(dir))) {
		_cleanup_free_ char *line = NULL;
		pid_t pid = atoi(entry->d_name);
		size_t len;
		if (pid <= 0 || pid == getpid() || process_command_line(pid, &line, &len, NULL) < 0)
			continue;
		if (!memmem(line, len, id, strlen(id)))
			continue;
		if (n == PROCESSES_MAX)
			return err_set(err, -ENOBUFS, "machine %s has more than %d processes", id,
				PROCESSES_MAX);
		pids[n++] = pid;
	}
	return n;
}

int process_memory_mib(pid_t pid, const char *field, double *ret, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	char path[48], line[32];
	unsigned long kib;
	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
	snprintf(line, sizeof(line), "\n%s:", field);
	int r = fd_read_file(path, SMAPS_MAX, &text, NULL, err);
	if (r < 0)
		return r;
	const char *at = strstr(text, line);
	if (!at || sscanf(at + strlen(line), "%lu kB", &kib) != 1)
		return err_set(err, -ESRCH, "%s has no %s: has the process ended?", path, field);
	*ret = (double)kib / 1024;
	return 0;
}

static pid_t parent_of(pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	char path[32];
	int parent = 0;
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (fd_read_file(path, SMAPS_MAX, &text, NULL, NULL) < 0)
		return 0;
	const char *end = strrchr(text, ')'); /* a name may hold anything */
	return end && sscanf(end, ") %*c %d", &parent) == 1 ? parent : 0;
}

static bool descends(pid_t pid, pid_t root)
{
	for (int depth = 0; pid > 1 && depth < PROCESSES_MAX; depth++) {
		if (pid == root)
			return true;
		pid = parent_of(pid);
	}
	return false;
}

double process_tree_memory_mib(pid_t root)
{
	_cleanup_(dir_closep) DIR *dir = opendir("/proc");
	const struct dirent *entry;
	double sum = 0, mib;
	while (dir && (entry = readdir(dir))) {
		pid_t pid = atoi(entry->d_name);
		if (pid > 0 && descends(pid, root) &&
			process_memory_mib(pid, "Pss", &mib, NULL) == 0)
			sum += mib;
	}
	return sum;
}

/* Every so manyth of the CPUs that this process has. */
static int share_of_cpus(size_t share, size_t shares, cpu_set_t *ret, struct err *err)
{
	cpu_set_t ours;
	size_t n = 0;
	CPU_ZERO(ret);
	if (sched_getaffinity(0, sizeof(ours), &ours) < 0)
		return err_errno(err, "sched_getaffinity");
	if ((size_t)CPU_COUNT(&ours) < shares) {
		*ret = ours;
		return 0;
	}
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &ours) && n++ % shares == share)
			CPU_SET(cpu, ret);
	return 0;
}

int process_pin(pid_t pid, size_t share, size_t shares, struct err *err)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	_cleanup_(dir_closep) DIR *dir = opendir(path);
	const struct dirent *entry;
	cpu_set_t cpus;
	int r = share_of_cpus(share, shares, &cpus, err);
	while (r == 0 && dir && (entry = readdir(dir))) {
		pid_t thread = atoi(entry->d_name);
		if (thread > 0 && sched_setaffinity(thread, sizeof(cpus), &cpus) < 0 &&
			errno != ESRCH)
			r = err_errno(err, "sched_setaffinity of thread %d", thread);
	}
	return r;
}
