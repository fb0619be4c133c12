/*
 * Mounts as descriptors (the fsopen(2) family): a mount is made detached, gets its attributes, and
 * is then attached to a directory or file that is named by a descriptor too, so that no path is
 * resolved twice. Closing a detached mount unmounts it.
 */
#pragma once

#include <sys/mount.h>

#include "common/err.h"

struct mount_option {
	const char *key;
	const char *value; /* NULL: a flag */
};

/*
 * A new mount of a file system of the type, with options up to one whose key is NULL (the option
 * "source" is the device) and attributes (MOUNT_ATTR_…). The kernel's own words are in the error.
 */
int mount_fs(const char *type, const struct mount_option *options, unsigned attributes, int *ret_fd,
	struct err *err);

/* A detached copy of the mount, or of the tree of mounts, at what `source` (O_PATH) names. */
int mount_copy(int source, int *ret_fd, struct err *err);

/* Attaches a detached mount to the place that `target` (O_PATH) names. */
int mount_attach(int mount, int target, struct err *err);

/* Makes a mount, or a whole tree, read-only. AT_RECURSIVE or 0. */
int mount_read_only(int mount, unsigned flags, struct err *err);
