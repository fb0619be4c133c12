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

#include "common/err.h"

struct helper {
	const char *dir;
	const char *name;
	const char *const *argv; /* NULL-terminated; argv[0] is a path */
};

/*
 * Starts it and waits, at most five seconds, for "ready\n" on its stdout. On failure it has been
 * ended, and the message quotes its log. Blocks; any thread.
 */
int helper_start(const struct helper *helper, struct err *err);

/* Ends it if it runs, with SIGKILL, and waits for it. Never started, or ended by itself, is
 * success. */
int helper_end(const char *dir, const char *name, struct err *err);
