/*
 * The writer between a socket pair, which plays the agent's stream, and a file.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/runtime/logs.h"

#define OUT  BULKHEAD__AGENT__STREAM__STDOUT
#define ERRS BULKHEAD__AGENT__STREAM__STDERR

struct place {
	struct logs *logs;
	struct log log;
	struct rlimit file_size;
	char dir[32], path[64], state[64], rotated[64];
};

static int set_up(void **state)
{
	static struct place p;
	p = (struct place){.log = {.fd = STDERR_FILENO, .level = LOG_LEVEL_ERROR}};
	snprintf(p.dir, sizeof(p.dir), "/tmp/logs-test-XXXXXX");
	if (getrlimit(RLIMIT_FSIZE, &p.file_size) < 0)
		return -1;
	if (!mkdtemp(p.dir) || logs_open(&p.log, &p.logs, NULL) < 0)
		return -1;
	snprintf(p.path, sizeof(p.path), "%s/sub/c.log", p.dir);
	snprintf(p.rotated, sizeof(p.rotated), "%s/sub/c.log.1", p.dir);
	snprintf(p.state, sizeof(p.state), "%s/state", p.dir);
	*state = &p;
	return 0;
}

static int tear_down(void **state)
{
	struct place *p = *state;
	setrlimit(RLIMIT_FSIZE, &p->file_size); /* a test that failed may have left it small */
	logs_close(p->logs);
	return fd_remove_tree(p->dir, NULL);
}

static struct log_writer *new_writer(struct place *p)
{
	struct log_writer *w = NULL;
	struct err err = ERR_INIT;
	if (log_writer_new(p->logs, p->path, p->state, &w, &err) < 0)
		fail_msg("%s", err.msg);
	return w;
}

/* The agent's end of a stream that the writer follows. */
static int follow(struct log_writer *w, Bulkhead__Agent__Stream stream)
{
	int fds[2];
	struct err err = ERR_INIT;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	if (log_writer_follow(w, stream, fds[0], log_writer_offset(w, stream), &err) < 0)
		fail_msg("%s", err.msg);
	return fds[1];
}

static void say(int fd, const char *text)
{
	assert_int_equal(fd_write_all(fd, text, strlen(text), NULL), 0);
}

/* Waits until everything before offset is acknowledged. */
static void wait_ack(int fd, uint64_t offset)
{
	for (uint64_t acked = 0; acked < offset;) {
		unsigned char bytes[8];
		assert_int_equal(fd_read_exact(fd, bytes, sizeof(bytes), NULL), 0);
		acked = 0;
		for (size_t i = 0; i < sizeof(bytes); i++)
			acked = acked << 8 | bytes[i];
	}
}

/* The file's lines without their time stamps. */
static char *read_lines(const char *path)
{
	char *text = NULL, *out, *to;
	assert_int_equal(fd_read_file(path, 1 << 22, &text, NULL, NULL), 0);
	out = to = calloc(1, strlen(text) + 1);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		char *space = strchr(line, ' ');
		assert_non_null(space);
		assert_int_equal(space - line, strlen("2026-01-02T03:04:05.678901234Z"));
		to += sprintf(to, "%s\n", space + 1);
	}
	free(text);
	return out;
}

static void assert_lines(const char *path, const char *expected)
{
	char *lines = read_lines(path);
	assert_string_equal(lines, expected);
	free(lines);
}

static void writes_whole_lines(void **state)
{
	struct place *p = *state;
	struct log_writer *w = new_writer(p);
	int out = follow(w, OUT), errs = follow(w, ERRS);
	say(out, "one\ntwo\nthr");
	wait_ack(out, 8);
	say(errs, "oops\n");
	wait_ack(errs, 5);
	say(out, "ee\n\n");
	wait_ack(out, 15);
	assert_lines(
		p->path, "stdout F one\nstdout F two\nstderr F oops\nstdout F three\nstdout F \n");
	close(out);
	close(errs);
	assert_true(log_writer_wait(w, 30000));
	log_writer_unref(w);
}

static void ends_with_what_has_no_newline(void **state)
{
	struct place *p = *state;
	struct log_writer *w = new_writer(p);
	int out = follow(w, OUT);
	say(out, "last words");
	close(out);
	assert_true(log_writer_wait(w, 30000));
	assert_lines(p->path, "stdout P last words\n");
	log_writer_unref(w);
}

static void splits_long_lines(void **state)
{
	struct place *p = *state;
	struct log_writer *w = new_writer(p);
	int out = follow(w, OUT);
	char *line = malloc(LOG_LINE_MAX + 3);
	memset(line, 'x', LOG_LINE_MAX + 1);
	memcpy(line + LOG_LINE_MAX + 1, "\n", sizeof("\n"));
	say(out, line);
	wait_ack(out, LOG_LINE_MAX + 2);
	char *lines = read_lines(p->path);
	assert_int_equal(strlen(lines), LOG_LINE_MAX + 1 + 2 * strlen("stdout P \n"));
	assert_memory_equal(lines, "stdout P x", 10);
	assert_string_equal(lines + strlen("stdout P \n") + LOG_LINE_MAX, "stdout F x\n");
	free(lines);
	free(line);
	close(out);
	log_writer_unref(w);
}

static void a_new_writer_goes_on_where_the_file_ends(void **state)
{
	struct place *p = *state;
	struct log_writer *w = new_writer(p);
	int out = follow(w, OUT);
	say(out, "one\nunfinished");
	wait_ack(out, 4);
	close(out);
	assert_true(log_writer_wait(w, 30000));
	log_writer_unref(w);
	w = new_writer(p);
	assert_int_equal(log_writer_offset(w, OUT), strlen("one\nunfinished"));
	assert_int_equal(log_writer_offset(w, ERRS), 0);
	log_writer_unref(w);
}

/* What a process leaves that dies between two bytes of a batch. */
static void cuts_off_what_a_crash_left_in_part(void **state)
{
	struct place *p = *state;
	struct log_writer *w = new_writer(p);
	int out = follow(w, OUT);
	say(out, "one\n");
	wait_ack(out, 4);
	say(out, "two\n");
	wait_ack(out, 8);
	struct stat st;
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(truncate(p->path, st.st_size - 3), 0);
	close(out);
	log_writer_unref(w);
	w = new_writer(p);
	assert_int_equal(log_writer_offset(w, OUT), 4);
	assert_lines(p->path, "stdout F one\n");
	log_writer_unref(w);
}

static void reopening_follows_a_rotation(void **state)
{
	struct place *p = *state;
	struct log_writer *w = new_writer(p);
	int out = follow(w, OUT);
	say(out, "old\n");
	wait_ack(out, 4);
	assert_int_equal(rename(p->path, p->rotated), 0);
	say(out, "between\n");
	wait_ack(out, 12);
	assert_int_equal(log_writer_reopen(w, NULL), 0);
	say(out, "new\n");
	wait_ack(out, 16);
	assert_lines(p->rotated, "stdout F old\nstdout F between\n");
	assert_lines(p->path, "stdout F new\n");
	close(out);
	log_writer_unref(w);
}

static void without_a_path_it_only_drains(void **state)
{
	struct place *p = *state;
	struct log_writer *w = NULL;
	assert_int_equal(log_writer_new(p->logs, "", p->state, &w, NULL), 0);
	int out = follow(w, OUT);
	say(out, "unheard\n");
	wait_ack(out, 8);
	close(out);
	assert_true(log_writer_wait(w, 30000));
	log_writer_unref(w);
}

static uint64_t cpu_ms(void)
{
	struct timespec used;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	return (uint64_t)used.tv_sec * 1000 + (uint64_t)used.tv_nsec / 1000000;
}

/* Until the writer has read what was said. */
static void wait_read(int fd)
{
	int unread = 1;
	for (int i = 0; i < 30000 && unread > 0; i++) {
		usleep(1000);
		assert_int_equal(ioctl(fd, TIOCOUTQ, &unread), 0);
	}
	assert_int_equal(unread, 0);
}

/* The limit on a file's size makes the disk full. `line` is what was read and does not fit whole.
 */
static int fill_disk(const struct place *p, struct log_writer *w, char line[static 302])
{
	const struct rlimit full = {.rlim_cur = 256, .rlim_max = p->file_size.rlim_max};
	signal(SIGXFSZ, SIG_IGN);
	int out = follow(w, OUT);
	say(out, "one\n");
	wait_ack(out, 4);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &full), 0);
	memset(line, 'x', 300);
	memcpy(line + 300, "\n", sizeof("\n"));
	say(out, line);
	wait_read(out);
	return out;
}

static void waits_while_the_disk_is_full_and_loses_nothing(void **state)
{
	struct place *p = *state;
	struct log_writer *w = new_writer(p);
	char line[302];
	int out = fill_disk(p, w, line);
	/* Part of the batch fitted: it is not left there. A second stream comes, both end. */
	int errs = follow(w, ERRS);
	say(errs, "err\nend");
	close(errs);
	close(out);
	uint64_t used = cpu_ms();
	assert_false(log_writer_wait(w, 400));
	assert_true(cpu_ms() - used < 200);
	/* An attempt may be under way, which leaves the part for a moment. */
	char *lines = read_lines(p->path);
	for (int i = 0; i < 1000 && strcmp(lines, "stdout F one\n") != 0; i++) {
		free(lines);
		usleep(1000);
		lines = read_lines(p->path);
	}
	free(lines);
	assert_lines(p->path, "stdout F one\n");
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &p->file_size), 0);
	assert_true(log_writer_wait(w, 30000));
	char expected[400];
	snprintf(expected, sizeof(expected),
		"stdout F one\nstdout F %sstderr F err\nstderr P end\n", line);
	assert_lines(p->path, expected);
	log_writer_unref(w);
}

/* And the process dies before it is tried again. */
static void a_rotation_while_the_disk_is_full_loses_nothing(void **state)
{
	struct place *p = *state;
	struct log_writer *w = new_writer(p);
	char line[302];
	int out = fill_disk(p, w, line);
	assert_int_equal(rename(p->path, p->rotated), 0);
	assert_int_equal(log_writer_reopen(w, NULL), 0);
	log_writer_unref(w);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &p->file_size), 0);
	close(out);
	w = new_writer(p);
	assert_int_equal(log_writer_offset(w, OUT), 4);
	log_writer_unref(w);
}

/* A guest that never reads holds up itself alone. */
static void writes_on_where_acknowledgements_are_not_read(void **state)
{
	struct place *p = *state;
	struct log_writer *w = new_writer(p);
	int out = follow(w, OUT);
	for (size_t i = 0; i < 3000; i++) {
		say(out, "line\n");
		if (i % 10 == 0)
			usleep(1000);
	}
	close(out);
	assert_true(log_writer_wait(w, 30000));
	assert_int_equal(log_writer_offset(w, OUT), 3000 * strlen("line\n"));
	log_writer_unref(w);
}

static void refuses_what_is_no_regular_file(void **state)
{
	struct place *p = *state;
	struct log_writer *w = NULL;
	struct err err = ERR_INIT;
	assert_true(log_writer_new(p->logs, "/dev/null", p->state, &w, &err) < 0);
	assert_non_null(strstr(err.msg, "/dev/null"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(writes_whole_lines),
		TEST(ends_with_what_has_no_newline),
		TEST(splits_long_lines),
		TEST(a_new_writer_goes_on_where_the_file_ends),
		TEST(cuts_off_what_a_crash_left_in_part),
		TEST(reopening_follows_a_rotation),
		TEST(without_a_path_it_only_drains),
		TEST(waits_while_the_disk_is_full_and_loses_nothing),
		TEST(a_rotation_while_the_disk_is_full_loses_nothing),
		TEST(writes_on_where_acknowledgements_are_not_read),
		TEST(refuses_what_is_no_regular_file),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
