#include "common/buf.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void appends_up_to_the_bound(void **state)
{
	(void)state;
	struct buf buf = buf_init(5);
	assert_int_equal(buf_append(&buf, "abc", 3), 0);
	assert_int_equal(buf_append(&buf, "def", 3), -ENOBUFS);
	assert_int_equal(buf.len, 3);
	assert_int_equal(buf_append(&buf, "de", 2), 0);
	assert_int_equal(buf_append(&buf, "", 0), 0);
	assert_int_equal(buf_append(&buf, "f", 1), -ENOBUFS);
	assert_string_equal(buf_string(&buf), "abcde");
	assert_true(buf.cap <= 6);
	buf_done(&buf);
	assert_null(buf.data);
	assert_int_equal(buf.max, 5);
	assert_int_equal(buf_append(&buf, "again", 5), 0);
	buf_done(&buf);
}

static void an_empty_buffer_is_an_empty_string(void **state)
{
	(void)state;
	struct buf buf = buf_init(0);
	assert_string_equal(buf_string(&buf), "");
	assert_int_equal(buf_append(&buf, "x", 1), -ENOBUFS);
	assert_int_equal(buf_printf(&buf, "%s", ""), 0);
	buf_consume(&buf, 0);
	buf_done(&buf);
}

static void appends_nothing_from_null(void **state)
{
	(void)state;
	struct buf buf = buf_init(4);
	assert_int_equal(buf_append(&buf, NULL, 0), 0);
	assert_int_equal(buf.len, 0);
	buf_done(&buf);
}

static void prints(void **state)
{
	(void)state;
	struct buf buf = buf_init(8);
	assert_int_equal(buf_printf(&buf, "%d-%s", 12, "ab"), 0);
	assert_int_equal(buf_printf(&buf, "%s", "wxyz"), -ENOBUFS);
	assert_string_equal(buf_string(&buf), "12-ab");
	assert_int_equal(buf_printf(&buf, "%s", "xyz"), 0);
	assert_string_equal(buf_string(&buf), "12-abxyz");
	assert_int_equal(buf.len, 8);
	buf_done(&buf);
}

static void reserves_and_commits(void **state)
{
	(void)state;
	struct buf buf = buf_init(100);
	char *to = buf_reserve(&buf, 100);
	assert_non_null(to);
	memset(to, 'x', 100);
	buf_commit(&buf, 60);
	assert_null(buf_reserve(&buf, 41));
	assert_ptr_equal(buf_reserve(&buf, 40), to + 60);
	buf_commit(&buf, 40);
	assert_int_equal(strlen(buf_string(&buf)), 100);
	buf_done(&buf);
}

static void consumes_from_the_front(void **state)
{
	(void)state;
	struct buf buf = buf_init(10);
	assert_int_equal(buf_append(&buf, "0123456789", 10), 0);
	buf_consume(&buf, 4);
	assert_string_equal(buf_string(&buf), "456789");
	assert_int_equal(buf_append(&buf, "abcd", 4), 0);
	assert_string_equal(buf_string(&buf), "456789abcd");
	buf_consume(&buf, 10);
	assert_int_equal(buf.len, 0);
	buf_done(&buf);
}

static void needs_no_bound(void **state)
{
	(void)state;
	struct buf buf = buf_init(SIZE_MAX);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(buf_append(&buf, "0123456789", 10), 0);
	assert_int_equal(buf.len, 10000);
	buf_done(&buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(appends_up_to_the_bound),
		cmocka_unit_test(an_empty_buffer_is_an_empty_string),
		cmocka_unit_test(appends_nothing_from_null),
		cmocka_unit_test(prints),
		cmocka_unit_test(reserves_and_commits),
		cmocka_unit_test(consumes_from_the_front),
		cmocka_unit_test(needs_no_bound),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
