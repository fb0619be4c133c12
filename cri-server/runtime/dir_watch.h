/*
 * Tells of changes in directories of the host: one inotify instance for all pods, for a user may
 * have few (fs.inotify.max_user_instances, 128 by default), and so may all that root runs on a
 * node. inotify(7).
 *
 * A watcher is made and freed while its loop does not run; watches begin and end on any thread,
 * theirs alone. Nothing here waits.
 */
#pragma once

#include <stdbool.h>
#include <sys/queue.h>

#include "common/err.h"
#include "common/loop.h"

struct dir_watcher;

/* One of a directory. Who began it sets `changed` and `userdata`, nothing else. */
struct dir_watch {
	/*
	 * Something in the directory is another, or may be, or the watch is off: the directory is
	 * gone, or another watch of it ended. On the loop's thread, once for many changes or for
	 * one. It may not block, nor begin or end a watch.
	 */
	void (*changed)(void *userdata);
	void *userdata;
	LIST_ENTRY(dir_watch) link; /* the watcher's lock, as the next */
	int wd;                     /* negative: nothing is watched, and it is in no list */
};
#define DIR_WATCH_INIT(fn, data)                                                                   \
	{                                                                                          \
		.changed = (fn), .userdata = (data), .wd = -1                                      \
	}

int dir_watcher_new(struct ev_loop *loop, struct dir_watcher **ret, struct err *err);
/* All watches have ended. NULL is accepted. Returns NULL. */
struct dir_watcher *dir_watcher_free(struct dir_watcher *watcher);

/*
 * Watches what the path names now, unless the watch is on already: the names in it, the files'
 * attributes and what is written to them. -ELOOP: the path leads over a link.
 */
int dir_watch_begin(
	struct dir_watcher *watcher, struct dir_watch *watch, const char *path, struct err *err);
/* It may have been off. `changed` is not called any more when this returns. */
void dir_watch_end(struct dir_watcher *watcher, struct dir_watch *watch);
