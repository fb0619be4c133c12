#include "common/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"

static const struct userns_map map = {100000, 65536, 200000, 1000};

static void test_ids_are_mapped(void **state)
{
	(void)state;
	assert_int_equal(userns_uid(&map, 0), 100000);
	assert_int_equal(userns_uid(&map, 65535), 165535);
	assert_int_equal(userns_uid(&map, 65536), USERNS_NOBODY);
	assert_int_equal(userns_gid(&map, 999), 200999);
	assert_int_equal(userns_gid(&map, 1000), USERNS_NOBODY);
	struct userns_map other = map;
	assert_true(userns_map_equal(&map, &other));
	other.n_gids = 1001;
	assert_false(userns_map_equal(&map, &other));
}

/* Who enters is root there, and one of the range here. */
static int enter(const struct userns *ns)
{
	struct stat st;
	if (setns(ns->net, CLONE_NEWNET) < 0 || setns(ns->ipc, CLONE_NEWIPC) < 0 ||
		setns(ns->user, CLONE_NEWUSER) < 0 || setresgid(0, 0, 0) < 0 ||
		setresuid(0, 0, 0) < 0)
		return 1;
	_cleanup_close_ int fd = open("/tmp", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0 || fstat(fd, &st) < 0)
		return 2;
	return st.st_uid == 0 && st.st_gid == 0 && setresuid(70000, 0, 0) < 0 && errno == EINVAL
		       ? 0
		       : 3;
}

static void test_a_namespace_is_held_by_its_descriptor(void **state)
{
	(void)state;
	struct userns ns = USERNS_INIT;
	struct err err = ERR_INIT;
	int status = -1;
	if (geteuid() != 0)
		skip();
	if (userns_new(&map, true, &ns, &err) < 0)
		fail_msg("%s", err.msg);
	/* Not by fork(): under ThreadSanitizer the child has a thread then, and cannot enter. */
	pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		_exit(enter(&ns));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	userns_done(&ns);
	assert_int_equal(ns.user, -EBADF);
	/* No child is left. */
	assert_int_equal(waitpid(-1, &status, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);

	assert_int_equal(userns_new(&map, false, &ns, &err), 0);
	assert_int_equal(ns.net, -EBADF);
	userns_done(&ns);
}

/* On one CPU, where a new child mostly waits until its parent does. */
static void make_namespaces(void)
{
	cpu_set_t cpus;
	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	for (;;) {
		struct userns ns = USERNS_INIT;
		userns_new(&map, false, &ns, NULL);
		userns_done(&ns);
	}
}

/* Whenever that happens: a pipe that all of them have ends with the last one. */
static void test_no_child_outlives_a_parent_that_is_killed(void **state)
{
	(void)state;
	struct pollfd end = {.events = POLLIN};
	int ends[2];
	if (geteuid() != 0)
		skip();
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	for (unsigned i = 0; i < 50; i++) {
		pid_t pid = fork();
		if (pid == 0)
			make_namespaces();
		usleep(500 + i * 137 % 3000);
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
	}
	close(ends[1]);
	end.fd = ends[0];
	assert_int_equal(poll(&end, 1, 30000), 1);
	close(ends[0]);
}

static void test_a_range_that_does_not_exist_is_refused(void **state)
{
	(void)state;
	const struct userns_map beyond = {4294967200u, 65536, 0, 1};
	struct userns ns = USERNS_INIT;
	struct err err = ERR_INIT;
	if (geteuid() != 0)
		skip();
	assert_int_equal(userns_new(&beyond, false, &ns, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "4294967200"));
	assert_int_equal(ns.user, -EBADF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ids_are_mapped),
		cmocka_unit_test(test_a_namespace_is_held_by_its_descriptor),
		cmocka_unit_test(test_no_child_outlives_a_parent_that_is_killed),
		cmocka_unit_test(test_a_range_that_does_not_exist_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
