#include "cri-server/image/unpack_fixture.h"

#include <limits.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

int layer_setup(void **state)
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

int layer_teardown(void **state)
{
	struct layer *l = *state;
	archive_write_free(l->tar);
	int r = fd_remove_tree(l->dir, NULL);
	free(l);
	return r;
}

struct layer *begin(void **state)
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

void open_blob(struct layer *l)
{
	assert_int_equal(archive_write_open_filename(l->tar, l->blob), ARCHIVE_OK);
}

struct layer *plain(void **state)
{
	struct layer *l = begin(state);
	open_blob(l);
	return l;
}

struct archive_entry *entry(const char *path, mode_t mode)
{
	struct archive_entry *e = archive_entry_new();
	archive_entry_set_pathname(e, path);
	archive_entry_set_mode(e, mode);
	archive_entry_set_mtime(e, 1000, 0);
	return e;
}

void put(struct layer *l, struct archive_entry *e, const char *data)
{
	if (data)
		archive_entry_set_size(e, (la_int64_t)strlen(data));
	assert_true(archive_write_header(l->tar, e) >= ARCHIVE_WARN);
	if (data)
		assert_int_equal(archive_write_data(l->tar, data, strlen(data)), (int)strlen(data));
	archive_entry_free(e);
}

void put_file(struct layer *l, const char *path, const char *data)
{
	put(l, entry(path, S_IFREG | 0644), data);
}

void put_dir(struct layer *l, const char *path)
{
	put(l, entry(path, S_IFDIR | 0755), NULL);
}

void put_symlink(struct layer *l, const char *path, const char *target)
{
	struct archive_entry *e = entry(path, S_IFLNK | 0777);
	archive_entry_set_symlink(e, target);
	put(l, e, NULL);
}

void put_hardlink(struct layer *l, const char *path, const char *target)
{
	struct archive_entry *e = entry(path, S_IFREG | 0644);
	archive_entry_set_hardlink(e, target);
	put(l, e, NULL);
}

void finish(struct layer *l)
{
	assert_int_equal(archive_write_close(l->tar), ARCHIVE_OK);
}

int unpack(struct layer *l)
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

void unpacks(struct layer *l)
{
	finish(l);
	if (unpack(l) != 0)
		fail_msg("%s", l->err.msg);
}

void is_refused(struct layer *l, int code, const char *words)
{
	finish(l);
	assert_int_equal(unpack(l), code);
	if (!strstr(l->err.msg, words))
		fail_msg("'%s' does not say '%s'", l->err.msg, words);
}

const char *at(const struct layer *l, const char *path)
{
	static char full[PATH_MAX];
	snprintf(full, sizeof(full), "%s/%s", l->tree, path);
	return full;
}

struct stat look(const struct layer *l, const char *path)
{
	struct stat st;
	if (lstat(at(l, path), &st) < 0)
		fail_msg("%s: %s", path, strerror(errno));
	return st;
}

bool absent(const struct layer *l, const char *path)
{
	struct stat st;
	return lstat(at(l, path), &st) < 0;
}

void holds(const struct layer *l, const char *path, const char *text)
{
	_cleanup_free_ char *data = NULL;
	assert_true(S_ISREG(look(l, path).st_mode));
	assert_int_equal(fd_read_file(at(l, path), 4096, &data, NULL, NULL), 0);
	assert_string_equal(data, text);
}

bool is_whiteout(const struct layer *l, const char *path)
{
	struct stat st = look(l, path);
	return S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0);
}

bool is_opaque(const struct layer *l, const char *path)
{
	char value[2];
	return lgetxattr(at(l, path), "trusted.overlay.opaque", value, sizeof(value)) == 1 &&
	       value[0] == 'y';
}
