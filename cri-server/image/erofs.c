#include "cri-server/image/erofs.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"

#define SUPER_AT    1024
#define MAGIC       0xe0f5e1e2
#define BLOCK_SHIFT 12
#define SLOT        32 /* inodes are numbered in these */
#define ROOT_AT     (SUPER_AT + sizeof(struct super))
/* The root's inode and attributes lie before these, or its number would not fit 16 bits. */
#define FIRST_BLOCK     (2 + EROFS_XATTRS_MAX / EROFS_BLOCK)
#define HAS_MTIME       2 /* a compatible feature */
#define EXTENDED        1
#define FLAT_PLAIN      (0 << 1)
#define FLAT_INLINE     (2 << 1)
#define XATTR_HEADER    12 /* before the attributes of an inode */
#define MAJOR_MAX       0xfff
#define MINOR_MAX       0xfffff
#define NLINK_OFFSET    offsetof(struct inode, nlink)
#define TRUSTED_PREFIX  4
#define SECURITY_PREFIX 6

struct super {
	uint32_t magic, checksum, compatible;
	uint8_t block_shift, slots;
	uint16_t root_nid;
	uint64_t inodes, build_time;
	uint32_t build_time_ns, blocks, meta_block, xattr_block;
	uint8_t uuid[16], volume[16];
	uint32_t incompatible;
	uint8_t reserved[44];
};
_Static_assert(sizeof(struct super) == 128, "EROFS's superblock");

struct inode {
	uint16_t format, xattr_count, mode, reserved;
	uint64_t size;
	uint32_t block_or_device, ino, uid, gid;
	uint64_t mtime;
	uint32_t mtime_ns, nlink;
	uint8_t reserved2[16];
};
_Static_assert(sizeof(struct inode) == 64, "EROFS's extended inode");

struct dirent_head {
	uint64_t nid;
	uint16_t name_at;
	uint8_t kind, reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct dirent_head) == 12, "EROFS's directory entry");

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

static int write_at(struct erofs *e, uint64_t at, const void *data, size_t len, struct err *err)
{
	const char *p = data;
	while (len) {
		ssize_t n = pwrite(e->fd, p, len, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, "write the layer's file");
		p += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

void erofs_begin(struct erofs *e, int fd)
{
	*e = (struct erofs){.fd = fd, .next_block = FIRST_BLOCK};
}

/* ---- inodes ---- */

/* The prefix's number, and the rest of the name; 0: not to be said in EROFS. */
static uint8_t xattr_prefix(const char *name, const char **ret_rest)
{
	static const struct {
		const char *text;
		uint8_t number;
		bool whole;
	} prefixes[] = {
		{"user.", 1, false},
		{"system.posix_acl_access", 2, true},
		{"system.posix_acl_default", 3, true},
		{"trusted.", TRUSTED_PREFIX, false},
		{"security.", SECURITY_PREFIX, false},
	};
	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++) {
		size_t len = strlen(prefixes[i].text);
		*ret_rest = name + len;
		if (strncmp(name, prefixes[i].text, len) == 0 && prefixes[i].whole == !name[len])
			return prefixes[i].number;
	}
	return 0;
}

static bool has_xattr(const struct erofs_attrs *attrs, uint8_t prefix, const char *name)
{
	size_t len = strlen(name);
	for (size_t at = 0; at < attrs->xattrs_len;) {
		const unsigned char *p = attrs->xattrs + at;
		if (p[0] == len && p[1] == prefix && memcmp(p + 4, name, len) == 0)
			return true;
		at += round_up(4 + (size_t)p[0] + p[2] + ((size_t)p[3] << 8), 4);
	}
	return false;
}

int erofs_add_xattr(struct erofs_attrs *attrs, const char *name, const void *value, size_t size,
	struct err *err)
{
	const char *rest;
	uint8_t prefix = xattr_prefix(name, &rest);
	if (!prefix)
		return 1; /* and `rest` leads nowhere */
	size_t name_len = strlen(rest), len = round_up(4 + name_len + size, 4);
	if (has_xattr(attrs, prefix, rest))
		return 1;
	if (name_len > UINT8_MAX || size > UINT16_MAX ||
		attrs->xattrs_len + len + XATTR_HEADER > EROFS_XATTRS_MAX)
		return err_set(err, -EBADMSG, "its extended attributes are too large");
	unsigned char *grown = realloc(attrs->xattrs, attrs->xattrs_len + len);
	if (!grown)
		return err_nomem(err);
	unsigned char *to = grown + attrs->xattrs_len;
	memset(to, 0, len);
	to[0] = (uint8_t)name_len;
	to[1] = prefix;
	to[2] = size & 0xff;
	to[3] = (uint8_t)(size >> 8);
	memcpy(to + 4, rest, name_len);
	if (size)
		memcpy(to + 4 + name_len, value, size);
	attrs->xattrs = grown;
	attrs->xattrs_len += len;
	return 0;
}

void erofs_attrs_done(struct erofs_attrs *attrs)
{
	free(attrs->xattrs);
	attrs->xattrs = NULL;
	attrs->xattrs_len = 0;
}

static int take_blocks(struct erofs *e, uint64_t n, uint64_t *ret_at, struct err *err)
{
	if (n > UINT32_MAX - e->next_block)
		return err_set(err, -EFBIG, "the layer is larger than an EROFS image can be");
	*ret_at = e->next_block * EROFS_BLOCK;
	e->next_block += n;
	return 0;
}

/* An inode's place: what fits a block lies in one, as a tail must with its inode. */
static int take_meta(struct erofs *e, size_t len, uint64_t *ret_at, struct err *err)
{
	if (len > e->meta_end - e->meta_at) {
		uint64_t blocks = round_up(len, EROFS_BLOCK) / EROFS_BLOCK;
		int r = take_blocks(e, blocks, &e->meta_at, err);
		if (r < 0)
			return r;
		e->meta_end = e->meta_at + blocks * EROFS_BLOCK;
	}
	*ret_at = e->meta_at;
	e->meta_at += round_up(len, SLOT);
	return 0;
}

static uint32_t encode_device(const struct erofs_attrs *a)
{
	return (a->device_minor & 0xff) | a->device_major << 8 | (a->device_minor & ~0xffu) << 12;
}

static int write_inode(struct erofs *e, uint64_t at, const struct erofs_attrs *a, bool tail_inline,
	const struct erofs_inode *made, struct err *err)
{
	static const unsigned char header[XATTR_HEADER] = {0};
	uint32_t where = made->size ? (uint32_t)(made->data_at / EROFS_BLOCK) : 0;
	if (S_ISCHR(a->mode) || S_ISBLK(a->mode))
		where = encode_device(a);
	const struct inode inode = {
		.format = htole16(EXTENDED | (tail_inline ? FLAT_INLINE : FLAT_PLAIN)),
		.xattr_count = htole16(a->xattrs_len ? (uint16_t)(a->xattrs_len / 4 + 1) : 0),
		.mode = htole16((uint16_t)a->mode),
		.size = htole64(made->size),
		.block_or_device = htole32(where),
		.ino = htole32(++e->inodes),
		.uid = htole32(a->uid),
		.gid = htole32(a->gid),
		.mtime = htole64((uint64_t)a->mtime),
		.mtime_ns = htole32(a->mtime_ns),
		.nlink = htole32(a->nlink),
	};
	int r = write_at(e, at, &inode, sizeof(inode), err);
	if (r < 0 || !a->xattrs_len)
		return r;
	r = write_at(e, at + sizeof(inode), header, sizeof(header), err);
	return r < 0 ? r
		     : write_at(e, at + sizeof(inode) + sizeof(header), a->xattrs, a->xattrs_len,
			       err);
}

static int make(struct erofs *e, const struct erofs_attrs *a, uint64_t size, bool root,
	struct erofs_inode *ret, struct err *err)
{
	if (a->device_major > MAJOR_MAX || a->device_minor > MINOR_MAX)
		return err_set(err, -EBADMSG, "there is no device %u:%u", a->device_major,
			a->device_minor);
	struct erofs_inode made = {.size = size};
	size_t head = sizeof(struct inode) + (a->xattrs_len ? XATTR_HEADER + a->xattrs_len : 0);
	size_t tail = size % EROFS_BLOCK;
	bool tail_inline = !root && tail && head + tail <= EROFS_BLOCK;
	uint64_t at = ROOT_AT, whole = size / EROFS_BLOCK;
	int r = 0;
	if (size)
		r = take_blocks(e, whole + (tail && !tail_inline), &made.data_at, err);
	if (r == 0 && !root)
		r = take_meta(e, head + (tail_inline ? tail : 0), &at, err);
	if (r < 0)
		return r;
	made.nid = at / SLOT;
	made.tail_at = tail_inline ? at + head : made.data_at + whole * EROFS_BLOCK;
	*ret = made;
	return write_inode(e, at, a, tail_inline, &made, err);
}

int erofs_make(struct erofs *e, const struct erofs_attrs *attrs, uint64_t size,
	struct erofs_inode *ret, struct err *err)
{
	return make(e, attrs, size, false, ret, err);
}

int erofs_make_root(struct erofs *e, const struct erofs_attrs *attrs, uint64_t size,
	struct erofs_inode *ret, struct err *err)
{
	return make(e, attrs, size, true, ret, err);
}

int erofs_set_nlink(struct erofs *e, uint64_t nid, uint32_t nlink, struct err *err)
{
	uint32_t value = htole32(nlink);
	return write_at(e, nid * SLOT + NLINK_OFFSET, &value, sizeof(value), err);
}

/* ---- data ---- */

static bool zeros(const char *data, size_t len)
{
	return len == 0 || (data[0] == 0 && memcmp(data, data + 1, len - 1) == 0);
}

/* Writes what is not zeros of data that lie at `at`, by the file's blocks. */
static int write_runs(struct erofs *e, uint64_t at, const char *data, size_t len, struct err *err)
{
	size_t from = 0, to = 0;
	int r = 0;
	while (to < len && r == 0) {
		size_t n = EROFS_BLOCK - (at + to) % EROFS_BLOCK;
		if (n > len - to)
			n = len - to;
		if (n == EROFS_BLOCK && zeros(data + to, n)) {
			r = write_at(e, at + from, data + from, to - from, err);
			from = to + n;
		}
		to += n;
	}
	return r < 0 ? r : write_at(e, at + from, data + from, len - from, err);
}

int erofs_write(struct erofs *e, const struct erofs_inode *inode, uint64_t offset, const void *data,
	size_t len, struct err *err)
{
	if (offset > inode->size || len > inode->size - offset)
		return err_set(err, -EBADMSG, "there are data beyond the file's size");
	uint64_t whole = inode->size - inode->size % EROFS_BLOCK;
	size_t before = offset >= whole ? 0 : whole - offset < len ? whole - offset : len;
	int r = write_runs(e, inode->data_at + offset, data, before, err);
	if (r < 0 || before == len)
		return r;
	return write_at(e, inode->tail_at + (offset + before - whole), (const char *)data + before,
		len - before, err);
}

int erofs_finish(struct erofs *e, struct err *err)
{
	const struct super super = {
		.magic = htole32(MAGIC),
		.compatible = htole32(HAS_MTIME),
		.block_shift = BLOCK_SHIFT,
		.root_nid = htole16(ROOT_AT / SLOT),
		.inodes = htole64(e->inodes),
		.blocks = htole32((uint32_t)e->next_block),
	};
	int r = write_at(e, SUPER_AT, &super, sizeof(super), err);
	if (r == 0 && ftruncate(e->fd, (off_t)(e->next_block * EROFS_BLOCK)) < 0)
		r = err_errno(err, "set the size of the layer's file");
	return r;
}

/* ---- directories ---- */

static uint8_t kind_of(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return 1;
	case S_IFDIR:
		return 2;
	case S_IFCHR:
		return 3;
	case S_IFBLK:
		return 4;
	case S_IFIFO:
		return 5;
	case S_IFSOCK:
		return 6;
	case S_IFLNK:
		return 7;
	default:
		return 0;
	}
}

/* A block is its entries' heads, then their names, which need no end but the last one's. */
static int flush_block(struct erofs_dir *dir, uint64_t offset, struct err *err)
{
	char block[EROFS_BLOCK] = {0};
	size_t name_at = dir->n * sizeof(struct dirent_head);
	for (size_t i = 0; i < dir->n; i++) {
		const struct erofs_dirent *entry = &dir->entries[i];
		const struct dirent_head head = {
			.nid = htole64(entry->nid),
			.name_at = htole16((uint16_t)name_at),
			.kind = kind_of(entry->mode),
		};
		memcpy(block + i * sizeof(head), &head, sizeof(head));
		size_t len = strlen(entry->name);
		memcpy(block + name_at, entry->name, len);
		name_at += len;
	}
	uint64_t left = dir->inode->size - offset;
	return erofs_write(
		dir->e, dir->inode, offset, block, left < EROFS_BLOCK ? left : EROFS_BLOCK, err);
}

int erofs_dir_add(struct erofs_dir *dir, const struct erofs_dirent *entry, struct err *err)
{
	size_t len = entry ? sizeof(struct dirent_head) + strlen(entry->name) : 0;
	bool full = dir->used + len > EROFS_BLOCK;
	if ((!entry && dir->n) || full) {
		uint64_t offset = dir->size;
		dir->size += full ? EROFS_BLOCK : dir->used;
		int r = dir->e ? flush_block(dir, offset, err) : 0;
		if (r < 0)
			return r;
		dir->n = dir->used = 0;
	}
	if (!entry)
		return 0;
	dir->entries[dir->n++] = *entry;
	dir->used += len;
	return 0;
}
