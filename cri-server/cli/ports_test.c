#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/cli/ports.h"

static void pairs(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		struct port_pair pair;
	} good[] = {
		{"80", {80, 80}},
		{"8080:80", {8080, 80}},
		{":80", {0, 80}},
		{"0:80", {0, 80}},
		{"65535:1", {65535, 1}},
	};
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct port_pair pair;
		assert_int_equal(port_pair_parse(good[i].text, &pair, NULL), 0);
		assert_int_equal(pair.local, good[i].pair.local);
		assert_int_equal(pair.remote, good[i].pair.remote);
	}
	static const char *const bad[] = {"", ":", "0", "80:", "80:0", "80:80:80", "65536",
		"1:65536", "99999999999999999999", "-1", "+1", " 1", "1 ", "http", "80:http",
		"1x:80"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct port_pair pair;
		struct err err = ERR_INIT;
		assert_int_equal(port_pair_parse(bad[i], &pair, &err), -EINVAL);
		assert_non_null(err.msg);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(pairs)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
