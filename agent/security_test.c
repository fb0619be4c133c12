/*
 * What a process has left, read back from the kernel by a child that gave it up. Needs root.
 */
#include "agent/security.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"

#define STATUS_MAX 16384

static void test_names(void **state)
{
	(void)state;
	char *good[] = {(char *)"CAP_CHOWN", (char *)"CAP_CHECKPOINT_RESTORE"};
	static const char *const bad[] = {"CHOWN", "CAP_", "CAP_NOPE", "12", "CAP_12", ""};
	uint64_t mask = 0;
	assert_int_equal(security_capabilities(good, 2, &mask, NULL), 0);
	assert_true(mask == (1ull << 0 | 1ull << 40));
	assert_int_equal(security_capabilities(NULL, 0, &mask, NULL), 0);
	assert_true(mask == 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char *name = (char *)bad[i];
		assert_int_equal(security_capabilities(&name, 1, &mask, NULL), -EINVAL);
	}
}

/* Applies it in a child, and returns that one's /proc/self/status with its umask's effect. */
static void apply(const struct user *user, const struct security *security, char **ret_status)
{
	int fds[2];
	assert_int_equal(pipe(fds), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct err err = ERR_INIT;
		char *status = NULL;
		umask(0);
		if (security_apply(user, security, &err) == 0 &&
			fd_read_file("/proc/self/status", STATUS_MAX, &status, NULL, &err) == 0)
			fd_write_all(fds[1], status, strlen(status), &err);
		else
			fd_write_all(fds[1], err.msg, strlen(err.msg), NULL);
		_exit(0);
	}
	close(fds[1]);
	char *text = calloc(1, STATUS_MAX);
	size_t len = 0;
	ssize_t n;
	while ((n = read(fds[0], text + len, STATUS_MAX - 1 - len)) > 0)
		len += (size_t)n;
	close(fds[0]);
	waitpid(pid, NULL, 0);
	*ret_status = text;
}

static void assert_lines(const char *status, const char *const *lines, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (!strstr(status, lines[i]))
			fail_msg("no \"%s\" in:\n%s", lines[i], status);
	}
}

static void test_root(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	const struct user user = {.groups = {0, 7}, .n_groups = 2};
	static const char *const lines[] = {"Uid:\t0\t0\t0\t0\n", "Groups:\t0 7 \n",
		"Umask:\t0022\n", "CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000401\n",
		"CapEff:\t0000000000000401\n", "CapBnd:\t0000000000000401\n",
		"CapAmb:\t0000000000000000\n", "NoNewPrivs:\t0\n"};
	_cleanup_free_ char *status = NULL;
	const struct security security = {.capabilities = 1ull << 0 | 1ull << 10};
	apply(&user, &security, &status);
	assert_lines(status, lines, ARRAY_SIZE(lines));
}

/* The bounding set is what a set-uid program may get at most; the process itself has nothing. */
static void test_other_user(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	const struct user user = {.uid = 1000, .gid = 1001, .groups = {1001}, .n_groups = 1};
	static const char *const lines[] = {"Uid:\t1000\t1000\t1000\t1000\n",
		"Gid:\t1001\t1001\t1001\t1001\n", "Groups:\t1001 \n", "CapInh:\t0000000000000000\n",
		"CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n",
		"CapBnd:\t0000000000000401\n", "NoNewPrivs:\t1\n"};
	_cleanup_free_ char *status = NULL;
	const struct security security = {
		.capabilities = 1ull << 0 | 1ull << 10, .no_new_privs = true};
	apply(&user, &security, &status);
	assert_lines(status, lines, ARRAY_SIZE(lines));
}

/* Ambient ones are another user's through every exec; what is not of the set is not given. */
static void test_ambient(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	const struct user user = {.uid = 1000, .gid = 1001, .groups = {1001}, .n_groups = 1};
	const struct security security = {
		.capabilities = 1ull << 0 | 1ull << 10, .ambient = 1ull << 10 | 1ull << 12};
	static const char *const lines[] = {"CapInh:\t0000000000000400\n",
		"CapPrm:\t0000000000000400\n", "CapEff:\t0000000000000400\n",
		"CapBnd:\t0000000000000401\n", "CapAmb:\t0000000000000400\n"};
	_cleanup_free_ char *status = NULL;
	apply(&user, &security, &status);
	assert_lines(status, lines, ARRAY_SIZE(lines));
}

/*
 * Without no_new_privs the filter is loaded by a capability that the program does not get: it is
 * gone after the exec, for root and for others.
 */
static void test_filter(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	static const struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	static const struct security_filter filter = {allow, sizeof(allow), 0};
	for (uid_t uid = 0; uid <= 1000; uid += 1000) {
		const struct user user = {.uid = uid, .n_groups = 1};
		const struct security security = {.capabilities = 1ull << 0, .filtered = true};
		int fds[2];
		assert_int_equal(pipe(fds), 0);
		pid_t pid = fork();
		if (pid == 0) {
			dup2(fds[1], STDOUT_FILENO);
			struct err err = ERR_INIT;
			if (security_apply(&user, &security, &err) == 0 &&
				security_filter_load(&filter, &err) == 0)
				execl("/bin/cat", "cat", "/proc/self/status", NULL);
			fd_write_all(fds[1], err.msg, strlen(err.msg), NULL);
			_exit(1);
		}
		close(fds[1]);
		char text[STATUS_MAX] = "";
		size_t len = 0;
		ssize_t n;
		while ((n = read(fds[0], text + len, sizeof(text) - 1 - len)) > 0)
			len += (size_t)n;
		close(fds[0]);
		waitpid(pid, NULL, 0);
		const char *const lines[] = {
			uid ? "CapPrm:\t0000000000000000\n" : "CapPrm:\t0000000000000001\n",
			"CapBnd:\t0000000000000001\n", "NoNewPrivs:\t0\n", "Seccomp:\t2\n"};
		assert_lines(text, lines, ARRAY_SIZE(lines));
	}
}

static void test_bad_filter(void **state)
{
	(void)state;
	static const char bytes[8 * 4097];
	const struct security_filter odd = {bytes, 9, 0}, large = {bytes, sizeof(bytes), 0};
	assert_int_equal(security_filter_load(&odd, NULL), -EINVAL);
	assert_int_equal(security_filter_load(&large, NULL), -EINVAL);
}

int main(void)

{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_root),
		cmocka_unit_test(test_other_user),
		cmocka_unit_test(test_ambient),
		cmocka_unit_test(test_filter),
		cmocka_unit_test(test_bad_filter),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
