/*
 * The CNI network configuration in force: the first file of the directory, by name, that ends in
 * .conf, .conflist or .json, as other runtimes choose it.
 *
 * A file holds a list of plugins ("plugins"), or one plugin, which becomes a list of one. Written
 * by the administrator or by a network's installer, at any time: it is read anew for every use, and
 * what a pod was made with is kept with the pod (network/attachment.h).
 * A plain value, owned by the caller. Threads: any.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

#define CNI_PLUGINS_MAX 32
#define CNI_TYPES_MAX   (2 * CNI_PLUGINS_MAX)
#define CNI_VERSIONS    5

struct cni_config {
	char *name;
	/* Static: those that it is of ("cniVersion", "cniVersions") and we know, the latest first.
	 */
	const char *versions[CNI_VERSIONS];
	size_t n_versions;
	const char *version; /* of these, the one to be spoken: the first (network/versions.h) */
	json_t *plugins;     /* a non-empty array of objects, each with a valid "type" */
	bool check_disabled, gc_disabled; /* "disableCheck", "disableGC" */
};

/*
 * Reads the directory. -ENOENT: it has no configuration; -EINVAL: the first is broken; both with
 * a message that names the file (and the line, where it is not JSON).
 */
int cni_config_load(const char *dir, struct cni_config **ret, struct err *err);

/* As cni_config_load() from memory; `file` is for messages. */
int cni_config_parse(
	const char *file, const char *text, size_t len, struct cni_config **ret, struct err *err);
struct cni_config *cni_config_free(struct cni_config *config);

static inline void cni_config_freep(struct cni_config **config)
{
	*config = cni_config_free(*config);
}

/*
 * Finds the executable of a plugin in a colon-separated list of directories. -ENOENT. The caller
 * frees the path.
 */
int cni_plugin_find(const char *bin_dirs, const char *type, char **ret_path, struct err *err);

/* The types of all plugins of the list, and of those for their addresses (ipam): how many. */
size_t cni_config_types(const struct cni_config *config, const char *types[CNI_TYPES_MAX]);

/* Whether all plugins of the list, and those for their addresses (ipam), are there. */
int cni_config_check_plugins(
	const struct cni_config *config, const char *bin_dirs, struct err *err);

/* Whether a plugin's "type" may become the name of a file to execute. */
bool cni_type_is_valid(const char *type);

/* The static string of a CNI specification version that we speak; NULL for others. */
const char *cni_version_known(const char *version);
