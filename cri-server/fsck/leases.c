/*
 * Addresses that the plugin host-local has given away: one file each, below a directory of its
 * network, which begins with the pod's id. The networks are those that pods are attached to, and
 * the one that new pods get.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/fsck/internal.h"
#include "network/attachment.h"
#include "network/cni_config.h"

#define DATA_DIR         "/var/lib/cni/networks"
#define LEASE_MAX        4096
#define COMMAND_LINE_MAX (1u << 20)

struct networks {
	struct fsck *fsck;
	char **dirs;
	size_t n;
};

/* Its directory of leases; NULL: the plugin's addresses are not host-local's. */
static char *lease_dir(const char *network, const json_t *plugin)
{
	const json_t *ipam = json_object_get(plugin, "ipam");
	const char *type = json_string_value(json_object_get(ipam, "type"));
	const char *dir = json_string_value(json_object_get(ipam, "dataDir"));
	if (!network || !type || strcmp(type, "host-local") != 0)
		return NULL;
	return str_printf("%s/%s", dir && *dir ? dir : DATA_DIR, network);
}

static void add_dir(struct networks *networks, char *dir)
{
	for (size_t i = 0; i < networks->n; i++)
		if (strcmp(networks->dirs[i], dir) == 0) {
			free(dir);
			return;
		}
	char **dirs = reallocarray(networks->dirs, networks->n + 1, sizeof(*dirs));
	if (!dirs) {
		free(dir);
		networks->fsck->failure = -ENOMEM;
		return;
	}
	networks->dirs = dirs;
	dirs[networks->n++] = dir;
}

/* Whether one of the plugins has host-local's addresses. */
static bool add_plugins(struct networks *networks, const char *network, const json_t *plugins)
{
	bool found = false;
	size_t i;
	const json_t *plugin;
	json_array_foreach(plugins, i, plugin) {
		const char *own = json_string_value(json_object_get(plugin, "name"));
		char *dir = lease_dir(network ? network : own, plugin);
		if (dir)
			add_dir(networks, dir);
		found |= dir != NULL;
	}
	return found;
}

static void look_at_attachment(struct fsck *fsck, const char *name, void *userdata)
{
	struct networks *networks = userdata;
	_cleanup_(attachment_freep) struct attachment *attachment = NULL;
	_cleanup_free_ char *id = attachment_id_of_file(name);
	_cleanup_free_ char *dir = str_printf("%s/cni", fsck->config->state_dir);
	if (!id || !dir || attachment_load(dir, id, &attachment, NULL) < 0)
		return;
	bool leased = add_plugins(networks, NULL, attachment->plugins);
	struct fsck_record *pod = fsck_record(fsck, STORE_SANDBOX, id);
	if (pod)
		pod->needs_lease = leased && attachment->result;
}

/* ---- the leases ---- */

struct other {
	const char *mark;
	bool runs;
};

static void look_for_other(struct fsck *fsck, const char *pid, void *userdata)
{
	struct other *other = userdata;
	(void)fsck;
	_cleanup_free_ char *path = str_printf("/proc/%s/cmdline", pid);
	_cleanup_free_ char *line = NULL;
	size_t len;
	if (other->runs || strspn(pid, "0123456789") != strlen(pid) || !path ||
		fd_read_file(path, COMMAND_LINE_MAX, &line, &len, NULL) < 0)
		return;
	other->runs = memmem(line, len, other->mark, strlen(other->mark));
}

/* Another bulkheadd's pods may be on the same network: theirs have machines. */
static bool is_of_another(struct fsck *fsck, const char *id)
{
	_cleanup_free_ char *mark = str_printf("guest=bh-%s,", id);
	struct other other = {.mark = mark};
	return mark && fsck_each_entry(fsck, "/proc", look_for_other, &other, NULL) == 0 &&
	       other.runs;
}

static void look_at_lease(struct fsck *fsck, const char *name, void *userdata)
{
	const char *dir = userdata;
	_cleanup_free_ char *path = str_printf("%s/%s", dir, name);
	_cleanup_free_ char *text = NULL;
	if (!path || fd_read_file(path, LEASE_MAX, &text, NULL, NULL) < 0)
		return;
	text[strcspn(text, "\r\n")] = '\0';
	/* Other runtimes' ids are of another length. */
	if (strlen(text) != FSCK_ID_LEN || strspn(text, "0123456789abcdef") != FSCK_ID_LEN)
		return;
	struct fsck_record *pod = fsck_record(fsck, STORE_SANDBOX, text);
	if (pod)
		pod->leased = true;
	if (!pod && !is_of_another(fsck, text))
		fsck_find(fsck, FSCK_KINDS, path, "address of pod %s, which has no record", text);
	else if (pod && !fsck_allows(pod, FSCK_NETWORK))
		fsck_find(fsck, STORE_SANDBOX, pod->id, "was stopped, and still has its address %s",
			path);
}

int fsck_leases(struct fsck *fsck, struct err *err)
{
	struct networks networks = {.fsck = fsck};
	_cleanup_(cni_config_freep) struct cni_config *config = NULL;
	_cleanup_free_ char *cache = str_printf("%s/cni", fsck->config->state_dir);
	int r = cache ? fsck_each_entry(fsck, cache, look_at_attachment, &networks, err)
		      : err_nomem(err);
	/* Without one, or with one that is broken, there is no network for new pods. */
	if (r == 0 && fsck->config->network.conf_dir &&
		cni_config_load(fsck->config->network.conf_dir, &config, NULL) == 0)
		add_plugins(&networks, config->name, config->plugins);
	for (size_t i = 0; i < networks.n; i++) {
		if (r == 0)
			r = fsck_each_entry(
				fsck, networks.dirs[i], look_at_lease, networks.dirs[i], err);
		free(networks.dirs[i]);
	}
	free(networks.dirs);
	for (size_t i = 0; i < fsck->report->n[STORE_SANDBOX] && r == 0; i++) {
		const struct fsck_record *pod = &fsck->records[STORE_SANDBOX][i];
		if (fsck_pod_runs(pod) && pod->needs_lease && !pod->leased)
			fsck_find(fsck, STORE_SANDBOX, pod->id,
				"is recorded as running, and host-local may give its address away");
	}
	return r;
}
