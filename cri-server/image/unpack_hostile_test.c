/* Layers that want out, too much, or are broken. */
#include <locale.h>

#include "cri-server/image/unpack_fixture.h"

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
	put_symlink(l, "x", l->dir);
	put_file(l, "x/escaped", "x");
	unpacks(l);
	assert_true(access(at(l, "../escaped"), F_OK) < 0);
	char inside[64];
	snprintf(inside, sizeof(inside), "%s/escaped", l->dir);
	holds(l, inside, "x");
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

static void append(char *path, size_t size, const char *what)
{
	size_t used = strlen(path);
	snprintf(path + used, size - used, "%s", what);
}

/* By links a tree could become deeper than any path: nobody could name what is at its end. */
static void test_too_deep(void **state)
{
	struct layer *l = plain(state);
	char path[2100] = "link";
	for (int i = 0; i < 1000; i++)
		append(path, sizeof(path), "/d");
	put_symlink(l, "link", ".");
	for (int i = 0; i < 3; i++) {
		char name[16];
		put_dir(l, path);
		snprintf(name, sizeof(name), "link%d", i);
		put_symlink(l, name, path);
		snprintf(path, sizeof(path), "%s", name);
		for (int k = 0; k < 1000; k++)
			append(path, sizeof(path), "/d");
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
	archive_entry_set_size(e, 1LL << 40);
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

/* Links that make a short name a long way, which a small layer can have taken two million times. */
static void test_long_ways(void **state)
{
	struct layer *l = plain(state);
	for (int i = 0; i < 39; i++) {
		char name[16], target[4096];
		snprintf(name, sizeof(name), "l%d", i);
		if (i == 38)
			target[0] = '\0';
		else
			snprintf(target, sizeof(target), "l%d/", i + 1);
		while (strlen(target) < 4090)
			append(target, sizeof(target), "./");
		put_symlink(l, name, target);
	}
	for (int i = 0; i < 3000; i++) {
		char name[16];
		snprintf(name, sizeof(name), "l0/f%d", i);
		put_file(l, name, NULL);
	}
	l->limits.files = 100000;
	l->limits.bytes = 100 << 20;
	is_refused(l, -EFBIG, "symbolic links");
}

/* The same without links: the longest way that there is, again and again. */
static void test_long_names(void **state)
{
	struct layer *l = begin(state);
	archive_write_add_filter_zstd(l->tar);
	open_blob(l);
	char path[4096] = "a";
	for (int i = 1; i < 2047; i++)
		append(path, sizeof(path), "/a");
	for (int i = 0; i < 33000; i++)
		put_dir(l, path);
	l->limits.files = 100000;
	l->limits.bytes = 1 << 30;
	is_refused(l, -EFBIG, "too long in all");
}

/* Each attribute is looked for among those before: what a header may hold of them takes long. */
static void test_number_of_xattrs(void **state)
{
	struct layer *l = plain(state);
	for (int i = 0; i < 20; i++) {
		char name[16];
		snprintf(name, sizeof(name), "f%d", i);
		struct archive_entry *e = entry(name, S_IFREG | 0644);
		for (int k = 0; k < 5000; k++) {
			snprintf(name, sizeof(name), "user.%04d", k);
			archive_entry_xattr_add_entry(e, name, "x", 1);
		}
		put(l, e, NULL);
	}
	l->limits.bytes = 100 << 20;
	is_refused(l, -EBADMSG, "extended attributes");
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
		memcpy(ids[i], l->result.diff_id, sizeof(ids[i]));
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
	assert_string_equal(l->result.diff_id, "sha256:e3b0c44298fc1c149afbf4c8996fb924"
					       "27ae41e4649b934ca495991b7852b855");
	write_blob(l, zeros, sizeof(zeros));
	assert_int_equal(unpack(l), 0);
	assert_string_equal(l->result.diff_id, "sha256:5f70bf18a086007016e948b04aed3b82"
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
	archive_entry_set_uid(e, 1LL << 33);
	put(l, e, NULL);
	is_refused(l, -EBADMSG, "owner is impossible");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		layer_test(test_dot_dot),
		layer_test(test_dot_dot_in_hardlink),
		layer_test(test_absolute_path),
		layer_test(test_through_symlinks),
		layer_test(test_symlink_to_host),
		layer_test(test_hardlink_outside),
		layer_test(test_hardlink_to_directory),
		layer_test(test_file_as_parent),
		layer_test(test_symlink_loop_as_parent),
		layer_test(test_root_as_file),
		layer_test(test_too_deep),
		layer_test(test_bytes_limit),
		layer_test(test_bytes_limit_counts_holes),
		layer_test(test_bytes_limit_counts_the_stream),
		layer_test(test_files_limit),
		layer_test(test_files_limit_counts_parents),
		layer_test(test_long_ways),
		layer_test(test_long_names),
		layer_test(test_number_of_xattrs),
		layer_test(test_compressions_have_one_diff_id),
		layer_test(test_empty_layer),
		layer_test(test_not_a_tar),
		layer_test(test_truncated),
		layer_test(test_claims),
	};
	/* As bulkhead-unpack does. */
	setlocale(LC_ALL, "C.UTF-8");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
