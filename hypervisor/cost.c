/*
 * What a machine costs the host: QEMU and its helpers, as the host's /proc counts them.
 */
#include <errno.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/internal.h"

/* smaps_rollup's lines end in kB. */
static uint64_t rollup_bytes(const char *text, const char *key)
{
	const char *line = strstr(text, key);

	return line ? strtoull(line + strlen(key), NULL, 10) * 1024 : 0;
}

/* The n-th field of /proc/<pid>/stat, of those after the name, which may hold anything. */
static uint64_t stat_field(const char *stat, int n)
{
	const char *p = strrchr(stat, ')');

	for (int field = 2; p && field < n; field++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p, NULL, 10) : 0;
}

/* start: the process's start time, 0: not known. False: it is not this process, and counts nothing.
 */
static bool add_process(int pid, uint64_t start, struct hv_cost *cost)
{
	_cleanup_free_ char *stat = NULL, *rollup = NULL;
	uint64_t ticks_per_second = (uint64_t)sysconf(_SC_CLK_TCK);
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (fd_read_file(path, 4096, &stat, NULL, NULL) < 0)
		return false;
	if (start && stat_field(stat, 22) != start)
		return false;
	cost->processes++;
	cost->cpu_ns += (stat_field(stat, 14) + stat_field(stat, 15)) *
			(UINT64_C(1000000000) / ticks_per_second);
	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
	if (fd_read_file(path, 4096, &rollup, NULL, NULL) < 0)
		return true;
	cost->pss_bytes += rollup_bytes(rollup, "\nPss:");
	cost->rss_bytes += rollup_bytes(rollup, "\nRss:");
	return true;
}

/* It is virtiofsd's child that serves. */
static void add_children(int pid, struct hv_cost *cost)
{
	_cleanup_free_ char *text = NULL;
	char path[64], *rest = NULL;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	if (fd_read_file(path, 4096, &text, NULL, NULL) < 0)
		return;
	for (char *p = strtok_r(text, " ", &rest); p; p = strtok_r(NULL, " ", &rest))
		add_process(atoi(p), 0, cost);
}

static void add_helpers(const char *dir, struct hv_cost *cost)
{
	_cleanup_free_ char *pattern = str_printf("%s/*.pid", dir);
	glob_t found;

	if (!pattern || glob(pattern, GLOB_NOSORT, NULL, &found) != 0)
		return;
	for (size_t i = 0; i < found.gl_pathc; i++) {
		_cleanup_free_ char *text = NULL;
		uint64_t start;
		int pid;

		if (fd_read_file(found.gl_pathv[i], 64, &text, NULL, NULL) == 0 &&
			sscanf(text, "%d %" SCNu64, &pid, &start) == 2 && pid > 1 &&
			add_process(pid, start, cost))
			add_children(pid, cost);
	}
	globfree(&found);
}

int hv_vm_cost(struct hv *hv, const char *id, struct hv_cost *ret, struct err *err)
{
	_cleanup_free_ char *dir = NULL;
	_cleanup_close_ int pidfd = -EBADF;
	int pid = 0, r = hv_check_id(id, err);

	if (r < 0)
		return r;
	dir = hv_vm_dir(hv, id);
	if (!dir)
		return err_nomem(err);
	*ret = (struct hv_cost){0};
	pidfd = hv_open_qemu(hv, id, &pid);
	if (pidfd >= 0)
		add_process(pid, 0, ret);
	add_helpers(dir, ret);
	return 0;
}
