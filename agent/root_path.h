/*
 * Paths inside a container's root, whose content is hostile: every symbolic link in them is
 * resolved as if the root were "/", and none leads out (openat2(2), RESOLVE_IN_ROOT).
 *
 * `root` is a descriptor of the root directory. Threads: any; blocks for the file system only.
 */
#pragma once

#include <stdbool.h>

#include "common/err.h"

/* The descriptor of path (flags as of open(2), O_CLOEXEC is added), or -errno. */
int root_open(int root, const char *path, int flags);

/*
 * Opens path with O_PATH; where it is missing it is made, its parents too: as a directory, or as an
 * empty file. What links that lead nowhere point at is made inside the root. Returns the
 * descriptor; -ENOTDIR, -EISDIR when it exists and is of the other kind.
 */
int root_make(int root, const char *path, bool directory, struct err *err);
