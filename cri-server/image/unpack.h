/*
 * One layer's tar stream into an empty directory, as overlayfs will read it.
 *
 * Called in a process of its own (bulkhead-unpack) that has made the directory its root: no path, link or device of
 * the stream can name anything outside. Whiteouts become character devices 0/0, opaque directories get
 * trusted.overlay.opaque. Sources: OCI image-spec layer.md, kernel Documentation/filesystems/overlayfs.rst.
 */
#pragma once

#include <stdint.h>

#include "common/err.h"

struct unpack_limits {
	uint64_t bytes; /* unpacked content */
	uint64_t files; /* entries */
};

/*
 * Reads the blob (plain, gzip or zstd) from fd and unpacks below the current root. ret_diff_id becomes "sha256:…" of the
 * uncompressed stream. -EBADMSG: the stream is malformed; -EFBIG: a limit, named; -ENOSPC.
 */
int unpack_layer(int fd, const struct unpack_limits *limits, char ret_diff_id[72], struct err *err);
