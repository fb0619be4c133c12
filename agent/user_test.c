#include "agent/user.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"

static const char passwd_text[] = "root:x:0:0:root:/root:/bin/sh\n"
				  "# comment\n"
				  "bad:x:notanumber:0::/:\n"
				  "short\n"
				  ":x:5:5::/:\n"
				  "web:x:1000:1001:Web:/srv/web:/bin/sh\n"
				  "2000:x:7:8::/number:\n"
				  "later:x:2000:9::/later:\n"
				  "huge:x:4294967295:1::/:\n"
				  "wrap:x:4294967296:1::/:\n"
				  "relative:x:50:50::home:\n"
				  "last:x:60:61::/last";
static const char group_text[] = "root:x:0:\n"
				 "webs:x:1001:\n"
				 "extra:x:77:root,web\n"
				 "more:x:78:webx,xweb,web\n"
				 "1001:x:90:\n"
				 "none:x:-1:web\n"
				 "tail:x:91:last";

struct wanted {
	Bulkhead__Agent__User message;
	struct user user;
	struct err err;
};

static int resolve(struct wanted *w)
{
	char *passwd = strdup(passwd_text);
	char *group = strdup(group_text);
	w->err = (struct err)ERR_INIT;
	int r = user_resolve_text(passwd, group, &w->message, &w->user, &w->err);
	free(passwd);
	free(group);
	return r;
}

static int by_name(struct wanted *w, const char *name)
{
	*w = (struct wanted){.message = BULKHEAD__AGENT__USER__INIT};
	w->message.name = (char *)name;
	return resolve(w);
}

static void assert_user(const struct wanted *w, uid_t uid, gid_t gid, const char *home)
{
	assert_int_equal(w->err.code, 0);
	assert_int_equal(w->user.uid, uid);
	assert_int_equal(w->user.gid, gid);
	assert_string_equal(w->user.home, home);
}

static void test_names(void **state)
{
	(void)state;
	struct wanted w;
	assert_int_equal(by_name(&w, ""), 0);
	assert_user(&w, 0, 0, "/root");
	assert_int_equal(w.user.n_groups, 2);
	assert_int_equal(w.user.groups[1], 77);
	by_name(&w, "web");
	assert_user(&w, 1000, 1001, "/srv/web");
	assert_int_equal(w.user.n_groups, 3);
	assert_int_equal(w.user.groups[0], 1001);
	assert_int_equal(w.user.groups[2], 78);
	by_name(&w, "last");
	assert_user(&w, 60, 61, "/last");
	assert_int_equal(w.user.groups[1], 91);
	by_name(&w, "relative");
	assert_user(&w, 50, 50, "/");
	assert_int_equal(by_name(&w, "nobody"), -ENOENT);
	assert_int_equal(by_name(&w, "bad"), -ENOENT);
	assert_int_equal(by_name(&w, "huge"), -ENOENT);
	assert_int_equal(by_name(&w, "wrap"), -ENOENT);
	assert_int_equal(by_name(&w, "-1"), -ENOENT);
	assert_int_equal(by_name(&w, "4294967295"), -ENOENT);
}

static void test_numbers(void **state)
{
	(void)state;
	struct wanted w;
	by_name(&w, "1000");
	assert_user(&w, 1000, 1001, "/srv/web");
	by_name(&w, "12345");
	assert_user(&w, 12345, 0, "/");
	assert_int_equal(w.user.n_groups, 1);
	/* A name that looks like a number: the first line that matches in either way. */
	by_name(&w, "2000");
	assert_user(&w, 7, 8, "/number");
	/* A request by uid never means a name. */
	w = (struct wanted){.message = BULKHEAD__AGENT__USER__INIT};
	w.message.has_uid = true;
	w.message.uid = 2000;
	w.message.name = (char *)"web";
	resolve(&w);
	assert_user(&w, 2000, 9, "/later");
}

static void test_groups(void **state)
{
	(void)state;
	struct wanted w;
	by_name(&w, "web:extra");
	assert_user(&w, 1000, 77, "/srv/web");
	assert_int_equal(w.user.n_groups, 1);
	by_name(&w, "web:1001");
	assert_user(&w, 1000, 1001, "/srv/web");
	by_name(&w, "5:6");
	assert_user(&w, 5, 6, "/");
	by_name(&w, ":78");
	assert_user(&w, 0, 78, "/root");
	by_name(&w, "web:");
	assert_user(&w, 1000, 1001, "/srv/web");
	assert_int_equal(by_name(&w, "web:nogroup"), -ENOENT);

	/* A gid of the request replaces the primary; memberships stay, those asked for are merged.
	 */
	uint32_t more[] = {78, 500, 3000};
	w = (struct wanted){.message = BULKHEAD__AGENT__USER__INIT};
	w.message.name = (char *)"web";
	w.message.has_gid = true;
	w.message.gid = 3000;
	w.message.supplementary_gids = more;
	w.message.n_supplementary_gids = ARRAY_SIZE(more);
	resolve(&w);
	assert_user(&w, 1000, 3000, "/srv/web");
	static const gid_t merged[] = {3000, 78, 500, 77};
	assert_int_equal(w.user.n_groups, ARRAY_SIZE(merged));
	assert_memory_equal(w.user.groups, merged, sizeof(merged));

	/* Strict: what was asked for, and nothing of the image's. */
	w.message.strict = true;
	resolve(&w);
	assert_int_equal(w.user.n_groups, 3);
	assert_memory_equal(w.user.groups, merged, 3 * sizeof(gid_t));
}

static void test_bounds(void **state)
{
	(void)state;
	struct wanted w;
	char name[1000];
	memset(name, 'a', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(by_name(&w, name), -EINVAL);
	uint32_t *gids = calloc(USER_GROUPS_MAX + 1, sizeof(*gids));
	for (uint32_t i = 0; i <= USER_GROUPS_MAX; i++)
		gids[i] = i + 10;
	w = (struct wanted){.message = BULKHEAD__AGENT__USER__INIT};
	w.message.supplementary_gids = gids;
	w.message.n_supplementary_gids = USER_GROUPS_MAX + 1;
	assert_int_equal(resolve(&w), -E2BIG);
	free(gids);
}

/* A line of a megabyte, and then the one that is looked for. */
static void test_huge_line(void **state)
{
	(void)state;
	size_t size = 1u << 20;
	char *passwd = malloc(size + 64);
	memset(passwd, 'x', size);
	snprintf(passwd + size, 64, "\nweb:x:1:2::/h:\n");
	char group[] = "";
	struct wanted w = {.message = BULKHEAD__AGENT__USER__INIT};
	w.message.name = (char *)"web";
	assert_int_equal(user_resolve_text(passwd, group, &w.message, &w.user, &w.err), 0);
	assert_user(&w, 1, 2, "/h");
	free(passwd);
}

static void put(const char *root, const char *name, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/%s", root, name);
	assert_int_equal(fd_write_file(path, text, strlen(text), 0644, NULL), 0);
}

/* Links are followed inside the root alone; what is not a regular file is refused, not read. */
static void test_files(void **state)
{
	(void)state;
	char outside[] = "/tmp/user_test.XXXXXX";
	assert_non_null(mkdtemp(outside));
	_cleanup_free_ char *root = str_printf("%s/root", outside);
	_cleanup_free_ char *etc = str_printf("%s/root/etc", outside);
	_cleanup_free_ char *passwd = str_printf("%s/root/etc/passwd", outside);
	assert_int_equal(fd_mkdir_all(etc, 0755, NULL), 0);
	put(outside, "passwd", "web:x:1:1::/outside:\n");
	_cleanup_close_ int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct wanted w = {.message = BULKHEAD__AGENT__USER__INIT};

	assert_int_equal(user_resolve(fd, NULL, &w.user, &w.err), 0);
	assert_user(&w, 0, 0, "/");
	w.message.name = (char *)"web";
	assert_int_equal(symlink("../../passwd", passwd), 0);
	assert_int_equal(user_resolve(fd, &w.message, &w.user, &w.err), -ENOENT);
	put(root, "passwd", "web:x:2:2::/inside:\n");
	w.err = (struct err)ERR_INIT;
	assert_int_equal(user_resolve(fd, &w.message, &w.user, &w.err), 0);
	assert_user(&w, 2, 2, "/inside");

	unlink(passwd);
	assert_int_equal(mkfifo(passwd, 0644), 0);
	assert_int_equal(user_resolve(fd, &w.message, &w.user, &w.err), -EINVAL);
	unlink(passwd);
	put(root, "etc/passwd", "");
	assert_int_equal(truncate(passwd, 100 << 20), 0);
	assert_int_equal(user_resolve(fd, &w.message, &w.user, &w.err), -EFBIG);
	assert_int_equal(fd_remove_tree(outside, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_groups),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_huge_line),
		cmocka_unit_test(test_files),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
