#include "network/pod_network.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "network/attachment.h"
#include "network/cni.h"
#include "network/cni_config.h"
#include "network/cni_result.h"
#include "network/interface.h"
#include "network/internal.h"
#include "network/netlink.h"
#include "network/netns.h"
#include "network/orphans.h"
#include "network/redirect.h"

struct net *net_close(struct net *net)
{
	if (!net)
		return NULL;
	if (net->netns_dir)
		netns_release_dir(net->netns_dir);
	free(net->conf_dir);
	free(net->bin_dirs);
	free(net->cache_dir);
	free(net->netns_dir);
	orphans_done(&net->orphans);
	versions_done(&net->versions);
	free(net);
	return NULL;
}

static void net_closep(struct net **net)
{
	*net = net_close(*net);
}

int net_open(const struct net_config *config, struct net **ret, struct err *err)
{
	_cleanup_(net_closep) struct net *net = calloc(1, sizeof(*net));
	int r;

	if (!net)
		return err_nomem(err);
	versions_init(&net->versions);
	net->conf_dir = strdup(config->conf_dir);
	net->bin_dirs = strdup(config->bin_dirs);
	net->cache_dir = strdup(config->cache_dir);
	net->netns_dir = strdup(config->netns_dir);
	net->plugin_timeout_ms = config->plugin_timeout_ms;
	net->redirect = redirect_of(config->redirect);
	net->antispoof = config->antispoof;
	if (!net->conf_dir || !net->bin_dirs || !net->cache_dir || !net->netns_dir)
		return err_nomem(err);
	r = fd_mkdir_all(net->cache_dir, 0700, err);
	if (r < 0)
		return r;
	orphans_find(&net->orphans);
	*ret = TAKE_PTR(net);
	return 0;
}

/* The configuration in force, with all its plugins there. */
static int load_config(struct net *net, struct cni_config **ret, struct err *err)
{
	const struct cni_runtime runtime = {net->bin_dirs, net->plugin_timeout_ms};
	_cleanup_(cni_config_freep) struct cni_config *config = NULL;
	int r;

	r = cni_config_load(net->conf_dir, &config, err);
	if (r < 0)
		return r;
	r = cni_config_check_plugins(config, net->bin_dirs, err);
	/* Of one version whether it is spoken shows. */
	if (r == 0 && config->n_versions > 1)
		r = versions_check(&net->versions, &runtime, config, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(config);
	return 0;
}

int net_check(struct net *net, struct err *err)
{
	const struct cni_runtime runtime = {net->bin_dirs, net->plugin_timeout_ms};
	_cleanup_(cni_config_freep) struct cni_config *config = NULL;
	int r;

	r = load_config(net, &config, err);
	if (r == 0)
		r = versions_check(&net->versions, &runtime, config, err);
	if (r == 0)
		r = cni_status(&runtime, config, err);
	return r < 0 && r != -ENOMEM ? 1 : r;
}

char *net_name(struct net *net)
{
	_cleanup_(cni_config_freep) struct cni_config *config = NULL;

	if (cni_config_load(net->conf_dir, &config, NULL) < 0)
		return NULL;
	return TAKE_PTR(config->name);
}

struct net_pod_info *net_pod_info_free(struct net_pod_info *info)
{
	if (!info)
		return NULL;
	interfaces_free(info->interfaces, info->n_interfaces);
	cni_strv_free(info->ips);
	cni_strv_free(info->dns_servers);
	cni_strv_free(info->dns_searches);
	cni_strv_free(info->dns_options);
	cni_strv_free(info->sysctls);
	free(info);
	return NULL;
}

static void net_pod_info_freep(struct net_pod_info **info)
{
	*info = net_pod_info_free(*info);
}

static int check_id(const char *id, struct err *err)
{
	if (!id || !attachment_id_is_valid(id))
		return err_set(err, -EINVAL, "a pod id is 1 to 64 of a-z and 0-9");
	return 0;
}

char *net_netns_path(const struct net *net, const char *id)
{
	return str_printf("%s/bh-%s", net->netns_dir, id);
}

/* On a thread in the pod's namespace: reads its interfaces into the info. */
static int read_interfaces(void *userdata, struct err *err)
{
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	struct net_pod_info *info = userdata;
	int r;

	r = netlink_open(&sock, err);
	if (r < 0)
		return r;
	return interfaces_read(
		sock, ATTACHMENT_IFNAME, &info->interfaces, &info->n_interfaces, err);
}

static int bring_loopback_up(void *userdata, struct err *err)
{
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	int r;

	(void)userdata;
	r = netlink_open(&sock, err);
	if (r < 0)
		return r;
	r = netlink_link_index(sock, "lo", err);
	return r < 0 ? r : interface_up(sock, r, err);
}

static int read_result(const json_t *result, struct net_pod_info *info, struct err *err)
{
	int r;

	r = cni_result_ips(result, ATTACHMENT_IFNAME, &info->ips, err);
	if (r < 0)
		return r;
	if (!info->ips[0])
		return err_set(err, -EIO, "the CNI plugins gave the pod no address");
	r = cni_result_dns(result, "nameservers", &info->dns_servers, err);
	if (r < 0)
		return r;
	r = cni_result_dns(result, "search", &info->dns_searches, err);
	if (r < 0)
		return r;
	return cni_result_dns(result, "options", &info->dns_options, err);
}

static const json_t *tuning_sysctls(const json_t *plugin)
{
	const char *type = json_string_value(json_object_get(plugin, "type"));

	return type && strcmp(type, "tuning") == 0 ? json_object_get(plugin, "sysctl") : NULL;
}

/* As the plugin reads it. */
static char *sysctl_name(const char *key)
{
	const char *place = strstr(key, "IFNAME");

	return place ? str_printf("%.*s%s%s", (int)(place - key), key, ATTACHMENT_IFNAME,
			       place + strlen("IFNAME"))
		     : strdup(key);
}

/* What tuning sets in the namespace no process of the pod would see: the guest's kernel has its
 * own. */
static int read_sysctls(const json_t *plugins, struct net_pod_info *info, struct err *err)
{
	const json_t *plugin, *value;
	const char *key;
	size_t i, n = 0;

	json_array_foreach(plugins, i, plugin)
		n += json_object_size(tuning_sysctls(plugin));
	info->sysctls = calloc(2 * n + 1, sizeof(*info->sysctls));
	if (!info->sysctls)
		return err_nomem(err);
	n = 0;
	json_array_foreach(plugins, i, plugin) {
		json_object_foreach((json_t *)tuning_sysctls(plugin), key, value) {
			if (!json_is_string(value))
				continue;
			info->sysctls[n] = sysctl_name(key);
			info->sysctls[n + 1] =
				info->sysctls[n] ? strdup(json_string_value(value)) : NULL;
			if (!info->sysctls[n + 1])
				return err_nomem(err);
			n += 2;
		}
	}
	return 0;
}

/* Makes the namespace and fills it. What fails here is given back by net_pod_setup(). */
static int set_up(
	struct net *net, struct attachment *attachment, struct net_pod_info *info, struct err *err)
{
	const struct cni_runtime runtime = {net->bin_dirs, net->plugin_timeout_ms};
	_cleanup_close_ int netns = -EBADF;
	int r;

	r = netns_create(net->netns_dir, strrchr(attachment->netns, '/') + 1, err);
	if (r < 0)
		return r;
	r = netns_open(attachment->netns, &netns, err);
	if (r < 0)
		return r;
	r = netns_call(netns, bring_loopback_up, NULL, err);
	if (r < 0)
		return r;
	r = cni_add(&runtime, attachment, &info->plugins_ns, err);
	if (r < 0)
		return r;
	/* DEL works without the result, too: only a host that loses its power could lose it. */
	r = attachment_save(net->cache_dir, attachment, false, err);
	if (r < 0)
		return r;
	r = read_result(attachment->result, info, err);
	if (r < 0)
		return r;
	r = read_sysctls(attachment->plugins, info, err);
	if (r < 0)
		return r;
	return netns_call(netns, read_interfaces, info, err);
}

static int forget(struct net *net, const char *id, const char *netns, struct err *err)
{
	int r = netns_delete(netns, err);

	return r < 0 ? r : attachment_remove(net->cache_dir, id, err);
}

/*
 * From a namespace that is gone plugins do not learn what they made for it: bridge would leave its
 * masquerading. So DEL goes without one only where there is none, and one that is there stays until
 * DEL has succeeded.
 */
static int give_back(struct net *net, const struct attachment *attachment, struct err *err)
{
	const struct cni_runtime runtime = {net->bin_dirs, net->plugin_timeout_ms};
	_cleanup_close_ int netns = -EBADF;
	int r;

	r = netns_open(attachment->netns, &netns, err);
	if (r < 0 && r != -ENOENT)
		return r;
	r = cni_del(&runtime, attachment, r == 0 ? attachment->netns : "", err);
	return r < 0 ? r : forget(net, attachment->id, attachment->netns, err);
}

/* Whether something of a pod with this id is there already. */
static int check_unused(struct net *net, const char *id, const char *netns, struct err *err)
{
	_cleanup_(attachment_freep) struct attachment *other = NULL;

	if (attachment_load(net->cache_dir, id, &other, NULL) != -ENOENT ||
		access(netns, F_OK) == 0)
		return err_set(err, -EEXIST, "pod %s has a network already", id);
	return 0;
}

int net_pod_setup(struct net *net, const struct net_pod_spec *spec, struct net_pod_info **ret,
	struct err *err)
{
	_cleanup_(net_pod_info_freep) struct net_pod_info *info = calloc(1, sizeof(*info));
	_cleanup_(attachment_freep) struct attachment *attachment = NULL;
	_cleanup_(cni_config_freep) struct cni_config *config = NULL;
	_cleanup_free_ char *netns = NULL;
	int r;

	r = check_id(spec->id, err);
	if (r < 0)
		return r;
	netns = net_netns_path(net, spec->id);
	if (!info || !netns)
		return err_nomem(err);
	if (strlen(netns) >= sizeof(info->netns))
		return err_set(err, -ENAMETOOLONG, "the path %s is too long", netns);
	(void)snprintf(info->netns, sizeof(info->netns), "%s", netns);
	r = load_config(net, &config, err);
	if (r < 0)
		return r;
	r = check_unused(net, spec->id, netns, err);
	if (r < 0)
		return r;
	r = attachment_new(config, spec, netns, &attachment, err);
	if (r < 0)
		return r;
	r = attachment_save(net->cache_dir, attachment, true, err);
	if (r < 0)
		return r;
	r = set_up(net, attachment, info, err);
	if (r < 0) {
		(void)give_back(net, attachment, NULL);
		return r;
	}
	*ret = TAKE_PTR(info);
	return 0;
}

int net_pod_teardown(struct net *net, const char *id, struct err *err)
{
	_cleanup_(attachment_freep) struct attachment *attachment = NULL;
	_cleanup_free_ char *netns = NULL;
	int r;

	r = check_id(id, err);
	if (r < 0)
		return r;
	netns = net_netns_path(net, id);
	if (!netns)
		return err_nomem(err);
	r = attachment_load(net->cache_dir, id, &attachment, err);
	if (r < 0 && r != -ENOENT)
		return r;
	/* Before DEL: it may give the interface below back to the host. */
	r = net_remove_taps(id, err);
	if (r < 0)
		return r;
	if (!attachment)
		return forget(net, id, netns, err);
	orphans_await(&net->orphans, id, net->plugin_timeout_ms);
	return give_back(net, attachment, err);
}

int net_pod_abandon(struct net *net, const char *id, struct err *err)
{
	_cleanup_free_ char *netns = NULL;
	int r = check_id(id, err);

	if (r < 0)
		return r;
	netns = net_netns_path(net, id);
	return netns ? netns_delete(netns, err) : err_nomem(err);
}

/* A growing list of pod ids. */
struct ids {
	char **items; /* NULL-terminated, or NULL */
	size_t n;
};

static void ids_done(struct ids *ids)
{
	ids->items = cni_strv_free(ids->items);
}

/* Takes the id, which may be NULL. */
static int ids_add(struct ids *ids, char *id, struct err *err)
{
	char **items;

	if (!id)
		return 0;
	items = reallocarray(ids->items, ids->n + 2, sizeof(*items));
	if (!items) {
		free(id);
		return err_nomem(err);
	}
	ids->items = items;
	items[ids->n++] = id;
	items[ids->n] = NULL;
	return 0;
}

static int collect(struct ids *ids, const char *path, struct err *err)
{
	struct dirent *entry;
	DIR *dir;
	int r = 0;

	dir = opendir(path);
	if (!dir && errno == ENOENT)
		return 0;
	if (!dir)
		return err_errno(err, "read directory %s", path);
	while (r == 0 && (entry = readdir(dir)))
		r = ids_add(ids, attachment_id_of_file(entry->d_name), err);
	closedir(dir);
	return r;
}

/*
 * The cache alone tells: an attachment is saved before its namespace is made. A namespace of our
 * naming that has none is that of another bulkheadd, with a state directory of its own.
 */
int net_each_pod(
	struct net *net, int (*fn)(void *userdata, const char *id), void *userdata, struct err *err)
{
	_cleanup_(ids_done) struct ids ids = {.items = NULL};
	size_t i;
	int r;

	r = collect(&ids, net->cache_dir, err);
	for (i = 0; r == 0 && i < ids.n; i++)
		r = fn(userdata, ids.items[i]);
	return r;
}

int net_pod_check(struct net *net, const char *id, struct err *err)
{
	const struct cni_runtime runtime = {net->bin_dirs, net->plugin_timeout_ms};
	_cleanup_(attachment_freep) struct attachment *attachment = NULL;
	int r;

	r = check_id(id, err);
	if (r == 0)
		r = attachment_load(net->cache_dir, id, &attachment, err);
	if (r == 0 && !attachment->result)
		r = err_set(err, -ENOENT, "its network was never complete");
	return r < 0 ? r : cni_check(&runtime, attachment, err);
}

static int add_attachment(void *userdata, const char *id)
{
	json_t *attachment =
		json_pack("{s:s, s:s}", "containerID", id, "ifname", ATTACHMENT_IFNAME);

	return json_array_append_new(userdata, attachment) < 0 ? -ENOMEM : 0;
}

int net_collect(struct net *net, struct err *err)
{
	const struct cni_runtime runtime = {net->bin_dirs, net->plugin_timeout_ms};
	_cleanup_(cni_config_freep) struct cni_config *config = NULL;
	json_auto_t *attachments = json_array();
	int r;

	if (!attachments)
		return err_nomem(err);
	r = load_config(net, &config, err);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	r = net_each_pod(net, add_attachment, attachments, err);
	return r < 0 ? r : cni_gc(&runtime, config, attachments, err);
}
