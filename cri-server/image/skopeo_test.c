/* Of what skopeo is told of credentials; pulls themselves are in pull_test.c and functional. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/image/pull.h"

#define JOE                     "am9lOm9wZW4tc2VzYW1l" /* joe:open-sesame */
#define FILE_OF(registry, auth) "{\"auths\":{\"" registry "\":{\"auth\":\"" auth "\"}}}"

static void test_forms(void **state)
{
	static const struct {
		struct img_auth auth;
		const char *name, *json; /* NULL: nothing */
	} cases[] = {
		{{0}, "r.test/a", NULL},
		{{.username = "joe", .password = "open-sesame"}, "r.test/a",
			FILE_OF("r.test", JOE)},
		{{.username = "joe", .password = "open-sesame", .auth = "other"}, "r.test:5/a/b",
			FILE_OF("r.test:5", JOE)},
		{{.username = "joe"}, "r.test/a", FILE_OF("r.test", "am9lOg==")},
		{{.auth = JOE}, "r.test/a", FILE_OF("r.test", JOE)},
		{{.auth = JOE " \n"}, "r.test/a", FILE_OF("r.test", JOE)},
		{{.auth = "am9lOm9wZW4tc2VzYW1lAAA="}, "r.test/a", FILE_OF("r.test", JOE)},
		{{.identity_token = "t\"k"}, "r.test/a",
			"{\"auths\":{\"r.test\":{\"auth\":\"dG9rZW46\",\"identitytoken\":"
			"\"t\\\"k\"}}}"},
		{{.registry_token = "token"}, "r.test/a", NULL},
		/* Only for the registry that they are said to be for. */
		{{.auth = JOE, .server_address = "other.test"}, "r.test/a", NULL},
		{{.auth = JOE, .server_address = "https://r.test.evil/v1"}, "r.test/a", NULL},
		{{.auth = JOE, .server_address = "https://R.test/v1/"}, "r.test/a",
			FILE_OF("r.test", JOE)},
		{{.auth = JOE, .server_address = "r.test:5"}, "r.test/a", NULL},
		{{.auth = JOE, .server_address = "https://index.docker.io/v1/"},
			"docker.io/library/a", FILE_OF("docker.io", JOE)},
		{{.auth = JOE, .server_address = "docker.io"}, "r.test/a", NULL},
	};
	struct err err = ERR_INIT;
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *json = NULL;
		assert_int_equal(
			transport_auth_json(cases[i].name, &cases[i].auth, &json, &err), 0);
		if (!json != !cases[i].json || (json && strcmp(json, cases[i].json) != 0))
			fail_msg("case %zu: %s instead of %s", i, json ? json : "nothing",
				cases[i].json ? cases[i].json : "nothing");
	}
}

static void test_malformed(void **state)
{
	static const char *const wrong[] = {"@@@", "am9l", JOE " " JOE, "am9lOm9w\x80", "!"};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		const struct img_auth auth = {.auth = wrong[i]};
		struct err err = ERR_INIT;
		char *json = NULL;
		assert_int_equal(transport_auth_json("r.test/a", &auth, &json, &err), -EINVAL);
		assert_null(json);
		assert_non_null(strstr(err.msg, "base64"));
		assert_null(strstr(err.msg, wrong[i])); /* messages are logged */
	}
}

/* Only a registry on this host is asked without TLS, not one whose name looks like that. */
static void test_registries_of_this_host(void **state)
{
	static const struct {
		const char *name;
		bool local;
	} cases[] = {
		{"localhost/a", true},
		{"localhost:5000/a", true},
		{"127.0.0.1/a", true},
		{"127.0.0.1:5000/a", true},
		{"127.255.3.4/a", true},
		{"[::1]:5000/a", true},
		{"[::1]/a", true},
		{"127.evil.test/a", false},
		{"127.0.0.1.evil.test:5000/a", false},
		{"127.0.0.1evil.test/a", false},
		{"localhost.evil.test/a", false},
		{"r.test/localhost/a", false},
		{"[::2]/a", false},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		if (transport_is_local(cases[i].name) != cases[i].local)
			fail_msg("%s", cases[i].name);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forms),
		cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_registries_of_this_host),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
