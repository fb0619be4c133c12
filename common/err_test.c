#include "common/err.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void sets_code_and_message(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	assert_int_equal(err_set(&err, -EINVAL, "layer %d is bad", 3), -EINVAL);
	assert_int_equal(err.code, -EINVAL);
	assert_string_equal(err.msg, "layer 3 is bad");
}

static void appends_the_text_of_errno(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	errno = ENOENT;
	assert_int_equal(err_errno(&err, "open %s", "/x"), -ENOENT);
	assert_string_equal(err.msg, "open /x: No such file or directory");
	errno = 4000;
	assert_int_equal(err_errno(&err, "x"), -4000);
	assert_string_equal(err.msg, "x: unknown error");
}

static void wraps_outwards(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	err_set(&err, -EIO, "inner");
	assert_int_equal(err_wrap(&err, "attach %s", "a"), -EIO);
	assert_int_equal(err_wrap(&err, "Run pod '%s'", "web"), -EIO);
	assert_string_equal(err.msg, "Run pod 'web': attach a: inner");
}

static void wraps_a_message_with_itself(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	struct err other = ERR_INIT;
	err_set(&other, -EIO, "other");
	err_set(&err, -EIO, "inner");
	err_wrap(&err, "%s", other.msg);
	assert_string_equal(err.msg, "other: inner");
}

static void without_err_the_code_travels(void **state)
{
	(void)state;
	assert_int_equal(err_set(NULL, -EBADFD, "x"), -EBADFD);
	errno = EPERM;
	assert_int_equal(err_errno(NULL, "x"), -EPERM);
	assert_int_equal(err_nomem(NULL), -ENOMEM);
	assert_true(err_wrap(NULL, "x") < 0);
}

static void never_returns_success(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	assert_int_equal(err_wrap(&err, "nothing was set"), -EIO);
	errno = 0;
	assert_int_equal(err_errno(&err, "x"), -EIO);
	assert_int_equal(err_set(&err, 5, "x"), -EIO);
	assert_int_equal(err.code, -EIO);
	assert_int_equal(err_set(NULL, 0, "x"), -EIO);
}

static void cuts_what_is_too_long(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	char text[2 * sizeof(err.msg)];
	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	err_set(&err, -EIO, "%s", text);
	assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
	err_wrap(&err, "outer");
	assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
	assert_memory_equal(err.msg, "outer: aaa", 10);
	errno = EIO;
	err_errno(&err, "%.*s", (int)sizeof(err.msg) - 2, text);
	assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
	assert_int_equal(err.msg[sizeof(err.msg) - 2], ':');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sets_code_and_message),
		cmocka_unit_test(appends_the_text_of_errno),
		cmocka_unit_test(wraps_outwards),
		cmocka_unit_test(wraps_a_message_with_itself),
		cmocka_unit_test(without_err_the_code_travels),
		cmocka_unit_test(never_returns_success),
		cmocka_unit_test(cuts_what_is_too_long),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
