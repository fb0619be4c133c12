#include "cri-server/cli/tar_in.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"

#define MODE_BITS     0777
#define READ_BYTES    65536
#define PADDING_BYTES (16u << 20) /* behind an archive; GNU tar's are 10240 less what it needs */

struct reader {
	struct tar_in *in;
	struct archive *archive;
	uint64_t bytes;
};

/* Where an entry goes: the directory that it is in, open, and its name there. */
struct place {
	int parent;
	char path[PATH_MAX]; /* below in->dir */
	const char *leaf;    /* the end of path */
};

static void place_done(struct place *place)
{
	fd_close(place->parent);
}

static int refuse(const char *name, const char *why, struct err *err)
{
	return err_set(err, -EPROTO, "the container's archive has '%s': %s", name, why);
}

/* Appends the next component of the name; "" and "." are none. */
static int add_component(char *path, const char *component, size_t len)
{
	size_t used = strlen(path);
	if (len == 2 && memcmp(component, "..", 2) == 0)
		return -EPROTO;
	if (len == 0 || (len == 1 && component[0] == '.'))
		return 0;
	if (len > NAME_MAX || used + 1 + len >= PATH_MAX)
		return -ENAMETOOLONG;
	snprintf(path + used, PATH_MAX - used, "%s%.*s", used ? "/" : "", (int)len, component);
	return 0;
}

/* The name without "." and double slashes, its first component exchanged. */
static int map_name(const struct tar_in *in, const char *name, char path[PATH_MAX], struct err *err)
{
	char clean[PATH_MAX] = "";
	if (!name || name[0] == '/')
		return refuse(name ? name : "?", "no relative name", err);
	for (const char *at = name; *at;) {
		size_t len = strcspn(at, "/");
		if (add_component(clean, at, len) < 0)
			return refuse(name, "no proper name", err);
		at += len + (at[len] == '/');
	}
	size_t from = strlen(in->from);
	if (strncmp(clean, in->from, from) != 0 || (clean[from] && clean[from] != '/'))
		return refuse(name, "not what was asked for", err);
	if (snprintf(path, PATH_MAX, "%s%s", in->to, clean + from) >= PATH_MAX)
		return refuse(name, "too long", err);
	return 0;
}

/* Opens the directory above path without following a link on the way. */
static int find_place(struct tar_in *in, const char *name, struct place *ret, struct err *err)
{
	char above[PATH_MAX];
	int r = map_name(in, name, ret->path, err);
	if (r < 0)
		return r;
	const char *slash = strrchr(ret->path, '/');
	snprintf(above, sizeof(above), "%.*s", slash ? (int)(slash - ret->path) : 1,
		slash ? ret->path : ".");
	ret->leaf = slash ? slash + 1 : ret->path;
	ret->parent = fd_openat2(in->dir, above, O_PATH | O_DIRECTORY,
		RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
	if (ret->parent >= 0)
		return 0;
	return errno == ELOOP || errno == EXDEV
		       ? refuse(name, "a symbolic link is on the way to it", err)
		       : err_errno(err, "open the directory %s", above);
}

static int make_directory(const struct place *place, mode_t mode, struct err *err)
{
	struct stat st;
	if (mkdirat(place->parent, place->leaf, (mode & MODE_BITS) | 0700) == 0)
		return 0;
	if (errno == EEXIST && fstatat(place->parent, place->leaf, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		S_ISDIR(st.st_mode))
		return 0;
	return err_errno(err, "make the directory %s", place->path);
}

/* A new file, which nobody has a link to, in the place of what is there. */
static int make_file(const struct place *place, int *ret_fd, struct err *err)
{
	if (unlinkat(place->parent, place->leaf, 0) < 0 && errno != ENOENT)
		return err_errno(err, "replace %s", place->path);
	*ret_fd = openat(place->parent, place->leaf,
		O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return *ret_fd < 0 ? err_errno(err, "make %s", place->path) : 0;
}

static int write_at(int fd, const char *data, size_t len, off_t offset)
{
	while (len) {
		ssize_t n = pwrite(fd, data, len, offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
		offset += n;
	}
	return 0;
}

static int archive_failed(struct reader *reader, struct err *err)
{
	const char *why = archive_error_string(reader->archive);
	return err_set(err, -EPROTO, "the container's archive is broken: %s", why ? why : "?");
}

/* Holes stay holes; what the entry says its size is has been checked, and no more is written. */
static int write_data(struct reader *reader, int fd, int64_t size, struct err *err)
{
	const void *data;
	size_t len;
	la_int64_t offset;
	int r;
	while ((r = archive_read_data_block(reader->archive, &data, &len, &offset)) == ARCHIVE_OK) {
		if (offset < 0 || offset > size || (int64_t)len > size - offset)
			return err_set(err, -EPROTO,
				"the container's archive is broken: more "
				"data than it announces");
		r = write_at(fd, data, len, offset);
		if (r < 0)
			return err_set(err, r, "write: %s", strerror(-r));
	}
	if (r != ARCHIVE_EOF)
		return archive_failed(reader, err);
	return ftruncate(fd, size) < 0 ? err_errno(err, "set a file's size") : 0;
}

static int account(struct reader *reader, int64_t bytes, struct err *err)
{
	if (bytes < 0 || (uint64_t)bytes > reader->in->bytes_max - reader->bytes)
		return err_set(err, -EFBIG, "the container sends more than %llu MiB",
			(unsigned long long)(reader->in->bytes_max >> 20));
	reader->bytes += (uint64_t)bytes;
	return 0;
}

static int read_file(struct reader *reader, struct archive_entry *entry, const struct place *place,
	struct err *err)
{
	int64_t size = archive_entry_size(entry);
	_cleanup_close_ int fd = -EBADF;
	int r = account(reader, size, err);
	if (r == 0)
		r = make_file(place, &fd, err);
	if (r == 0)
		r = write_data(reader, fd, size, err);
	if (r == 0 && fchmod(fd, archive_entry_perm(entry) & MODE_BITS) < 0)
		r = err_errno(err, "set the mode of %s", place->path);
	return r;
}

/* To a file that is there, inside the place; both names are checked alike. */
static int make_link(
	struct reader *reader, const char *target, const struct place *place, struct err *err)
{
	_cleanup_(place_done) struct place from = {.parent = -EBADF};
	struct stat st;
	int r = find_place(reader->in, target, &from, err);
	if (r < 0)
		return r;
	if (fstatat(from.parent, from.leaf, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return refuse(target, "a link to what is no file in it", err);
	if (strcmp(from.path, place->path) == 0)
		return 0;
	if (unlinkat(place->parent, place->leaf, 0) < 0 && errno != ENOENT)
		return err_errno(err, "replace %s", place->path);
	return linkat(from.parent, from.leaf, place->parent, place->leaf, 0) < 0
		       ? err_errno(err, "link %s", place->path)
		       : 0;
}

static int read_entry(struct reader *reader, struct archive_entry *entry, struct err *err)
{
	_cleanup_(place_done) struct place place = {.parent = -EBADF};
	const char *target = archive_entry_hardlink(entry);
	int r = account(reader, TAR_IN_ENTRY_BYTES, err);
	if (r == 0)
		r = find_place(reader->in, archive_entry_pathname(entry), &place, err);
	if (r < 0)
		return r;
	if (target)
		return make_link(reader, target, &place, err);
	if (archive_entry_filetype(entry) == AE_IFDIR)
		return make_directory(&place, archive_entry_perm(entry), err);
	if (archive_entry_filetype(entry) == AE_IFREG)
		return read_file(reader, entry, &place, err);
	reader->in->skipped++;
	return 0;
}

/* What fills the last record: who writes it is not to be told that nobody reads. */
static int read_padding(int fd, struct err *err)
{
	char data[READ_BYTES];
	size_t all = 0;
	for (;;) {
		ssize_t n = read(fd, data, sizeof(data));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, "read the end of the container's archive");
		if (n == 0)
			return 0;
		all += (size_t)n;
		if (all > PADDING_BYTES)
			return err_set(err, -EPROTO,
				"the container sends on behind the end of its archive, "
				"which is complete");
	}
}

int tar_in_read(struct tar_in *in, int fd, struct err *err)
{
	struct reader reader = {.in = in, .archive = archive_read_new()};
	struct archive_entry *entry;
	bool any = false;
	int r = 0, next;
	if (!reader.archive)
		return err_nomem(err);
	archive_read_support_format_tar(reader.archive);
	next = archive_read_open_fd(reader.archive, fd, READ_BYTES);
	while (next == ARCHIVE_OK && r == 0) {
		next = archive_read_next_header(reader.archive, &entry);
		if (next == ARCHIVE_OK || next == ARCHIVE_WARN) {
			next = ARCHIVE_OK;
			any = true;
			r = read_entry(&reader, entry, err);
		}
	}
	if (r == 0 && next != ARCHIVE_EOF)
		r = archive_failed(&reader, err);
	if (r == 0 && !any)
		r = err_set(err, -ENOENT, "the container's archive is empty");
	archive_read_free(reader.archive);
	return r < 0 ? r : read_padding(fd, err);
}
