/*
 * Profiles as the kernel applies them: each test loads a compiled program in a child and makes the
 * calls.
 */
#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/seccomp/profile.h"

/* A child's answer: a call's errno, 0 where it succeeded; a signal where it died. */
#define DIED(signal) (1000 + (signal))
#define CAP(name)    (UINT64_C(1) << CAP_##name)

struct call {
	long number;
	long args[4];
};

/* The child ends by what every filter of these tests lets through or does not look at: the call
 * itself, for a sanitizer's _exit() makes others. */
static _Noreturn void make_call(const struct filter *filter, const struct call *call)
{
	struct sock_fprog program = {(unsigned short)(filter->len / sizeof(struct sock_filter)),
		(void *)filter->program};
	signal(SIGSYS, SIG_DFL); /* cmocka catches it */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
		syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, filter->flags, &program) < 0)
		_exit(255);
	long r = syscall(call->number, call->args[0], call->args[1], call->args[2], call->args[3]);
	syscall(SYS_exit_group, r < 0 ? errno : 0);
	abort();
}

static int answer_of(const struct filter *filter, struct call call)
{
#ifdef __SANITIZE_THREAD__
	skip(); /* its runtime makes calls of its own in a filtered child, and hangs without them */
#endif
	int status;
	pid_t pid = fork();
	if (pid == 0)
		make_call(filter, &call);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? DIED(WTERMSIG(status)) : WEXITSTATUS(status);
}

static struct filter compile(const char *json)
{
	struct profile profile;
	struct filter filter = {0};
	struct err err = ERR_INIT;
	if (profile_parse(json, strlen(json), &profile, &err) < 0 ||
		profile_compile(&profile, &filter, &err) < 0)
		fail_msg("%s", err.msg);
	profile_done(&profile);
	return filter;
}

static int answer(const char *json, struct call call)
{
	struct filter filter = compile(json);
	int r = answer_of(&filter, call);
	filter_done(&filter);
	return r;
}

static int answer_default(uint64_t capabilities, struct call call)
{
	struct filter filter = {0};
	struct err err = ERR_INIT;
	if (filter_default(NULL, capabilities, &filter, &err) < 0)
		fail_msg("%s", err.msg);
	int r = answer_of(&filter, call);
	filter_done(&filter);
	return r;
}

static void assert_refused(const char *json, const char *words)
{
	struct profile profile = {0};
	struct err err = ERR_INIT;
	assert_int_equal(profile_parse(json, strlen(json), &profile, &err), -EINVAL);
	if (!strstr(err.msg, words))
		fail_msg("'%s' does not say '%s'", err.msg, words);
}

/* ---- actions ---- */

#define DENY_UMASK(action)                                                                         \
	"{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"umask\"], "         \
	"\"action\": " action "}]}"

static void actions_do_what_they_say(void **state)
{
	(void)state;
	static const struct call umask_call = {SYS_umask, {0}};
	assert_int_equal(answer(DENY_UMASK("\"SCMP_ACT_ALLOW\""), umask_call), 0);
	assert_int_equal(answer(DENY_UMASK("\"SCMP_ACT_LOG\""), umask_call), 0);
	assert_int_equal(answer(DENY_UMASK("\"SCMP_ACT_ERRNO\""), umask_call), EPERM);
	assert_int_equal(
		answer(DENY_UMASK("\"SCMP_ACT_ERRNO\", \"errnoRet\": 38"), umask_call), ENOSYS);
	assert_int_equal(answer(DENY_UMASK("\"SCMP_ACT_TRAP\""), umask_call), DIED(SIGSYS));
	assert_int_equal(answer(DENY_UMASK("\"SCMP_ACT_KILL\""), umask_call), DIED(SIGSYS));
	assert_int_equal(answer(DENY_UMASK("\"SCMP_ACT_KILL_THREAD\""), umask_call), DIED(SIGSYS));
	assert_int_equal(answer(DENY_UMASK("\"SCMP_ACT_KILL_PROCESS\""), umask_call), DIED(SIGSYS));
	/* Without a tracer the kernel says so. */
	assert_int_equal(answer(DENY_UMASK("\"SCMP_ACT_TRACE\""), umask_call), ENOSYS);
}

static void what_is_no_action_is_refused_by_name(void **state)
{
	(void)state;
	assert_refused(DENY_UMASK("\"SCMP_ACT_NOTIFY\""), "syscalls[0]: SCMP_ACT_NOTIFY");
	assert_refused(DENY_UMASK("\"SCMP_ACT_MAYBE\""), "unknown action 'SCMP_ACT_MAYBE'");
	assert_refused(DENY_UMASK("\"SCMP_ACT_ERRNO\", \"errnoRet\": 4096"), "errnoRet");
	assert_refused(DENY_UMASK("\"SCMP_ACT_ERRNO\", \"errnoRet\": -1"), "errnoRet");
	assert_refused("{}", "defaultAction");
}

static void the_default_applies_to_what_is_not_named(void **state)
{
	(void)state;
#define ALLOW_ONLY(action)                                                                         \
	"{\"defaultAction\": " action ", \"syscalls\": [{\"names\": [\"exit_group\", "             \
	"\"rt_sigreturn\", \"openat2\"], \"action\": \"SCMP_ACT_ALLOW\"}]}"
	static const struct call getpid_call = {SYS_getpid, {0}};
	assert_int_equal(answer(ALLOW_ONLY("\"SCMP_ACT_ERRNO\""), getpid_call), EPERM);
	assert_int_equal(
		answer(ALLOW_ONLY("\"SCMP_ACT_ERRNO\", \"defaultErrnoRet\": 13"), getpid_call),
		EACCES);
	assert_int_equal(
		answer(ALLOW_ONLY("\"SCMP_ACT_KILL_PROCESS\""), getpid_call), DIED(SIGSYS));
}

static void a_call_newer_than_the_profile_does_not_exist(void **state)
{
	(void)state;
	/* openat2 is 437: what is older is refused, what is newer is not there. */
	static const struct call older = {SYS_getpid, {0}},
				 newer = {439 /* faccessat2 */, {-1, 0, 0}};
	assert_int_equal(answer(ALLOW_ONLY("\"SCMP_ACT_ERRNO\""), older), EPERM);
	assert_int_equal(answer(ALLOW_ONLY("\"SCMP_ACT_ERRNO\""), newer), ENOSYS);
	/* A profile that kills means it. */
	assert_int_equal(answer(ALLOW_ONLY("\"SCMP_ACT_KILL_PROCESS\""), newer), DIED(SIGSYS));
}

/* ---- arguments ---- */

/* personality(x) under one condition: EACCES where it holds. */
static int under(const char *op, uint64_t value, uint64_t value_two, unsigned long argument)
{
	char json[512];
	snprintf(json, sizeof(json),
		"{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"umask\"], "
		"\"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": 13, \"args\": [{\"index\": 0, "
		"\"value\": %llu, \"valueTwo\": %llu, \"op\": \"%s\"}]}]}",
		(unsigned long long)value, (unsigned long long)value_two, op);
	return answer(json, (struct call){SYS_umask, {(long)argument}});
}

static void operators_compare(void **state)
{
	(void)state;
	static const struct {
		const char *op;
		uint64_t value;
		uint64_t value_two;
		unsigned long holds;
		unsigned long fails;
	} cases[] = {
		{"SCMP_CMP_NE", 18, 0, 19, 18},
		{"SCMP_CMP_EQ", 18, 0, 18, 19},
		{"SCMP_CMP_LT", 18, 0, 17, 18},
		{"SCMP_CMP_LE", 18, 0, 18, 19},
		{"SCMP_CMP_GE", 18, 0, 18, 17},
		{"SCMP_CMP_GT", 18, 0, 19, 18},
		{"SCMP_CMP_MASKED_EQ", 0x0f, 0x02, 0x12, 0x13},
		/* All 64 bits count. */
		{"SCMP_CMP_EQ", 0x100000012, 0, 0x100000012, 0x12},
		{"SCMP_CMP_GT", 0x100000000, 0, 0x100000001, 0x1},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(
			under(cases[i].op, cases[i].value, cases[i].value_two, cases[i].holds),
			EACCES);
		assert_int_equal(
			under(cases[i].op, cases[i].value, cases[i].value_two, cases[i].fails), 0);
	}
}

#define TWO(first, second)                                                                         \
	"{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"dup2\"], "          \
	"\"action\": \"SCMP_ACT_ERRNO\", \"args\": [{\"index\": " first ", \"value\": 1, "         \
	"\"op\": \"SCMP_CMP_EQ\"}, {\"index\": " second                                            \
	", \"value\": 2, \"op\": \"SCMP_CMP_EQ\"}]}]}"

static void conditions_on_two_arguments_must_both_hold_on_one_either(void **state)
{
	(void)state;
	static const struct call both = {SYS_dup2, {1, 2}}, first = {SYS_dup2, {1, 1}},
				 swapped = {SYS_dup2, {2, 2}};
	assert_int_equal(answer(TWO("0", "1"), both), EPERM);
	assert_int_equal(answer(TWO("0", "1"), first), 0);
	assert_int_equal(answer(TWO("0", "1"), swapped), 0);
	assert_int_equal(answer(TWO("0", "0"), first), EPERM);
	assert_int_equal(answer(TWO("0", "0"), swapped), EPERM);
}

static void bad_conditions_are_refused(void **state)
{
	(void)state;
	assert_refused(TWO("6", "1"), "index");
	assert_refused(TWO("-1", "1"), "index");
	assert_refused(TWO("\"0\"", "1"), "index");
	assert_refused(
		"{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"dup\"], "
		"\"action\": \"SCMP_ACT_KILL\", \"args\": [{\"op\": \"SCMP_CMP_XX\"}]}]}",
		"unknown operator 'SCMP_CMP_XX'");
}

/* ---- the rest of the form ---- */

static void unknown_calls_are_left_out_and_foreign_architectures_too(void **state)
{
	(void)state;
	static const char json[] =
		"{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"architectures\": [\"SCMP_ARCH_X86_64\", "
		"\"SCMP_ARCH_X86\", \"SCMP_ARCH_X32\", \"SCMP_ARCH_AARCH64\"], \"flags\": "
		"[\"SECCOMP_FILTER_FLAG_LOG\", \"SECCOMP_FILTER_FLAG_TSYNC\"], \"comment\": 1, "
		"\"syscalls\": [{\"names\": [\"no_such_call\", \"umask\"], \"action\": "
		"\"SCMP_ACT_ERRNO\"}]}";
	struct filter filter = compile(json);
	assert_int_equal(filter.flags, SECCOMP_FILTER_FLAG_LOG);
	assert_int_equal(answer_of(&filter, (struct call){SYS_umask, {0}}), EPERM);
	/* All else is as before. */
	assert_int_equal(answer_of(&filter, (struct call){SYS_getppid, {0}}), 0);
	filter_done(&filter);
}

static void forms_that_are_wrong_are_refused(void **state)
{
	(void)state;
#define ALLOWING(rest) "{\"defaultAction\": \"SCMP_ACT_ALLOW\", " rest "}"
	assert_refused("", "not valid JSON");
	assert_refused("[]", "not an object");
	assert_refused("{\"defaultAction\": \"SCMP_ACT_ALLOW\"", "line 1, column");
	assert_refused(ALLOWING("\"syscalls\": {}"), "syscalls is not a list");
	assert_refused(ALLOWING("\"syscalls\": [1]"), "syscalls[0]");
	assert_refused(ALLOWING("\"syscalls\": [{\"action\": \"SCMP_ACT_KILL\"}]"), "no names");
	assert_refused(ALLOWING("\"syscalls\": [{\"names\": [1], \"action\": \"SCMP_ACT_KILL\"}]"),
		"a name is not a string");
	assert_refused(ALLOWING("\"architectures\": [\"SCMP_ARCH_PDP11\"]"), "SCMP_ARCH_PDP11");
	assert_refused(ALLOWING("\"architectures\": [3]"), "architectures");
	assert_refused(
		ALLOWING("\"flags\": [\"SECCOMP_FILTER_FLAG_NEW_LISTENER\"]"), "NEW_LISTENER");
}

static void a_profile_beyond_the_bounds_is_refused(void **state)
{
	(void)state;
	size_t n = PROFILE_RULES_MAX + 1;
	char *json = malloc(n * 64 + 128), *at = json;
	assert_non_null(json);
	at += sprintf(at, "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [");
	for (size_t i = 0; i < n; i++)
		at += sprintf(at, "%s{\"names\": [\"umask\"], \"action\": \"SCMP_ACT_KILL\"}",
			i ? "," : "");
	sprintf(at, "]}");
	assert_refused(json, "more than 1024 rules");
	free(json);
	/* Six conditions of a rule, each on the next argument. */
	json = malloc(1024 * 512);
	assert_non_null(json);
	at = json + sprintf(json, "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [");
	for (unsigned i = 0; i <= PROFILE_CONDITIONS_MAX / 6; i++) {
		at += sprintf(at,
			"%s{\"names\": [\"umask\"], \"action\": \"SCMP_ACT_KILL\", \"args\": [",
			i ? "," : "");
		for (unsigned k = 0; k < 6; k++)
			at += sprintf(at,
				"%s{\"index\": %u, \"value\": %llu, \"op\": \"SCMP_CMP_EQ\"}",
				k ? "," : "", k, (unsigned long long)i << 32 | (i + k));
		at += sprintf(at, "]}");
	}
	sprintf(at, "]}");
	assert_refused(json, "more than 256 conditions");
	free(json);
}

static void a_file_must_be_regular_and_named_by_an_absolute_path(void **state)
{
	(void)state;
	char path[] = "/tmp/seccomp-test-XXXXXX";
	struct filter filter, other;
	struct err err = ERR_INIT;
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	static const char json[] = DENY_UMASK("\"SCMP_ACT_ERRNO\"");
	assert_int_equal(write(fd, json, sizeof(json) - 1), sizeof(json) - 1);
	assert_int_equal(filter_from_file(NULL, path, &filter, &err), 0);
	assert_int_equal(ftruncate(fd, PROFILE_FILE_MAX + 1), 0);
	close(fd);
	assert_int_equal(filter_from_file(NULL, path, &other, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "larger than"));
	unlink(path);
	assert_int_equal(filter_from_file(NULL, path, &other, &err), -EINVAL);
	assert_non_null(strstr(err.msg, path));
	assert_int_equal(filter_from_file(NULL, "tmp", &other, &err), -EINVAL);
	assert_int_equal(filter_from_file(NULL, "/tmp", &other, &err), -EINVAL);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(filter_from_file(NULL, path, &other, &err), -EINVAL);
	unlink(path);
	/* Last: a sanitizer skips it, and the file is to be gone. */
	assert_int_equal(answer_of(&filter, (struct call){SYS_umask, {0}}), EPERM);
	filter_done(&filter);
}

/* ---- the default profile ---- */

static void the_default_refuses_what_reaches_beyond_a_container(void **state)
{
	(void)state;
	static const struct call refused[] = {
		{SYS_unshare, {0}},
		{SYS_mount, {0}},
		{SYS_keyctl, {0}},
		{SYS_bpf, {0}},
		{SYS_reboot, {0}},
		{SYS_personality, {0x40000}},
		{SYS_socket, {AF_VSOCK, SOCK_STREAM, 0}},
		{SYS_clone, {CLONE_NEWUSER | SIGCHLD}},
		{SYS_io_uring_setup, {0}},
		{SYS_userfaultfd, {0}},
	};
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		assert_int_equal(answer_default(0, refused[i]), EPERM);
	assert_int_equal(answer_default(0, (struct call){435 /* clone3 */, {0}}), ENOSYS);
	assert_int_equal(answer_default(0, (struct call){499, {0}}), ENOSYS);
	static const struct call allowed[] = {
		{SYS_getpid, {0}},
		{SYS_umask, {0}},
		{SYS_personality, {0xffffffff}},
		{SYS_socket, {AF_UNIX, SOCK_STREAM, 0}},
	};
	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
		assert_int_equal(answer_default(0, allowed[i]), 0);
}

static void capabilities_lift_what_needs_them(void **state)
{
	(void)state;
	/* Past the filter it is the kernel that says no: another errno, or success. */
	static const struct {
		uint64_t capability;
		struct call call;
	} lifted[] = {
		{CAP(SYS_ADMIN), {SYS_unshare, {0}}},
		{CAP(SYS_ADMIN), {435 /* clone3 */, {0}}},
		{CAP(SYS_CHROOT), {SYS_chroot, {0}}},
		{CAP(SYS_PTRACE), {SYS_kcmp, {-1, -1, 0}}},
		{CAP(SYS_NICE), {SYS_get_mempolicy, {0, 0, 0, 0}}},
		{CAP(DAC_READ_SEARCH), {SYS_open_by_handle_at, {-1, 0}}},
	};
	for (size_t i = 0; i < ARRAY_SIZE(lifted); i++) {
		int with = answer_default(lifted[i].capability, lifted[i].call);
		int without = answer_default(0, lifted[i].call);
		if (with == without)
			fail_msg("call %ld answers %d with and without its capability",
				lifted[i].call.number, with);
		assert_true(without == EPERM || without == ENOSYS);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(actions_do_what_they_say),
		cmocka_unit_test(what_is_no_action_is_refused_by_name),
		cmocka_unit_test(the_default_applies_to_what_is_not_named),
		cmocka_unit_test(a_call_newer_than_the_profile_does_not_exist),
		cmocka_unit_test(operators_compare),
		cmocka_unit_test(conditions_on_two_arguments_must_both_hold_on_one_either),
		cmocka_unit_test(bad_conditions_are_refused),
		cmocka_unit_test(unknown_calls_are_left_out_and_foreign_architectures_too),
		cmocka_unit_test(forms_that_are_wrong_are_refused),
		cmocka_unit_test(a_profile_beyond_the_bounds_is_refused),
		cmocka_unit_test(a_file_must_be_regular_and_named_by_an_absolute_path),
		cmocka_unit_test(the_default_refuses_what_reaches_beyond_a_container),
		cmocka_unit_test(capabilities_lift_what_needs_them),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
