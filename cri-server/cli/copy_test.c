/* cp's arguments, and archives from containers that mean harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/cli/copy_args.h"
#include "cri-server/cli/tar_in.h"
#include "cri-server/cli/tar_out.h"

static void arguments(void **state)
{
	(void)state;
	struct copy_args a;
	assert_int_equal(copy_args_parse("web:/etc/x", ".", &a, NULL), 0);
	assert_true(a.out);
	assert_string_equal(a.container, "web");
	assert_string_equal(a.inside, "/etc/x");
	assert_string_equal(a.local, ".");
	assert_int_equal(copy_args_parse("./a:b", "web:c:d", &a, NULL), 0);
	assert_false(a.out);
	assert_string_equal(a.inside, "c:d");
	assert_string_equal(a.local, "./a:b");
	static const char *const bad[][2] = {
		{"a", "b"}, {"a:b", "c:d"}, {"a:", "b"}, {":a", "b"}, {"a:b", ""}, {"/a:b", "c"}};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(copy_args_parse(bad[i][0], bad[i][1], &a, NULL), -EINVAL);
}

static void paths(void **state)
{
	(void)state;
	static const struct {
		const char *path, *directory, *name;
	} good[] = {{"a", ".", "a"}, {"/a", "/", "a"}, {"/a/b/", "/a", "b"}, {"a//b", "a", "b"},
		{"../a", "..", "a"}, {"-x", ".", "-x"}};
	char directory[COPY_TEXT_MAX], name[COPY_TEXT_MAX];
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(copy_split(good[i].path, directory, name, NULL), 0);
		assert_string_equal(directory, good[i].directory);
		assert_string_equal(name, good[i].name);
	}
	static const char *const bad[] = {"", "/", "//", ".", "..", "a/.", "a/.."};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(copy_split(bad[i], directory, name, NULL), -EINVAL);
}

/* ---- archives ---- */

struct fixture {
	char top[64]; /* has "in", where archives go, and "secret" beside it */
	int dir;
	FILE *file;
	struct archive *tar;
	struct tar_in in;
	struct err err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char path[128];
	snprintf(f->top, sizeof(f->top), "/tmp/copy-test-XXXXXX");
	assert_non_null(mkdtemp(f->top));
	snprintf(path, sizeof(path), "%s/secret", f->top);
	assert_int_equal(fd_write_file(path, "secret", 6, 0600, NULL), 0);
	snprintf(path, sizeof(path), "%s/in", f->top);
	assert_int_equal(mkdir(path, 0700), 0);
	f->dir = open(path, O_PATH | O_DIRECTORY);
	f->file = tmpfile();
	f->tar = archive_write_new();
	archive_write_set_format_gnutar(f->tar);
	archive_write_open_fd(f->tar, fileno(f->file));
	f->in = (struct tar_in){.dir = f->dir, .from = "d", .to = "e", .bytes_max = 1 << 20};
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	archive_write_free(f->tar);
	fclose(f->file);
	close(f->dir);
	fd_remove_tree(f->top, NULL);
	free(f);
	return 0;
}

static void add(struct fixture *f, const char *name, unsigned type, const char *text)
{
	struct archive_entry *entry = archive_entry_new();
	archive_entry_set_pathname(entry, name);
	archive_entry_set_filetype(entry, type ? type : AE_IFREG);
	archive_entry_set_perm(entry, 06755);
	if (type == AE_IFLNK)
		archive_entry_set_symlink(entry, text);
	else if (type == 0)
		archive_entry_set_hardlink(entry, text);
	else if (type == AE_IFREG)
		archive_entry_set_size(entry, (la_int64_t)strlen(text));
	archive_write_header(f->tar, entry);
	if (type == AE_IFREG)
		archive_write_data(f->tar, text, strlen(text));
	archive_entry_free(entry);
}

#define HARD_LINK 0

static int extract(struct fixture *f)
{
	archive_write_close(f->tar);
	lseek(fileno(f->file), 0, SEEK_SET);
	return tar_in_read(&f->in, fileno(f->file), &f->err);
}

static bool is_there(const struct fixture *f, const char *name)
{
	struct stat st;
	return fstatat(f->dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static void assert_secret_is_safe(const struct fixture *f)
{
	char path[128];
	_cleanup_free_ char *text = NULL;
	struct stat st;
	snprintf(path, sizeof(path), "%s/secret", f->top);
	assert_int_equal(fd_read_file(path, 100, &text, NULL, NULL), 0);
	assert_string_equal(text, "secret");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_nlink, 1);
}

static void a_tree_arrives(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	add(f, "./d", AE_IFDIR, NULL);
	add(f, "./d/file", AE_IFREG, "hello");
	add(f, "d//sub/", AE_IFDIR, NULL);
	add(f, "d/sub/hard", HARD_LINK, "./d/file");
	add(f, "d/link", AE_IFLNK, "file");
	add(f, "d/fifo", AE_IFIFO, NULL);
	add(f, "d/disk", AE_IFBLK, NULL);
	assert_int_equal(extract(f), 0);
	assert_int_equal(fstatat(f->dir, "e/file", &st, 0), 0);
	assert_int_equal(st.st_size, 5);
	assert_int_equal(st.st_mode, S_IFREG | 0755); /* without the set-id bits */
	assert_int_equal(st.st_nlink, 2);
	assert_true(is_there(f, "e/sub/hard"));
	assert_false(is_there(f, "e/link") || is_there(f, "e/fifo") || is_there(f, "e/disk"));
	assert_int_equal(f->in.skipped, 3);
}

/* So many bytes of zeros behind the archive's end. */
static int extract_padded(struct fixture *f, off_t padding)
{
	struct stat st;
	archive_write_close(f->tar);
	assert_int_equal(fstat(fileno(f->file), &st), 0);
	assert_int_equal(ftruncate(fileno(f->file), st.st_size + padding), 0);
	return extract(f);
}

/* Whoever writes them would be told that nobody reads. */
static void what_pads_an_archive_is_read(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	add(f, "d", AE_IFREG, "hello");
	assert_int_equal(extract_padded(f, 1 << 20), 0);
	assert_int_equal(fstat(fileno(f->file), &st), 0);
	assert_int_equal(lseek(fileno(f->file), 0, SEEK_CUR), st.st_size);
}

static void what_pads_an_archive_is_bounded(void **state)
{
	struct fixture *f = *state;
	add(f, "d", AE_IFREG, "hello");
	assert_int_equal(extract_padded(f, 64 << 20), -EPROTO);
	assert_true(is_there(f, "e"));
}

static void names_that_lead_out_are_refused(void **state)
{
	static const char *const names[] = {"../secret", "d/../../secret", "/etc/passwd", "d/..",
		"secret", "de", "e/x", "", "d/./../../secret"};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		void *one = NULL;
		setup(&one);
		struct fixture *f = one;
		add(f, "d", AE_IFDIR, NULL);
		add(f, names[i], AE_IFREG, "evil");
		assert_true(extract(f) < 0);
		assert_secret_is_safe(f);
		assert_false(is_there(f, "secret"));
		teardown(&one);
	}
	(void)state;
}

/* A link that is there already, by an earlier copy say, is not gone through. */
static void links_are_not_followed(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(mkdirat(f->dir, "e", 0700), 0);
	assert_int_equal(symlinkat("../..", f->dir, "e/up"), 0);
	assert_int_equal(symlinkat("../../secret", f->dir, "e/s"), 0);
	add(f, "d/s", AE_IFREG, "evil");
	add(f, "d/up/secret", AE_IFREG, "evil");
	assert_int_equal(extract(f), -EPROTO);
	assert_non_null(strstr(f->err.msg, "symbolic link"));
	assert_secret_is_safe(f);
	struct stat st; /* the link itself was replaced */
	assert_int_equal(fstatat(f->dir, "e/s", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_true(S_ISREG(st.st_mode));
}

static void a_link_made_in_the_archive_leads_nowhere(void **state)
{
	struct fixture *f = *state;
	add(f, "d", AE_IFDIR, NULL);
	add(f, "d/up", AE_IFLNK, "../..");
	add(f, "d/up/secret", AE_IFREG, "evil");
	assert_true(extract(f) < 0);
	assert_secret_is_safe(f);
}

static void hard_links_stay_inside(void **state)
{
	static const char *const targets[] = {"../secret", "/etc/passwd", "d/nothing", "d/s", "d"};
	for (size_t i = 0; i < ARRAY_SIZE(targets); i++) {
		void *one = NULL;
		setup(&one);
		struct fixture *f = one;
		assert_int_equal(mkdirat(f->dir, "e", 0700), 0);
		assert_int_equal(symlinkat("../../secret", f->dir, "e/s"), 0);
		add(f, "d/x", HARD_LINK, targets[i]);
		assert_int_equal(extract(f), -EPROTO);
		assert_secret_is_safe(f);
		assert_false(is_there(f, "e/x"));
		teardown(&one);
	}
	(void)state;
}

/* Writing to a name that has a hard link elsewhere does not write there. */
static void files_are_replaced_not_written_into(void **state)
{
	struct fixture *f = *state;
	char path[128];
	snprintf(path, sizeof(path), "%s/secret", f->top);
	assert_int_equal(linkat(AT_FDCWD, path, f->dir, "e", 0), 0);
	add(f, "d", AE_IFREG, "new");
	assert_int_equal(extract(f), 0);
	assert_secret_is_safe(f);
}

static void size_is_bounded(void **state)
{
	struct fixture *f = *state;
	char text[600];
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	f->in.bytes_max = 3 * TAR_IN_ENTRY_BYTES + 1000;
	add(f, "d", AE_IFDIR, NULL);
	add(f, "d/a", AE_IFREG, text);
	add(f, "d/b", AE_IFREG, text);
	assert_int_equal(extract(f), -EFBIG);
	assert_true(is_there(f, "e/a"));
	assert_false(is_there(f, "e/b"));
}

/* What has no bytes of its own costs the host's file system, or the time, all the same. */
static void the_number_of_entries_is_bounded(void **state)
{
	static const unsigned types[] = {AE_IFREG, AE_IFDIR, AE_IFLNK, HARD_LINK};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		void *one = NULL;
		setup(&one);
		struct fixture *f = one;
		f->in.bytes_max = 100 * TAR_IN_ENTRY_BYTES;
		add(f, "d", AE_IFDIR, NULL);
		add(f, "d/file", AE_IFREG, "");
		for (int n = 0; n < 100; n++) {
			char name[16];
			snprintf(name, sizeof(name), "d/%d", n);
			add(f, name, types[i], types[i] == AE_IFREG ? "" : "d/file");
		}
		assert_int_equal(extract(f), -EFBIG);
		assert_false(is_there(f, "e/99"));
		teardown(&one);
	}
}

static void broken_archives_are_errors(void **state)
{
	struct fixture *f = *state;
	char garbage[2048];
	memset(garbage, 0x5a, sizeof(garbage));
	add(f, "d", AE_IFREG, "text");
	archive_write_close(f->tar);
	assert_int_equal(ftruncate(fileno(f->file), 514), 0);
	lseek(fileno(f->file), 0, SEEK_SET);
	assert_int_equal(tar_in_read(&f->in, fileno(f->file), &f->err), -EPROTO);
	assert_int_equal(pwrite(fileno(f->file), garbage, sizeof(garbage), 0), sizeof(garbage));
	lseek(fileno(f->file), 0, SEEK_SET);
	assert_true(tar_in_read(&f->in, fileno(f->file), &f->err) < 0);
	assert_int_equal(ftruncate(fileno(f->file), 0), 0);
	lseek(fileno(f->file), 0, SEEK_SET);
	assert_true(tar_in_read(&f->in, fileno(f->file), &f->err) < 0);
}

static void what_goes_out_comes_back(void **state)
{
	struct fixture *f = *state;
	char path[128];
	assert_int_equal(mkdirat(f->dir, "tree", 0700), 0);
	assert_int_equal(mkdirat(f->dir, "tree/sub", 0700), 0);
	assert_int_equal(symlinkat("x", f->dir, "tree/link"), 0);
	snprintf(path, sizeof(path), "%s/in/tree/sub/file", f->top);
	assert_int_equal(fd_write_file(path, "text", 4, 0640, NULL), 0);
	snprintf(path, sizeof(path), "%s/in/tree", f->top);
	FILE *tar = tmpfile();
	assert_int_equal(tar_out_write(fileno(tar), path, "d", &f->err), 0);
	lseek(fileno(tar), 0, SEEK_SET);
	assert_int_equal(tar_in_read(&f->in, fileno(tar), &f->err), 0);
	fclose(tar);
	assert_true(is_there(f, "e/sub/file"));
	assert_int_equal(f->in.skipped, 1);
	assert_int_equal(tar_out_write(f->dir, "/nonexistent", "d", &f->err) < 0, 1);
}

#define FIXTURE_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arguments),
		cmocka_unit_test(paths),
		FIXTURE_TEST(a_tree_arrives),
		FIXTURE_TEST(what_pads_an_archive_is_read),
		FIXTURE_TEST(what_pads_an_archive_is_bounded),
		cmocka_unit_test(names_that_lead_out_are_refused),
		FIXTURE_TEST(links_are_not_followed),
		FIXTURE_TEST(a_link_made_in_the_archive_leads_nowhere),
		cmocka_unit_test(hard_links_stay_inside),
		FIXTURE_TEST(files_are_replaced_not_written_into),
		FIXTURE_TEST(size_is_bounded),
		cmocka_unit_test(the_number_of_entries_is_bounded),
		FIXTURE_TEST(broken_archives_are_errors),
		FIXTURE_TEST(what_goes_out_comes_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
