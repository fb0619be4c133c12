#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "common/fd.h"
#include "cri-server/runtime/cpu_list.h"

static void test_lists_are_added(void **state)
{
	static const struct {
		const char *one, *other, *sum;
	} rows[] = {
		{"0", "0", "0"},
		{"2-3", "5,4", "2-5"},
		{"0,2,4-6", "63-64", "0,2,4-6,63-64"},
		{"8190", "8191", "8190-8191"},
		{"007", "1-1", "1,7"},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct cpu_list list = {0};
		assert_int_equal(cpu_list_add(&list, rows[i].one, NULL), 0);
		assert_int_equal(cpu_list_add(&list, rows[i].other, NULL), 0);
		_cleanup_free_ char *text = cpu_list_text(&list);
		assert_string_equal(text, rows[i].sum);
	}
}

static void test_what_is_no_list(void **state)
{
	static const char *const bad[] = {"", ",", "1,", ",1", "1,,2", "-", "1-", "-1", "3-2",
		"1-2-3", "8192", "0-8192", "4294967296", "99999999999999999999", "a", "1a", "1 ",
		" 1", "1\n", "0-7:2/4", "all", "+1"};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct cpu_list list = {0};
		struct err err = ERR_INIT;
		assert_int_equal(cpu_list_add(&list, bad[i], &err), -EINVAL);
	}
}

/* The longest text there is. */
static void test_every_other_one(void **state)
{
	struct cpu_list list = {0}, again = {0};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(list.bits); i++)
		list.bits[i] = UINT64_C(0xaaaaaaaaaaaaaaaa);
	_cleanup_free_ char *text = cpu_list_text(&list);
	assert_non_null(text);
	assert_int_equal(cpu_list_add(&again, text, NULL), 0);
	assert_memory_equal(&again, &list, sizeof(list));
}

static void test_empty(void **state)
{
	const struct cpu_list list = {0};
	(void)state;
	_cleanup_free_ char *text = cpu_list_text(&list);
	assert_string_equal(text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lists_are_added),
		cmocka_unit_test(test_what_is_no_list),
		cmocka_unit_test(test_every_other_one),
		cmocka_unit_test(test_empty),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
