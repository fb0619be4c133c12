/*
 * Helpers are started, recorded, and ended; the console helper keeps the end of what it reads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"
#include "hypervisor/cgroup.h"
#include "hypervisor/console.h"
#include "hypervisor/helper.h"

#define FDS_LIMIT 64

static char dir[] = "/tmp/helper-test-XXXXXX";

static int setup(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	return fd_remove_tree(dir, NULL);
}

static int start_shell(const char *script, struct err *err)
{
	const char *argv[] = {"/bin/sh", "-c", script, NULL};

	return helper_start(&(struct helper){.dir = dir, .name = "x", .argv = argv}, err);
}

static int recorded_pid(void)
{
	_cleanup_free_ char *path = str_printf("%s/x.pid", dir);
	_cleanup_free_ char *text = NULL;

	return fd_read_file(path, 64, &text, NULL, NULL) < 0 ? 0 : atoi(text);
}

static void test_start_and_end(void **state)
{
	struct err err = ERR_INIT;
	int pid;

	(void)state;
	assert_int_equal(start_shell("echo ready; exec sleep 100", &err), 0);
	pid = recorded_pid();
	assert_int_equal(kill(pid, 0), 0);
	assert_int_equal(getsid(pid), pid);
	assert_int_equal(helper_end(dir, "x", &err), 0);
	assert_int_equal(kill(pid, 0), -1);
	assert_int_equal(recorded_pid(), 0);
	assert_int_equal(helper_end(dir, "x", &err), 0);
}

static void test_failure_quotes_the_log(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(start_shell("echo no such device >&2; exit 1", &err), -EIO);
	assert_non_null(strstr(err.msg, "no such device"));
	assert_int_equal(recorded_pid(), 0);
}

/*
 * Two that fail at once: each one's child has the descriptors of the other, and keeps its pipe
 * open. Here that child begins while the helper waits to enter its cgroup, a FIFO that nobody reads
 * yet.
 */
#define HOLDER_S 60

struct holder {
	const char *fifo;
	pid_t pid;
	int fd;
};

static void *hold_descriptors(void *userdata)
{
	struct holder *holder = userdata;

	while (!recorded_pid())
		usleep(1000);
	holder->pid = fork();
	if (holder->pid == 0) {
		sleep(HOLDER_S);
		_exit(0);
	}
	holder->fd = open(holder->fifo, O_RDONLY | O_CLOEXEC);
	return NULL;
}

static void test_failure_waits_for_no_other_child(void **state)
{
	_cleanup_free_ char *first = str_printf("%s/first", dir);
	_cleanup_free_ char *none = str_printf("%s/none", dir);
	_cleanup_free_ char *fifo = str_printf("%s/cgroup.procs", first);
	const struct cgroups cgroups = {.items = {{.mount = first}, {.mount = none}}, .n = 2};
	const struct cgroup_place place = {&cgroups, ""};
	const char *argv[] = {"/bin/true", NULL};
	struct err err = ERR_INIT;
	pthread_t thread;
	struct holder holder = {.fifo = fifo};

	(void)state;
	assert_int_equal(mkdir(first, 0700), 0);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(pthread_create(&thread, NULL, hold_descriptors, &holder), 0);
	uint64_t begin = ev_now_ms();
	assert_int_equal(
		helper_start(
			&(struct helper){.dir = dir, .name = "x", .argv = argv, .place = &place},
			&err),
		-ENOENT);
	uint64_t took = ev_now_ms() - begin;
	pthread_join(thread, NULL);
	close(holder.fd);
	assert_int_equal(kill(holder.pid, SIGKILL), 0);
	assert_int_equal(waitpid(holder.pid, NULL, 0), holder.pid);
	assert_in_range(took, 0, HOLDER_S * 1000 / 2);
	assert_int_equal(helper_end(dir, "x", &err), 0);
}

/*
 * One that waits for its record has nothing of ours open: not the pipe of another that waits, which
 * would keep that from seeing our death. Here the record is a FIFO that nobody reads yet.
 */
#define SOON_MS 30000
#define HIGH_FD 100 /* above what the child keeps of its own */

struct waiting {
	const char *dir;
	atomic_int tid;
	int result;
};

static void *start_waiting(void *userdata)
{
	struct waiting *waiting = userdata;
	const char *argv[] = {"/bin/true", NULL};
	const struct helper helper = {.dir = waiting->dir, .name = "x", .argv = argv};

	atomic_store(&waiting->tid, gettid());
	waiting->result = helper_start(&helper, NULL);
	return NULL;
}

/* False where the kernel does not tell of children. */
static bool await_child(const struct waiting *waiting)
{
	uint64_t until = ev_now_ms() + SOON_MS;

	for (;;) {
		_cleanup_free_ char *path =
			str_printf("/proc/self/task/%d/children", atomic_load(&waiting->tid));
		_cleanup_free_ char *text = NULL;
		size_t len = 0;

		if (atomic_load(&waiting->tid) && fd_read_file(path, 4096, &text, &len, NULL) < 0)
			return false;
		if (len)
			return true;
		assert_true(ev_now_ms() < until);
		usleep(1000);
	}
}

static void test_waits_with_nothing_open(void **state)
{
	_cleanup_free_ char *own = str_printf("%s/waiting", dir);
	_cleanup_free_ char *fifo = str_printf("%s/x.pid.tmp", own);
	struct waiting waiting = {.dir = own};
	struct pollfd end = {.events = POLLIN};
	int ends[2], reader, ended;
	pthread_t thread;

	(void)state;
	assert_int_equal(mkdir(own, 0700), 0);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	int high = fcntl(ends[1], F_DUPFD_CLOEXEC, HIGH_FD);
	assert_true(high >= 0);
	assert_int_equal(pthread_create(&thread, NULL, start_waiting, &waiting), 0);
	bool told = await_child(&waiting);
	close(ends[1]);
	close(high);
	end.fd = ends[0];
	ended = poll(&end, 1, SOON_MS);
	reader = open(fifo, O_RDONLY | O_CLOEXEC);
	pthread_join(thread, NULL);
	close(reader);
	close(ends[0]);
	assert_true(waiting.result < 0); /* a FIFO cannot be synced */
	if (told)
		assert_int_equal(ended, 1);
}

/* A record whose start time is another's must not lead to a kill. */
static void test_reused_pid_is_spared(void **state)
{
	_cleanup_free_ char *path = str_printf("%s/x.pid", dir);
	_cleanup_free_ char *text = str_printf("%d 1\n", getpid());
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(fd_write_file(path, text, strlen(text), 0600, &err), 0);
	assert_int_equal(helper_end(dir, "x", &err), 0);
	assert_int_equal(recorded_pid(), 0);
}

/* All that are left but `free` of them. */
static int take_descriptors(int free, int fds[FDS_LIMIT])
{
	int n = 0, fd;

	while ((fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
		fds[n++] = fd;
	assert_int_equal(errno, EMFILE);
	for (; free > 0 && n > 0; free--)
		close(fds[--n]);
	return n;
}

/* Without the descriptors to look for it, it is not known to be gone: its record stays. */
static void test_end_without_descriptors(void **state)
{
	struct rlimit limit, few;
	struct err err = ERR_INIT;
	int fds[FDS_LIMIT];

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	few = (struct rlimit){.rlim_cur = FDS_LIMIT, .rlim_max = limit.rlim_max};
	for (int free = 0; free < 4; free++) {
		assert_int_equal(start_shell("echo ready; exec sleep 100", &err), 0);
		int pid = recorded_pid();
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
		int n = take_descriptors(free, fds);
		int r = helper_end(dir, "x", &err);
		while (n > 0)
			close(fds[--n]);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
		bool lives = kill(pid, 0) == 0;
		if (lives && !recorded_pid())
			kill(pid, SIGKILL);
		assert_int_equal(lives, r < 0);
		assert_int_equal(helper_end(dir, "x", &err), 0);
		assert_int_equal(kill(pid, 0), -1);
	}
}

/* Who holds the lock for ever does not hold up who reads. */
static void test_console_is_read_though_locked(void **state)
{
	_cleanup_free_ char *file = str_printf("%s/console", dir);
	_cleanup_free_ char *tail = NULL;
	_cleanup_close_ int fd = -EBADF;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(fd_write_file(file, "a line\n", 7, 0600, &err), 0);
	fd = open(file, O_RDONLY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	alarm(SOON_MS / 1000);
	assert_int_equal(console_tail(dir, 100, &tail, &err), 0);
	alarm(0);
	assert_string_equal(tail, "a line\n");
	assert_int_equal(unlink(file), 0);
}

/* The helpers are built into a folder beside this test. */
static char *find_helper(const char *name)
{
	char self[256];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n < 0)
		return NULL;
	self[n] = '\0';
	*strrchr(self, '/') = '\0';
	return str_printf("%s/vsock/%s", self, name);
}

/* In a child, for nobody gets a limit back. */
static int start_with_few_descriptors(const char *const argv[])
{
	const struct rlimit few = {1024, 1024};
	struct err err = ERR_INIT;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (setrlimit(RLIMIT_NOFILE, &few) < 0 ||
			helper_start(
				&(struct helper){.dir = dir, .name = "x", .argv = argv}, &err) < 0)
			fprintf(stderr, "%s\n", err.msg);
		_exit(err.msg[0] != 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* What the kernel gives where no init has raised it, or less: then it serves fewer at once. */
static void test_vsock_with_few_descriptors(void **state)
{
	_cleanup_free_ char *program = find_helper("bulkhead-vsock");
	_cleanup_free_ char *vhost = str_printf("%s/vhost.sock", dir);
	_cleanup_free_ char *hybrid = str_printf("%s/vsock.sock", dir);
	const char *argv[] = {
		program, "--vhost-socket", vhost, "--listen", hybrid, "--cid", "3", NULL};
	_cleanup_close_ int pidfd = -EBADF;
	struct err err = ERR_INIT;
	pid_t pid;

	(void)state;
	if (access(program, X_OK) < 0) {
		print_message("skipped: bulkhead-vsock is not built\n");
		skip();
	}
	assert_int_equal(start_with_few_descriptors(argv), 0);
	/* It says that it is ready before it gives the last of its rights up. */
	usleep(500000);
	assert_int_equal(helper_find(dir, "x", &pid, &pidfd, &err), 0);
	assert_int_equal(poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, 0), 0);
	assert_int_equal(helper_end(dir, "x", &err), 0);
}

#define USER  1879048200 /* who has no name */
#define GROUP 4242

static void become(uid_t uid)
{
	if (setgroups(0, NULL) < 0 || setgid(GROUP) < 0 || setuid(uid) < 0)
		_exit(255);
}

static int code_of(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* What a QEMU gets that connects: 0 or an errno. */
static int connect_as(uid_t uid, const char *path)
{
	pid_t pid = fork();

	if (pid == 0) {
		struct err err = ERR_INIT;
		int fd;

		become(uid);
		_exit(-fd_unix_connect(path, &fd, &err));
	}
	return code_of(pid);
}

static int signal_as(uid_t uid, pid_t to)
{
	pid_t pid = fork();

	if (pid == 0) {
		become(uid);
		_exit(kill(to, 0) < 0 ? errno : 0);
	}
	return code_of(pid);
}

/* What is no user is none, and nothing runs with other rights instead. */
static void test_users_of_helpers(void **state)
{
	_cleanup_free_ char *program = find_helper("bulkhead-vsock");
	_cleanup_free_ char *vhost = str_printf("%s/vhost.sock", dir);
	_cleanup_free_ char *hybrid = str_printf("%s/vsock.sock", dir);
	static const char *const users[] = {"nobody", "", "0", "1:", ":1", "1:1:1", "1:1 ", "-1:1",
		"4294967295:1", "1:4294967295", "99999999999999999999:1"};
	struct err err = ERR_INIT;

	(void)state;
	if (access(program, X_OK) < 0) {
		print_message("skipped: bulkhead-vsock is not built\n");
		skip();
	}
	for (size_t i = 0; i < ARRAY_SIZE(users); i++) {
		const char *argv[] = {program, "--vhost-socket", vhost, "--listen", hybrid, "--cid",
			"3", "--user", users[i], NULL};

		assert_int_equal(
			helper_start(&(struct helper){.dir = dir, .name = "x", .argv = argv}, &err),
			-EIO);
		assert_non_null(strstr(err.msg, "not UID:GID"));
	}
}

/* Machines have users of their own and one group. The way to a guest's agent is no QEMU's. */
static void test_only_root_reaches_the_guest(void **state)
{
	_cleanup_free_ char *program = find_helper("bulkhead-vsock");
	_cleanup_free_ char *vhost = str_printf("%s/vhost.sock", dir);
	_cleanup_free_ char *hybrid = str_printf("%s/vsock.sock", dir);
	const char *argv[] = {program, "--vhost-socket", vhost, "--listen", hybrid, "--cid", "3",
		"--user", "1879048200:4242", NULL};
	_cleanup_close_ int pidfd = -EBADF;
	struct err err = ERR_INIT;
	struct stat st;
	pid_t pid;

	(void)state;
	if (geteuid() != 0 || access(program, X_OK) < 0) {
		print_message("skipped: not root, or bulkhead-vsock is not built\n");
		skip();
	}
	assert_int_equal(chmod(dir, 0711), 0);
	assert_int_equal(
		helper_start(&(struct helper){.dir = dir, .name = "x", .argv = argv}, &err), 0);
	assert_int_equal(stat(hybrid, &st), 0);
	assert_int_equal(st.st_uid, 0);
	assert_int_equal(st.st_gid, 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(connect_as(USER, hybrid), EACCES);
	/* The device is for this machine's QEMU. */
	assert_int_equal(stat(vhost, &st), 0);
	assert_int_equal(st.st_uid, USER);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(connect_as(USER + 1, vhost), EACCES);
	assert_int_equal(connect_as(USER, vhost), 0);
	assert_int_equal(helper_find(dir, "x", &pid, &pidfd, &err), 0);
	assert_int_equal(signal_as(USER + 1, pid), EPERM);
	assert_int_equal(signal_as(USER, pid), 0);
	assert_int_equal(helper_end(dir, "x", &err), 0);
	assert_int_equal(chmod(dir, 0700), 0);
}

static void write_lines(int fd, unsigned n)
{
	char line[32];
	struct err err = ERR_INIT;

	for (unsigned i = 0; i < n; i++) {
		int len = snprintf(line, sizeof(line), "line %07u\n", i);

		assert_int_equal(fd_write_all(fd, line, (size_t)len, &err), 0);
	}
}

static void test_console_keeps_the_end(void **state)
{
	_cleanup_free_ char *program = find_helper("bulkhead-console");
	_cleanup_free_ char *socket = str_printf("%s/console.sock", dir);
	_cleanup_free_ char *file = str_printf("%s/console", dir);
	_cleanup_free_ char *tail = NULL;
	const char *argv[] = {program, "--listen", socket, "--file", file, NULL};
	struct err err = ERR_INIT;
	struct stat st;
	char quoted[128];
	int fd;

	(void)state;
	if (access(program, X_OK) < 0) {
		print_message("skipped: bulkhead-console is not built\n");
		skip();
	}
	assert_int_equal(
		helper_start(&(struct helper){.dir = dir, .name = "x", .argv = argv}, &err), 0);
	assert_int_equal(fd_unix_connect(socket, &fd, &err), 0);
	write_lines(fd, 100000);
	close(fd);
	for (int i = 0; i < SOON_MS / 10; i++) {
		free(tail);
		assert_int_equal(console_tail(dir, 26, &tail, &err), 0);
		if (strcmp(tail, "line 0099998\nline 0099999\n") == 0)
			break;
		usleep(10000);
	}
	assert_string_equal(tail, "line 0099998\nline 0099999\n");
	assert_int_equal(stat(file, &st), 0);
	assert_in_range(st.st_size, 256 * 1024, 512 * 1024);
	console_quote(dir, quoted, sizeof(quoted));
	assert_non_null(strstr(quoted, "line 0099999"));
	assert_null(strchr(quoted, '\n'));
	assert_int_equal(helper_end(dir, "x", &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_start_and_end),
		cmocka_unit_test(test_failure_quotes_the_log),
		cmocka_unit_test(test_failure_waits_for_no_other_child),
		cmocka_unit_test(test_waits_with_nothing_open),
		cmocka_unit_test(test_reused_pid_is_spared),
		cmocka_unit_test(test_end_without_descriptors),
		cmocka_unit_test(test_console_is_read_though_locked),
		cmocka_unit_test(test_vsock_with_few_descriptors),
		cmocka_unit_test(test_users_of_helpers),
		cmocka_unit_test(test_only_root_reaches_the_guest),
		cmocka_unit_test(test_console_keeps_the_end),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
