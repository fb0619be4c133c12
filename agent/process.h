/*
 * Child processes of the agent: who is told when one ends, and work that may block.
 *
 * The agent is PID 1, so it inherits every orphan of the guest. The reaper takes SIGCHLD from the
 * loop, reaps whatever ended, and tells those who watch a pid. Because it reaps from the loop only,
 * a pid that was forked in a callback can be watched until that callback returns.
 *
 * The agent must never block. Whatever may (waiting for a disk, mounting, removing a tree) is a
 * job: a function that runs in a forked child, in the agent's own namespaces, and reports an error
 * over a pipe.
 *
 * Threads: the loop's alone.
 */
#pragma once

#include <sys/types.h>

#include "common/err.h"
#include "common/loop.h"

struct reaper;

/* pid ended with `status` as waitpid(2) gives it; it is not watched any more. */
typedef void (*reaper_fn)(void *userdata, pid_t pid, int status);

int reaper_new(struct ev_loop *loop, struct reaper **ret, struct err *err);
struct reaper *reaper_free(struct reaper *reaper);

/* One watcher per pid. -ENOMEM. */
int reaper_watch(struct reaper *reaper, pid_t pid, reaper_fn fn, void *userdata, struct err *err);
/* The pid is still reaped, nobody is told. One that is not watched is fine. */
void reaper_forget(struct reaper *reaper, pid_t pid);

/*
 * What every forked child of ours does first: default signal dispositions, an empty signal mask,
 * and all descriptors from 3 up closed but the n in `keep`. Without that a child that has not
 * called exec would hold other processes' pipes open, and they would never see end of file.
 */
void process_child_begin(const int *keep, unsigned n);

/* A child that failed sends its error to the agent over a pipe; end of file without one is success.
 */
void process_error_send(int fd, const struct err *err);
/*
 * Reads what process_error_send() wrote. 0: end of file, no error; -EAGAIN: nothing yet (fd is
 * non-blocking); else the child's error.
 */
int process_error_receive(int fd, struct err *err);

/* In the child: may block; returns 0 or -errno with err. */
typedef int (*job_fn)(void *arg, struct err *err);
/* In the agent: err->code is 0 when the job succeeded. Called once, never from within job_start().
 */
typedef void (*job_done_fn)(void *userdata, const struct err *err);

/*
 * Runs fn(arg) in a child. arg is read after the fork and need not live on. `name` is for messages.
 * On failure done is not called.
 */
int job_start(struct reaper *reaper, const char *name, job_fn fn, void *arg, job_done_fn done,
	void *userdata, struct err *err);
