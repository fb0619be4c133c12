/*
 * Runs a child process to its end, with bounds on everything: time, output, and what it inherits.
 *
 * The child gets a process group of its own, only descriptors 0, 1 and 2, default signal
 * dispositions, an empty signal mask, and is killed when we die (PR_SET_PDEATHSIG, which the kernel
 * ties to the calling thread, not to the process: that thread is inside spawn_run() as long as the
 * child lives). At the deadline, on cancellation, and when its output exceeds the bound, the whole
 * group is killed; so is what is left of the group when the child itself has ended. A descendant
 * that holds the pipes delays the return by 200 ms at most. Blocks the calling thread; any thread
 * may call. Nobody else may reap children with a wait for any.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

struct spawn_options {
	const char *const *argv; /* NULL-terminated; argv[0] is looked up in our PATH */
	const char *const *env;  /* NULL-terminated; NULL inherits ours */
	const char *stdin_data;  /* NULL gives /dev/null */
	size_t stdin_len;
	uint64_t timeout_ms; /* 0: none */
	int cancel_fd;       /* becomes readable to cancel; 0 or negative: none */
	int netns_fd;        /* enter this network namespace first; 0 or negative: stay */
	bool outlives_us;    /* goes on when we die: half of what it does is worse than all of it */
	/* Progress, in the calling thread, without the newline, lines of at most 4095 bytes; may be
	 * NULL. */
	void (*on_stderr_line)(void *userdata, const char *line);
	void *userdata;
};

struct spawn_result {
	int exit_code;       /* 0…255, or 128 + signal */
	struct buf out;      /* set its max before the call */
	struct buf err_tail; /* the last bytes of stderr, at most its max; for messages */
};

#define SPAWN_RESULT_INIT(out_max)                                                                 \
	{                                                                                          \
		.out = {.max = (out_max)}, .err_tail = {.max = 4096 }                              \
	}

/*
 * 0 when the child ran and ended, whatever its exit code. -ENOENT: no such program; -ETIMEDOUT;
 * -ECANCELED; -ENOBUFS: too much output; others from the system.
 */
int spawn_run(const struct spawn_options *options, struct spawn_result *result, struct err *err);

/*
 * As spawn_run(), but an exit code other than 0 is an error too: -EIO with argv[0], the code and
 * the end of stderr in the message.
 */
int spawn_check(const struct spawn_options *options, struct spawn_result *result, struct err *err);

void spawn_result_done(struct spawn_result *result);
