/*
 * tar from a container, which is hostile, as files of this host.
 *
 * Nothing leads out of the place that is given: names with ".." and absolute ones end it, no
 * symbolic link is followed or made, devices and the like are left out. Existing files are
 * replaced, never written into. Owners, set-id bits and extended attributes are not taken over.
 * Blocking.
 */
#pragma once

#include <stdint.h>

#include "common/err.h"

/* What an entry has in the archive at least, and nearly what an empty file takes of a disk. */
#define TAR_IN_ENTRY_BYTES 512

struct tar_in {
	int dir;            /* where to; stays the caller's */
	const char *from;   /* the name that all in the archive is, or is below */
	const char *to;     /* its name in dir, one component */
	uint64_t bytes_max; /* all files together, and TAR_IN_ENTRY_BYTES for each entry */
	unsigned skipped;   /* symbolic links, devices and the like, which were left out */
};

/*
 * Reads all that comes from fd, an archive and what pads it. -EPROTO: it is broken, or not what was
 * asked for; -EFBIG: more than bytes_max; -ENOENT: it is empty. What was written before an error
 * stays.
 */
int tar_in_read(struct tar_in *in, int fd, struct err *err);
