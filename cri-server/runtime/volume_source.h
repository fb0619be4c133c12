/*
 * What a CRI mount's host path stands for: resolved as containerd does it, then told apart by where
 * kubelets keep what.
 *
 * Pure look-ups of the host's files and mount table; any thread; no state.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/err.h"
#include "cri-server/store/records.pb-c.h"

struct volume_source {
	Bulkhead__Store__VolumeKind kind;
	char *path;     /* absolute, without links: of the volume */
	char *sub_path; /* of what is asked for below it; NULL: all of it */
	int fd;         /* O_PATH of path */
	struct stat st; /* of path */
	bool directory; /* what is asked for */
	bool submounts; /* something is mounted below path */
	bool read_only; /* the host's mount is */
	bool follows;   /* the host's mount is told of what is mounted below it later */
	bool mapped;    /* the caller's: its ids are the containers' */

	uint64_t size_bytes; /* of VOLUME_MEMORY */
	/* Set: it is this character device, which every kernel has of its own; the rest is not. */
	const char *device;
};

#define VOLUME_SOURCE_INIT                                                                         \
	{                                                                                          \
		.fd = -EBADF                                                                       \
	}

/*
 * host_path may lead over symbolic links; where there is nothing, a directory is made. Refused,
 * with -EOPNOTSUPP: sockets, FIFOs and other devices, which do not work across a machine's border.
 * -EINVAL for a path that is not absolute. *ret is to be initialised and is freed with
 * volume_source_done().
 */
int volume_source_find(const char *host_path, struct volume_source *ret, struct err *err);
void volume_source_done(struct volume_source *source);
