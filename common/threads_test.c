#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/threads.h"

#define NOBODY 65534

static void test_there_is_room(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(threads_check(40, "of a test", &err), 0);
	assert_int_equal(threads_check(40, "of a test", &err), 0);
}

/* In a process that may have no other beside it. */
static int check_alone(void)
{
	struct err err = ERR_INIT;

	/* root is not limited */
	if (geteuid() == 0 && setresuid(NOBODY, NOBODY, NOBODY) < 0)
		return 1;
	if (setrlimit(RLIMIT_NPROC, &(struct rlimit){0}) < 0)
		return 2;
	if (threads_check(2, "of a test", &err) != -EAGAIN)
		return 3;
	return !strstr(err.msg, "Start 2 threads, of a test: Resource temporarily unavailable: ");
}

static void test_there_is_none(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(check_alone());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_there_is_room),
		cmocka_unit_test(test_there_is_none),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
