#include "network/orphans.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"

#define NOBODY 65534

/* A process with the environment that a plugin has. */
static pid_t start(const char *program, uid_t user, const char *id, const char *seconds)
{
	_cleanup_free_ char *variable = str_printf("CNI_CONTAINERID=%s", id);
	char *const argv[] = {"sleep", (char *)seconds, NULL};
	char *const env[] = {"CNI_COMMAND=ADD", variable, NULL};
	int ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (user && setresuid(user, user, user) < 0)
			_exit(127);
		execve(program, argv, env);
		_exit(127);
	}
	close(ready[1]);
	/* The end of file is the program's begin. */
	assert_int_equal(read(ready[0], &byte, 1), 0);
	close(ready[0]);
	return pid;
}

static pid_t start_plugin(const char *id, const char *seconds)
{
	return start("/bin/sleep", 0, id, seconds);
}

static bool ended(pid_t pid, int *ret_status)
{
	return waitpid(pid, ret_status, WNOHANG) == pid;
}

static void waits_for_the_end_of_its_pods_plugins(void **state)
{
	struct orphans orphans;
	int status;
	pid_t pid, other;

	(void)state;
	pid = start_plugin("orphans-test-pod", "0.3");
	other = start_plugin("orphans-test-pod2", "1000");
	orphans_find(&orphans);
	orphans_await(&orphans, "orphans-test-nobody", 60000);
	orphans_await(&orphans, "orphans-test-pod", 60000);
	assert_true(ended(pid, &status));
	assert_int_equal(status, 0);
	assert_false(ended(other, &status));
	kill(other, SIGKILL);
	waitpid(other, &status, 0);
	orphans_done(&orphans);
}

static void kills_what_does_not_end(void **state)
{
	struct orphans orphans;
	int status;
	pid_t pid;

	(void)state;
	pid = start_plugin("orphans-test-hangs", "1000");
	orphans_find(&orphans);
	orphans_await(&orphans, "orphans-test-hangs", 100);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	orphans_done(&orphans);
}

static bool knows(const struct orphans *orphans, const char *id)
{
	for (size_t i = 0; i < orphans->n; i++)
		if (strcmp(orphans->items[i].id, id) == 0)
			return true;
	return false;
}

/*
 * In /proc the files of one that may not be dumped, here for it cannot read its own program, are
 * root's.
 */
static void another_users_process_is_none(void **state)
{
	char dir[] = "/tmp/orphans-test-XXXXXX";
	struct orphans orphans;
	pid_t open, closed;
	size_t len;
	int status;

	(void)state;
	if (geteuid() != 0)
		skip();
	assert_non_null(mkdtemp(dir));
	_cleanup_free_ char *program = str_printf("%s/sleep", dir);
	_cleanup_free_ char *data = NULL;
	assert_int_equal(chmod(dir, 0711), 0);
	assert_int_equal(fd_read_file("/bin/sleep", 16 << 20, &data, &len, NULL), 0);
	assert_int_equal(fd_write_file(program, data, len, 0711, NULL), 0);
	open = start("/bin/sleep", NOBODY, "orphans-test-stranger", "1000");
	closed = start(program, NOBODY, "orphans-test-stranger", "1000");
	orphans_find(&orphans);
	assert_false(knows(&orphans, "orphans-test-stranger"));
	orphans_done(&orphans);
	kill(open, SIGKILL);
	kill(closed, SIGKILL);
	assert_int_equal(waitpid(open, &status, 0), open);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(waitpid(closed, &status, 0), closed);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(fd_remove_tree(dir, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(waits_for_the_end_of_its_pods_plugins),
		cmocka_unit_test(kills_what_does_not_end),
		cmocka_unit_test(another_users_process_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
