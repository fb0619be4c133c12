/*
 * What becomes of pods' interfaces after they were made: an address, a route or a neighbor that
 * somebody adds in a pod's namespace or takes away, an MTU, a MAC, a link that goes down.
 *
 *	kernel's notifications → a second's rest at least → all is read → is it another? → tap and
 *	filter follow → `changed` tells the guest
 *
 * A watcher is one thread with a loop for all pods; a guest is told on a thread of its own for as
 * long as it takes, so that one that does not answer keeps no other waiting. Each pod has a netlink
 * socket in its namespace, which holds that alive until the watch is removed. Notifications only
 * say that something happened: what is so is always read whole, so that none can be missed. What
 * could not be done is tried again. Threads: any.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "network/pod_network.h"

struct net_watcher;
struct net_watch;

/*
 * What the interfaces are now, in the order of net_pod_info; one that is gone has no name. On a
 * thread of the watch, one call at a time: bounded in time, as net_watch_free() waits for it. What
 * fails is repeated.
 */
typedef int (*net_changed_fn)(
	void *userdata, struct net_interface *interfaces, size_t n, struct err *err);

/* It failed first with this error, or works again (err NULL). */
typedef void (*net_trouble_fn)(void *userdata, const struct err *err);

struct net_watch_options {
	const char *netns;
	bool antispoof;
	const struct net_pod_info *known; /* what the guest has; NULL: unknown, tell it at once */
	net_changed_fn changed;
	net_trouble_fn trouble;
	void *userdata;
};

int net_watcher_new(struct net_watcher **ret, struct err *err);
/* All watches have been removed. NULL is accepted. Returns NULL. */
struct net_watcher *net_watcher_free(struct net_watcher *watcher);

int net_watch_new(struct net_watcher *watcher, const struct net_watch_options *options,
	struct net_watch **ret, struct err *err);
/* Waits for a `changed` that runs. Not from within one. NULL is accepted. Returns NULL. */
struct net_watch *net_watch_free(struct net_watch *watch);
