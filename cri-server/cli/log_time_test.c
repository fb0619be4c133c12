#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/cli/log_time.h"

#define NOW 1767322000000000000

static void times(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int64_t ns;
	} good[] = {
		{"1970-01-01T00:00:00Z", 0},
		{"2026-01-02T03:04:05Z", 1767323045000000000},
		{"2026-01-02T03:04:05.678901234Z", 1767323045678901234},
		{"2026-01-02T03:04:05.5Z", 1767323045500000000},
		{"2026-01-02T04:34:05+01:30", 1767323045000000000},
		{"2026-01-01T22:04:05.000000001-05:00", 1767323045000000001},
	};
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		int64_t ns = -1;
		assert_int_equal(log_time_parse(good[i].text, strlen(good[i].text), &ns), 0);
		assert_int_equal(ns, good[i].ns);
	}
	static const char *const bad[] = {"", "now", "2026-01-02", "2026-01-02T03:04:05",
		"2026-13-02T03:04:05Z", "2026-01-02T03:04:05Zx", "2026-01-02T03:04:05+1:00",
		"2026-01-02T03:04:05+01", "2026-01-02T03:04:05+-1:-1", "9999-01-02T03:04:05Z",
		"2026-01-02T03:04:05.000000000000000000000000000000000000000Z"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int64_t ns;
		assert_int_equal(log_time_parse(bad[i], strlen(bad[i]), &ns), -EINVAL);
	}
}

static void since(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int64_t seconds;
	} good[] = {{"0s", 0}, {"90s", 90}, {"5m", 300}, {"1h30m", 5400}, {"2d", 172800}};
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		int64_t ns = 0;
		assert_int_equal(log_since_parse(good[i].text, NOW, &ns, NULL), 0);
		assert_int_equal(ns, NOW - good[i].seconds * 1000000000);
	}
	int64_t ns = 0;
	assert_int_equal(log_since_parse("2026-01-02T03:04:05Z", NOW, &ns, NULL), 0);
	assert_int_equal(ns, 1767323045000000000);
	static const char *const bad[] = {"", "5", "m", "5x", "-5m", "1h-5m", "5 m", "5m ",
		"99999999999999999999s", "9999999d", "yesterday"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = ERR_INIT;
		assert_int_equal(log_since_parse(bad[i], NOW, &ns, &err), -EINVAL);
		assert_non_null(strstr(err.msg, "--since"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(times), cmocka_unit_test(since)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
