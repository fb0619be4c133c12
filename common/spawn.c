#include "common/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"

/*
 * A run is one poll() loop over the child's pidfd, its two pipes, the pipe by which it reports a
 * failed exec, and the caller's cancel_fd. The leader is left a zombie until its group has been
 * killed: so long its id, which is the group's, cannot be given to anybody else.
 */
#define LINE_BYTES      4096
#define CHUNK_BYTES     16384
#define CHUNKS_PER_TURN 16
#define DRAIN_MS        200 /* for descendants that hold the pipes when the leader has ended */

/* How the child says over `status` that it did not come as far as the program. */
struct child_failure {
	int code;
	char step[28];
};

/* What the child needs, prepared before fork(): after it only async-signal-safe calls are allowed.
 */
struct child_plan {
	const char *path;
	char *const *argv;
	char *const *env;
	pid_t parent;
	int stdin_fd;
	int stdout_fd;
	int stderr_fd;
	int status_fd;
	int netns_fd;
	bool outlives_us;
};

struct run {
	const struct spawn_options *options;
	struct spawn_result *result;
	uint64_t started_ms;
	pid_t pid;
	int pid_fd;
	int out_fd;
	int err_fd;
	int status_fd;
	struct child_failure failure;
	size_t failure_len;
	char line[LINE_BYTES];
	size_t line_len;
};

static bool is_program(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

/* Finds argv[0]; the path belongs to the caller. */
static int find_program(const char *name, char **ret_path, struct err *err)
{
	if (strchr(name, '/')) {
		*ret_path = strdup(name);
		return *ret_path ? 0 : err_nomem(err);
	}
	const char *search = getenv("PATH");
	if (!search || !*search)
		search = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	for (const char *from = search; *name;) {
		size_t len = strcspn(from, ":");
		_cleanup_free_ char *path = len ? str_printf("%.*s/%s", (int)len, from, name)
						: str_printf("./%s", name);
		if (!path)
			return err_nomem(err);
		if (is_program(path)) {
			*ret_path = TAKE_PTR(path);
			return 0;
		}
		if (!from[len])
			break;
		from += len + 1;
	}
	return err_set(err, -ENOENT, "run '%s': no such program in PATH (%s)", name, search);
}

_Noreturn static void child_fail(const struct child_plan *plan, const char *step)
{
	struct child_failure failure = {.code = errno};
	for (size_t i = 0; i < sizeof(failure.step) - 1 && step[i]; i++)
		failure.step[i] = step[i];
	ssize_t ignored = write(plan->status_fd, &failure, sizeof(failure));
	(void)ignored;
	_exit(127);
}

_Noreturn static void child_main(const struct child_plan *plan)
{
	if (setpgid(0, 0) < 0)
		child_fail(plan, "make a process group");
	if (!plan->outlives_us && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		child_fail(plan, "set the death signal");
	if (!plan->outlives_us &&
		getppid() != plan->parent) /* it died before the line above took effect */
		_exit(127);
	if (plan->netns_fd >= 0 && setns(plan->netns_fd, CLONE_NEWNET) < 0)
		child_fail(plan, "enter the netns");
	if (dup2(plan->stdin_fd, STDIN_FILENO) < 0 || dup2(plan->stdout_fd, STDOUT_FILENO) < 0 ||
		dup2(plan->stderr_fd, STDERR_FILENO) < 0)
		child_fail(plan, "set up stdio");
	if (close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
		child_fail(plan, "mark descriptors");

	struct sigaction action = {.sa_handler = SIG_DFL};
	for (int signo = 1; signo < NSIG; signo++)
		sigaction(signo, &action, NULL); /* refused for KILL, STOP and libc's own */
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);

	execve(plan->path, plan->argv, plan->env);
	child_fail(plan, "execute");
}

/*
 * fork(), not vfork(): the daemon is small, and a copy cannot disturb the parent's memory. Signals
 * are blocked around it so that no handler of ours runs in the child.
 */
static pid_t start_child(const struct child_plan *plan)
{
	sigset_t all;
	sigset_t saved;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	pid_t pid = fork();
	if (pid == 0)
		child_main(plan);
	int code = errno;
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	errno = code;
	if (pid > 0)
		setpgid(pid, pid); /* both sides do it: whoever comes first */
	return pid;
}

/* Moves a descriptor out of the way of 0, 1 and 2, which the child lays over. */
static int above_stdio(int fd)
{
	if (fd < 0 || fd > STDERR_FILENO)
		return fd;
	int moved = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	fd_close(fd);
	return moved;
}

static int make_pipe(int *ret_read, int *ret_write, struct err *err)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_errno(err, "make a pipe");
	_cleanup_close_ int from = above_stdio(ends[0]);
	_cleanup_close_ int to = above_stdio(ends[1]);
	if (from < 0 || to < 0)
		return err_errno(err, "move a descriptor");
	int r = fd_set_nonblock(from, err);
	if (r < 0)
		return r;
	*ret_read = TAKE_FD(from);
	*ret_write = TAKE_FD(to);
	return 0;
}

/* A memfd holds the input, so nobody has to feed a pipe or meets SIGPIPE. */
static int make_stdin(const struct spawn_options *options, int *ret_fd, struct err *err)
{
	_cleanup_close_ int fd =
		above_stdio(options->stdin_data ? memfd_create("stdin", MFD_CLOEXEC)
						: open("/dev/null", O_RDONLY | O_CLOEXEC));
	if (fd < 0)
		return err_errno(err, "make the standard input");
	if (options->stdin_data) {
		int r = fd_write_all(fd, options->stdin_data, options->stdin_len, err);
		if (r < 0)
			return r;
		if (lseek(fd, 0, SEEK_SET) < 0)
			return err_errno(err, "rewind the standard input");
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int start(struct run *run, const char *path, struct err *err)
{
	const struct spawn_options *options = run->options;
	_cleanup_close_ int in = -EBADF;
	_cleanup_close_ int out = -EBADF;
	_cleanup_close_ int errors = -EBADF;
	_cleanup_close_ int status = -EBADF;
	int r = make_stdin(options, &in, err);
	if (r == 0)
		r = make_pipe(&run->out_fd, &out, err);
	if (r == 0)
		r = make_pipe(&run->err_fd, &errors, err);
	if (r == 0)
		r = make_pipe(&run->status_fd, &status, err);
	if (r < 0)
		return r;

	struct child_plan plan = {
		.path = path,
		.argv = (char *const *)options->argv,
		.env = options->env ? (char *const *)options->env : environ,
		.parent = getpid(),
		.stdin_fd = in,
		.stdout_fd = out,
		.stderr_fd = errors,
		.status_fd = status,
		.netns_fd = options->netns_fd > 0 ? options->netns_fd : -EBADF,
		.outlives_us = options->outlives_us,
	};
	run->pid = start_child(&plan);
	if (run->pid < 0)
		return err_errno(err, "fork");
	run->pid_fd = pidfd_open(run->pid, 0);
	return run->pid_fd < 0 ? err_errno(err, "open a pidfd") : 0;
}

static void emit_line(struct run *run)
{
	run->line[run->line_len] = '\0';
	run->line_len = 0;
	run->options->on_stderr_line(run->options->userdata, run->line);
}

/* A line longer than the buffer comes in pieces. */
static void split_lines(struct run *run, const char *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (data[i] == '\n') {
			emit_line(run);
			continue;
		}
		if (run->line_len == sizeof(run->line) - 1)
			emit_line(run);
		run->line[run->line_len++] = data[i];
	}
}

static int take_stderr(struct run *run, const char *data, size_t len)
{
	if (run->options->on_stderr_line)
		split_lines(run, data, len);
	struct buf *tail = &run->result->err_tail;
	if (len > tail->max) {
		data += len - tail->max;
		len = tail->max;
	}
	if (tail->len + len > tail->max)
		buf_consume(tail, tail->len + len - tail->max);
	return buf_append(tail, data, len);
}

static int take_stdout(struct run *run, const char *data, size_t len)
{
	return buf_append(&run->result->out, data, len);
}

/*
 * Reads what the pipe holds, but not for ever: who writes faster than we read must not keep us from
 * the deadline. Closes it at its end.
 */
static int drain(struct run *run, int *fd, int (*take)(struct run *, const char *, size_t))
{
	for (int i = 0; i < CHUNKS_PER_TURN && *fd >= 0; i++) {
		char chunk[CHUNK_BYTES];
		ssize_t n = read(*fd, chunk, sizeof(chunk));
		if (n > 0) {
			int r = take(run, chunk, (size_t)n);
			if (r < 0)
				return r;
			if ((size_t)n < sizeof(chunk))
				return 0;
		} else if (n < 0 && errno == EAGAIN) {
			return 0;
		} else if (n == 0 || errno != EINTR) {
			*fd = fd_close(*fd);
		}
	}
	return 0;
}

static int drain_both(struct run *run, struct err *err)
{
	int r = drain(run, &run->out_fd, take_stdout);
	if (r == 0)
		r = drain(run, &run->err_fd, take_stderr);
	if (r == -ENOBUFS)
		return err_set(err, r, "more than %zu bytes of output", run->result->out.max);
	return r < 0 ? err_nomem(err) : 0;
}

static void read_status(struct run *run)
{
	char *to = (char *)&run->failure;
	ssize_t n = read(
		run->status_fd, to + run->failure_len, sizeof(run->failure) - run->failure_len);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0)
		run->failure_len += (size_t)n;
	if (n <= 0 || run->failure_len == sizeof(run->failure))
		run->status_fd = fd_close(run->status_fd);
}

static int left_ms(uint64_t deadline_ms)
{
	uint64_t left = ev_left_ms(deadline_ms);
	return left > 60000 ? 60000 : (int)left;
}

/*
 * One poll() of at most until deadline_ms. Positive when the leader has ended, -ECANCELED, or an
 * error of the output.
 */
static int turn(struct run *run, uint64_t deadline_ms, bool ended, struct err *err)
{
	int cancel = run->options->cancel_fd > 0 && !ended ? run->options->cancel_fd : -EBADF;
	struct pollfd fds[] = {
		{.fd = ended ? -EBADF : run->pid_fd, .events = POLLIN},
		{.fd = run->out_fd, .events = POLLIN},
		{.fd = run->err_fd, .events = POLLIN},
		{.fd = run->status_fd, .events = POLLIN},
		{.fd = cancel, .events = POLLIN},
	};
	if (poll(fds, ARRAY_SIZE(fds), deadline_ms ? left_ms(deadline_ms) : -1) < 0)
		return errno == EINTR ? 0 : err_errno(err, "poll");
	if (fds[3].revents)
		read_status(run);
	int r = drain_both(run, err);
	if (r < 0)
		return r;
	if (fds[0].revents)
		return 1;
	if (fds[4].revents)
		return err_set(err, -ECANCELED, "canceled");
	return 0;
}

/* Until the leader ends and its output is read, as far as that is possible. */
static int follow(struct run *run, struct err *err)
{
	uint64_t timeout_ms = run->options->timeout_ms;
	uint64_t deadline = timeout_ms ? run->started_ms + timeout_ms : 0;
	if (timeout_ms && deadline < timeout_ms)
		deadline = UINT64_MAX;
	int r;
	while ((r = turn(run, deadline, false, err)) == 0)
		if (deadline && ev_now_ms() >= deadline)
			return err_set(err, -ETIMEDOUT, "no end within %llu ms",
				(unsigned long long)timeout_ms);
	if (r < 0)
		return r;

	deadline = ev_now_ms() + DRAIN_MS;
	while ((run->out_fd >= 0 || run->err_fd >= 0) && ev_now_ms() < deadline) {
		r = turn(run, deadline, true, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Ends the group, takes what its last members wrote, and only then the leader's exit status. */
static int finish(struct run *run, int outcome, struct err *err)
{
	kill(-run->pid, SIGKILL);
	siginfo_t info = {0};
	int r;
	do
		r = waitid(P_PID, (id_t)run->pid, &info, WEXITED);
	while (r < 0 && errno == EINTR);
	if (r < 0 && outcome == 0)
		outcome = err_errno(err, "wait for the end");
	if (r == 0)
		run->result->exit_code =
			info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
	if (run->status_fd >= 0)
		read_status(run);
	if (outcome == 0)
		outcome = drain_both(run, err);
	if (run->line_len)
		emit_line(run);
	if (outcome == 0 && run->failure_len == sizeof(run->failure)) {
		errno = run->failure.code;
		outcome = err_errno(err, "%s", run->failure.step);
	}
	return outcome;
}

int spawn_run(const struct spawn_options *options, struct spawn_result *result, struct err *err)
{
	struct err local = ERR_INIT;
	if (!err)
		err = &local;
	_cleanup_free_ char *path = NULL;
	int r = find_program(options->argv[0], &path, err);
	if (r < 0)
		return r;

	struct run run = {
		.options = options,
		.result = result,
		.started_ms = ev_now_ms(),
		.pid = -1,
		.pid_fd = -EBADF,
		.out_fd = -EBADF,
		.err_fd = -EBADF,
		.status_fd = -EBADF,
	};
	r = start(&run, path, err);
	if (r == 0)
		r = follow(&run, err);
	if (run.pid > 0)
		r = finish(&run, r, err);
	fd_close(run.pid_fd);
	fd_close(run.out_fd);
	fd_close(run.err_fd);
	fd_close(run.status_fd);
	return r < 0 ? err_wrap(err, "run '%s'", options->argv[0]) : 0;
}

int spawn_check(const struct spawn_options *options, struct spawn_result *result, struct err *err)
{
	int r = spawn_run(options, result, err);
	if (r < 0 || result->exit_code == 0)
		return r;
	const char *tail = buf_string(&result->err_tail);
	if (!tail)
		return err_nomem(err);
	size_t len = strlen(tail);
	while (len && (tail[len - 1] == '\n' || tail[len - 1] == ' '))
		len--;
	/* The end of it says why; struct err has room for about that much. */
	size_t skip = len > 700 ? len - 700 : 0;
	return err_set(err, -EIO, "run '%s': exit code %d%s%.*s", options->argv[0],
		result->exit_code, len ? ": " : "", (int)(len - skip), tail + skip);
}

void spawn_result_done(struct spawn_result *result)
{
	buf_done(&result->out);
	buf_done(&result->err_tail);
}
