#include "hypervisor/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/log.h"
#include "common/proc.h"

#define READY_TIMEOUT_MS  30000 /* a host that boots many at once is slow */
#define END_TIMEOUT_MS    10000 /* what it has mapped goes with it */
#define FILE_SIZE_MAX     (1u << 20)
#define FOREIGN_LOG_BYTES 65536
#define GO_FD_MIN         10 /* above all that a program gets */

static int write_record(const struct helper *helper, pid_t pid, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/%s.pid", helper->dir, helper->name);
	char text[64];
	uint64_t start_time;
	int len;

	if (!path)
		return err_nomem(err);
	if (proc_start_time(pid, &start_time) < 0)
		return err_set(err, -ESRCH, "Its process is gone");
	len = snprintf(text, sizeof(text), "%d %" PRIu64 "\n", pid, start_time);
	return fd_write_file(path, text, (size_t)len, 0600, err);
}

/* What the child needs between fork and exec, where only async-signal-safe calls are allowed. */
struct child {
	const char *const *argv;
	int go;   /* the parent writes a byte here when the record is written */
	int out;  /* stdout */
	int log;  /* stderr */
	int null; /* stdin */
	int fd;   /* becomes 3; negative: none */
	bool bounded;
};

/*
 * Leaves open what the program gets, and the pipe's end that is returned. Children that wait at the
 * same time would else hold each other's pipes open, and none would see that their parent has died.
 */
static int keep_descriptors(const struct child *child)
{
	int go = fcntl(child->go, F_DUPFD, GO_FD_MIN);

	if (go < 0 || dup2(child->null, 0) < 0 || dup2(child->out, 1) < 0 ||
		dup2(child->log, 2) < 0)
		_exit(127);
	if (child->fd == 3 && fcntl(3, F_SETFD, 0) < 0)
		_exit(127);
	if (child->fd >= 0 && child->fd != 3 && dup2(child->fd, 3) < 0)
		_exit(127);
	syscall(SYS_close_range, child->fd >= 0 ? 4 : 3, go - 1, 0);
	syscall(SYS_close_range, go + 1, ~0U, 0);
	return go;
}

static void __attribute__((noreturn)) run_child(const struct child *child)
{
	const struct rlimit limit = {FILE_SIZE_MAX, FILE_SIZE_MAX};
	int go = keep_descriptors(child);
	sigset_t none;
	char byte;

	setsid();
	/* End of file: the parent died, or could not write the record. */
	if (read(go, &byte, 1) != 1)
		_exit(127);
	close(go);
	for (int i = 1; i < NSIG; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (child->bounded) {
		/* Beyond the limit write(2) fails instead of ending the helper. */
		signal(SIGXFSZ, SIG_IGN);
		setrlimit(RLIMIT_FSIZE, &limit);
	}
	if (chdir("/") < 0)
		_exit(127);
	execv(child->argv[0], (char *const *)child->argv);
	dprintf(2, "exec failed: errno %d\n", errno);
	_exit(127);
}

static int wait_ready(int fd)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	char line[8];
	ssize_t n;

	if (poll(&pollfd, 1, READY_TIMEOUT_MS) == 0)
		return -ETIMEDOUT;
	/* One write of six bytes to a pipe arrives whole. */
	n = read(fd, line, sizeof(line));
	return n == 6 && memcmp(line, "ready\n", 6) == 0 ? 0 : -EIO;
}

static int fail_start(const struct helper *helper, const char *log_path, int code, struct err *err)
{
	_cleanup_free_ char *log = NULL;
	char quoted[512] = "\"\"";

	helper_end(helper->dir, helper->name, NULL);
	if (fd_read_file(log_path, FILE_SIZE_MAX, &log, NULL, NULL) == 0)
		log_escape(quoted, sizeof(quoted), log);
	return err_set(err, code, "Start %s: %s; it said: %s", helper->argv[0],
		code == -ETIMEDOUT ? "not ready after 30 s" : "it ended before it was ready",
		quoted);
}

/* A file in memory that does not grow: a guest that makes the program complain fills no disk. */
static int open_bounded_log(struct err *err)
{
	_cleanup_close_ int log = memfd_create("log", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (log < 0 || ftruncate(log, FOREIGN_LOG_BYTES) < 0 ||
		fcntl(log, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		return err_errno(err, "Make a log in memory");
	return TAKE_FD(log);
}

static int open_log(const struct helper *helper, const char *path, struct err *err)
{
	int log;

	if (helper->foreign)
		return open_bounded_log(err);
	log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	return log < 0 ? err_errno(err, "Open %s", path) : log;
}

static int open_pipe(int ret[2], struct err *err)
{
	if (pipe2(ret, O_CLOEXEC) < 0)
		return err_errno(err, "Make a pipe");
	return 0;
}

int helper_start(const struct helper *helper, struct err *err)
{
	_cleanup_free_ char *log_path = str_printf("%s/%s.log", helper->dir, helper->name);
	_cleanup_close_ int null = open("/dev/null", O_RDONLY | O_CLOEXEC), log = -EBADF;
	_cleanup_close_ int go_read = -EBADF, go_write = -EBADF, out_read = -EBADF,
			    out_write = -EBADF;
	int pair[2], r;
	pid_t pid;

	if (!log_path)
		return err_nomem(err);
	if (null < 0)
		return err_errno(err, "Start %s: open /dev/null", helper->argv[0]);
	log = open_log(helper, log_path, err);
	if (log < 0)
		return err_wrap(err, "Start %s", helper->argv[0]);
	r = open_pipe(pair, err);
	if (r < 0)
		return r;
	go_read = pair[0];
	go_write = pair[1];
	r = open_pipe(pair, err);
	if (r < 0)
		return r;
	out_read = pair[0];
	out_write = pair[1];

	pid = fork();
	if (pid < 0)
		return err_errno(err, "Start %s: fork", helper->argv[0]);
	if (pid == 0) {
		run_child(&(struct child){
			.argv = helper->argv,
			.go = go_read,
			.out = helper->foreign ? log : out_write,
			.log = log,
			.null = null,
			.fd = helper->foreign ? helper->fd : -EBADF,
			.bounded = !helper->foreign,
		});
	}
	out_write = fd_close(out_write);
	r = write_record(helper, pid, err);
	if (r == 0 && helper->place)
		r = cgroups_enter(helper->place, pid, err);
	if (r < 0) {
		/* Not by its pipe's end: other children may have it open until they execute. */
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		return err_wrap(err, "Start %s", helper->argv[0]);
	}
	/* The reading end is open here too, so a child that died meanwhile raises no SIGPIPE. */
	r = fd_write_all(go_write, "g", 1, err);
	if (r < 0)
		return r;
	if (helper->foreign) {
		*helper->ret_log = TAKE_FD(log);
		return 0;
	}
	r = wait_ready(out_read);
	return r < 0 ? fail_start(helper, log_path, r, err) : 0;
}

/*
 * A pidfd of the recorded process; -ESRCH when it is gone, or the record is none; another error
 * when that cannot be told, for lack of descriptors or memory.
 */
static int open_recorded(const char *record, pid_t *ret_pid)
{
	_cleanup_close_ int pidfd = -EBADF;
	uint64_t recorded, actual;
	int pid, r;

	if (sscanf(record, "%d %" SCNu64, &pid, &recorded) != 2 || pid <= 1)
		return -ESRCH;
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	/* Of other errors there are those of an id that is a thread's now. */
	if (pidfd < 0)
		return errno == EMFILE || errno == ENFILE || errno == ENOMEM ? -errno : -ESRCH;
	/* Read after the pidfd was opened: from here on it cannot come to mean another process. */
	r = proc_start_time(pid, &actual);
	if (r < 0)
		return r;
	if (actual != recorded)
		return -ESRCH;
	*ret_pid = pid;
	return TAKE_FD(pidfd);
}

static int fail_find(const char *name, int code, struct err *err)
{
	return err_set(err, code, "Look for %s: %s", name, strerror(-code));
}

int helper_find(const char *dir, const char *name, pid_t *ret_pid, int *ret_pidfd, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/%s.pid", dir, name);
	_cleanup_free_ char *record = NULL;
	int r;

	if (!path)
		return err_nomem(err);
	r = fd_read_file(path, 64, &record, NULL, err);
	if (r == 0)
		r = open_recorded(record, ret_pid);
	if (r >= 0) {
		*ret_pidfd = r;
		return 0;
	}
	if (r == -ESRCH || r == -ENOENT)
		return err_set(err, -ESRCH, "%s does not run", name);
	return fail_find(name, r, err);
}

int helper_kill(int pidfd, const char *what, struct err *err)
{
	struct pollfd pollfd = {.fd = pidfd, .events = POLLIN};

	syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	if (poll(&pollfd, 1, END_TIMEOUT_MS) == 0)
		return err_set(err, -ETIMEDOUT, "End %s: it does not end", what);
	return 0;
}

int helper_end(const char *dir, const char *name, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/%s.pid", dir, name);
	_cleanup_free_ char *record = NULL;
	_cleanup_close_ int pidfd = -EBADF;
	pid_t pid = 0;
	int r;

	if (!path)
		return err_nomem(err);
	r = fd_read_file(path, 64, &record, NULL, err);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	pidfd = open_recorded(record, &pid);
	if (pidfd < 0 && pidfd != -ESRCH)
		return fail_find(name, pidfd, err);
	if (pidfd >= 0) {
		r = helper_kill(pidfd, name, err);
		if (r < 0)
			return r;
		/* Our own child needs reaping; that of an earlier process of ours went to init. */
		waitpid(pid, NULL, WNOHANG);
	}
	if (unlink(path) < 0 && errno != ENOENT)
		return err_errno(err, "Remove %s", path);
	return 0;
}
