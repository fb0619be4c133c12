/*
 * That filters come from the cache shows where it is given another one than would be compiled.
 */
#include <errno.h>
#include <linux/capability.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/seccomp/cache.h"

#define CAP(name) (UINT64_C(1) << CAP_##name)

static struct filter_cache *new_cache(void)
{
	struct filter_cache *cache;
	struct err err = ERR_INIT;
	assert_int_equal(filter_cache_new(&cache, &err), 0);
	return cache;
}

/* Eight bytes that say which one it is. */
static void keep(struct filter_cache *cache, enum filter_kind kind, const void *key, size_t len,
	const char mark[9])
{
	const struct filter filter = {.program = (uint8_t *)mark, .len = 8, .flags = 2};
	filter_cache_keep(cache, kind, key, len, &filter);
}

/* Frees it. */
static void assert_mark(struct filter *filter, const char *mark)
{
	assert_int_equal(filter->len, 8);
	assert_int_equal(filter->flags, 2);
	assert_memory_equal(filter->program, mark, 8);
	filter_done(filter);
}

static bool knows(struct filter_cache *cache, uint64_t key)
{
	struct filter filter = {0};
	struct err err = ERR_INIT;
	int r = filter_cache_find(cache, FILTER_DEFAULT, &key, sizeof(key), &filter, &err);
	filter_done(&filter);
	return r == 0;
}

static void the_default_is_compiled_once_for_the_capabilities_that_matter(void **state)
{
	(void)state;
	struct filter_cache *cache = new_cache();
	struct filter first, filter;
	struct err err = ERR_INIT;
	assert_int_equal(filter_default(cache, CAP(CHOWN), &first, &err), 0);
	assert_true(first.len > 1000);
	/* What was compiled is what is found, for a capability that changes nothing too. */
	uint64_t key = 0;
	assert_int_equal(
		filter_cache_find(cache, FILTER_DEFAULT, &key, sizeof(key), &filter, &err), 0);
	assert_int_equal(filter.len, first.len);
	assert_memory_equal(filter.program, first.program, first.len);
	filter_done(&filter);
	keep(cache, FILTER_DEFAULT, &key, sizeof(key), "default!");
	assert_int_equal(filter_default(cache, CAP(NET_ADMIN), &filter, &err), 0);
	assert_mark(&filter, "default!");
	assert_int_equal(filter_default(cache, CAP(SYS_ADMIN), &filter, &err), 0);
	assert_true(filter.len > 1000);
	assert_true(
		filter.len != first.len || memcmp(filter.program, first.program, filter.len) != 0);
	filter_done(&filter);
	filter_done(&first);
	filter_cache_free(cache);
}

static void a_file_is_known_by_its_content(void **state)
{
	(void)state;
	static const char text[] = "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}";
	char path[] = "/tmp/seccomp-cache-XXXXXX";
	struct filter_cache *cache = new_cache();
	struct filter filter;
	struct err err = ERR_INIT;
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	keep(cache, FILTER_FILE, text, sizeof(text) - 1, "of file!");
	assert_int_equal(filter_from_file(cache, path, &filter, &err), 0);
	assert_mark(&filter, "of file!");
	/* Changed, it is another one; wrong, it is refused each time. */
	assert_int_equal(write(fd, " ", 1), 1);
	assert_int_equal(filter_from_file(cache, path, &filter, &err), 0);
	assert_true(filter.len % 8 == 0 && filter.flags == 0);
	filter_done(&filter);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(filter_from_file(cache, path, &filter, &err), -EINVAL);
	assert_int_equal(filter_from_file(cache, path, &filter, &err), -EINVAL);
	close(fd);
	unlink(path);
	filter_cache_free(cache);
}

static void kinds_are_told_apart(void **state)
{
	(void)state;
	struct filter_cache *cache = new_cache();
	struct filter filter;
	struct err err = ERR_INIT;
	uint64_t key = 1;
	keep(cache, FILTER_FILE, &key, sizeof(key), "of file!");
	assert_int_equal(
		filter_cache_find(cache, FILTER_DEFAULT, &key, sizeof(key), &filter, &err), 1);
	filter_cache_free(cache);
}

static void what_was_not_used_for_longest_makes_room(void **state)
{
	(void)state;
	struct filter_cache *cache = new_cache();
	for (uint64_t key = 0; key < CACHE_FILTERS; key++)
		keep(cache, FILTER_DEFAULT, &key, sizeof(key), "a filter");
	assert_true(knows(cache, 0));
	uint64_t more = 1000;
	keep(cache, FILTER_DEFAULT, &more, sizeof(more), "one more");
	assert_true(knows(cache, more));
	assert_true(knows(cache, 0));
	assert_false(knows(cache, 1));
	for (uint64_t key = 2; key < CACHE_FILTERS; key++)
		assert_true(knows(cache, key));
	/* The same one again takes no place. */
	keep(cache, FILTER_DEFAULT, &more, sizeof(more), "one more");
	assert_true(knows(cache, 0));
	filter_cache_free(cache);
}

static void a_large_key_is_not_kept(void **state)
{
	(void)state;
	struct filter_cache *cache = new_cache();
	struct filter filter;
	struct err err = ERR_INIT;
	_cleanup_free_ char *key = calloc(1, CACHE_KEY_MAX + 1);
	assert_non_null(key);
	keep(cache, FILTER_FILE, key, CACHE_KEY_MAX + 1, "a filter");
	assert_int_equal(
		filter_cache_find(cache, FILTER_FILE, key, CACHE_KEY_MAX + 1, &filter, &err), 1);
	keep(cache, FILTER_FILE, key, CACHE_KEY_MAX, "a filter");
	assert_int_equal(
		filter_cache_find(cache, FILTER_FILE, key, CACHE_KEY_MAX, &filter, &err), 0);
	assert_mark(&filter, "a filter");
	filter_cache_free(cache);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_default_is_compiled_once_for_the_capabilities_that_matter),
		cmocka_unit_test(a_file_is_known_by_its_content),
		cmocka_unit_test(kinds_are_told_apart),
		cmocka_unit_test(what_was_not_used_for_longest_makes_room),
		cmocka_unit_test(a_large_key_is_not_kept),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
