/*
 * A pod's watcher: one thread that keeps the pod's mirrored volumes as they are on the host, and
 * notices the end of the process that serves the others.
 *
 * A configMap, secret, projected or downward API volume is a small tree that the kubelet replaces
 * by renaming one link. A watcher in a container is not woken by what happens on the host's side of
 * a share; so such a tree lives in the guest, in memory, and is written again on each change here.
 *
 * One per pod with a machine, so that a guest that is slow to answer delays its own volumes only.
 * mirror_add(), mirror_resume() and mirror_remove(): under the sandbox's `op`. The thread itself
 * never takes `op`.
 */
#pragma once

#include <stdint.h>

#include "agent/proto/agent.pb-c.h"
#include "common/err.h"
#include "common/userns.h"

/* What a mirror holds at most; the guest's file system has room for old and new together. */
#define MIRROR_BYTES_MAX   (3u << 20)
#define MIRROR_ENTRIES_MAX 4096
#define MIRROR_FS_BYTES    (2 * MIRROR_BYTES_MAX + (4096u * 2 * MIRROR_ENTRIES_MAX))

struct machine;
struct mirror;
struct sandbox;

/* Starts the thread. It borrows the sandbox until mirror_free(). */
int mirror_new(
	struct sandbox *sandbox, struct machine *machine, struct mirror **ret, struct err *err);
/* Ends it; waits for a call to the agent in progress. NULL is accepted. Returns NULL. */
struct mirror *mirror_free(struct mirror *mirror);

/*
 * Watches path and writes what it holds to the guest's volume `name`, which exists. Blocks for the
 * guest. One with the name that is watched already is success. -EFBIG: it holds more than a mirror
 * may; nothing is watched. With a map (or NULL) its ids are those that a container sees.
 */
int mirror_add(struct mirror *mirror, const char *name, const char *path,
	const struct userns_map *map, struct err *err);
/*
 * The same of a volume that the guest has had, for a mirror that is new, and by its thread: what
 * cannot be watched or written is logged, and tried again until it can. Only -ENOMEM is an error.
 */
int mirror_resume(struct mirror *mirror, const char *name, const char *path,
	const struct userns_map *map, struct err *err);
/* Waits until each of these was tried once, for some seconds at most however many there are. */
void mirror_settle(struct mirror *mirror);
/* Waits for a call to the agent that is about it. */
void mirror_remove(struct mirror *mirror, const char *name);

/*
 * The tree at path as the agent is told of it: directories before what is in them. Files that
 * vanish meanwhile are left out. -ELOOP: path leads over a link. -EFBIG beyond the bounds above.
 * Free with bulkhead__agent__write_volume_request__free_unpacked().
 */
int mirror_read(const char *path, Bulkhead__Agent__WriteVolumeRequest **ret, struct err *err);
