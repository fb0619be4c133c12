#include "common/log.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define STAMP_LEN 24 /* 2024-01-02T03:04:05.678Z */

struct sink {
	int fds[2];
	struct log log;
	char text[8192];
};

static int setup(void **state)
{
	struct sink *sink = calloc(1, sizeof(*sink));
	assert_non_null(sink);
	assert_int_equal(pipe(sink->fds), 0);
	sink->log = (struct log){.fd = sink->fds[1], .level = LOG_LEVEL_INFO};
	*state = sink;
	return 0;
}

static int teardown(void **state)
{
	struct sink *sink = *state;
	close(sink->fds[0]);
	close(sink->fds[1]);
	free(sink);
	return 0;
}

/* What was logged, less the time in front. */
static const char *logged(struct sink *sink)
{
	ssize_t n = read(sink->fds[0], sink->text, sizeof(sink->text) - 1);
	assert_true(n > STAMP_LEN);
	sink->text[n] = '\0';
	assert_int_equal(sink->text[10], 'T');
	assert_int_equal(sink->text[19], '.');
	assert_int_equal(sink->text[STAMP_LEN - 1], 'Z');
	return sink->text + STAMP_LEN;
}

static void writes_one_line(void **state)
{
	struct sink *sink = *state;
	log_event(&sink->log, LOG_LEVEL_INFO, "started", "pod", "web", "vm", NULL, "n", "3", NULL);
	assert_string_equal(logged(sink), " info started pod=web n=3\n");
}

static void drops_what_is_below_the_level(void **state)
{
	struct sink *sink = *state;
	log_event(&sink->log, LOG_LEVEL_DEBUG, "not this", NULL);
	log_event(&sink->log, LOG_LEVEL_ERROR, "this", NULL);
	assert_string_equal(logged(sink), " error this\n");
}

static void an_event_stays_one_line(void **state)
{
	struct sink *sink = *state;
	log_event(&sink->log, LOG_LEVEL_WARNING, "m", "err", "a\nb\r\x1b[31m\"x\\", "e", "", NULL);
	assert_string_equal(
		logged(sink), " warning m err=\"a\\nb\\x0d\\x1b[31m\\\"x\\\\\" e=\"\"\n");
}

static void long_events_are_cut(void **state)
{
	struct sink *sink = *state;
	char value[6000];
	memset(value, 'x', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	log_event(&sink->log, LOG_LEVEL_INFO, "m", "a", value, "b", value, "c", value, NULL);
	const char *text = logged(sink);
	assert_int_equal(strlen(text), 4096 - STAMP_LEN);
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	log_event(&sink->log, LOG_LEVEL_INFO, value, "a", "b", NULL);
	text = logged(sink);
	assert_int_equal(strlen(text), 4096 - STAMP_LEN);
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
}

static void escapes_into_any_size(void **state)
{
	(void)state;
	for (size_t size = 1; size < 16; size++) {
		char out[17];
		memset(out, '#', sizeof(out));
		log_escape(out, size, "a \xff\"b");
		assert_int_equal(out[size], '#');
		assert_true(strlen(out) < size);
		if (size >= 3) {
			assert_int_equal(out[0], '"');
			assert_int_equal(out[strlen(out) - 1], '"');
		}
	}
	char out[32];
	log_escape(out, sizeof(out), "a \xff\"b");
	assert_string_equal(out, "\"a \\xff\\\"b\"");
	log_escape(out, sizeof(out), "plain-1.2/x");
	assert_string_equal(out, "plain-1.2/x");
	log_escape(out, sizeof(out), "k=v");
	assert_string_equal(out, "\"k=v\"");
}

static void parses_levels(void **state)
{
	(void)state;
	enum log_level level = LOG_LEVEL_ERROR;
	assert_int_equal(log_level_parse("debug", &level), 0);
	assert_int_equal(level, LOG_LEVEL_DEBUG);
	assert_int_equal(log_level_parse("warning", &level), 0);
	assert_int_equal(level, LOG_LEVEL_WARNING);
	assert_int_equal(log_level_parse("Warning", &level), -EINVAL);
	assert_int_equal(log_level_parse("", &level), -EINVAL);
	assert_int_equal(level, LOG_LEVEL_WARNING);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(writes_one_line, setup, teardown),
		cmocka_unit_test_setup_teardown(drops_what_is_below_the_level, setup, teardown),
		cmocka_unit_test_setup_teardown(an_event_stays_one_line, setup, teardown),
		cmocka_unit_test_setup_teardown(long_events_are_cut, setup, teardown),
		cmocka_unit_test(escapes_into_any_size),
		cmocka_unit_test(parses_levels),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
