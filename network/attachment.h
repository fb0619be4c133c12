/*
 * A pod's attachment to its network: all that was said to the plugins, and their result.
 *
 * It is written to <cache_dir>/<id>.json before the first plugin runs, without a result, and again
 * when the last has answered. So DEL can repeat what ADD did after a crash at any point, and after
 * the configuration has changed or gone. Owned by the caller. Threads: any, one at a time.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "common/err.h"
#include "network/cni_config.h"
#include "network/pod_network.h"

#define ATTACHMENT_IFNAME "eth0"

struct attachment {
	char *id;
	char *netns;         /* its path */
	char *args;          /* CNI_ARGS */
	const char *version; /* static, as in struct cni_config */
	json_t *plugins;     /* each as its plugin reads it, but for prevResult */
	json_t *result;      /* NULL until ADD is complete */
	bool check_disabled; /* as in struct cni_config */
};

/*
 * What the pod asks of the network. -EINVAL for a pod name, namespace or uid that cannot travel in
 * CNI_ARGS, or a port mapping that is no address.
 */
int attachment_new(const struct cni_config *config, const struct net_pod_spec *spec,
	const char *netns, struct attachment **ret, struct err *err);
struct attachment *attachment_free(struct attachment *attachment);

static inline void attachment_freep(struct attachment **attachment)
{
	*attachment = attachment_free(*attachment);
}

/*
 * Reads and writes the cache. Save: durable waits for the disk. Load: -ENOENT when the pod has
 * none; -EBADMSG for a broken file.
 */
int attachment_save(
	const char *cache_dir, const struct attachment *attachment, bool durable, struct err *err);
int attachment_load(
	const char *cache_dir, const char *id, struct attachment **ret, struct err *err);
int attachment_remove(const char *cache_dir, const char *id, struct err *err);

/* If the file name is that of a cached attachment, its id, which the caller frees; else NULL. */
char *attachment_id_of_file(const char *name);

/* [a-z0-9]{1,64} */
bool attachment_id_is_valid(const char *id);
