#include "common/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "common/loop.h"

/* Under a sanitizer the child is slower to begin: bounds that mean "at once" are generous. */
#define AT_ONCE_MS 10000
/* How often something is tried that a busy host may keep from beginning in time. */
#define TRIES 20

static size_t open_descriptors(void)
{
	size_t n = 0;
	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static int setup(void **state)
{
	*state = (void *)open_descriptors();
	return 0;
}

static int teardown(void **state)
{
	assert_int_equal(open_descriptors(), (size_t)*state);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	return 0;
}

static int shell_with(struct spawn_options *options, const char *script,
	struct spawn_result *result, struct err *err)
{
	const char *argv[] = {"sh", "-c", script, NULL};
	options->argv = argv;
	return spawn_run(options, result, err);
}

static void shell(const char *script, struct spawn_result *result)
{
	struct err err = ERR_INIT;
	struct spawn_options options = {.timeout_ms = 20000};
	assert_int_equal(shell_with(&options, script, result, &err), 0);
}

static void captures_output_and_code(void **state)
{
	(void)state;
	struct spawn_result result = SPAWN_RESULT_INIT(100);
	shell("echo out; echo problem >&2; exit 7", &result);
	assert_int_equal(result.exit_code, 7);
	assert_string_equal(buf_string(&result.out), "out\n");
	assert_string_equal(buf_string(&result.err_tail), "problem\n");
	spawn_result_done(&result);
}

static void a_signal_is_128_and_more(void **state)
{
	(void)state;
	struct spawn_result result = SPAWN_RESULT_INIT(100);
	shell("kill -TERM $$", &result);
	assert_int_equal(result.exit_code, 128 + SIGTERM);
	spawn_result_done(&result);
}

static void missing_programs(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	struct spawn_result result = SPAWN_RESULT_INIT(100);
	const char *argv[] = {"bulkhead-no-such-program", NULL};
	struct spawn_options options = {.argv = argv};
	assert_int_equal(spawn_run(&options, &result, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "bulkhead-no-such-program"));
	argv[0] = "";
	assert_int_equal(spawn_run(&options, &result, &err), -ENOENT);
	argv[0] = "/none/x";
	assert_int_equal(spawn_run(&options, &result, &err), -ENOENT);
	assert_string_equal(err.msg, "run '/none/x': execute: No such file or directory");
	argv[0] = "/etc/passwd";
	assert_int_equal(spawn_run(&options, &result, &err), -EACCES);
	argv[0] = "/tmp";
	assert_int_equal(spawn_run(&options, &result, NULL), -EACCES);
	spawn_result_done(&result);
}

static void feeds_any_amount_of_input(void **state)
{
	(void)state;
	enum { SIZE = 300000 };
	static char data[SIZE];
	memset(data, 'i', sizeof(data));
	struct err err = ERR_INIT;
	struct spawn_result result = SPAWN_RESULT_INIT(SIZE);
	struct spawn_options options = {.stdin_data = data, .stdin_len = SIZE};
	assert_int_equal(shell_with(&options, "cat", &result, &err), 0);
	assert_int_equal(result.out.len, SIZE);
	assert_memory_equal(result.out.data, data, SIZE);
	buf_consume(&result.out, SIZE);
	/* A child that does not read it does not matter. */
	assert_int_equal(shell_with(&options, "exec true", &result, &err), 0);
	assert_int_equal(result.exit_code, 0);
	/* Without data the input is at its end. */
	options = (struct spawn_options){.timeout_ms = 20000};
	assert_int_equal(shell_with(&options, "cat; echo end", &result, &err), 0);
	assert_string_equal(buf_string(&result.out), "end\n");
	spawn_result_done(&result);
}

static void inherits_nothing(void **state)
{
	(void)state;
	int leak = open("/dev/null", O_RDONLY);
	int high = dup2(leak, 200);
	assert_true(leak >= 0 && high == 200);
	sigset_t set;
	sigset_t saved;
	sigfillset(&set);
	pthread_sigmask(SIG_BLOCK, &set, &saved);
	signal(SIGPIPE, SIG_IGN);
	struct spawn_result result = SPAWN_RESULT_INIT(1000);
	/* ls has one descriptor of its own: the directory. */
	shell("ls /proc/self/fd | tr '\\n' ' '; grep -E 'Sig(Blk|Ign)' /proc/self/status", &result);
	signal(SIGPIPE, SIG_DFL);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	unsigned long long blocked;
	unsigned long long ignored;
	assert_int_equal(sscanf(buf_string(&result.out), "0 1 2 3 SigBlk:%llx SigIgn:%llx",
				 &blocked, &ignored),
		2);
	/* 32 and 33 are the C library's own: it lets nobody change what it was started with. */
	assert_int_equal((blocked | ignored) & ~(3ULL << 31), 0);
	spawn_result_done(&result);
	close(leak);
	close(high);
}

static void takes_an_environment(void **state)
{
	(void)state;
	const char *env[] = {"A=1", "B=two words", NULL};
	struct err err = ERR_INIT;
	struct spawn_options options = {.env = env};
	struct spawn_result result = SPAWN_RESULT_INIT(1000);
	const char *argv[] = {"env", NULL};
	options.argv = argv;
	assert_int_equal(spawn_run(&options, &result, &err), 0);
	assert_string_equal(buf_string(&result.out), "A=1\nB=two words\n");
	spawn_result_done(&result);
}

/* The group's other member ignores what can be ignored and would write its mark later. False: the
 * time was over before the program began. */
static bool kills_a_group_in_time(uint64_t timeout_ms, const char *mark)
{
	struct err err = ERR_INIT;
	struct spawn_options options = {.timeout_ms = timeout_ms};
	struct spawn_result result = SPAWN_RESULT_INIT(100);
	unsigned long long later_s = 3 * timeout_ms / 1000;
	_cleanup_free_ char *script = str_printf("trap '' TERM INT HUP; echo started; "
						 "(sleep %llu; touch %s) & sleep 600",
		later_s, mark);
	_cleanup_free_ char *expected =
		str_printf("run 'sh': no end within %llu ms", (unsigned long long)timeout_ms);
	uint64_t begin = ev_now_ms();
	assert_int_equal(shell_with(&options, script, &result, &err), -ETIMEDOUT);
	assert_true(ev_now_ms() - begin >= timeout_ms);
	assert_true(ev_now_ms() - begin < timeout_ms + AT_ONCE_MS);
	assert_string_equal(err.msg, expected);
	bool began = result.out.len;
	if (began)
		assert_string_equal(buf_string(&result.out), "started\n");
	while (began && ev_now_ms() - begin < later_s * 1000 + 500)
		usleep(10000);
	assert_int_equal(access(mark, F_OK), -1);
	spawn_result_done(&result);
	return began;
}

static void the_deadline_kills_the_group(void **state)
{
	(void)state;
	char mark[] = "/tmp/spawn_test-XXXXXX";
	close(mkstemp(mark));
	unlink(mark);
	for (uint64_t ms = 1000; !kills_a_group_in_time(ms, mark); ms *= 2)
		assert_true(ms < 20000);
}

static void a_chatterer_cannot_outrun_the_deadline(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	struct spawn_options options = {.timeout_ms = 200};
	struct spawn_result result = SPAWN_RESULT_INIT(100);
	for (int i = 0; i < TRIES && result.err_tail.len < result.err_tail.max; i++) {
		uint64_t begin = ev_now_ms();
		assert_int_equal(shell_with(&options, "exec yes >&2", &result, &err), -ETIMEDOUT);
		assert_true(ev_now_ms() - begin < options.timeout_ms + AT_ONCE_MS);
		options.timeout_ms += 200; /* where it did not begin in time */
	}
	assert_int_equal(result.err_tail.len, result.err_tail.max);
	spawn_result_done(&result);
}

static void too_much_output_kills(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	struct spawn_options options = {.timeout_ms = 20000};
	struct spawn_result result = SPAWN_RESULT_INIT(1000);
	assert_int_equal(shell_with(&options, "exec yes", &result, &err), -ENOBUFS);
	assert_true(result.out.len <= 1000);
	assert_non_null(strstr(err.msg, "1000 bytes"));
	/* Exactly the bound is not too much. */
	buf_consume(&result.out, result.out.len);
	assert_int_equal(shell_with(&options, "head -c 1000 /dev/zero", &result, &err), 0);
	assert_int_equal(result.out.len, 1000);
	spawn_result_done(&result);
}

static void *cancel_later(void *userdata)
{
	usleep(100000);
	assert_int_equal(write(*(int *)userdata, "x", 1), 1);
	return NULL;
}

static void is_cancelled(void **state)
{
	(void)state;
	int ends[2];
	pthread_t thread;
	assert_int_equal(pipe(ends), 0);
	struct err err = ERR_INIT;
	struct spawn_options options = {.cancel_fd = ends[0]};
	struct spawn_result result = SPAWN_RESULT_INIT(100);
	uint64_t begin = ev_now_ms();
	assert_int_equal(pthread_create(&thread, NULL, cancel_later, &ends[1]), 0);
	assert_int_equal(shell_with(&options, "sleep 60 & sleep 60", &result, &err), -ECANCELED);
	pthread_join(thread, NULL);
	assert_true(ev_now_ms() - begin < AT_ONCE_MS);
	/* Readable before: the child hardly begins. */
	assert_int_equal(shell_with(&options, "sleep 60", &result, &err), -ECANCELED);
	close(ends[0]);
	close(ends[1]);
	spawn_result_done(&result);
}

static void a_grandchild_holding_the_pipes_does_not_hold_us(void **state)
{
	(void)state;
	struct spawn_result result = SPAWN_RESULT_INIT(100);
	uint64_t begin = ev_now_ms();
	shell("echo $$ && sleep 60 & echo done", &result);
	assert_true(ev_now_ms() - begin < AT_ONCE_MS);
	assert_int_equal(result.exit_code, 0);
	assert_non_null(strstr(buf_string(&result.out), "done"));
	/* Not even one that has left the group and that we cannot kill. */
	buf_consume(&result.out, result.out.len);
	begin = ev_now_ms();
	shell("setsid sleep 20 & echo done", &result);
	assert_true(ev_now_ms() - begin < AT_ONCE_MS);
	assert_string_equal(buf_string(&result.out), "done\n");
	spawn_result_done(&result);
}

static void the_last_words_of_a_group_arrive(void **state)
{
	(void)state;
	struct spawn_result result = SPAWN_RESULT_INIT(100000);
	/* The leader ends at once; its descendant goes on within the bound, where the host lets it.
	 */
	for (int i = 0; i < TRIES && result.out.len != 60000; i++) {
		buf_consume(&result.out, result.out.len);
		shell("(sleep 0.01; head -c 60000 /dev/zero) & exit 3", &result);
		assert_int_equal(result.exit_code, 3);
	}
	assert_int_equal(result.out.len, 60000);
	spawn_result_done(&result);
}

static void closing_its_output_is_not_the_end(void **state)
{
	(void)state;
	struct spawn_result result = SPAWN_RESULT_INIT(100);
	shell("exec >&- 2>&-; sleep 0.2; exit 5", &result);
	assert_int_equal(result.exit_code, 5);
	spawn_result_done(&result);
}

struct lines {
	pthread_t thread;
	char text[8192];
	size_t len;
	size_t n;
};

static void on_line(void *userdata, const char *line)
{
	struct lines *lines = userdata;
	assert_true(pthread_equal(pthread_self(), lines->thread));
	lines->n++;
	lines->len += (size_t)snprintf(
		lines->text + lines->len, sizeof(lines->text) - lines->len, "[%s]", line);
}

static void reports_lines(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	struct lines lines = {.thread = pthread_self()};
	struct spawn_options options = {.on_stderr_line = on_line, .userdata = &lines};
	struct spawn_result result = SPAWN_RESULT_INIT(100);
	const char *script = "printf 'a\\n\\nb' >&2; sleep 0.1; printf 'c\\nlast' >&2";
	assert_int_equal(shell_with(&options, script, &result, &err), 0);
	assert_string_equal(lines.text, "[a][][bc][last]");
	/* A line without end comes in pieces. */
	lines = (struct lines){.thread = pthread_self()};
	script = "head -c 5000 /dev/zero | tr '\\0' x >&2";
	assert_int_equal(shell_with(&options, script, &result, &err), 0);
	assert_int_equal(lines.n, 2);
	assert_int_equal(lines.len, 5000 + 4);
	spawn_result_done(&result);
}

static void keeps_the_end_of_stderr(void **state)
{
	(void)state;
	struct spawn_result result = SPAWN_RESULT_INIT(100);
	shell("head -c 100000 /dev/zero | tr '\\0' x >&2; printf END >&2", &result);
	assert_int_equal(result.err_tail.len, 4096);
	assert_memory_equal(result.err_tail.data + 4093, "END", 3);
	spawn_result_done(&result);
}

static void check_makes_failure_an_error(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	struct spawn_result result = SPAWN_RESULT_INIT(100);
	const char *argv[] = {"sh", "-c", "echo 'no space' >&2; exit 4", NULL};
	struct spawn_options options = {.argv = argv};
	assert_int_equal(spawn_check(&options, &result, &err), -EIO);
	assert_string_equal(err.msg, "run 'sh': exit code 4: no space");
	spawn_result_done(&result);
	argv[2] = "head -c 3000 /dev/zero | tr '\\0' x >&2; printf END >&2; exit 1";
	assert_int_equal(spawn_check(&options, &result, &err), -EIO);
	assert_string_equal(err.msg + strlen(err.msg) - 4, "xEND");
	spawn_result_done(&result);
	argv[2] = "exit 4";
	assert_int_equal(spawn_check(&options, &result, &err), -EIO);
	assert_string_equal(err.msg, "run 'sh': exit code 4");
	argv[2] = "exit 0";
	assert_int_equal(spawn_check(&options, &result, &err), 0);
	spawn_result_done(&result);
}

static void *spawn_some(void *userdata)
{
	(void)userdata;
	for (int i = 0; i < 5; i++) {
		struct err err = ERR_INIT;
		struct spawn_options options = {.timeout_ms = 20000};
		struct spawn_result result = SPAWN_RESULT_INIT(100);
		char script[32];
		snprintf(script, sizeof(script), "echo %d; exit %d", i, i);
		if (shell_with(&options, script, &result, &err) < 0 || result.exit_code != i ||
			result.out.data[0] != '0' + i)
			return (void *)"failed";
		spawn_result_done(&result);
	}
	return NULL;
}

static void threads_spawn_at_once(void **state)
{
	(void)state;
	pthread_t threads[4];
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, spawn_some, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		void *failure;
		pthread_join(threads[i], &failure);
		assert_null(failure);
	}
}

static void enters_a_netns(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	struct spawn_result result = SPAWN_RESULT_INIT(100);
	_cleanup_close_ int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0) {
		print_message("needs root and network namespaces\n");
		skip();
	}
	int fresh = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	struct stat st;
	assert_int_equal(fstat(fresh, &st), 0);
	assert_int_equal(setns(own, CLONE_NEWNET), 0);

	struct spawn_options options = {.netns_fd = fresh};
	assert_int_equal(shell_with(&options, "stat -L -c %i /proc/self/ns/net", &result, &err), 0);
	assert_int_equal(strtoul(buf_string(&result.out), NULL, 10), st.st_ino);
	options.netns_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(shell_with(&options, "true", &result, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "netns"));
	close(options.netns_fd);
	close(fresh);
	spawn_result_done(&result);
}

static void works_with_stdio_closed(void **state)
{
	(void)state;
	int saved[3];
	for (int fd = 0; fd < 3; fd++) {
		saved[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 10);
		close(fd);
	}
	struct err err = ERR_INIT;
	struct spawn_options options = {.stdin_data = "in", .stdin_len = 2};
	struct spawn_result result = SPAWN_RESULT_INIT(100);
	int r = shell_with(&options, "cat; echo err >&2", &result, &err);
	for (int fd = 0; fd < 3; fd++) {
		dup2(saved[fd], fd);
		close(saved[fd]);
	}
	assert_int_equal(r, 0);
	assert_string_equal(buf_string(&result.out), "in");
	assert_string_equal(buf_string(&result.err_tail), "err\n");
	spawn_result_done(&result);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(captures_output_and_code),
		TEST(a_signal_is_128_and_more),
		TEST(missing_programs),
		TEST(feeds_any_amount_of_input),
		TEST(inherits_nothing),
		TEST(takes_an_environment),
		TEST(the_deadline_kills_the_group),
		TEST(a_chatterer_cannot_outrun_the_deadline),
		TEST(too_much_output_kills),
		TEST(is_cancelled),
		TEST(a_grandchild_holding_the_pipes_does_not_hold_us),
		TEST(the_last_words_of_a_group_arrive),
		TEST(closing_its_output_is_not_the_end),
		TEST(reports_lines),
		TEST(keeps_the_end_of_stderr),
		TEST(check_makes_failure_an_error),
		TEST(threads_spawn_at_once),
		TEST(enters_a_netns),
		TEST(works_with_stdio_closed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
