#include "cri-server/image/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "common/fd.h"

#define WHITEOUT        ".wh."
#define OPAQUE          ".wh..wh..opq"
#define OPAQUE_XATTR    "trusted.overlay.opaque"
#define BLOCK           65536
#define DEFAULT_DIR     0755

/* The blob, decompressed and hashed, as the tar reader's input. */
struct source {
	struct archive *raw;
	EVP_MD_CTX *hash;
	char block[BLOCK];
};

struct unpacking {
	struct source source;
	struct archive *tar;
	struct archive *disk;
	const struct unpack_limits *limits;
	uint64_t bytes, files;
};

static int archive_failed(struct archive *a, const char *what, struct err *err)
{
	const char *why = archive_error_string(a);
	int number = archive_errno(a);
	int code = number == ENOSPC || number == EDQUOT ? -ENOSPC : -EBADMSG;
	return err_set(err, code, "%s: %s", what, why ? why : "unknown error");
}

static ssize_t read_source(struct archive *tar, void *userdata, const void **block)
{
	struct source *s = userdata;
	ssize_t n = archive_read_data(s->raw, s->block, sizeof(s->block));
	if (n < 0) {
		archive_set_error(tar, archive_errno(s->raw), "%s", archive_error_string(s->raw));
		return -1;
	}
	EVP_DigestUpdate(s->hash, s->block, (size_t)n);
	*block = s->block;
	return n;
}

static int open_source(struct source *s, int fd, struct err *err)
{
	struct archive_entry *entry;
	s->raw = archive_read_new();
	s->hash = EVP_MD_CTX_new();
	if (!s->raw || !s->hash || !EVP_DigestInit_ex(s->hash, EVP_sha256(), NULL))
		return err_nomem(err);
	archive_read_support_filter_gzip(s->raw);
	archive_read_support_filter_zstd(s->raw);
	archive_read_support_format_raw(s->raw);
	archive_read_support_format_empty(s->raw);
	if (archive_read_open_fd(s->raw, fd, BLOCK) != ARCHIVE_OK)
		return archive_failed(s->raw, "read the layer", err);
	int r = archive_read_next_header(s->raw, &entry);
	if (r != ARCHIVE_OK && r != ARCHIVE_EOF)
		return archive_failed(s->raw, "read the layer", err);
	return 0;
}

static int open_unpacking(struct unpacking *u, int fd, struct err *err)
{
	int r = open_source(&u->source, fd, err);
	if (r < 0)
		return r;
	u->tar = archive_read_new();
	u->disk = archive_write_disk_new();
	if (!u->tar || !u->disk)
		return err_nomem(err);
	archive_read_support_format_tar(u->tar);
	archive_read_support_format_empty(u->tar);
	if (archive_read_open(u->tar, &u->source, NULL, read_source, NULL) != ARCHIVE_OK)
		return archive_failed(u->tar, "read the layer", err);
	archive_write_disk_set_options(u->disk,
		ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_PERM | ARCHIVE_EXTRACT_OWNER |
			ARCHIVE_EXTRACT_ACL | ARCHIVE_EXTRACT_XATTR | ARCHIVE_EXTRACT_UNLINK);
	return 0;
}

static void close_unpacking(struct unpacking *u)
{
	archive_read_free(u->tar);
	archive_write_free(u->disk);
	archive_read_free(u->source.raw);
	EVP_MD_CTX_free(u->source.hash);
}

/* Missing parents are root's, as every unpacker makes them. */
static int make_parents(const char *path, struct err *err)
{
	_cleanup_free_ char *work = strdup(path);
	if (!work)
		return err_nomem(err);
	for (char *slash = strchr(work + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(work, DEFAULT_DIR) < 0 && errno != EEXIST)
			return err_errno(err, "make directory '%.200s'", work);
		*slash = '/';
	}
	return 0;
}

static int set_opaque(const char *directory, struct err *err)
{
	if (setxattr(directory, OPAQUE_XATTR, "y", 1, 0) < 0)
		return err_errno(err, "mark directory '%.200s' opaque", directory);
	return 0;
}

static bool is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

/* A whiteout hides what lower layers have: where this layer has a directory too, that directory is opaque. */
static int whiteout(const char *directory, const char *name, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/%s", directory, name);
	if (!path)
		return err_nomem(err);
	struct stat st;
	int r = make_parents(path, err);
	if (r < 0)
		return r;
	if (lstat(path, &st) == 0)
		return S_ISDIR(st.st_mode) ? set_opaque(path, err) : 0;
	if (mknod(path, S_IFCHR, makedev(0, 0)) < 0)
		return err_errno(err, "make whiteout '%.200s'", path);
	return 0;
}

static int opaque(const char *directory, struct err *err)
{
	_cleanup_free_ char *inside = str_printf("%s/x", directory);
	if (!inside)
		return err_nomem(err);
	int r = make_parents(inside, err);
	return r < 0 ? r : set_opaque(directory, err);
}

/* overlayfs's own attributes are ours to set: an image that brings them could redirect directories. */
static void drop_trusted_xattrs(struct archive_entry *entry)
{
	const char *name;
	const void *value;
	size_t size;
	bool found = false;
	archive_entry_xattr_reset(entry);
	while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK)
		found |= strncmp(name, "trusted.", 8) == 0;
	if (!found)
		return;
	struct archive_entry *copy = archive_entry_clone(entry);
	if (!copy) {
		archive_entry_xattr_clear(entry);
		return;
	}
	archive_entry_xattr_clear(entry);
	archive_entry_xattr_reset(copy);
	while (archive_entry_xattr_next(copy, &name, &value, &size) == ARCHIVE_OK)
		if (strncmp(name, "trusted.", 8) != 0)
			archive_entry_xattr_add_entry(entry, name, value, size);
	archive_entry_free(copy);
}

static int copy_data(struct unpacking *u, struct err *err)
{
	const void *block;
	size_t size;
	la_int64_t offset;
	int r;
	while ((r = archive_read_data_block(u->tar, &block, &size, &offset)) == ARCHIVE_OK) {
		u->bytes += size;
		if (u->bytes > u->limits->bytes)
			return err_set(err, -EFBIG,
				"the layer unpacks to more than images.layer_bytes_max, %llu bytes",
				(unsigned long long)u->limits->bytes);
		if (archive_write_data_block(u->disk, block, size, offset) < ARCHIVE_OK)
			return archive_failed(u->disk, "write a file", err);
	}
	return r == ARCHIVE_EOF ? 0 : archive_failed(u->tar, "read the layer", err);
}

static int write_entry(struct unpacking *u, struct archive_entry *entry, const char *path,
	struct err *err)
{
	struct stat st;
	bool replaces_whiteout = lstat(path, &st) == 0 && is_whiteout(&st);
	bool is_directory = archive_entry_filetype(entry) == AE_IFDIR;
	drop_trusted_xattrs(entry);
	archive_entry_set_pathname(entry, path);
	if (archive_entry_hardlink(entry)) {
		_cleanup_free_ char *target = str_printf("/%s", archive_entry_hardlink(entry));
		if (!target)
			return err_nomem(err);
		archive_entry_set_hardlink(entry, target);
	}
	if (archive_write_header(u->disk, entry) < ARCHIVE_WARN)
		return archive_failed(u->disk, path, err);
	int r = archive_entry_size(entry) > 0 ? copy_data(u, err) : 0;
	if (r == 0 && archive_write_finish_entry(u->disk) < ARCHIVE_WARN)
		r = archive_failed(u->disk, path, err);
	if (r == 0 && replaces_whiteout && is_directory)
		r = set_opaque(path, err);
	return r;
}

/* "/a/b" from "a/b", "./a/b", "/a/b/" …; ".." does not occur in an honest layer. */
static int clean_path(const char *from, char **ret, struct err *err)
{
	char *path = malloc(strlen(from) + 2), *to = path;
	if (!path)
		return err_nomem(err);
	for (const char *p = from; *p;) {
		size_t len = strcspn(p, "/");
		if (len == 2 && p[0] == '.' && p[1] == '.') {
			free(path);
			return err_set(err, -EBADMSG, "the layer has an entry '%.200s'", from);
		}
		if (len && !(len == 1 && p[0] == '.')) {
			*to++ = '/';
			memcpy(to, p, len);
			to += len;
		}
		p += len + (p[len] == '/');
	}
	if (to == path)
		*to++ = '/';
	*to = '\0';
	*ret = path;
	return 0;
}

static int take_entry(struct unpacking *u, struct archive_entry *entry, struct err *err)
{
	const char *name = archive_entry_pathname(entry);
	if (!name || !*name)
		return err_set(err, -EBADMSG, "the layer has an entry without a usable name");
	if (++u->files > u->limits->files)
		return err_set(err, -EFBIG, "the layer has more than images.layer_files_max, %llu entries",
			(unsigned long long)u->limits->files);
	_cleanup_free_ char *path = NULL;
	int r = clean_path(name, &path, err);
	if (r < 0)
		return r;
	char *base = strrchr(path, '/') + 1;
	if (strncmp(base, WHITEOUT, strlen(WHITEOUT)) != 0)
		return write_entry(u, entry, path, err);
	bool is_opaque = strcmp(base, OPAQUE) == 0;
	base[-1] = '\0';
	if (is_opaque)
		return opaque(*path ? path : "/", err);
	if (!base[strlen(WHITEOUT)] || strncmp(base, ".wh..wh.", 8) == 0)
		return 0; /* aufs's own bookkeeping, which means nothing here */
	return whiteout(path, base + strlen(WHITEOUT), err);
}

/* What stands behind the archive's end belongs to the digest too. */
static int drain(struct source *s, struct err *err)
{
	ssize_t n;
	while ((n = archive_read_data(s->raw, s->block, sizeof(s->block))) > 0)
		EVP_DigestUpdate(s->hash, s->block, (size_t)n);
	return n == 0 ? 0 : archive_failed(s->raw, "read the layer", err);
}

static int unpack_all(struct unpacking *u, char ret_diff_id[72], struct err *err)
{
	struct archive_entry *entry;
	int status, r = 0;
	while (r == 0 && (status = archive_read_next_header(u->tar, &entry)) >= ARCHIVE_WARN &&
		status != ARCHIVE_EOF)
		r = take_entry(u, entry, err);
	if (r == 0 && status != ARCHIVE_EOF)
		r = archive_failed(u->tar, "read the layer", err);
	if (r == 0 && archive_write_close(u->disk) < ARCHIVE_WARN)
		r = archive_failed(u->disk, "finish the layer", err);
	if (r == 0)
		r = drain(&u->source, err);
	if (r < 0)
		return r;
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned n;
	EVP_DigestFinal_ex(u->source.hash, digest, &n);
	strcpy(ret_diff_id, "sha256:");
	for (unsigned i = 0; i < n; i++)
		sprintf(ret_diff_id + 7 + 2 * i, "%02x", digest[i]);
	return 0;
}

int unpack_layer(int fd, const struct unpack_limits *limits, char ret_diff_id[72], struct err *err)
{
	struct unpacking *u = calloc(1, sizeof(*u));
	if (!u)
		return err_nomem(err);
	u->limits = limits;
	int r = open_unpacking(u, fd, err);
	if (r == 0)
		r = unpack_all(u, ret_diff_id, err);
	close_unpacking(u);
	free(u);
	return r;
}
