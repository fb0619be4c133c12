#include "agent/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"

/* More than the containers and execs that the server admits, with their helpers. */
#define WATCHES_MAX 4096
#define CHILD_FDS   1024 /* the soft limit that programs expect */

struct watch {
	pid_t pid;
	reaper_fn fn;
	void *userdata;
};

struct reaper {
	struct ev_source *signal;
	struct watch *watches; /* unordered */
	size_t n_watches;
	size_t cap;
};

static bool reaper_take(struct reaper *reaper, pid_t pid, struct watch *ret)
{
	for (size_t i = 0; i < reaper->n_watches; i++) {
		if (reaper->watches[i].pid != pid)
			continue;
		*ret = reaper->watches[i];
		reaper->watches[i] = reaper->watches[--reaper->n_watches];
		return true;
	}
	return false;
}

/* SIGCHLD does not queue, so one signal may stand for many children. */
static void reaper_on_signal(void *userdata, const struct signalfd_siginfo *info)
{
	struct reaper *reaper = userdata;
	(void)info;
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);
		if (pid <= 0)
			return;
		struct watch watch;
		if (reaper_take(reaper, pid, &watch))
			watch.fn(watch.userdata, pid, status);
	}
}

int reaper_new(struct ev_loop *loop, struct reaper **ret, struct err *err)
{
	struct reaper *reaper = calloc(1, sizeof(*reaper));
	if (!reaper)
		return err_nomem(err);
	int r = ev_signal_new(loop, SIGCHLD, reaper_on_signal, reaper, &reaper->signal, err);
	if (r < 0) {
		free(reaper);
		return r;
	}
	*ret = reaper;
	return 0;
}

struct reaper *reaper_free(struct reaper *reaper)
{
	if (!reaper)
		return NULL;
	ev_source_free(reaper->signal);
	free(reaper->watches);
	free(reaper);
	return NULL;
}

int reaper_watch(struct reaper *reaper, pid_t pid, reaper_fn fn, void *userdata, struct err *err)
{
	if (reaper->n_watches == reaper->cap) {
		if (reaper->cap >= WATCHES_MAX)
			return err_set(err, -EAGAIN, "more than %d child processes", WATCHES_MAX);
		size_t cap = reaper->cap ? reaper->cap * 2 : 16;
		struct watch *watches = realloc(reaper->watches, cap * sizeof(*watches));
		if (!watches)
			return err_nomem(err);
		reaper->watches = watches;
		reaper->cap = cap;
	}
	reaper->watches[reaper->n_watches++] =
		(struct watch){.pid = pid, .fn = fn, .userdata = userdata};
	return 0;
}

void reaper_forget(struct reaper *reaper, pid_t pid)
{
	struct watch ignored;
	reaper_take(reaper, pid, &ignored);
}

/* Closes the gaps between the descriptors to keep, lowest first. */
static void close_others(const int *keep, unsigned n)
{
	unsigned first = STDERR_FILENO + 1;
	for (;;) {
		int next = -1;
		for (unsigned i = 0; i < n; i++)
			if (keep[i] >= (int)first && (next < 0 || keep[i] < next))
				next = keep[i];
		if (next < 0) {
			close_range(first, ~0U, 0);
			return;
		}
		if (next > (int)first)
			close_range(first, (unsigned)next - 1, 0);
		first = (unsigned)next + 1;
	}
}

/* Programs that are given more by default go through all of them, or keep a table for each. */
static void limit_descriptors(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur <= CHILD_FDS)
		return;
	limit.rlim_cur = CHILD_FDS;
	setrlimit(RLIMIT_NOFILE, &limit);
}

void process_child_begin(const int *keep, unsigned n)
{
	close_others(keep, n);
	limit_descriptors();
	struct sigaction action = {.sa_handler = SIG_DFL};
	for (int signo = 1; signo < NSIG; signo++)
		if (signo != SIGKILL && signo != SIGSTOP)
			sigaction(signo, &action, NULL);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

void process_error_send(int fd, const struct err *err)
{
	/* Smaller than PIPE_BUF, so it arrives whole or not at all. */
	_Static_assert(sizeof(*err) <= PIPE_BUF, "struct err must fit an atomic pipe write");
	fd_write_all(fd, err, sizeof(*err), NULL);
}

int process_error_receive(int fd, struct err *err)
{
	struct err received;
	ssize_t n = read(fd, &received, sizeof(received));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	if (n < 0)
		return err_errno(err, "read a child's error");
	if (n == 0)
		return 0;
	if ((size_t)n != sizeof(received) || received.code >= 0)
		return err_set(err, -EIO, "a child's error was cut short");
	received.msg[sizeof(received.msg) - 1] = '\0';
	return err_set(err, received.code, "%s", received.msg);
}

/* Done when the child is reaped: by then whatever it had to say is in the pipe. */
struct job {
	job_done_fn done;
	void *userdata;
	int pipe;
	char name[32];
};

static void job_on_exit(void *userdata, pid_t pid, int status)
{
	struct job *job = userdata;
	struct err err = ERR_INIT;
	(void)pid;
	int r = process_error_receive(job->pipe, &err);
	if ((r == 0 || r == -EAGAIN) && status != 0)
		err_set(&err, -EIO, "the agent's helper was ended by signal %d (exit code %d)",
			WIFSIGNALED(status) ? WTERMSIG(status) : 0,
			WIFEXITED(status) ? WEXITSTATUS(status) : -1);
	if (err.code < 0)
		err_wrap(&err, "%s", job->name);
	job->done(job->userdata, &err);
	fd_close(job->pipe);
	free(job);
}

_Noreturn static void job_child(int pipe, job_fn fn, void *arg)
{
	struct err err = ERR_INIT;
	process_child_begin(&pipe, 1);
	if (fn(arg, &err) < 0)
		process_error_send(pipe, &err);
	_exit(0);
}

int job_start(struct reaper *reaper, const char *name, job_fn fn, void *arg, job_done_fn done,
	void *userdata, struct err *err)
{
	_cleanup_free_ struct job *job = calloc(1, sizeof(*job));
	if (!job)
		return err_nomem(err);
	int fds[2];
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_errno(err, "%s: pipe", name);
	_cleanup_close_ int reader = fds[0];
	_cleanup_close_ int writer = fds[1];
	pid_t pid = fork();
	if (pid < 0)
		return err_errno(err, "%s: fork", name);
	if (pid == 0)
		job_child(writer, fn, arg);
	*job = (struct job){.done = done, .userdata = userdata, .pipe = reader};
	snprintf(job->name, sizeof(job->name), "%s", name);
	int r = reaper_watch(reaper, pid, job_on_exit, job, err);
	if (r < 0) {
		kill(pid, SIGKILL);
		return r;
	}
	TAKE_FD(reader);
	TAKE_PTR(job);
	return 0;
}
