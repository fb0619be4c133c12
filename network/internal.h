/*
 * What the parts of pod_network.h share.
 */
#pragma once

#include "network/orphans.h"
#include "network/pod_network.h"
#include "network/redirect.h"
#include "network/versions.h"

/* Constant after net_open(), but for the last: all state is in files and in the kernel. */
struct net {
	char *conf_dir;
	char *bin_dirs;
	char *cache_dir;
	char *netns_dir;
	uint64_t plugin_timeout_ms;
	const struct redirect *redirect;
	bool antispoof;
	struct orphans orphans;
	struct versions versions;
};

/* Where the pod's namespace is; the caller frees. NULL: no memory. */
char *net_netns_path(const struct net *net, const char *id);

/* Of a pod that ends: the taps made by net_pod_make_tap() that were never attached. */
int net_remove_taps(const char *id, struct err *err);
