/*
 * One layer's tar stream into an empty directory, as overlayfs will read it.
 *
 * Called in a process of its own (bulkhead-unpack) that has made the directory its root: no path,
 * link or device of the stream can name anything outside. Whiteouts become character devices 0/0,
 * opaque directories get trusted.overlay.opaque. Missing parents are made as root's, mode 0755:
 * what they are in lower layers is not known here. Sources: OCI image-spec layer.md, kernel
 * Documentation/filesystems/overlayfs.rst.
 */
#pragma once

#include <stdint.h>

#include "common/err.h"

/* Of a directory that hides what lower layers have in it; of the root, too. */
#define UNPACK_OPAQUE_XATTR "trusted.overlay.opaque"

struct unpack_limits {
	uint64_t bytes; /* of the uncompressed stream; also of all files together, holes counted */
	uint64_t files; /* entries and missing parents */
};

/*
 * Reads the blob (plain, gzip or zstd) from fd and unpacks below the current root; changes the
 * working directory. ret_diff_id becomes "sha256:…" of the uncompressed stream. -EBADMSG: the
 * stream is malformed; -EFBIG: a limit, named; -ENOSPC.
 */
int unpack_layer(int fd, const struct unpack_limits *limits, char ret_diff_id[72], struct err *err);
