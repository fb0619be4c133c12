/* Of manifest_choose(), on amd64. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/image/manifest.h"

#define DIGEST(c) "sha256:" c c c c c c c c c c c c c c c c
#define A         DIGEST("aaaa")
#define B         DIGEST("bbbb")
#define ENTRY(digest, platform)                                                                    \
	"{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"" digest       \
	"\",\"size\":3" platform "}"
#define PLATFORM(os, architecture, more)                                                           \
	",\"platform\":{\"os\":\"" os "\",\"architecture\":\"" architecture "\"" more "}"
#define AMD64(more) PLATFORM("linux", "amd64", more)
#define V(variant)  ",\"variant\":\"" variant "\""
#define INDEX(list) "{\"schemaVersion\":2,\"manifests\":[" list "]}"

static int choose(const char *json, char digest[72], struct err *err)
{
	return manifest_choose(json, strlen(json), digest, err);
}

static void test_chosen(void **state)
{
	static const struct {
		const char *json, *digest;
		int result;
	} cases[] = {
		{INDEX(ENTRY(A, PLATFORM("linux", "arm64", "")) "," ENTRY(B, AMD64(""))), B, 1},
		{INDEX(ENTRY(A, AMD64(V("v3"))) "," ENTRY(B, AMD64(""))), B, 1},
		{INDEX(ENTRY(A, AMD64(V("v1"))) "," ENTRY(B, AMD64(""))), B, 1},
		{INDEX(ENTRY(A, AMD64(V("v1")))), A, 2},
		/* Two alike: the first. What names no platform only where nothing fits. */
		{INDEX(ENTRY(A, AMD64("")) "," ENTRY(B, AMD64(""))), A, 1},
		{INDEX(ENTRY(A, "") "," ENTRY(B, AMD64(""))), B, 1},
		{INDEX(ENTRY(A, "") "," ENTRY(B, PLATFORM("windows", "amd64", ""))), A, 2},
		{INDEX(ENTRY(A, PLATFORM("unknown", "unknown", "")) "," ENTRY(B, AMD64(""))), B, 1},
	};
	struct err err = ERR_INIT;
	(void)state;
	if (strcmp(manifest_architecture(), "amd64") != 0)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char digest[72] = "";
		assert_int_equal(choose(cases[i].json, digest, &err), cases[i].result);
		assert_string_equal(digest, cases[i].digest);
	}
}

static void test_refused(void **state)
{
	static const struct {
		const char *json, *words;
	} cases[] = {
		{INDEX(""), "none of its 0 manifests"},
		{INDEX("7,null,[]"), "an entry has no sha256 digest"},
		{INDEX(ENTRY(A, PLATFORM("windows", "amd64", ""))), "is for linux/"},
		{INDEX(ENTRY(A, AMD64(V("v4")))), "is for linux/"},
		{INDEX(ENTRY(A, ",\"platform\":7")), "is for linux/"},
		{INDEX(ENTRY("../../etc", AMD64(""))), "no sha256 digest"},
		{"{\"schemaVersion\":1}", "schema version 1"},
		{"{\"schemaVersion\":2,\"manifests\":{}}", "not a list"},
		{"[]", "not a JSON object"},
		{"", ""},
	};
	(void)state;
	if (strcmp(manifest_architecture(), "amd64") != 0)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err = ERR_INIT;
		char digest[72] = "";
		assert_int_equal(choose(cases[i].json, digest, &err), -EBADMSG);
		if (!strstr(err.msg, cases[i].words))
			fail_msg("%s: '%s'", cases[i].json, err.msg);
		assert_string_equal(digest, "");
	}
}

static void test_single(void **state)
{
	struct err err = ERR_INIT;
	char digest[72] = "as it was";
	(void)state;
	assert_int_equal(choose("{\"schemaVersion\":2,\"config\":{}}", digest, &err), 0);
	assert_string_equal(digest, "as it was");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_chosen),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_single),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
