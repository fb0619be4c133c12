#include "cri-server/cli/log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"

static int parse(const char *line, struct log_entry *entry)
{
	return log_entry_parse(line, strlen(line), entry);
}

static void test_parse(void **state)
{
	(void)state;
	struct log_entry e;
	assert_int_equal(parse("2026-01-02T03:04:05.678901234Z stdout F the line", &e), 0);
	assert_int_equal(e.fd, 1);
	assert_false(e.partial);
	assert_int_equal(e.len, 8);
	assert_memory_equal(e.text, "the line", 8);

	assert_int_equal(parse("t stderr P ", &e), 0);
	assert_int_equal(e.fd, 2);
	assert_true(e.partial);
	assert_int_equal(e.len, 0);

	assert_int_equal(parse("t stdout F:x  two", &e), 0);
	assert_int_equal(e.len, 4);
	assert_memory_equal(e.text, " two", 4);

	const char *const bad[] = {"", "t", "t stdout", "t stdout ", "t stdout F", "t stdin F x",
		"t stdout X x", "t stdout FP x", "stdout F x", "t  stdout F x"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse(bad[i], &e), -EBADMSG);
}

/* Descriptors 1 and 2 on files for a while. */
struct capture {
	int saved[2];
	int files[2];
};

static void capture_begin(struct capture *c)
{
	fflush(NULL);
	for (int i = 0; i < 2; i++) {
		char name[] = "/tmp/log-file-test-XXXXXX";
		c->saved[i] = dup(i + 1);
		c->files[i] = mkstemp(name);
		unlink(name);
		dup2(c->files[i], i + 1);
	}
}

static void capture_end(struct capture *c, char out[2][512])
{
	for (int i = 0; i < 2; i++) {
		dup2(c->saved[i], i + 1);
		close(c->saved[i]);
		ssize_t n = pread(c->files[i], out[i], 511, 0);
		out[i][n > 0 ? n : 0] = '\0';
		close(c->files[i]);
	}
}

static void write_log(const char *path, const char *text, int flags)
{
	int fd = open(path, O_WRONLY | O_CREAT | flags, 0600);
	assert_int_equal(fd_write_all(fd, text, strlen(text), NULL), 0);
	close(fd);
}

static void copy(struct log_file *file, char out[2][512])
{
	struct capture c;
	struct err err = ERR_INIT;
	capture_begin(&c);
	int r = log_file_copy(file, &err);
	capture_end(&c, out);
	assert_int_equal(r, 0);
}

static void test_copy(void **state)
{
	(void)state;
	char path[] = "/tmp/log-file-test-XXXXXX", rotated[64];
	char out[2][512];
	close(mkstemp(path));
	unlink(path);
	struct log_file *file = NULL;
	assert_int_equal(log_file_open(path, &file, NULL), 0);
	copy(file, out); /* not there yet */
	assert_string_equal(out[0], "");

	write_log(path, "t stdout P part-\nt stderr F error\nt stdout F whole\nt stdout F ha", 0);
	copy(file, out);
	assert_string_equal(out[0], "part-whole\n");
	assert_string_equal(out[1], "error\n");

	/* The rest of a line that was not complete; then the file is rotated. */
	write_log(path, "lf\n", O_APPEND);
	snprintf(rotated, sizeof(rotated), "%s.1", path);
	rename(path, rotated);
	write_log(path, "t stdout F new file\n", O_EXCL);
	copy(file, out);
	assert_string_equal(out[0], "half\nnew file\n");
	copy(file, out);
	assert_string_equal(out[0], "");
	assert_null(log_file_close(file));
	unlink(path);
	unlink(rotated);
}

static void test_tail(void **state)
{
	(void)state;
	char path[] = "/tmp/log-file-test-XXXXXX";
	char out[2][512];
	close(mkstemp(path));
	write_log(path, "t stdout F 1\nt stdout P 2\nt stdout F +\nt stdout F 3\n", 0);
	const struct {
		size_t n;
		const char *out;
	} cases[] = {{0, ""}, {1, "3\n"}, {2, "2+\n3\n"}, {3, "1\n2+\n3\n"}, {100, "1\n2+\n3\n"}};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct log_file *file = NULL;
		assert_int_equal(log_file_open(path, &file, NULL), 0);
		assert_int_equal(log_file_seek_tail(file, cases[i].n, NULL), 0);
		copy(file, out);
		assert_string_equal(out[0], cases[i].out);
		log_file_close(file);
	}
	unlink(path);
}

static void test_style(void **state)
{
	(void)state;
	char path[] = "/tmp/log-file-test-XXXXXX";
	char out[2][512];
	close(mkstemp(path));
	write_log(path,
		"2026-01-02T03:04:05.1Z stdout F old\n"
		"2026-01-02T03:04:06.2Z stdout P a\n"
		"2026-01-02T03:04:06.3Z stderr F err\x1b[m\n"
		"2026-01-02T03:04:06.4Z stdout F b\t\x1b[31m\n"
		"no log entry\n",
		0);
	struct log_style style = {.timestamps = true,
		.since_ns = 1767323046000000000,
		.escaped = {[STDOUT_FILENO] = true}};
	struct log_file *file = NULL;
	assert_int_equal(log_file_open(path, &file, NULL), 0);
	log_file_set_style(file, &style);
	copy(file, out);
	assert_string_equal(out[0], "2026-01-02T03:04:06.2Z ab\t\\x1b[31m\nno log entry\n");
	assert_string_equal(out[1], "2026-01-02T03:04:06.3Z err\x1b[m\n");
	log_file_close(file);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_copy),
		cmocka_unit_test(test_tail),
		cmocka_unit_test(test_style),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
