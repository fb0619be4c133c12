#include "agent/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cpu_weight.h"
#include "common/fd.h"

/* A container may nest cgroups if it is privileged; deeper ones than this are its own problem. */
#define DEPTH_MAX 32
/* Largest file that is read whole: cgroup.controllers, cgroup.events, memory.events. */
#define FILE_MAX_BYTES 1024

static int write_file(int cgroup, const char *name, const char *value, struct err *err)
{
	_cleanup_close_ int fd = openat(cgroup, name, O_WRONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return err_set(err, -EOPNOTSUPP, "the kernel has no %s", name);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		return err_errno(err, "write '%s' to %s", value, name);
	return 0;
}

/* Empty when it cannot be read. */
static void read_open_file(int fd, char out[static FILE_MAX_BYTES])
{
	ssize_t n = pread(fd, out, FILE_MAX_BYTES - 1, 0);
	out[n > 0 ? n : 0] = '\0';
}

/* The number after "<key> " at the start of a line; 0 when there is none. */
static uint64_t keyed_value(const char *text, const char *key)
{
	size_t len = strlen(key);
	for (const char *line = text; *line;) {
		if (strncmp(line, key, len) == 0 && line[len] == ' ')
			return strtoull(line + len + 1, NULL, 10);
		line += strcspn(line, "\n");
		line += *line == '\n';
	}
	return 0;
}

/* Enables what there is for the children of the directory. */
static int enable_controllers(const char *path, struct err *err)
{
	static const char *const wanted[] = {"cpuset", "cpu", "io", "memory", "hugetlb", "pids"};
	_cleanup_close_ int dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_errno(err, "open %s", path);
	_cleanup_close_ int fd = openat(dir, "cgroup.controllers", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, "open %s/cgroup.controllers", path);
	char present[FILE_MAX_BYTES];
	read_open_file(fd, present);
	char *rest = NULL;
	for (char *c = strtok_r(present, " \n", &rest); c; c = strtok_r(NULL, " \n", &rest)) {
		for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
			char value[32];
			snprintf(value, sizeof(value), "+%s", wanted[i]);
			if (strcmp(c, wanted[i]) == 0 &&
				write_file(dir, "cgroup.subtree_control", value, err) < 0)
				return err_wrap(err, "%s", path);
		}
	}
	return 0;
}

int cgroup_setup(struct err *err)
{
	if (enable_controllers(CGROUP_MOUNT, err) < 0)
		return err->code;
	if (mkdir(CGROUP_PARENT, 0755) < 0 && errno != EEXIST)
		return err_errno(err, "make %s", CGROUP_PARENT);
	return enable_controllers(CGROUP_PARENT, err);
}

/*
 * The guest has no pool of huge pages: they are made of ordinary memory as they are asked for. They
 * are not in a container's account of memory, so one has none unless its limits say so.
 */
static void forbid_hugepages(int cgroup)
{
	static const char *const files[] = {"hugetlb.2MB.max", "hugetlb.1GB.max"};
	/* An exec's cgroup has no such files. */
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		write_file(cgroup, files[i], "0", NULL);
}

int cgroup_open(const char *name, int *ret_fd, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/%s", CGROUP_PARENT, name);
	if (!path)
		return err_nomem(err);
	int fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, "open cgroup %s", name);
	*ret_fd = fd;
	return 0;
}

int cgroup_make(const char *name, int *ret_fd, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/%s", CGROUP_PARENT, name);
	if (!path)
		return err_nomem(err);
	if (mkdir(path, 0755) < 0)
		return err_errno(err, "make cgroup %s", name);
	int r = cgroup_open(name, ret_fd, err);
	if (r < 0)
		rmdir(path);
	else
		forbid_hugepages(*ret_fd);
	return r;
}

typedef int (*child_fn)(int parent, const char *name, int depth);

/* Calls fn for each cgroup below, until one answers other than 0, which is returned. */
static int each_child(int cgroup, int depth, child_fn fn)
{
	_cleanup_close_ int fd = openat(cgroup, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir)
		return errno == ENODEV ? 0 : -errno;
	(void)TAKE_FD(fd);
	int r = 0;
	struct dirent *entry;
	while (r == 0 && (entry = readdir(dir))) {
		if (entry->d_type == DT_DIR && strcmp(entry->d_name, ".") != 0 &&
			strcmp(entry->d_name, "..") != 0)
			r = fn(dirfd(dir), entry->d_name, depth);
	}
	closedir(dir);
	return r;
}

static int remove_tree(int parent, const char *name, int depth)
{
	if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	if (errno != EBUSY || depth == DEPTH_MAX)
		return -errno;
	_cleanup_close_ int cgroup =
		openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (cgroup < 0)
		return errno == ENOENT ? 0 : -errno;
	int r = each_child(cgroup, depth + 1, remove_tree);
	if (r < 0)
		return r;
	return unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : -errno;
}

int cgroup_remove(const char *name, struct err *err)
{
	_cleanup_close_ int parent = open(CGROUP_PARENT, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (parent < 0)
		return err_errno(err, "open %s", CGROUP_PARENT);
	int r = remove_tree(parent, name, 0);
	return r == 0 ? 0 : err_set(err, r, "remove cgroup %s: %s", name, strerror(-r));
}

static int remove_empty_exec(int parent, const char *name, int depth)
{
	(void)depth;
	/* EBUSY: what the exec'd process left behind still runs. */
	if (strncmp(name, "exec-", 5) == 0)
		unlinkat(parent, name, AT_REMOVEDIR);
	return 0;
}

void cgroup_sweep(int cgroup)
{
	each_child(cgroup, 0, remove_empty_exec);
}

static int write_number(int cgroup, const char *name, int64_t value, struct err *err)
{
	char text[24];
	snprintf(text, sizeof(text), "%lld", (long long)value);
	return write_file(cgroup, name, value < 0 ? "max" : text, err);
}

static int limit_cpu(int cgroup, const Bulkhead__Agent__Resources *r, struct err *err)
{
	char value[64], quota[24] = "max";
	if (r->cpu_shares && write_number(cgroup, "cpu.weight",
				     (int64_t)cpu_weight_of_shares(r->cpu_shares), err) < 0)
		return err->code;
	if (r->cpu_quota_us > 0)
		snprintf(quota, sizeof(quota), "%lld", (long long)r->cpu_quota_us);
	snprintf(value, sizeof(value), "%s %llu", quota,
		(unsigned long long)(r->cpu_period_us ? r->cpu_period_us : 100000));
	return r->cpu_quota_us ? write_file(cgroup, "cpu.max", value, err) : 0;
}

/*
 * Without a word of swap none of the limit may be evaded by swapping. A guest whose kernel has no
 * account of swap has none.
 */
static int limit_memory(int cgroup, const Bulkhead__Agent__Resources *r, struct err *err)
{
	if (!r->memory_bytes)
		return 0;
	int64_t swap = r->swap_bytes > r->memory_bytes ? r->swap_bytes - r->memory_bytes : 0;
	if (r->swap_bytes < 0 || r->memory_bytes < 0)
		swap = -1;
	if (write_number(cgroup, "memory.max", r->memory_bytes, err) < 0)
		return err->code;
	if (write_number(cgroup, "memory.swap.max", swap, err) < 0 && err->code != -EOPNOTSUPP)
		return err->code;
	return 0;
}

/* Lets huge pages of the size be made; how many is the cgroups' to bound. */
static int allow_hugepages(const char *size, struct err *err)
{
	const char *kib = strcmp(size, "1GB") == 0 ? "1048576" : "2048";
	_cleanup_free_ char *dir = str_printf("/sys/kernel/mm/hugepages/hugepages-%skB", kib);
	_cleanup_close_ int fd = dir ? open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC) : -ENOMEM;
	if (fd < 0)
		return err_set(err, -EOPNOTSUPP, "the machine has no huge pages of %s", size);
	return write_file(fd, "nr_overcommit_hugepages", "1000000", err);
}

static int limit_hugepages(int cgroup, const Bulkhead__Agent__Resources *r, struct err *err)
{
	for (size_t i = 0; i < r->n_hugepages; i++) {
		char name[48];
		const char *size = r->hugepages[i]->page_size;
		if (strchr(size, 0x2f) || strlen(size) > 8)
			return err_set(err, -EINVAL, "a huge page size of '%.16s'", size);
		snprintf(name, sizeof(name), "hugetlb.%s.max", size);
		if (write_number(cgroup, name, (int64_t)r->hugepages[i]->bytes, err) < 0 ||
			(r->hugepages[i]->bytes && allow_hugepages(size, err) < 0))
			return err->code;
	}
	return 0;
}

/* Files of controllers only: cgroup.* would move or freeze what the agent counts on. */
static int limit_unified(int cgroup, const Bulkhead__Agent__Resources *r, struct err *err)
{
	for (size_t i = 0; i < r->n_unified; i++) {
		const char *key = r->unified[i]->key;
		if (strchr(key, 0x2f) || !strchr(key, 0x2e) || strncmp(key, "cgroup.", 7) == 0)
			return err_set(
				err, -EINVAL, "unified: '%.64s' is no controller's file", key);
		if (write_file(cgroup, key, r->unified[i]->value, err) < 0)
			return err_wrap(err, "unified");
	}
	return 0;
}

int cgroup_limit(int cgroup, const Bulkhead__Agent__Resources *r, struct err *err)
{
	if (!r)
		return 0;
	if (limit_cpu(cgroup, r, err) < 0 || limit_memory(cgroup, r, err) < 0)
		return err->code;
	if (r->pids && write_number(cgroup, "pids.max", r->pids, err) < 0)
		return err->code;
	if (limit_hugepages(cgroup, r, err) < 0)
		return err->code;
	return limit_unified(cgroup, r, err);
}

int cgroup_kill(int cgroup, struct err *err)
{
	return write_file(cgroup, "cgroup.kill", "1", err);
}

static int signal_tree(int cgroup, int signo, int depth)
{
	if (depth == DEPTH_MAX)
		return 0;
	_cleanup_close_ int fd = openat(cgroup, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	FILE *procs = fd < 0 ? NULL : fdopen(fd, "r");
	if (procs) {
		(void)TAKE_FD(fd);
		int pid;
		/* 0: of a PID namespace that we do not see. */
		while (fscanf(procs, "%d", &pid) == 1) {
			if (pid > 0)
				kill(pid, signo);
		}
		fclose(procs);
	}
	int directory = openat(cgroup, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = directory < 0 ? NULL : fdopendir(directory);
	if (!dir) {
		fd_close(directory);
		return 0;
	}
	struct dirent *entry;
	while ((entry = readdir(dir))) {
		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		_cleanup_close_ int child = openat(
			dirfd(dir), entry->d_name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (child >= 0)
			signal_tree(child, signo, depth + 1);
	}
	closedir(dir);
	return 0;
}

int cgroup_signal(int cgroup, int signo, struct err *err)
{
	if (signo == SIGKILL)
		return cgroup_kill(cgroup, err);
	return signal_tree(cgroup, signo, 0);
}

int cgroup_events_open(int cgroup, int *ret_fd, struct err *err)
{
	int fd = openat(cgroup, "cgroup.events", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, "open cgroup.events");
	*ret_fd = fd;
	return 0;
}

bool cgroup_events_populated(int events)
{
	char text[FILE_MAX_BYTES];
	read_open_file(events, text);
	return keyed_value(text, "populated") != 0;
}

uint64_t cgroup_oom_kills(int cgroup)
{
	/* Without the memory controller there is no such file, and no such kill. */
	_cleanup_close_ int fd = openat(cgroup, "memory.events", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	char text[FILE_MAX_BYTES];
	read_open_file(fd, text);
	return keyed_value(text, "oom_kill");
}
