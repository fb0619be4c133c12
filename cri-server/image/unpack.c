#include "cri-server/image/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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

#define WHITEOUT    ".wh."
#define OPAQUE      ".wh..wh..opq"
#define BLOCK       65536
#define DEFAULT_DIR 0755

/* The blob, decompressed and hashed, as the tar reader's input. */
struct source {
	struct archive *raw;
	EVP_MD_CTX *hash;
	const struct unpack_limits *limits;
	uint64_t bytes;
	bool empty; /* no stream at all, which libarchive does not read from */
	bool too_long;
	char block[BLOCK];
};

/*
 * Every entry is made by its base name's parent, which becomes the working directory: getcwd() then
 * gives the parent's path without the symbolic links that lead there. So libarchive, which comes
 * back to directories by their paths, meets no link, and no chain of links makes a tree deeper than
 * a path can say.
 */
struct unpacking {
	struct source source;
	struct archive *tar;
	struct archive *disk;
	const struct unpack_limits *limits;
	uint64_t bytes, files;
	char *parent;        /* as the entries write it; the working directory */
	char real[PATH_MAX]; /* the same as it is; behind it, for a while, an entry's name */
	size_t real_len;
};

static int too_long(const struct unpack_limits *limits, struct err *err)
{
	return err_set(err, -EFBIG,
		"the layer unpacks to more than images.layer_bytes_max, %llu bytes",
		(unsigned long long)limits->bytes);
}

static int read_failed(const struct source *s, struct archive *a, struct err *err)
{
	if (s->too_long)
		return too_long(s->limits, err);
	const char *why = archive_error_string(a);
	return err_set(err, archive_errno(a) == ENOMEM ? -ENOMEM : -EBADMSG, "read the layer: %s",
		why ? why : "unknown error");
}

/* What the host lacks keeps its code; all else is the layer's fault. */
static int blame(int number)
{
	switch (number) {
	case ENOSPC:
	case EDQUOT:
		return -ENOSPC;
	case ENOMEM:
	case EIO:
	case EROFS:
	case EMFILE:
	case ENFILE:
		return -number;
	default:
		return -EBADMSG;
	}
}

static int disk_failed(struct archive *disk, const char *path, struct err *err)
{
	const char *why = archive_error_string(disk);
	return err_set(err, blame(archive_errno(disk)), "write '%.200s': %s", path,
		why ? why : "unknown error");
}

static int tree_failed(const char *what, const char *path, struct err *err)
{
	int number = errno;
	return err_set(err, blame(number), "%s '%.200s': %s", what, path, strerror(number));
}

static ssize_t read_source(struct archive *tar, void *userdata, const void **block)
{
	struct source *s = userdata;
	ssize_t n = s->empty ? 0 : archive_read_data(s->raw, s->block, sizeof(s->block));
	if (n < 0) {
		archive_set_error(tar, archive_errno(s->raw), "%s", archive_error_string(s->raw));
		return -1;
	}
	s->bytes += (uint64_t)n;
	s->too_long = s->bytes > s->limits->bytes;
	if (s->too_long) {
		archive_set_error(tar, EFBIG, "too long");
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
		return read_failed(s, s->raw, err);
	int r = archive_read_next_header(s->raw, &entry);
	s->empty = r == ARCHIVE_EOF;
	return r == ARCHIVE_OK || s->empty ? 0 : read_failed(s, s->raw, err);
}

static int open_unpacking(struct unpacking *u, int fd, struct err *err)
{
	u->source.limits = u->limits;
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
		return read_failed(&u->source, u->tar, err);
	/* Extended attributes are set by set_xattrs(); names of users are never looked up. */
	archive_write_disk_set_options(u->disk, ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_PERM |
							ARCHIVE_EXTRACT_OWNER |
							ARCHIVE_EXTRACT_ACL);
	return 0;
}

static void close_unpacking(struct unpacking *u)
{
	archive_read_free(u->tar);
	archive_write_free(u->disk);
	archive_read_free(u->source.raw);
	EVP_MD_CTX_free(u->source.hash);
	free(u->parent);
}

static int count_entry(struct unpacking *u, struct err *err)
{
	if (++u->files <= u->limits->files)
		return 0;
	return err_set(err, -EFBIG, "the layer has more than images.layer_files_max, %llu entries",
		(unsigned long long)u->limits->files);
}

static bool is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

static int set_opaque(const char *directory, struct err *err)
{
	if (lsetxattr(directory, UNPACK_OPAQUE_XATTR, "y", 1, 0) < 0)
		return tree_failed("mark as opaque", directory, err);
	return 0;
}

/* A missing parent is root's, as every unpacker makes it; one that was whited out before hides what
 * is below. */
static int make_parent(struct unpacking *u, const char *path, struct err *err)
{
	struct stat st;
	bool there = lstat(path, &st) == 0;
	bool whiteout = there && is_whiteout(&st);
	if (there && !whiteout)
		return 0;
	int r = count_entry(u, err);
	if (r < 0)
		return r;
	if (whiteout && unlink(path) < 0)
		return tree_failed("remove", path, err);
	if (mkdir(path, DEFAULT_DIR) < 0)
		return tree_failed("make directory", path, err);
	return whiteout ? set_opaque(path, err) : 0;
}

/* Makes `parent` ("" is the root) the working directory, with what is missing of it. */
static int enter_parent(struct unpacking *u, const char *parent, struct err *err)
{
	if (u->parent && strcmp(u->parent, parent) == 0)
		return 0;
	char *path = strdup(parent);
	if (!path)
		return err_nomem(err);
	free(u->parent);
	u->parent = NULL;
	int r = 0;
	for (char *slash = *path ? strchr(path + 1, '/') : NULL; slash && r == 0;
		slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		r = make_parent(u, path, err);
		*slash = '/';
	}
	if (r == 0 && *path)
		r = make_parent(u, path, err);
	if (r == 0 && chdir(*path ? path : "/") < 0)
		r = tree_failed("enter", path, err);
	if (r == 0 && !getcwd(u->real, PATH_MAX))
		r = tree_failed("enter", path, err);
	if (r < 0) {
		free(path);
		return r;
	}
	u->real_len = strlen(u->real);
	if (u->real_len == 1)
		u->real_len = 0; /* the root's slash */
	u->parent = path;
	return 0;
}

/* A whiteout hides what lower layers have: where this layer has a directory too, that directory is
 * opaque. */
static int whiteout(const char *name, struct err *err)
{
	struct stat st;
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return err_set(err, -EBADMSG, "the layer has an entry '%s%s'", WHITEOUT, name);
	if (lstat(name, &st) == 0)
		return S_ISDIR(st.st_mode) ? set_opaque(name, err) : 0;
	if (mknod(name, S_IFCHR, makedev(0, 0)) < 0)
		return tree_failed("make a whiteout for", name, err);
	return 0;
}

/*
 * Attributes of files and of security modules are kept. "trusted." is overlayfs's, where an image
 * could redirect directories; "system." is ACLs, which libarchive sets; other systems' mean nothing
 * here.
 */
static int set_xattrs(struct archive_entry *entry, const char *path, struct err *err)
{
	const char *name;
	const void *value;
	size_t size;
	archive_entry_xattr_reset(entry);
	while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
		bool user = strncmp(name, "user.", 5) == 0;
		mode_t type = archive_entry_filetype(entry);
		if (!user && strncmp(name, "security.", 9) != 0)
			continue;
		if (user && type != AE_IFREG && type != AE_IFDIR)
			continue; /* Linux has none there */
		if (lsetxattr(path, name, value, size, 0) < 0)
			return err_set(err, blame(errno), "set attribute %.100s of '%.200s': %s",
				name, path, strerror(errno));
	}
	return 0;
}

static int copy_data(struct unpacking *u, const char *path, struct err *err)
{
	const void *block;
	size_t size;
	la_int64_t offset;
	int r;
	while ((r = archive_read_data_block(u->tar, &block, &size, &offset)) == ARCHIVE_OK)
		if (archive_write_data_block(u->disk, block, size, offset) < ARCHIVE_OK)
			return disk_failed(u->disk, path, err);
	return r == ARCHIVE_EOF ? 0 : read_failed(&u->source, u->tar, err);
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

/* Kinds, owners and sizes as they can be. A size is what a file claims: holes count. */
static int check_entry(struct unpacking *u, struct archive_entry *entry, struct err *err)
{
	const char *path = u->real;
	switch (archive_entry_filetype(entry)) {
	case AE_IFREG:
		break;
	case AE_IFDIR:
	case AE_IFLNK:
	case AE_IFCHR:
	case AE_IFBLK:
	case AE_IFIFO:
		archive_entry_set_size(entry, 0);
		break;
	default:
		if (!archive_entry_hardlink(entry))
			return err_set(err, -EBADMSG, "'%.200s' is of an unknown kind", path);
	}
	if (path[1] == '\0' && archive_entry_filetype(entry) != AE_IFDIR)
		return err_set(err, -EBADMSG, "the layer's root is not a directory");
	la_int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);
	if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
		return err_set(err, -EBADMSG, "'%.200s' has an impossible owner", path);
	la_int64_t size = archive_entry_size(entry);
	if (size < 0)
		return err_set(err, -EBADMSG, "'%.200s' has a negative size", path);
	u->bytes += (uint64_t)size;
	return u->bytes > u->limits->bytes ? too_long(u->limits, err) : 0;
}

/* Of entries with one name the last wins; directories are one directory. */
static int make_room(const char *path, bool directory, bool *ret_whiteout, struct err *err)
{
	struct stat st;
	*ret_whiteout = false;
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : tree_failed("look at", path, err);
	if (directory && S_ISDIR(st.st_mode))
		return 0;
	*ret_whiteout = is_whiteout(&st);
	return fd_remove_tree(path, err);
}

static int take_hardlink(struct archive_entry *entry, struct err *err)
{
	const char *target = archive_entry_hardlink(entry);
	_cleanup_free_ char *clean = NULL;
	int r = target ? clean_path(target, &clean, err) : 0;
	if (r == 0 && target)
		archive_entry_set_hardlink(entry, clean);
	return r;
}

/* The entry whose path is u->real. */
static int write_entry(struct unpacking *u, struct archive_entry *entry, struct err *err)
{
	const char *path = u->real;
	bool directory = archive_entry_filetype(entry) == AE_IFDIR, was_whiteout = false;
	int r = check_entry(u, entry, err);
	if (r == 0)
		r = take_hardlink(entry, err);
	if (r == 0)
		r = make_room(path, directory, &was_whiteout, err);
	if (r < 0)
		return r;
	/* libarchive loses the attributes of "/". */
	archive_entry_set_pathname(entry, path[1] ? path : ".");
	if (archive_write_header(u->disk, entry) != ARCHIVE_OK)
		return disk_failed(u->disk, path, err);
	if (archive_entry_size(entry) > 0)
		r = copy_data(u, path, err);
	if (r == 0 && archive_write_finish_entry(u->disk) != ARCHIVE_OK)
		r = disk_failed(u->disk, path, err);
	if (r == 0 && !archive_entry_hardlink(entry))
		r = set_xattrs(entry, path, err);
	if (r == 0 && was_whiteout && directory)
		r = set_opaque(path, err);
	return r;
}

/* An entry in the working directory by its base name, "" for the root itself. */
static int take_name(
	struct unpacking *u, struct archive_entry *entry, const char *name, struct err *err)
{
	if (strcmp(name, OPAQUE) == 0)
		return set_opaque(".", err);
	if (strncmp(name, WHITEOUT WHITEOUT, strlen(WHITEOUT WHITEOUT)) == 0)
		return 0; /* aufs's own bookkeeping, which means nothing here */
	if (strncmp(name, WHITEOUT, strlen(WHITEOUT)) == 0)
		return name[strlen(WHITEOUT)] ? whiteout(name + strlen(WHITEOUT), err) : 0;
	size_t room = sizeof(u->real) - u->real_len;
	int n = snprintf(u->real + u->real_len, room, "/%s", name);
	if (n < 0 || (size_t)n >= room || strlen(name) > NAME_MAX)
		return err_set(err, -EBADMSG, "the layer has too long a path, '%.200s…'", u->real);
	return write_entry(u, entry, err);
}

static int take_entry(struct unpacking *u, struct archive_entry *entry, struct err *err)
{
	const char *name = archive_entry_pathname(entry);
	if (!name || !*name)
		return err_set(err, -EBADMSG, "the layer has an entry without a usable name");
	_cleanup_free_ char *path = NULL;
	int r = count_entry(u, err);
	if (r == 0)
		r = clean_path(name, &path, err);
	if (r < 0)
		return r;
	char *base = strrchr(path, '/');
	*base++ = '\0';
	r = enter_parent(u, path, err);
	return r < 0 ? r : take_name(u, entry, base, err);
}

/* What stands behind the archive's end belongs to the digest too. */
static int drain(struct unpacking *u, struct err *err)
{
	const void *block;
	ssize_t n;
	while ((n = read_source(u->tar, &u->source, &block)) > 0)
		;
	return n == 0 ? 0 : read_failed(&u->source, u->tar, err);
}

static int unpack_all(struct unpacking *u, char ret_diff_id[72], struct err *err)
{
	struct archive_entry *entry;
	int status = ARCHIVE_OK, r = 0;
	/* A warning is a name that is not UTF-8, which stays as it is. */
	while (r == 0 && (status = archive_read_next_header(u->tar, &entry)) >= ARCHIVE_WARN &&
		status != ARCHIVE_EOF)
		r = take_entry(u, entry, err);
	if (r == 0 && status != ARCHIVE_EOF)
		r = read_failed(&u->source, u->tar, err);
	if (r == 0 && chdir("/") < 0)
		r = tree_failed("enter", "/", err);
	if (r == 0 && archive_write_close(u->disk) != ARCHIVE_OK)
		r = disk_failed(u->disk, "/", err);
	if (r == 0)
		r = drain(u, err);
	if (r < 0)
		return r;
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned n;
	EVP_DigestFinal_ex(u->source.hash, digest, &n);
	memcpy(ret_diff_id, "sha256:", sizeof("sha256:"));
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
