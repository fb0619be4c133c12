#include "cri-server/image/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <openssl/evp.h>

#include "common/fd.h"
#include "cri-server/image/erofs.h"
#include "cri-server/image/tree.h"

#define WHITEOUT  ".wh."
#define OPAQUE    ".wh..wh..opq"
#define BLOCK     (128u << 10)
#define LINKS_MAX 40 /* on one way, as in the kernel */
/* Of the way to all names together: bytes that links have put in their places, and steps, each of
 * which takes as long as copying so many bytes. A few seconds; two million honest names, twenty
 * directories deep and through a few links, take two thirds. */
#define WAYS_MAX   (4ull << 30)
#define STEP_BYTES 64
/* Of one entry, those that are not kept too: each is looked for among those before. */
#define XATTRS_MAX 256

/* The blob, decompressed and hashed, as the tar reader's input. */
struct source {
	struct archive *raw;
	EVP_MD_CTX *hash;
	const struct unpack_limits *limits;
	uint64_t bytes;
	bool empty; /* no stream at all, which libarchive does not read from */
	bool too_long;
};

struct unpacking {
	struct source source;
	struct archive *tar;
	const struct unpack_limits *limits;
	uint64_t bytes, files;
	uint64_t ways; /* of WAYS_MAX */
	struct tree tree;
	struct erofs image;
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

/* ---- the stream ---- */

static ssize_t read_source(struct archive *tar, void *userdata, const void **ret_block)
{
	struct source *s = userdata;
	size_t n = 0;
	la_int64_t offset;
	int r = s->empty ? ARCHIVE_EOF : archive_read_data_block(s->raw, ret_block, &n, &offset);
	if (r == ARCHIVE_EOF)
		return 0;
	if (r != ARCHIVE_OK) {
		archive_set_error(tar, archive_errno(s->raw), "%s", archive_error_string(s->raw));
		return -1;
	}
	s->bytes += n;
	s->too_long = s->bytes > s->limits->bytes;
	if (s->too_long) {
		archive_set_error(tar, EFBIG, "too long");
		return -1;
	}
	EVP_DigestUpdate(s->hash, *ret_block, n);
	return (ssize_t)n;
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

/* What stands behind the archive's end belongs to the digest too. */
static int drain(struct unpacking *u, struct err *err)
{
	const void *block;
	ssize_t n;
	while ((n = read_source(u->tar, &u->source, &block)) > 0)
		;
	return n < 0 ? read_failed(&u->source, u->tar, err) : 0;
}

/* ---- ways ---- */

static int count_entry(struct unpacking *u, struct err *err)
{
	if (++u->files <= u->limits->files)
		return 0;
	return err_set(err, -EFBIG, "the layer has more than images.layer_files_max, %llu entries",
		(unsigned long long)u->limits->files);
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

/*
 * From a directory to what a name in it leads to. Positive 1 with ret_link: a symbolic link. What
 * is missing is made, where `make` allows; what was whited out before hides what is below.
 */
static int step(struct unpacking *u, struct tree_dir **dir, const char *name, bool make,
	const char **ret_link, struct err *err)
{
	if (!*name || strcmp(name, ".") == 0)
		return 0;
	struct tree_node *node =
		strcmp(name, "..") == 0 ? (*dir)->parent->node : tree_find(*dir, name);
	if (node && node->dir) {
		*dir = node->dir;
		return 0;
	}
	if (node && node->target) {
		*ret_link = node->target;
		return 1;
	}
	if (node && !node->whiteout)
		return err_set(err, -EBADMSG, "'%.200s' is not a directory", name);
	if (!make)
		return err_set(err, -EBADMSG, "there is no '%.200s'", name);
	struct tree_node *made;
	int r = count_entry(u, err);
	if (r == 0)
		r = tree_new_dir(&u->tree, &made, err);
	if (r == 0)
		r = tree_put(&u->tree, *dir, name, made, err);
	if (r != 0)
		return r;
	made->dir->opaque = node != NULL;
	made->dir->implied = node == NULL; /* it is none of the lower layers' */
	*dir = made->dir;
	return 0;
}

static int count_way(struct unpacking *u, size_t bytes, struct err *err)
{
	u->ways += bytes;
	if (u->ways <= WAYS_MAX)
		return 0;
	return err_set(err, -EFBIG,
		"the ways to the layer's names, through directories and symbolic links, are too "
		"long in all");
}

/* The directory of a cleaned path, which is changed. */
static int enter(
	struct unpacking *u, const char *path, bool make, struct tree_dir **ret, struct err *err)
{
	struct tree_dir *dir = u->tree.root;
	_cleanup_free_ char *rest = strdup(path);
	unsigned links = 0;
	int r = rest ? 0 : err_nomem(err);
	for (char *p = rest; r == 0 && *p;) {
		size_t len = strcspn(p, "/");
		char *next = p + len + (p[len] == '/');
		const char *link = NULL;
		p[len] = '\0';
		r = count_way(u, STEP_BYTES + len, err);
		if (r == 0)
			r = step(u, &dir, p, make, &link, err);
		p = next;
		if (r <= 0 || !link)
			continue;
		if (++links > LINKS_MAX)
			return err_set(
				err, -EBADMSG, "enter '%.200s': too many symbolic links", path);
		if (link[0] == '/')
			dir = u->tree.root;
		char *longer = str_printf("%s/%s", link, next);
		free(rest);
		rest = p = longer;
		r = longer ? count_way(u, strlen(longer), err) : err_nomem(err);
	}
	if (r == 0)
		*ret = dir;
	return r != 0 ? err_wrap(err, "enter '%.200s'", path) : 0;
}

/* ---- entries ---- */

/* Attributes are kept where Linux has them; see the header. */
static int take_xattrs(struct archive_entry *entry, struct erofs_attrs *attrs, struct err *err)
{
	const char *name;
	const void *value;
	size_t size;
	if (archive_entry_xattr_count(entry) > XATTRS_MAX)
		return err_set(
			err, -EBADMSG, "it has more than %d extended attributes", XATTRS_MAX);
	archive_entry_xattr_reset(entry);
	while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
		bool directory = S_ISDIR(attrs->mode);
		bool plain = S_ISREG(attrs->mode) || directory;
		bool acl = strncmp(name, "system.", 7) == 0;
		if (strncmp(name, "trusted.", 8) == 0 || (!plain && strncmp(name, "user.", 5) == 0))
			continue;
		if (!size)
			continue; /* pax: a value of no length is none */
		if (acl && (S_ISLNK(attrs->mode) || (!directory && strstr(name, "default"))))
			continue;
		int r = erofs_add_xattr(attrs, name, value, size, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int take_attrs(struct archive_entry *entry, struct erofs_attrs *ret, struct err *err)
{
	la_int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);
	if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
		return err_set(err, -EBADMSG, "its owner is impossible");
	struct erofs_attrs attrs = {
		.mode = archive_entry_mode(entry),
		.uid = (uint32_t)uid,
		.gid = (uint32_t)gid,
		.nlink = 1,
		.mtime = archive_entry_mtime(entry),
		.mtime_ns = (uint32_t)archive_entry_mtime_nsec(entry),
	};
	if (S_ISLNK(attrs.mode))
		attrs.mode = S_IFLNK | 0777; /* Linux knows no other */
	if (S_ISCHR(attrs.mode) || S_ISBLK(attrs.mode)) {
		attrs.device_major = (uint32_t)archive_entry_rdevmajor(entry);
		attrs.device_minor = (uint32_t)archive_entry_rdevminor(entry);
	}
	if (attrs.mtime < 0 && attrs.mtime_ns) {
		/* libarchive reads the sign of "-1.5" as the seconds' alone. */
		attrs.mtime--;
		attrs.mtime_ns = 1000000000 - attrs.mtime_ns;
	}
	int r = take_xattrs(entry, &attrs, err);
	if (r < 0)
		erofs_attrs_done(&attrs);
	else
		*ret = attrs;
	return r;
}

static int copy_data(struct unpacking *u, const struct erofs_inode *inode, struct err *err)
{
	const void *block;
	size_t size;
	la_int64_t offset;
	int r;
	while ((r = archive_read_data_block(u->tar, &block, &size, &offset)) == ARCHIVE_OK) {
		int w = erofs_write(&u->image, inode, (uint64_t)offset, block, size, err);
		if (w < 0)
			return w;
	}
	return r == ARCHIVE_EOF ? 0 : read_failed(&u->source, u->tar, err);
}

/* Anything but a directory, with its data. */
static int take_inode(struct unpacking *u, struct archive_entry *entry,
	const struct erofs_attrs *attrs, struct tree_node **ret, struct err *err)
{
	bool file = S_ISREG(attrs->mode);
	const char *target = S_ISLNK(attrs->mode) ? archive_entry_symlink(entry) : NULL;
	if (S_ISLNK(attrs->mode) && (!target || !*target || strlen(target) > TREE_PATH_MAX))
		return err_set(err, -EBADMSG, "it leads to no possible name");
	la_int64_t size = file ? archive_entry_size(entry) : 0;
	if (size < 0)
		return err_set(err, -EBADMSG, "its size is negative");
	if ((uint64_t)size > u->limits->bytes - u->bytes)
		return too_long(u->limits, err);
	u->bytes += (uint64_t)size; /* what it claims: holes count */
	struct erofs_inode inode = {0};
	int r = tree_new(&u->tree, attrs->mode, target, ret, err);
	if (r == 0)
		r = erofs_make(
			&u->image, attrs, target ? strlen(target) : (uint64_t)size, &inode, err);
	if (r < 0)
		return r;
	(*ret)->nid = inode.nid;
	if (target)
		return erofs_write(&u->image, &inode, 0, target, strlen(target), err);
	return size ? copy_data(u, &inode, err) : 0;
}

static int take_directory(struct unpacking *u, struct tree_dir *parent, const char *name,
	struct erofs_attrs *attrs, struct err *err)
{
	struct tree_node *old = *name ? tree_find(parent, name) : u->tree.root->node, *node = old;
	int r = 0;
	if (!old || !old->dir) {
		r = tree_new_dir(&u->tree, &node, err);
		if (r == 0)
			r = tree_put(&u->tree, parent, name, node, err);
		if (r < 0)
			return r;
		node->dir->opaque = old != NULL; /* something else was put over what is below */
	}
	struct tree_dir *dir = node->dir;
	u->tree.bytes += attrs->xattrs_len;
	erofs_attrs_done(&dir->attrs);
	dir->attrs = *attrs;
	*attrs = (struct erofs_attrs){0};
	dir->implied = false;
	return 0;
}

static int take_hardlink(struct unpacking *u, struct tree_dir *dir, const char *name,
	const char *target, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	struct tree_dir *from = NULL;
	int r = clean_path(target, &path, err);
	if (r < 0)
		return r;
	char *base = strrchr(path, '/');
	*base++ = '\0';
	r = enter(u, path, false, &from, err);
	if (r < 0)
		return r;
	struct tree_node *node = tree_find(from, base);
	if (!node || node->whiteout || node->dir)
		return err_set(err, -EBADMSG,
			"it is a hard link to '%.200s', which is no file of this layer", target);
	/* Its own name again changes nothing. */
	return node == tree_find(dir, name) ? 0 : tree_put(&u->tree, dir, name, node, err);
}

static int take_kind(struct unpacking *u, struct archive_entry *entry, struct tree_dir *dir,
	const char *name, struct err *err)
{
	const char *hardlink = archive_entry_hardlink(entry);
	mode_t type = archive_entry_filetype(entry);
	if (!*name && (hardlink || type != AE_IFDIR))
		return err_set(err, -EBADMSG, "the layer's root is not a directory");
	if (hardlink)
		return take_hardlink(u, dir, name, hardlink, err);
	if (type != AE_IFREG && type != AE_IFDIR && type != AE_IFLNK && type != AE_IFCHR &&
		type != AE_IFBLK && type != AE_IFIFO)
		return err_set(err, -EBADMSG, "it is of an unknown kind");
	struct erofs_attrs attrs;
	struct tree_node *node;
	int r = take_attrs(entry, &attrs, err);
	if (r < 0)
		return r;
	if (type == AE_IFDIR) {
		r = take_directory(u, dir, name, &attrs, err);
	} else {
		r = take_inode(u, entry, &attrs, &node, err);
		if (r == 0)
			r = tree_put(&u->tree, dir, name, node, err);
	}
	erofs_attrs_done(&attrs);
	return r;
}

/* A whiteout hides what lower layers have: where this layer has a directory too, that directory is
 * opaque. */
static int whiteout(struct unpacking *u, struct tree_dir *dir, const char *name, struct err *err)
{
	if (!*name)
		return 0;
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return err_set(err, -EBADMSG, "the layer has an entry '%s%s'", WHITEOUT, name);
	struct tree_node *node = tree_find(dir, name);
	if (node) {
		if (node->dir) {
			node->dir->opaque = true;
			node->dir->implied = false;
		}
		return 0;
	}
	const struct erofs_attrs attrs = {.mode = S_IFCHR, .nlink = 1};
	struct erofs_inode inode = {0};
	int r = tree_new(&u->tree, attrs.mode, NULL, &node, err);
	if (r == 0)
		r = erofs_make(&u->image, &attrs, 0, &inode, err);
	if (r < 0)
		return r;
	node->whiteout = true;
	node->nid = inode.nid;
	return tree_put(&u->tree, dir, name, node, err);
}

/* An entry of a directory by its base name, "" for the root itself. */
static int take_name(struct unpacking *u, struct archive_entry *entry, struct tree_dir *dir,
	const char *name, struct err *err)
{
	if (strcmp(name, OPAQUE) == 0) {
		dir->opaque = true;
		return 0;
	}
	if (strncmp(name, WHITEOUT WHITEOUT, strlen(WHITEOUT WHITEOUT)) == 0)
		return 0; /* aufs's own bookkeeping, which means nothing here */
	if (strncmp(name, WHITEOUT, strlen(WHITEOUT)) == 0)
		return whiteout(u, dir, name + strlen(WHITEOUT), err);
	return take_kind(u, entry, dir, name, err);
}

static int take_entry(struct unpacking *u, struct archive_entry *entry, struct err *err)
{
	const char *name = archive_entry_pathname(entry);
	if (!name || !*name)
		return err_set(err, -EBADMSG, "the layer has an entry without a usable name");
	_cleanup_free_ char *path = NULL;
	struct tree_dir *dir = NULL;
	int r = count_entry(u, err);
	if (r == 0)
		r = clean_path(name, &path, err);
	if (r < 0)
		return r;
	char *base = strrchr(path, '/');
	*base++ = '\0';
	r = enter(u, path, true, &dir, err);
	if (r == 0)
		r = take_name(u, entry, dir, base, err);
	return r < 0 ? err_wrap(err, "'%.200s'", name) : 0;
}

/* ---- all of it ---- */

static void format_diff_id(struct source *s, char ret[72])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned n;
	EVP_DigestFinal_ex(s->hash, digest, &n);
	memcpy(ret, "sha256:", sizeof("sha256:"));
	str_hex(ret + 7, digest, n);
}

static int unpack_all(struct unpacking *u, struct unpack_result *ret, struct err *err)
{
	struct archive_entry *entry;
	int status = ARCHIVE_OK, r = 0;
	/* A warning is a name that is not UTF-8, which stays as it is. */
	while (r == 0 && (status = archive_read_next_header(u->tar, &entry)) >= ARCHIVE_WARN &&
		status != ARCHIVE_EOF)
		r = take_entry(u, entry, err);
	if (r == 0 && status != ARCHIVE_EOF)
		r = read_failed(&u->source, u->tar, err);
	if (r == 0)
		r = drain(u, err);
	if (r == 0)
		r = tree_write(&u->tree, &u->image, err);
	if (r == 0)
		r = erofs_finish(&u->image, err);
	if (r < 0)
		return r;
	format_diff_id(&u->source, ret->diff_id);
	ret->opaque = u->tree.root->opaque;
	return 0;
}

int unpack_layer(int blob, int image, const struct unpack_limits *limits, struct unpack_result *ret,
	struct err *err)
{
	struct unpacking u = {.limits = limits, .source = {.limits = limits}};
	erofs_begin(&u.image, image);
	int r = tree_begin(&u.tree, err);
	if (r == 0)
		r = open_source(&u.source, blob, err);
	u.tar = archive_read_new();
	if (r == 0 && !u.tar)
		r = err_nomem(err);
	if (r == 0) {
		archive_read_support_format_tar(u.tar);
		archive_read_support_format_empty(u.tar);
		if (archive_read_open(u.tar, &u.source, NULL, read_source, NULL) != ARCHIVE_OK)
			r = read_failed(&u.source, u.tar, err);
	}
	if (r == 0)
		r = unpack_all(&u, ret, err);
	archive_read_free(u.tar);
	archive_read_free(u.source.raw);
	EVP_MD_CTX_free(u.source.hash);
	tree_done(&u.tree);
	return r;
}
