#include "cri-server/image/unpack_fixture.h"

#include <limits.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "common/spawn.h"

int layer_setup(void **state)
{
	struct layer *l = calloc(1, sizeof(*l));
	strcpy(l->dir, "/tmp/unpack-test-XXXXXX");
	if (!mkdtemp(l->dir))
		return -1;
	snprintf(l->blob, sizeof(l->blob), "%s/blob", l->dir);
	snprintf(l->tree, sizeof(l->tree), "%s/tree", l->dir);
	snprintf(l->image, sizeof(l->image), "%s/image", l->dir);
	l->limits = (struct unpack_limits){.bytes = 1 << 20, .files = 1000};
	*state = l;
	return mkdir(l->tree, 0755);
}

static void unmount(const struct layer *l)
{
	if (l->mounted)
		umount2(l->tree, MNT_DETACH);
}

int layer_teardown(void **state)
{
	struct layer *l = *state;
	unmount(l);
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

/* In mounts of our own, which end with us whatever happens. */
static void mount_image(struct layer *l)
{
	unmount(l);
	assert_int_equal(unshare(CLONE_NEWNS), 0);
	assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	const char *const argv[] = {
		"mount", "-t", "erofs", "-o", "ro,loop", l->image, l->tree, NULL};
	struct spawn_result result = SPAWN_RESULT_INIT(4096);
	if (spawn_check(&(struct spawn_options){.argv = argv}, &result, &l->err) < 0)
		fail_msg("%s", l->err.msg);
	spawn_result_done(&result);
	l->mounted = true;
}

int unpack(struct layer *l)
{
	unlink(l->image);
	_cleanup_close_ int blob = open(l->blob, O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int image = open(l->image, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(blob >= 0 && image >= 0);
	int r = unpack_layer(blob, image, &l->limits, &l->result, &l->err);
	if (r == 0)
		mount_image(l);
	return r;
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

uint64_t image_bytes(const struct layer *l)
{
	struct stat st;
	assert_int_equal(stat(l->image, &st), 0);
	return (uint64_t)st.st_blocks * 512;
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
