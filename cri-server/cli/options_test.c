#include "cri-server/cli/options.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/fd.h"

struct values {
	bool all, force;
	const char *name;
	uint64_t tail;
	const char *output;
	struct option_list env;
};

/* args end with NULL; what is left is checked against rest. */
static int parse(struct values *v, const char *const *args, char ***ret_rest, struct err *err)
{
	const struct option_row rows[] = {
		{"all", 'a', OPTION_FLAG, &v->all, NULL, "all of them"},
		{"force", 0, OPTION_FLAG, &v->force, NULL, "by force"},
		{"name", 'n', OPTION_STRING, &v->name, "NAME", "the name"},
		{"tail", 0, OPTION_NUMBER, &v->tail, "LINES", "the last lines"},
		{"output", 'o', OPTION_CHOICE, &v->output, "json|yaml|table", "the form"},
		{"env", 'e', OPTION_LIST, &v->env, "NAME=VALUE", "a variable"},
	};
	*v = (struct values){.tail = 7};
	return options_parse(rows, ARRAY_SIZE(rows), (char **)args, ret_rest, err);
}

static void test_values(void **state)
{
	(void)state;
	const char *const args[] = {"-an", "x", "--tail=12", "-eA=1", "--env=B=2", "-e",
		"C=", "image", "--force", NULL};
	struct values v;
	struct err err = ERR_INIT;
	char **rest = NULL;
	assert_int_equal(parse(&v, args, &rest, &err), 0);
	assert_true(v.all);
	assert_string_equal(v.name, "x");
	assert_int_equal(v.tail, 12);
	assert_int_equal(v.env.n, 3);
	assert_string_equal(v.env.items[0], "A=1");
	assert_string_equal(v.env.items[1], "B=2");
	assert_string_equal(v.env.items[2], "C=");
	/* The command's own options stay its own. */
	assert_false(v.force);
	assert_string_equal(rest[0], "image");
	assert_string_equal(rest[1], "--force");
}

static void test_choice(void **state)
{
	(void)state;
	const char *const good[] = {"json", "yaml", "table"};
	const char *const bad[] = {"", "jso", "jsonx", "json|yaml", "|", "JSON"};
	struct values v;
	struct err err = ERR_INIT;
	char **rest = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		const char *const args[] = {"-o", good[i], NULL};
		assert_int_equal(parse(&v, args, &rest, &err), 0);
		assert_string_equal(v.output, good[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const char *const args[] = {"--output", bad[i], NULL};
		assert_int_equal(parse(&v, args, &rest, &err), -EINVAL);
		assert_non_null(strstr(err.msg, "is not one of json|yaml|table"));
	}
}

static void test_end(void **state)
{
	(void)state;
	const char *const dashes[] = {"--force", "--", "-a", NULL};
	const char *const dash[] = {"-", "-a", NULL};
	const char *const none[] = {NULL};
	struct values v;
	char **rest = NULL;
	assert_int_equal(parse(&v, dashes, &rest, NULL), 0);
	assert_true(v.force && !v.all);
	assert_string_equal(rest[0], "-a");
	assert_int_equal(parse(&v, dash, &rest, NULL), 0);
	assert_string_equal(rest[0], "-");
	assert_int_equal(parse(&v, none, &rest, NULL), 0);
	assert_null(rest[0]);
	assert_int_equal(v.tail, 7);
}

static void test_mistakes(void **state)
{
	(void)state;
	const struct {
		const char *args[3];
		const char *message;
	} cases[] = {
		{{"--nope", NULL}, "unknown option '--nope'"},
		{{"--al", NULL}, "unknown option '--al'"},
		{{"-x", NULL}, "unknown option '-x'"},
		{{"--all=1", NULL}, "option '--all=1': --all takes no value"},
		{{"-ab", NULL}, "unknown option '-ab'"},
		{{"--name", NULL}, "--name needs NAME"},
		{{"-n", NULL}, "--name needs NAME"},
		{{"--tail", "-1", NULL}, "--tail: '-1' is not a number"},
		{{"--tail=", NULL}, "--tail: '' is not a number"},
		{{"--tail", "5x", NULL}, "--tail: '5x' is not a number"},
		{{"--tail=99999999999999999999", NULL},
			"--tail: '99999999999999999999' is not a number"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct values v;
		struct err err = ERR_INIT;
		char **rest = NULL;
		assert_int_equal(parse(&v, cases[i].args, &rest, &err), -EINVAL);
		assert_string_equal(err.msg, cases[i].message);
		assert_null(rest);
	}
}

static void test_help(void **state)
{
	(void)state;
	const char *const long_name[] = {"-a", "--help", "--nope", NULL};
	const char *const letter[] = {"-h", NULL};
	struct values v;
	char **rest = NULL;
	assert_int_equal(parse(&v, long_name, &rest, NULL), 1);
	assert_int_equal(parse(&v, letter, &rest, NULL), 1);

	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	const struct option_row row = {"tail", 't', OPTION_NUMBER, NULL, "LINES", "the last"};
	options_help(out, &row, 1);
	fclose(out);
	assert_non_null(strstr(text, "-t, --tail LINES"));
	assert_non_null(strstr(text, "the last\n"));
	assert_non_null(strstr(text, "-h, --help"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_end),
		cmocka_unit_test(test_choice),
		cmocka_unit_test(test_mistakes),
		cmocka_unit_test(test_help),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
