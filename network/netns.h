/*
 * Network namespaces with a name: nsfs files bind-mounted in a directory, in the way of
 * `ip netns` (whose commands work on them where the directory is its own, /run/netns).
 *
 * A namespace lives as long as its name does, and no longer than its pod is watched
 * (network/watch.h): nothing else of ours holds it open. The calling thread's
 * own namespace never changes: work inside one is done by a thread made for it, which ends with it.
 * Threads: any.
 */
#pragma once

#include "common/err.h"

/*
 * Makes a new namespace at dir/name, and dir when missing, as a shared mount point so that the
 * names reach mount namespaces that are made later. -EEXIST when the name is taken.
 */
int netns_create(const char *dir, const char *name, struct err *err);

/*
 * Takes back what netns_create() made of dir, unless there are namespaces in it: then it stays, for
 * whoever finds them again. Cannot fail otherwise.
 */
void netns_release_dir(const char *dir);

/*
 * Opens the namespace at path. -ENOENT when there is none: no file, or one that no namespace is
 * mounted on (left by a crash).
 */
int netns_open(const char *path, int *ret_fd, struct err *err);

/* Removes the name; the kernel then takes the namespace and its links down. Absent is success. */
int netns_delete(const char *path, struct err *err);

typedef int (*netns_fn)(void *userdata, struct err *err);

/* Runs fn on a thread inside the namespace, waits for it, and returns what it returned. */
int netns_call(int netns_fd, netns_fn fn, void *userdata, struct err *err);
