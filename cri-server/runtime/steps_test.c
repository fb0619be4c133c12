#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cri-server/runtime/steps.h"

struct trace {
	char events[64];
};

static int note(void *subject, const char *event)
{
	struct trace *trace = subject;
	size_t used = strlen(trace->events);

	snprintf(trace->events + used, sizeof(trace->events) - used, "%s", event);
	return 0;
}

static int run_a(void *s, struct err *err)
{
	(void)err;
	return note(s, "A");
}
static int run_b(void *s, struct err *err)
{
	(void)err;
	return note(s, "B");
}
static int run_fail(void *s, struct err *err)
{
	note(s, "F");
	return err_set(err, -EIO, "it broke");
}
static void undo_a(void *s)
{
	note(s, "a");
}
static void undo_fail(void *s)
{
	note(s, "f");
}

static void runs_all_in_order(void **state)
{
	(void)state;
	const struct step steps[] = {{"first", run_a, undo_a}, {"second", run_b, NULL}};
	struct trace trace = {""};
	struct step_times times;
	struct err err = ERR_INIT;
	assert_int_equal(
		steps_run(&(struct step_table){"Test", steps, 2}, &trace, NULL, &times, &err), 0);
	assert_string_equal(trace.events, "AB");
}

static void unwinds_in_reverse_with_the_failed_one(void **state)
{
	(void)state;
	const struct step steps[] = {
		{"first", run_a, undo_a},
		{"second", run_b, NULL},
		{"third", run_fail, undo_fail},
		{"never", run_a, undo_a},
	};
	struct trace trace = {""};
	struct step_times times;
	struct err err = ERR_INIT;
	assert_int_equal(
		steps_run(&(struct step_table){"Test", steps, 4}, &trace, NULL, &times, &err),
		-EIO);
	assert_string_equal(trace.events, "ABFfa");
	assert_string_equal(err.msg, "third: it broke");
}

static bool after_two(void *s)
{
	return strlen(((struct trace *)s)->events) == 2;
}

static void stops_when_the_caller_has_gone(void **state)
{
	(void)state;
	const struct step steps[] = {
		{"first", run_a, undo_a},
		{"second", run_b, NULL},
		{"third", run_fail, undo_fail},
	};
	struct trace trace = {""};
	struct step_times times;
	struct err err = ERR_INIT;
	assert_int_equal(
		steps_run(&(struct step_table){"Test", steps, 3}, &trace, after_two, &times, &err),
		-ECANCELED);
	assert_string_equal(trace.events, "ABa");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs_all_in_order),
		cmocka_unit_test(unwinds_in_reverse_with_the_failed_one),
		cmocka_unit_test(stops_when_the_caller_has_gone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
