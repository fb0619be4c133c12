/*
 * Layers made with libarchive, unpacked by a child that has made an empty directory its root. Needs
 * root: skips without.
 */
#include "cri-server/image/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"

struct layer {
	char dir[32];
	char blob[48], tree[48];
	struct archive *tar;
	struct unpack_limits limits;
	char diff_id[72];
	struct err err;
};

static int setup(void **state)
{
	struct layer *l = calloc(1, sizeof(*l));
	strcpy(l->dir, "/tmp/unpack-test-XXXXXX");
	if (!mkdtemp(l->dir))
		return -1;
	snprintf(l->blob, sizeof(l->blob), "%s/blob", l->dir);
	snprintf(l->tree, sizeof(l->tree), "%s/tree", l->dir);
	l->limits = (struct unpack_limits){.bytes = 1 << 20, .files = 1000};
	*state = l;
	return mkdir(l->tree, 0755);
}

static int teardown(void **state)
{
	struct layer *l = *state;
	archive_write_free(l->tar);
	int r = fd_remove_tree(l->dir, NULL);
	free(l);
	return r;
}

static struct layer *begin(void **state)
{
	if (geteuid() != 0) {
		print_message("unpacking layers needs root\n");
		skip();
	}
	struct layer *l = *state;
	l->tar = archive_write_new();
	archive_write_set_format_pax(l->tar);
	archive_write_set_bytes_per_block(l->tar, 512);
	return l;
}

static void open_blob(struct layer *l)
{
	assert_int_equal(archive_write_open_filename(l->tar, l->blob), ARCHIVE_OK);
}

static struct layer *plain(void **state)
{
	struct layer *l = begin(state);
	open_blob(l);
	return l;
}

static struct archive_entry *entry(const char *path, mode_t mode)
{
	struct archive_entry *e = archive_entry_new();
	archive_entry_set_pathname(e, path);
	archive_entry_set_mode(e, mode);
	archive_entry_set_mtime(e, 1000, 0);
	return e;
}

static void put(struct layer *l, struct archive_entry *e, const char *data)
{
	if (data)
		archive_entry_set_size(e, (la_int64_t)strlen(data));
	assert_true(archive_write_header(l->tar, e) >= ARCHIVE_WARN);
	if (data)
		assert_int_equal(archive_write_data(l->tar, data, strlen(data)), (int)strlen(data));
	archive_entry_free(e);
}

static void put_file(struct layer *l, const char *path, const char *data)
{
	put(l, entry(path, S_IFREG | 0644), data);
}

static void put_dir(struct layer *l, const char *path)
{
	put(l, entry(path, S_IFDIR | 0755), NULL);
}

static void put_symlink(struct layer *l, const char *path, const char *target)
{
	struct archive_entry *e = entry(path, S_IFLNK | 0777);
	archive_entry_set_symlink(e, target);
	put(l, e, NULL);
}

static void put_hardlink(struct layer *l, const char *path, const char *target)
{
	struct archive_entry *e = entry(path, S_IFREG | 0644);
	archive_entry_set_hardlink(e, target);
	put(l, e, NULL);
}

static void finish(struct layer *l)
{
	assert_int_equal(archive_write_close(l->tar), ARCHIVE_OK);
}

static int unpack(struct layer *l)
{
	int ends[2], status;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int fd = open(l->blob, O_RDONLY | O_CLOEXEC);
		umask(0);
		if (fd < 0 || chroot(l->tree) < 0)
			_exit(1);
		l->err.code = unpack_layer(fd, &l->limits, l->diff_id, &l->err);
		_exit(fd_write_all(ends[1], l, sizeof(*l), NULL) < 0);
	}
	close(ends[1]);
	assert_int_equal(fd_read_exact(ends[0], l, sizeof(*l), NULL), 0);
	close(ends[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	return l->err.code;
}

static void unpacks(struct layer *l)
{
	finish(l);
	if (unpack(l) != 0)
		fail_msg("%s", l->err.msg);
}

static void is_refused(struct layer *l, int code, const char *words)
{
	finish(l);
	assert_int_equal(unpack(l), code);
	if (!strstr(l->err.msg, words))
		fail_msg("'%s' does not say '%s'", l->err.msg, words);
}

static const char *at(const struct layer *l, const char *path)
{
	static char full[PATH_MAX];
	snprintf(full, sizeof(full), "%s/%s", l->tree, path);
	return full;
}

static struct stat look(const struct layer *l, const char *path)
{
	struct stat st;
	if (lstat(at(l, path), &st) < 0)
		fail_msg("%s: %s", path, strerror(errno));
	return st;
}

static bool absent(const struct layer *l, const char *path)
{
	struct stat st;
	return lstat(at(l, path), &st) < 0;
}

static void holds(const struct layer *l, const char *path, const char *text)
{
	_cleanup_free_ char *data = NULL;
	assert_true(S_ISREG(look(l, path).st_mode));
	assert_int_equal(fd_read_file(at(l, path), 4096, &data, NULL, NULL), 0);
	assert_string_equal(data, text);
}

static bool is_whiteout(const struct layer *l, const char *path)
{
	struct stat st = look(l, path);
	return S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0);
}

static bool is_opaque(const struct layer *l, const char *path)
{
	char value[2];
	return lgetxattr(at(l, path), "trusted.overlay.opaque", value, sizeof(value)) == 1 &&
	       value[0] == 'y';
}

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
	e = entry("fine", S_IFDIR | 0755);
	archive_entry_set_mtime(e, 5, 123456789);
	put(l, e, NULL);
	put_file(l, "fine/x", "later");
	unpacks(l);
	assert_int_equal(look(l, "old").st_mtime, -86400);
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
	struct stat st = look(l, "sparse");
	assert_int_equal(st.st_size, 900000);
	assert_true(st.st_blocks * 512 < 100000);
	char got[5] = "";
	_cleanup_close_ int fd = open(at(l, "sparse"), O_RDONLY);
	assert_int_equal(pread(fd, got, 4, 800000), 4);
	assert_string_equal(got, "data");
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
	put_file(l, ".wh..wh..opq", NULL);
	unpacks(l);
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

/* ---- ways out ---- */

static void test_dot_dot(void **state)
{
	struct layer *l = plain(state);
	put_file(l, "a/../../escaped", "x");
	is_refused(l, -EBADMSG, "a/../../escaped");
}

static void test_dot_dot_in_hardlink(void **state)
{
	struct layer *l = plain(state);
	put_hardlink(l, "passwd", "../../etc/passwd");
	is_refused(l, -EBADMSG, "../../etc/passwd");
}

static void test_absolute_path(void **state)
{
	struct layer *l = plain(state);
	put_file(l, "/tmp/bulkhead-absolute", "x");
	unpacks(l);
	holds(l, "tmp/bulkhead-absolute", "x");
	assert_true(access("/tmp/bulkhead-absolute", F_OK) < 0);
}

static void test_through_symlinks(void **state)
{
	struct layer *l = plain(state);
	put_dir(l, "usr/lib");
	put_symlink(l, "lib", "usr/lib");
	put_file(l, "lib/libc", "x");
	put_symlink(l, "out", "/");
	put_file(l, "out/at-root", "x");
	put_symlink(l, "up", "../../../..");
	put_file(l, "up/at-root2", "x");
	put_dir(l, "lib/sub");
	unpacks(l);
	holds(l, "usr/lib/libc", "x");
	holds(l, "at-root", "x");
	holds(l, "at-root2", "x");
	assert_true(S_ISLNK(look(l, "lib").st_mode));
	assert_int_equal(look(l, "usr/lib/sub").st_mtime, 1000);
	assert_true(access("/at-root", F_OK) < 0 && access("/at-root2", F_OK) < 0);
}

static void test_symlink_to_host(void **state)
{
	struct layer *l = plain(state);
	put_symlink(l, "x", l->dir); /* there is no such directory in the layer's root */
	put_file(l, "x/escaped", "x");
	is_refused(l, -EBADMSG, "enter '/x'");
	assert_true(absent(l, "../escaped"));
}

static void test_hardlink_outside(void **state)
{
	struct layer *l = plain(state);
	put_hardlink(l, "passwd", "/etc/passwd");
	is_refused(l, -EBADMSG, "passwd");
}

static void test_hardlink_to_directory(void **state)
{
	struct layer *l = plain(state);
	put_dir(l, "d");
	put_hardlink(l, "d2", "d");
	is_refused(l, -EBADMSG, "d2");
}

static void test_file_as_parent(void **state)
{
	struct layer *l = plain(state);
	put_file(l, "f", "x");
	put_file(l, "f/below", "x");
	is_refused(l, -EBADMSG, "enter '/f'");
}

static void test_symlink_loop_as_parent(void **state)
{
	struct layer *l = plain(state);
	put_symlink(l, "a", "b");
	put_symlink(l, "b", "a");
	put_file(l, "a/x", "x");
	is_refused(l, -EBADMSG, "enter '/a'");
}

static void test_root_as_file(void **state)
{
	struct layer *l = plain(state);
	put_symlink(l, "./", "/etc");
	is_refused(l, -EBADMSG, "root is not a directory");
}

/* By links a tree could become deeper than any path: nobody could name what is at its end. */
static void test_too_deep(void **state)
{
	struct layer *l = plain(state);
	char path[2100] = "link";
	for (int i = 0; i < 1000; i++)
		strcat(path, "/d");
	put_symlink(l, "link", ".");
	for (int i = 0; i < 3; i++) {
		char name[16];
		put_dir(l, path);
		snprintf(name, sizeof(name), "link%d", i);
		put_symlink(l, name, path);
		snprintf(path, sizeof(path), "%s", name);
		for (int k = 0; k < 1000; k++)
			strcat(path, "/d");
	}
	l->limits.files = 100000;
	finish(l);
	assert_int_equal(unpack(l), -EBADMSG);
}

/* ---- bounds ---- */

static void test_bytes_limit(void **state)
{
	struct layer *l = plain(state);
	_cleanup_free_ char *data = calloc(1, 9001);
	memset(data, 'x', 9000);
	put_file(l, "f", data);
	l->limits.bytes = 8000;
	is_refused(l, -EFBIG, "images.layer_bytes_max, 8000");
}

static void test_bytes_limit_counts_holes(void **state)
{
	struct layer *l = begin(state);
	struct archive_entry *e = entry("sparse", S_IFREG | 0644);
	open_blob(l);
	archive_entry_set_size(e, 1ll << 40);
	archive_entry_sparse_add_entry(e, 0, 1);
	assert_int_equal(archive_write_header(l->tar, e), ARCHIVE_OK);
	assert_int_equal(archive_write_data(l->tar, "x", 1), 1);
	archive_entry_free(e);
	archive_write_close(l->tar);
	assert_int_equal(unpack(l), -EFBIG);
	assert_true(absent(l, "sparse"));
}

static void test_bytes_limit_counts_the_stream(void **state)
{
	struct layer *l = begin(state);
	archive_write_add_filter_gzip(l->tar);
	_cleanup_free_ char *data = calloc(1, 200001);
	memset(data, 'x', 200000);
	open_blob(l);
	put_file(l, ".wh.skipped", data);
	l->limits.bytes = 100000;
	is_refused(l, -EFBIG, "images.layer_bytes_max");
}

static void test_files_limit(void **state)
{
	struct layer *l = plain(state);
	put_file(l, "a", NULL);
	put_file(l, "b", NULL);
	put_file(l, "c", NULL);
	l->limits.files = 2;
	is_refused(l, -EFBIG, "images.layer_files_max, 2");
}

static void test_files_limit_counts_parents(void **state)
{
	struct layer *l = plain(state);
	put_file(l, "a/b/c/d/e/f", NULL);
	l->limits.files = 5;
	is_refused(l, -EFBIG, "images.layer_files_max");
}

/* ---- the stream ---- */

static void write_blob(const struct layer *l, const void *data, size_t len)
{
	assert_int_equal(fd_write_file(l->blob, data, len, 0600, NULL), 0);
}

static void test_compressions_have_one_diff_id(void **state)
{
	char ids[3][72];
	for (int i = 0; i < 3; i++) {
		struct layer *l = begin(state);
		if (i == 1)
			archive_write_add_filter_gzip(l->tar);
		if (i == 2)
			archive_write_add_filter_zstd(l->tar);
		open_blob(l);
		put_file(l, "f", "content");
		unpacks(l);
		holds(l, "f", "content");
		memcpy(ids[i], l->diff_id, sizeof(ids[i]));
		archive_write_free(l->tar);
		l->tar = NULL;
	}
	assert_int_equal(strlen(ids[0]), 71);
	assert_string_equal(ids[0], ids[1]);
	assert_string_equal(ids[0], ids[2]);
}

static void test_empty_layer(void **state)
{
	static const char zeros[1024] = "";
	struct layer *l = begin(state);
	write_blob(l, "", 0);
	assert_int_equal(unpack(l), 0);
	assert_string_equal(l->diff_id, "sha256:e3b0c44298fc1c149afbf4c8996fb924"
					"27ae41e4649b934ca495991b7852b855");
	write_blob(l, zeros, sizeof(zeros));
	assert_int_equal(unpack(l), 0);
	assert_string_equal(l->diff_id, "sha256:5f70bf18a086007016e948b04aed3b82"
					"103a36bea41755b6cddfaf10ace3c6ef");
}

static void test_not_a_tar(void **state)
{
	struct layer *l = begin(state);
	write_blob(l, "<html>not found</html>", 22);
	assert_int_equal(unpack(l), -EBADMSG);
	write_blob(l, "\x1f\x8b\x08\0\0\0\0\0\0\3garbage", 17);
	assert_int_equal(unpack(l), -EBADMSG);
}

static void cut(const struct layer *l, size_t keep)
{
	assert_int_equal(truncate(l->blob, (off_t)keep), 0);
}

static void put_noise(struct layer *l)
{
	char noise[8193];
	uint32_t x = 1;
	for (size_t i = 0; i < sizeof(noise) - 1; i++) {
		x = x * 1664525 + 1013904223;
		noise[i] = (char)(x >> 24 | 1);
	}
	noise[sizeof(noise) - 1] = '\0';
	put_file(l, "f", noise);
	put_file(l, "g", noise);
	finish(l);
}

static void test_truncated(void **state)
{
	for (int i = 0; i < 3; i++) {
		struct layer *l = begin(state);
		if (i == 1)
			archive_write_add_filter_gzip(l->tar);
		if (i == 2)
			archive_write_add_filter_zstd(l->tar);
		open_blob(l);
		put_noise(l);
		cut(l, 6000);
		assert_int_equal(unpack(l), -EBADMSG);
		archive_write_free(l->tar);
		l->tar = NULL;
	}
}

static void test_claims(void **state)
{
	struct layer *l = plain(state);
	struct archive_entry *e = entry("f", S_IFREG | 0644);
	archive_entry_set_uid(e, 1ll << 33);
	put(l, e, NULL);
	is_refused(l, -EBADMSG, "impossible owner");
}

#define unpack_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		unpack_test(test_files_directories_links),
		unpack_test(test_missing_parents),
		unpack_test(test_owners_and_modes),
		unpack_test(test_times),
		unpack_test(test_nodes),
		unpack_test(test_xattrs),
		unpack_test(test_names),
		unpack_test(test_names_in_gnu_format),
		unpack_test(test_sparse),
		unpack_test(test_whiteouts),
		unpack_test(test_opaque),
		unpack_test(test_whiteout_of_dots),
		unpack_test(test_last_entry_wins),
		unpack_test(test_dot_dot),
		unpack_test(test_dot_dot_in_hardlink),
		unpack_test(test_absolute_path),
		unpack_test(test_through_symlinks),
		unpack_test(test_symlink_to_host),
		unpack_test(test_hardlink_outside),
		unpack_test(test_hardlink_to_directory),
		unpack_test(test_file_as_parent),
		unpack_test(test_symlink_loop_as_parent),
		unpack_test(test_root_as_file),
		unpack_test(test_too_deep),
		unpack_test(test_bytes_limit),
		unpack_test(test_bytes_limit_counts_holes),
		unpack_test(test_bytes_limit_counts_the_stream),
		unpack_test(test_files_limit),
		unpack_test(test_files_limit_counts_parents),
		unpack_test(test_compressions_have_one_diff_id),
		unpack_test(test_empty_layer),
		unpack_test(test_not_a_tar),
		unpack_test(test_truncated),
		unpack_test(test_claims),
	};
	/* As bulkhead-unpack does. */
	setlocale(LC_ALL, "C.UTF-8");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
