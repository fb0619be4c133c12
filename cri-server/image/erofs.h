/*
 * Writes one EROFS image, front to back, into a file that is opened once and never named.
 *
 * An inode takes its place when it is made, with the place of all its data; what is never written
 * of it stays a hole of the file and reads as zeros. So a layer's stream becomes an image without
 * a tree on the host's disk: no name, link, device or attribute of it reaches the host's kernel.
 * Contents of directories name inodes, and come last; their inodes too, but the root's, which has
 * its place at the beginning.
 *
 *	erofs_begin() → erofs_make() and erofs_write()… → erofs_finish()
 *
 * Uncompressed, blocks of 4096 bytes, extended inodes, tails of less than a block beside their
 * inode where they fit. Source: Linux, fs/erofs/erofs_fs.h. One thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

#define EROFS_BLOCK    4096
#define EROFS_NAME_MAX 255
/* Of one inode, as they lie in the image. */
#define EROFS_XATTRS_MAX 65536

struct erofs {
	int fd; /* borrowed */
	uint64_t next_block;
	uint64_t meta_at, meta_end; /* what is free of the newest block of inodes */
	uint32_t inodes;
};

/* What an inode says of itself. */
struct erofs_attrs {
	mode_t mode; /* with the kind */
	uint32_t uid, gid, nlink;
	uint32_t device_major, device_minor;
	int64_t mtime;
	uint32_t mtime_ns;
	unsigned char *xattrs; /* erofs_add_xattr()'s */
	size_t xattrs_len;
};

/* An inode that has been made, and where its data are. */
struct erofs_inode {
	uint64_t nid;
	uint64_t size;
	uint64_t data_at; /* of the whole blocks */
	uint64_t tail_at; /* of the rest */
};

/* The file must be empty. */
void erofs_begin(struct erofs *e, int fd);

/*
 * Adds an extended attribute to attrs. Positive 1: EROFS has none of that kind (others than user.,
 * trusted., security. and POSIX ACLs), or attrs has it already; nothing was added. -EBADMSG: too
 * large.
 */
int erofs_add_xattr(struct erofs_attrs *attrs, const char *name, const void *value, size_t size,
	struct err *err);
void erofs_attrs_done(struct erofs_attrs *attrs);

/* Makes an inode of any kind; `size` is of its data: a file's, a link's target's, a directory's. */
int erofs_make(struct erofs *e, const struct erofs_attrs *attrs, uint64_t size,
	struct erofs_inode *ret, struct err *err);
/* The root directory's, which every image has. */
int erofs_make_root(struct erofs *e, const struct erofs_attrs *attrs, uint64_t size,
	struct erofs_inode *ret, struct err *err);

/* Data of the inode from offset on, within its size (else -EBADMSG); blocks of zeros stay holes. */
int erofs_write(struct erofs *e, const struct erofs_inode *inode, uint64_t offset, const void *data,
	size_t len, struct err *err);

/* Corrects what was not known when the inode was made. */
int erofs_set_nlink(struct erofs *e, uint64_t nid, uint32_t nlink, struct err *err);

/* The superblock, and the file's size. */
int erofs_finish(struct erofs *e, struct err *err);

/* ---- directories ---- */

struct erofs_dirent {
	const char *name;
	uint64_t nid;
	mode_t mode; /* of the inode: its kind */
};

/*
 * The contents of a directory: its entries, with "." and "..", in strcmp()'s order, one call each,
 * then once NULL. With `e` NULL only `size` is counted, which erofs_make() must know.
 */
struct erofs_dir {
	struct erofs *e;
	const struct erofs_inode *inode;
	uint64_t size;
	/* the block that is being filled */
	size_t n, used;
	struct erofs_dirent entries[EROFS_BLOCK / 13 + 1];
};
int erofs_dir_add(struct erofs_dir *dir, const struct erofs_dirent *entry, struct err *err);
