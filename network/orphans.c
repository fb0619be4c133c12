#include "network/orphans.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"
#include "common/proc.h"

#define VARIABLE          "CNI_CONTAINERID="
#define ORPHANS_MAX       1024
#define ENVIRON_BYTES_MAX (1 << 20)

/* The pod's id in a process's environment; the caller frees. NULL: none. */
static char *read_id(pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	char path[32];
	size_t len = 0;
	uid_t user;

	snprintf(path, sizeof(path), "/proc/%d/environ", pid);
	/* Another user cannot make us wait. */
	if (proc_user(pid, &user) < 0 || user != geteuid() ||
		fd_read_file(path, ENVIRON_BYTES_MAX, &text, &len, NULL) < 0)
		return NULL;
	for (const char *p = text; p < text + len; p += strlen(p) + 1)
		if (strncmp(p, VARIABLE, strlen(VARIABLE)) == 0)
			return strdup(p + strlen(VARIABLE));
	return NULL;
}

static void add(struct orphans *orphans, pid_t pid)
{
	_cleanup_close_ int pidfd = pidfd_open(pid, 0);
	_cleanup_free_ char *id = pidfd < 0 ? NULL : read_id(pid);

	if (id)
		orphans->items[orphans->n++] =
			(struct orphan){.id = TAKE_PTR(id), .pidfd = TAKE_FD(pidfd)};
}

void orphans_find(struct orphans *ret)
{
	DIR *proc = opendir("/proc");
	const struct dirent *entry;

	*ret = (struct orphans){.items = calloc(ORPHANS_MAX, sizeof(*ret->items))};
	while (proc && ret->items && ret->n < ORPHANS_MAX && (entry = readdir(proc))) {
		pid_t pid = atoi(entry->d_name);
		if (pid > 1 && pid != getpid())
			add(ret, pid);
	}
	if (proc)
		closedir(proc);
}

void orphans_done(struct orphans *orphans)
{
	for (size_t i = 0; i < orphans->n; i++) {
		free(orphans->items[i].id);
		fd_close(orphans->items[i].pidfd);
	}
	free(orphans->items);
}

void orphans_await(const struct orphans *orphans, const char *id, uint64_t timeout_ms)
{
	uint64_t deadline = ev_now_ms() + (timeout_ms < INT_MAX ? timeout_ms : INT_MAX);

	for (size_t i = 0; i < orphans->n; i++) {
		const struct orphan *orphan = &orphans->items[i];
		struct pollfd pollfd = {.fd = orphan->pidfd, .events = POLLIN};
		uint64_t now = ev_now_ms();

		if (strcmp(orphan->id, id) != 0)
			continue;
		if (poll(&pollfd, 1, now < deadline ? (int)(deadline - now) : 0) != 1)
			pidfd_send_signal(orphan->pidfd, SIGKILL, NULL, 0);
	}
}
