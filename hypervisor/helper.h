/*
 * Helper processes of a machine: small programs of ours that outlive this process.
 *
 *	helper_start() → running → (ends by itself with its machine, or helper_end()) → gone
 *
 * A helper runs in a session of its own with /dev/null as its input and <dir>/<name>.log, which
 * RLIMIT_FSIZE bounds, as its stderr. <dir>/<name>.pid names it by process id and start time, so
 * that a process which got the same id later is never taken for it. The file is written before the
 * program runs: no crash of ours leaves a helper that helper_end() cannot find.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "common/err.h"
#include "hypervisor/cgroup.h"

struct helper {
	const char *dir;
	const char *name;
	const char *const *argv;          /* NULL-terminated; argv[0] is a path */
	const struct cgroup_place *place; /* where it and its children run; NULL: where we do */
	/*
	 * A program that is not ours: it says no "ready", and its files may have any size. Its
	 * descriptor 3 is a copy of fd. What it writes to stderr, 64 KiB at most, is read from
	 * *ret_log, from offset 0 on, by whoever holds that; there is no log file.
	 */
	bool foreign;
	int fd;
	int *ret_log;
};

/*
 * Starts it and, where it is ours, waits, at most 30 seconds, for "ready\n" on its stdout. On
 * failure it has been ended, and the message quotes its log. Blocks; any thread.
 */
int helper_start(const struct helper *helper, struct err *err);

/* Ends it if it runs, with SIGKILL, and waits for it. Never started, or ended by itself, is
 * success. */
int helper_end(const char *dir, const char *name, struct err *err);

/* Ends a process likewise, and waits for it, at most ten seconds. `what`: for the message. */
int helper_kill(int pidfd, const char *what, struct err *err);

/* The process that runs: its id, and a pidfd, by which that id stays its own. -ESRCH when there is
 * none.
 */
int helper_find(const char *dir, const char *name, pid_t *ret_pid, int *ret_pidfd, struct err *err);
