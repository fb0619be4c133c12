/* What of typed keys is the process's, and what detaches from it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "cri-server/cli/detach.h"

#define P "\x10"
#define Q "\x11"

/* In reads of so many bytes: true with what the process got, ended by NUL, when it detached. */
static bool type(const char *text, size_t piece, char got[64])
{
	struct detach_keys keys = {.held = false};
	size_t len = strlen(text), n = 0;
	bool detached = false;
	for (size_t at = 0; at < len && !detached; at += piece) {
		char out[64];
		size_t part = len - at < piece ? len - at : piece, passed;
		detached = detach_filter(&keys, text + at, part, out, &passed);
		assert_true(passed <= part + 1);
		memcpy(got + n, out, passed);
		n += passed;
	}
	got[n] = '\0';
	return detached;
}

static void keys(void **state)
{
	static const struct {
		const char *typed, *passed;
		bool detaches;
	} rows[] = {
		{"ls\r", "ls\r", false},
		{P Q, "", true},
		{"exit" P Q "more", "exit", true},
		{P P Q, P, true},
		{"a" P "b" Q, "a" P "b" Q, false},
		{Q P, Q, false}, /* the last is held back */
		{"a" P "b" P Q, "a" P "b", true},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (size_t piece = 1; piece < 12; piece++) {
			char got[64];
			assert_int_equal(type(rows[i].typed, piece, got), rows[i].detaches);
			assert_string_equal(got, rows[i].passed);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(keys)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
