#include "cri-server/cli/output.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/cli/refs.h"

static void test_escape(void **state)
{
	(void)state;
	const struct {
		const char *text, *escaped;
	} cases[] = {
		{"", ""},
		{"plain text", "plain text"},
		{"caf\xc3\xa9 \xe2\x9c\x93 \xf0\x9f\x98\x80",
			"caf\xc3\xa9 \xe2\x9c\x93 \xf0\x9f\x98\x80"},
		{"\x1b[2J\n\t", "\\x1b[2J\\x0a\\x09"},
		{"\x7f\xc2\x9b"
		 "1m",
			"\\x7f\\xc2\\x9b"
			"1m"},
		{"\xff\xc3", "\\xff\\xc3"},
		{"\xc0\xaf\xed\xa0\x80", "\\xc0\\xaf\\xed\\xa0\\x80"},
		{"a\xe2\x80\x8b"
		 "b",
			"a\\xe2\\x80\\x8b"
			"b"},
		{"\xd8\x9c", "\\xd8\\x9c"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char *escaped = output_escape(cases[i].text);
		assert_string_equal(escaped, cases[i].escaped);
		free(escaped);
	}
}

static void test_age(void **state)
{
	(void)state;
	const int64_t now = (int64_t)1700000000 * 1000000000;
	const struct {
		int64_t seconds;
		const char *text;
	} cases[] = {
		{0, "just now"},
		{-5, "just now"},
		{1, "1 second ago"},
		{59, "59 seconds ago"},
		{60, "1 minute ago"},
		{5 * 60 + 59, "5 minutes ago"},
		{3600, "1 hour ago"},
		{47 * 3600, "1 day ago"},
		{60 * 86400, "2 months ago"},
		{800 * (int64_t)86400, "2 years ago"},
	};
	char text[32];
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		output_age(text, sizeof(text), now - cases[i].seconds * 1000000000, now);
		assert_string_equal(text, cases[i].text);
	}
	output_age(text, sizeof(text), 0, now);
	assert_string_equal(text, "-");
	output_age(text, sizeof(text), INT64_MIN, now);
	assert_string_equal(text, "-");
}

static void test_size_and_id(void **state)
{
	(void)state;
	const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{0, "0B"},
		{999, "999B"},
		{1000, "1.0kB"},
		{999999, "1.0MB"},
		{12345678, "12.3MB"},
		{123456789, "123MB"},
		{UINT64_MAX, "18.4EB"},
	};
	char text[16], id[OUTPUT_ID_SIZE];
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		output_size(text, sizeof(text), cases[i].bytes);
		assert_string_equal(text, cases[i].text);
	}
	output_id(id, "sha256:0123456789abcdef0123");
	assert_string_equal(id, "0123456789abc");
	output_id(id, "short");
	assert_string_equal(id, "short");
}

static void test_table(void **state)
{
	(void)state;
	const char *const headings[] = {"ID", "NAME", "STATE", NULL};
	const char *const first[] = {"1", "caf\xc3\xa9", "up"};
	const char *const second[] = {"1234", "a\x1b[b", ""};
	struct table *table = table_new(headings);
	assert_int_equal(table_add(table, first), 0);
	assert_int_equal(table_add(table, second), 0);
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	table_print(table, out);
	fclose(out);
	assert_string_equal(text, "ID     NAME      STATE\n"
				  "1      caf\xc3\xa9      up\n"
				  "1234   a\\x1b[b   \n");
	free(text);
	assert_null(table_free(table));
}

static void test_refs(void **state)
{
	(void)state;
	const struct ref refs[] = {
		{"abc1", "web"}, {"abd2", "db"}, {"f00", "twice"}, {"f01", "twice"}, {"db9", "x"}};
	struct err err = ERR_INIT;
	size_t i = 99;
#define FIND(wanted) ref_find(refs, ARRAY_SIZE(refs), wanted, "container", &i, &err)
	assert_int_equal(FIND("abc1"), 0);
	assert_int_equal(i, 0);
	assert_int_equal(FIND("abd"), 0);
	assert_int_equal(i, 1);
	assert_int_equal(FIND("web"), 0);
	assert_int_equal(i, 0);
	assert_int_equal(FIND("db"), 0); /* a name goes before the beginning of an id */
	assert_int_equal(i, 1);
	assert_int_equal(FIND("f01"), 0);
	assert_int_equal(i, 3);
	assert_int_equal(FIND("ab"), -EINVAL);
	assert_int_equal(FIND("twice"), -EINVAL);
	assert_non_null(strstr(err.msg, "'twice'"));
	assert_int_equal(FIND("nope"), -ENOENT);
	assert_string_equal(err.msg, "no container has the id or name 'nope'");
	assert_int_equal(FIND(""), -EINVAL);
	assert_int_equal(ref_find(NULL, 0, "a", "pod", &i, &err), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_escape),
		cmocka_unit_test(test_age),
		cmocka_unit_test(test_size_and_id),
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_refs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
