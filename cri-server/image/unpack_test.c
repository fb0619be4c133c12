/* What honest layers hold, and how it looks afterwards. */
#include <dirent.h>
#include <locale.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "cri-server/image/unpack_fixture.h"

/* ---- what a layer holds ---- */

static void test_files_directories_links(void **state)
{
	struct layer *l = plain(state);
	put(l, entry("./", S_IFDIR | 0711), NULL);
	put_dir(l, "etc/");
	put_file(l, "etc/empty", NULL);
	put_file(l, "./etc//motd", "hello");
	put_symlink(l, "etc/link", "/somewhere/../else");
	put_hardlink(l, "etc/again", "etc/motd");
	put_hardlink(l, "etc/link2", "./etc/link");
	unpacks(l);
	holds(l, "etc/motd", "hello");
	holds(l, "etc/empty", "");
	assert_int_equal(look(l, ".").st_mode & 07777, 0711);
	assert_int_equal(look(l, "etc").st_mtime, 1000);
	assert_int_equal(look(l, "etc/motd").st_nlink, 2);
	assert_int_equal(look(l, "etc/again").st_ino, look(l, "etc/motd").st_ino);
	char target[64] = "";
	assert_true(readlink(at(l, "etc/link2"), target, sizeof(target) - 1) > 0);
	assert_string_equal(target, "/somewhere/../else");
	assert_int_equal(look(l, "etc/link2").st_ino, look(l, "etc/link").st_ino);
}

static void test_missing_parents(void **state)
{
	struct layer *l = plain(state);
	put_file(l, "a/b/c", "x");
	unpacks(l);
	holds(l, "a/b/c", "x");
	assert_int_equal(look(l, "a").st_mode, S_IFDIR | 0755);
	assert_int_equal(look(l, "a/b").st_mode, S_IFDIR | 0755);
}

static void test_owners_and_modes(void **state)
{
	struct layer *l = plain(state);
	struct archive_entry *e = entry("su", S_IFREG | 04755);
	archive_entry_set_uid(e, 70000);
	archive_entry_set_gid(e, 4294967294);
	/* Names are never looked up. */
	archive_entry_set_uname(e, "root");
	archive_entry_set_gname(e, "root");
	put(l, e, "x");
	put(l, entry("t", S_IFDIR | 01777), NULL);
	put(l, entry("g", S_IFDIR | 02000), NULL);
	put_file(l, "g/x", "still written");
	e = entry("sl", S_IFLNK | 0777);
	archive_entry_set_symlink(e, "su");
	archive_entry_set_uid(e, 5);
	put(l, e, NULL);
	unpacks(l);
	struct stat st = look(l, "su");
	assert_int_equal(st.st_mode, S_IFREG | 04755);
	assert_int_equal(st.st_uid, 70000);
	assert_int_equal(st.st_gid, 4294967294);
	assert_int_equal(look(l, "t").st_mode, S_IFDIR | 01777);
	assert_int_equal(look(l, "g").st_mode, S_IFDIR | 02000);
	assert_int_equal(look(l, "sl").st_uid, 5);
}

static void test_times(void **state)
{
	struct layer *l = plain(state);
	struct archive_entry *e = entry("old", S_IFREG | 0644);
	archive_entry_set_mtime(e, -86400, 0);
	put(l, e, NULL);
	e = entry("far", S_IFREG | 0644);
	archive_entry_set_mtime(e, 1LL << 40, 0);
	put(l, e, NULL);
	e = entry("half-before", S_IFREG | 0644);
	archive_entry_set_mtime(e, -1, 500000000); /* which is written as -1.5 */
	put(l, e, NULL);
	e = entry("fine", S_IFDIR | 0755);
	archive_entry_set_mtime(e, 5, 123456789);
	put(l, e, NULL);
	put_file(l, "fine/x", "later");
	unpacks(l);
	assert_int_equal(look(l, "old").st_mtime, -86400);
	assert_int_equal(look(l, "far").st_mtime, 1LL << 40);
	assert_int_equal(look(l, "half-before").st_mtim.tv_sec, -2);
	assert_int_equal(look(l, "half-before").st_mtim.tv_nsec, 500000000);
	assert_int_equal(look(l, "fine").st_mtim.tv_sec, 5);
	assert_int_equal(look(l, "fine").st_mtim.tv_nsec, 123456789);
}

static void test_nodes(void **state)
{
	struct layer *l = plain(state);
	struct archive_entry *e = entry("dev/null", S_IFCHR | 0666);
	archive_entry_set_rdev(e, makedev(1, 3));
	put(l, e, NULL);
	e = entry("dev/disk", S_IFBLK | 0660);
	archive_entry_set_rdev(e, makedev(254, 4097));
	put(l, e, NULL);
	put(l, entry("dev/pipe", S_IFIFO | 0600), NULL);
	unpacks(l);
	struct stat st = look(l, "dev/null");
	assert_int_equal(st.st_mode, S_IFCHR | 0666);
	assert_int_equal(st.st_rdev, makedev(1, 3));
	assert_int_equal(look(l, "dev/disk").st_rdev, makedev(254, 4097));
	assert_int_equal(look(l, "dev/pipe").st_mode, S_IFIFO | 0600);
}

static void test_xattrs(void **state)
{
	static const char cap[] = "\1\0\0\2\0\40\0\0\0\0\0\0\0\0\0\0\0\0\0"; /* cap_net_raw+ep */
	struct layer *l = plain(state);
	struct archive_entry *e = entry("ping", S_IFREG | 0755);
	archive_entry_set_uid(e, 7);
	archive_entry_xattr_add_entry(e, "security.capability", cap, 20);
	archive_entry_xattr_add_entry(e, "user.note", "hi", 2);
	archive_entry_xattr_add_entry(e, "com.apple.provenance", "x", 1);
	put(l, e, "x");
	e = entry("d", S_IFDIR | 0755);
	archive_entry_xattr_add_entry(e, "trusted.overlay.redirect", "/etc", 4);
	archive_entry_xattr_add_entry(e, "trusted.overlay.opaque", "y", 1);
	archive_entry_xattr_add_entry(e, "user.note", "dir", 3);
	put(l, e, NULL);
	e = entry("s", S_IFLNK | 0777);
	archive_entry_set_symlink(e, "ping");
	archive_entry_xattr_add_entry(e, "user.note", "no", 2);
	put(l, e, NULL);
	unpacks(l);
	char value[64];
	assert_int_equal(lgetxattr(at(l, "ping"), "security.capability", value, 64), 20);
	assert_memory_equal(value, cap, 20);
	assert_int_equal(lgetxattr(at(l, "ping"), "user.note", value, 64), 2);
	assert_int_equal(lgetxattr(at(l, "d"), "user.note", value, 64), 3);
	assert_true(lgetxattr(at(l, "d"), "trusted.overlay.redirect", value, 64) < 0);
	assert_false(is_opaque(l, "d"));
}

static void test_names(void **state)
{
	struct layer *l = begin(state);
	char longest[256], path[1300] = "";
	memset(longest, 'n', 255);
	longest[255] = '\0';
	for (int i = 0; i < 5; i++)
		snprintf(path + strlen(path), sizeof(path) - strlen(path), "%s%s", i ? "/" : "",
			longest);
	open_blob(l);
	put_file(l, path, "deep");
	put_file(l, "latin1-\xe9", "1");
	put_file(l, "utf8-\xc3\xa9", "2");
	put_file(l, "a b\n\t\\'\"\x01", "3");
	put_symlink(l, "s\xff", "\xff\xfe");
	put_hardlink(l, "h\xe9", "latin1-\xe9");
	unpacks(l);
	holds(l, path, "deep");
	holds(l, "latin1-\xe9", "1");
	holds(l, "h\xe9", "1");
	holds(l, "utf8-\xc3\xa9", "2");
	holds(l, "a b\n\t\\'\"\x01", "3");
	assert_true(S_ISLNK(look(l, "s\xff").st_mode));
}

static void test_names_in_gnu_format(void **state)
{
	struct layer *l = begin(state);
	archive_write_free(l->tar);
	l->tar = archive_write_new();
	archive_write_set_format_gnutar(l->tar);
	open_blob(l);
	put_file(l, "latin1-\xe9", "1");
	unpacks(l);
	holds(l, "latin1-\xe9", "1");
}

static void put_bytes(struct layer *l, const char *path, const char *data, size_t len)
{
	struct archive_entry *e = entry(path, S_IFREG | 0644);
	archive_entry_set_size(e, (la_int64_t)len);
	assert_int_equal(archive_write_header(l->tar, e), ARCHIVE_OK);
	assert_int_equal(archive_write_data(l->tar, data, len), (int)len);
	archive_entry_free(e);
}

static void check_bytes(const struct layer *l, const char *path, const char *data, size_t len)
{
	_cleanup_free_ char *got = NULL;
	size_t n;
	assert_int_equal(fd_read_file(at(l, path), 1 << 20, &got, &n, NULL), 0);
	assert_int_equal(n, len);
	assert_memory_equal(got, data, len);
}

static void test_sparse(void **state)
{
	struct layer *l = plain(state);
	struct archive_entry *e = entry("sparse", S_IFREG | 0644);
	archive_entry_set_size(e, 900000);
	archive_entry_sparse_add_entry(e, 800000, 4);
	assert_int_equal(archive_write_header(l->tar, e), ARCHIVE_OK);
	static char content[900000];
	memcpy(content + 800000, "data", 4);
	assert_true(archive_write_data(l->tar, content, sizeof(content)) >= 0);
	archive_entry_free(e);
	unpacks(l);
	assert_int_equal(look(l, "sparse").st_size, 900000);
	assert_true(image_bytes(l) < 100000);
	char got[5] = "";
	_cleanup_close_ int fd = open(at(l, "sparse"), O_RDONLY);
	assert_int_equal(pread(fd, got, 4, 800000), 4);
	assert_string_equal(got, "data");
}

/* In a dense archive too; a file that ends within a block, beside its inode and not. */
static void test_zeros_are_holes(void **state)
{
	struct layer *l = plain(state);
	static char content[500001];
	l->limits.bytes = 2 << 20;
	memset(content, 0, sizeof(content));
	memcpy(content + 300000, "data", 4);
	put_bytes(l, "zeros", content, 500000);
	memset(content, 'x', 5000);
	put_bytes(l, "one-block", content, 4096);
	put_bytes(l, "tail", content, 4097);
	put_bytes(l, "long-tail", content, 4095);
	unpacks(l);
	assert_true(image_bytes(l) < 64000);
	memset(content, 0, 5000);
	check_bytes(l, "zeros", content, 500000);
	memset(content, 'x', 5000);
	check_bytes(l, "one-block", content, 4096);
	check_bytes(l, "tail", content, 4097);
	check_bytes(l, "long-tail", content, 4095);
}

static void test_large_directory(void **state)
{
	struct layer *l = plain(state);
	char name[300];
	l->limits = (struct unpack_limits){.bytes = 64 << 20, .files = 10000};
	for (int i = 0; i < 3000; i++) {
		snprintf(name, sizeof(name), "d/%d-%0*d", i * 7919 % 3000, i % 200 + 1, i);
		put_file(l, name, NULL);
	}
	put_file(l, "d/!before-the-dots", "x");
	unpacks(l);
	DIR *dir = opendir(at(l, "d"));
	assert_non_null(dir);
	int n = 0;
	while (readdir(dir))
		n++;
	closedir(dir);
	assert_int_equal(n, 3003);
	for (int i = 0; i < 3000; i++) {
		snprintf(name, sizeof(name), "d/%d-%0*d", i * 7919 % 3000, i % 200 + 1, i);
		assert_int_equal(look(l, name).st_size, 0);
	}
	holds(l, "d/!before-the-dots", "x");
	assert_int_equal(look(l, "d").st_nlink, 2);
}

static void test_many_xattrs(void **state)
{
	struct layer *l = plain(state);
	struct archive_entry *e = entry("f", S_IFREG | 0644);
	char name[32];
	static char value[4001], got[5000];
	memset(value, 'v', sizeof(value) - 1);
	for (int i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "user.%d", i);
		archive_entry_xattr_add_entry(e, name, value, 4000);
	}
	put(l, e, "content");
	put_file(l, "next", "next");
	unpacks(l);
	holds(l, "f", "content");
	holds(l, "next", "next");
	for (int i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "user.%d", i);
		assert_int_equal(lgetxattr(at(l, "f"), name, got, sizeof(got)), 4000);
		assert_memory_equal(got, value, 4000);
	}
}

static void test_too_many_xattrs(void **state)
{
	struct layer *l = plain(state);
	struct archive_entry *e = entry("f", S_IFREG | 0644);
	static char value[40000];
	memset(value, 'v', sizeof(value));
	archive_entry_xattr_add_entry(e, "user.1", value, sizeof(value));
	archive_entry_xattr_add_entry(e, "user.2", value, sizeof(value));
	put(l, e, NULL);
	is_refused(l, -EBADMSG, "attributes are too large");
}

/* What is not in the layer is its parents', which the agent sees to. */
static void test_implied_directories_are_marked(void **state)
{
	struct layer *l = plain(state);
	char value[4] = "";
	put_dir(l, "own");
	put_file(l, "own/implied/file", "x");
	put_file(l, "later/file", "x");
	put_dir(l, "later");
	unpacks(l);
	const char *const name = LAYER_IMPLIED_XATTR;
	assert_int_equal(lgetxattr(at(l, ""), name, value, sizeof(value)), 1);
	assert_int_equal(value[0], '3');
	assert_int_equal(lgetxattr(at(l, "own"), name, value, sizeof(value)), 1);
	assert_int_equal(value[0], '2');
	assert_int_equal(lgetxattr(at(l, "own/implied"), name, value, sizeof(value)), 1);
	assert_int_equal(value[0], '1');
	assert_true(lgetxattr(at(l, "later"), name, value, sizeof(value)) < 0);
}

/* ---- whiteouts ---- */

static void test_whiteouts(void **state)
{
	struct layer *l = plain(state);
	put_file(l, "etc/.wh.gone", NULL);
	put_file(l, ".wh.top", NULL);
	put_dir(l, "kept");
	put_file(l, "kept/new", "x");
	put_file(l, ".wh.kept", NULL); /* after the directory */
	put_file(l, ".wh.before", NULL);
	put_dir(l, "before"); /* before it */
	put_file(l, ".wh.implied", NULL);
	put_file(l, "implied/file", "x"); /* before its parent, which has no entry */
	put_file(l, ".wh.file", NULL);
	put_file(l, "file", "x");
	put_file(l, "file2", "x");
	put_file(l, ".wh.file2", NULL);
	put_symlink(l, "sl", "kept");
	put_file(l, ".wh.sl", NULL);
	put_file(l, ".wh..wh.plnk", NULL);
	put_file(l, ".wh.gone-twice", NULL);
	put_file(l, ".wh.gone-twice", NULL);
	unpacks(l);
	assert_true(is_whiteout(l, "etc/gone"));
	assert_true(is_whiteout(l, "top"));
	assert_true(is_whiteout(l, "gone-twice"));
	holds(l, "kept/new", "x");
	assert_true(is_opaque(l, "kept"));
	assert_true(is_opaque(l, "before"));
	assert_true(is_opaque(l, "implied"));
	assert_false(is_opaque(l, "etc"));
	holds(l, "implied/file", "x");
	holds(l, "file", "x");
	holds(l, "file2", "x");
	assert_true(S_ISLNK(look(l, "sl").st_mode));
	assert_true(absent(l, ".wh..wh.plnk"));
	assert_true(absent(l, ".wh.plnk"));
	assert_true(absent(l, "etc/.wh.gone"));
}

static void test_opaque(void **state)
{
	struct layer *l = plain(state);
	put_file(l, "missing/.wh..wh..opq", NULL);
	put(l, entry("dir", S_IFDIR | 0700), NULL);
	put_file(l, "dir/.wh..wh..opq", NULL);
	put_file(l, "dir/x", "x");
	put_file(l, "dir/.wh.needless", NULL);
	put_file(l, "dir/sub/.wh.needless", NULL);
	put_file(l, ".wh..wh..opq", NULL);
	unpacks(l);
	assert_true(absent(l, "dir/needless") && absent(l, "dir/sub/needless"));
	assert_true(is_opaque(l, "missing"));
	assert_true(is_opaque(l, "dir"));
	assert_true(is_opaque(l, "."));
	assert_int_equal(look(l, "dir").st_mode, S_IFDIR | 0700);
	assert_int_equal(look(l, "dir").st_mtime, 1000);
	assert_true(absent(l, "dir/.wh..wh..opq"));
}

static void test_whiteout_of_dots(void **state)
{
	struct layer *l = plain(state);
	put_file(l, "a/.wh...", NULL);
	is_refused(l, -EBADMSG, "'.wh...'");
}

/* ---- one name twice ---- */

static void test_last_entry_wins(void **state)
{
	struct layer *l = plain(state);
	put_file(l, "a", "first");
	put_file(l, "a", "second");
	put_dir(l, "d");
	put_file(l, "d/x", "x");
	put_file(l, "d", "a file now");
	put_file(l, "f", "x");
	put_dir(l, "f");
	put_dir(l, "target");
	put_symlink(l, "s", "target");
	put(l, entry("s", S_IFDIR | 0700), NULL);
	put_dir(l, "m");
	put_file(l, "m/x", "stays");
	put(l, entry("m", S_IFDIR | 0700), NULL);
	put_dir(l, "p");
	put(l, entry("p", S_IFIFO | 0600), NULL);
	put(l, entry("q", S_IFDIR | 0700), NULL);
	put_symlink(l, "q", "target");
	unpacks(l);
	holds(l, "a", "second");
	holds(l, "d", "a file now");
	assert_true(S_ISDIR(look(l, "f").st_mode));
	assert_int_equal(look(l, "s").st_mode, S_IFDIR | 0700);
	assert_int_equal(look(l, "target").st_mode, S_IFDIR | 0755);
	assert_int_equal(look(l, "m").st_mode, S_IFDIR | 0700);
	holds(l, "m/x", "stays");
	assert_int_equal(look(l, "p").st_mode, S_IFIFO | 0600);
	assert_true(S_ISLNK(look(l, "q").st_mode));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		layer_test(test_files_directories_links),
		layer_test(test_missing_parents),
		layer_test(test_owners_and_modes),
		layer_test(test_times),
		layer_test(test_nodes),
		layer_test(test_xattrs),
		layer_test(test_names),
		layer_test(test_names_in_gnu_format),
		layer_test(test_sparse),
		layer_test(test_zeros_are_holes),
		layer_test(test_large_directory),
		layer_test(test_many_xattrs),
		layer_test(test_too_many_xattrs),
		layer_test(test_implied_directories_are_marked),
		layer_test(test_whiteouts),
		layer_test(test_opaque),
		layer_test(test_whiteout_of_dots),
		layer_test(test_last_entry_wins),
	};
	/* As bulkhead-unpack does. */
	setlocale(LC_ALL, "C.UTF-8");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
