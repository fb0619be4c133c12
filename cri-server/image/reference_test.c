#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cri-server/image/reference.h"

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void completes(void **state)
{
	(void)state;
	static const struct {
		const char *text, *name, *tag, *digest;
	} cases[] = {
		{"busybox", "docker.io/library/busybox", "latest", NULL},
		{"busybox:1.36", "docker.io/library/busybox", "1.36", NULL},
		{"user/app", "docker.io/user/app", "latest", NULL},
		{"docker.io/busybox", "docker.io/library/busybox", "latest", NULL},
		{"index.docker.io/a/b", "docker.io/a/b", "latest", NULL},
		{"localhost/app", "localhost/app", "latest", NULL},
		{"127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c", "v1", NULL},
		{"[::1]:5000/app", "[::1]:5000/app", "latest", NULL},
		{"busybox@sha256:" HEX, "docker.io/library/busybox", NULL, "sha256:" HEX},
		{"quay.io/a:t@sha256:" HEX, "quay.io/a", "t", "sha256:" HEX},
		{"a__b-c.d", "docker.io/library/a__b-c.d", "latest", NULL},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct reference ref;
		struct err err = ERR_INIT;
		if (reference_parse(cases[i].text, &ref, &err) < 0)
			fail_msg("%s: %s", cases[i].text, err.msg);
		assert_string_equal(ref.name, cases[i].name);
		if (cases[i].tag)
			assert_string_equal(ref.tag, cases[i].tag);
		else
			assert_null(ref.tag);
		if (cases[i].digest)
			assert_string_equal(ref.digest, cases[i].digest);
		else
			assert_null(ref.digest);
		reference_done(&ref);
	}
}

static void refuses(void **state)
{
	(void)state;
	static const char *const cases[] = {"", "Busybox", "a//b", "a/", "/a", "a:", "a:-t", "a b",
		"a@sha256:12", "a@md5:" HEX, "a..b", "a___b", "-a", "a-", "a\nb", "a:t:u",
		"../etc/passwd", "reg.io:/a", "a;rm"};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct reference ref;
		struct err err = ERR_INIT;
		if (reference_parse(cases[i], &ref, &err) != -EINVAL)
			fail_msg("'%s' was taken", cases[i]);
	}
}

static void bounds_lengths(void **state)
{
	(void)state;
	char text[REFERENCE_MAX + 8];
	struct reference ref;
	struct err err = ERR_INIT;
	memset(text, 'a', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(reference_parse(text, &ref, &err), -EINVAL);
	text[300] = '\0';
	assert_int_equal(reference_parse(text, &ref, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(completes),
		cmocka_unit_test(refuses),
		cmocka_unit_test(bounds_lengths),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
