/*
 * One layer's tar stream into an EROFS image, as overlayfs will read it.
 *
 * Called in a process of its own (bulkhead-unpack) that can do nothing but read the one file and
 * write the other: names, links, devices and attributes exist in memory (tree.h) and in the image
 * (erofs.h) only. Paths lead as if the layer were the root: through its own symbolic links, never
 * out; "..", in names and targets of hard links, is refused.
 *
 * Whiteouts become character devices 0/0; a directory that comes with a whiteout of itself, or an
 * opaque marker, gets trusted.overlay.opaque. Parents without an entry are made as root's, mode
 * 0755, and marked: what they are in lower layers is not known here, the agent gives them that.
 * Kept are attributes of users ("user.", of files and directories only), of security modules,
 * among them capabilities, and POSIX ACLs as attributes. "trusted." is overlayfs's, where an image
 * could redirect directories: dropped, as containerd does, like what no Linux file system has.
 * Sources: OCI image-spec layer.md, kernel Documentation/filesystems/overlayfs.rst, containerd's
 * archive package.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/proto/layer.h"
#include "common/err.h"

/* Of a directory that hides what lower layers have in it; of the root, too. */
#define UNPACK_OPAQUE_XATTR "trusted.overlay.opaque"

/*
 * The form of the images that are made. One more whenever what is made of the same layer changes in
 * a way that the guest must see, or an older guest could not read: layers of another form are made
 * again.
 */
#define UNPACK_FORMAT 0

struct unpack_limits {
	uint64_t bytes; /* of the uncompressed stream; also of all files together, holes counted */
	uint64_t files; /* entries and missing parents */
};

struct unpack_result {
	char diff_id[72]; /* "sha256:…" of the uncompressed stream */
	bool opaque;      /* the root is */
};

/*
 * Reads the blob (plain, gzip or zstd) from `blob` and writes `image`, an empty file. -EBADMSG: the
 * stream is malformed; -EFBIG: a limit, named; -ENOSPC.
 */
int unpack_layer(int blob, int image, const struct unpack_limits *limits, struct unpack_result *ret,
	struct err *err);
