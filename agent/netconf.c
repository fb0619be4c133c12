#include "agent/netconf.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/rtnetlink.h"
#include "agent/sysctl.h"
#include "common/buf.h"
#include "common/fd.h"

#define LOOPBACK_INDEX  1
#define INTERFACES_MAX  32
#define FILE_BYTES_MAX  65536
#define PLACE_SIZE      "1m" /* of some files of that size */
#define HOST_NAME_BYTES 64   /* the kernel's __NEW_UTS_LEN */

/*
 * Addresses and routes come from the plugin alone: what a neighbour advertises on the link is not
 * listened to. Without IPv6 in the kernel there is no such file.
 */
static void ignore_advertisements(const char *name)
{
	char path[64 + IF_NAMESIZE];
	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/accept_ra", name);
	sysctl_write(path, "0", NULL);
}

static int link_set_up(
	struct rtnl *rtnl, int index, const Bulkhead__Agent__Interface *interface, struct err *err)
{
	uint8_t mac[RTNL_MAC_BYTES];
	if (interface->mac[0]) {
		int r = rtnl_mac_parse(interface->mac, mac, err);
		if (r < 0)
			return r;
	}
	struct rtnl_link_change change = {.name = interface->name,
		.mac = interface->mac[0] ? mac : NULL,
		.mtu = interface->mtu};
	int r = rtnl_link_set(rtnl, index, &change, err);
	if (r < 0)
		return r;
	ignore_advertisements(interface->name);
	return rtnl_link_set(rtnl, index, &(struct rtnl_link_change){.up = true}, err);
}

static int change_address(struct rtnl *rtnl, int index, const char *text,
	int (*change)(struct rtnl *, int, const struct rtnl_prefix *, struct err *),
	struct err *err)
{
	struct rtnl_prefix prefix;
	int r = rtnl_prefix_parse(text, &prefix, err);
	if (r == 0)
		r = change(rtnl, index, &prefix, err);
	return r < 0 ? err_wrap(err, "address %.64s", text) : 0;
}

static int add_addresses(
	struct rtnl *rtnl, int index, const Bulkhead__Agent__Interface *interface, struct err *err)
{
	for (size_t i = 0; i < interface->n_addresses; i++) {
		int r = change_address(rtnl, index, interface->addresses[i], rtnl_address_add, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int change_route(struct rtnl *rtnl, int index, const Bulkhead__Agent__Route *asked,
	int (*change)(struct rtnl *, int, const struct rtnl_route *, struct err *), struct err *err)
{
	struct rtnl_route route = {.metric = asked->metric, .mtu = asked->mtu};
	struct rtnl_prefix gateway, source;
	int r = rtnl_prefix_parse(asked->destination, &route.destination, err);
	if (r == 0 && asked->gateway[0]) {
		r = rtnl_prefix_parse(asked->gateway, &gateway, err);
		route.gateway = &gateway;
	}
	if (r == 0 && asked->source[0]) {
		r = rtnl_prefix_parse(asked->source, &source, err);
		route.source = &source;
	}
	if (r == 0)
		r = change(rtnl, index, &route, err);
	if (r < 0)
		return err_wrap(
			err, "route to %.64s via '%.64s'", asked->destination, asked->gateway);
	return 0;
}

static int set_neighbor(
	struct rtnl *rtnl, int index, const Bulkhead__Agent__Neighbor *asked, struct err *err)
{
	struct rtnl_prefix address;
	uint8_t mac[RTNL_MAC_BYTES];
	int r = rtnl_prefix_parse(asked->address, &address, err);
	if (r == 0)
		r = rtnl_mac_parse(asked->mac, mac, err);
	if (r == 0)
		r = rtnl_neighbor_set(rtnl, index, &address, mac, err);
	return r < 0 ? err_wrap(err, "neighbor %.64s", asked->address) : 0;
}

/* Addresses, routes, neighbors: what is there already is left as it is. */
static int add_all(
	struct rtnl *rtnl, int index, const Bulkhead__Agent__Interface *interface, struct err *err)
{
	int r = add_addresses(rtnl, index, interface, err);
	for (size_t i = 0; r == 0 && i < interface->n_routes; i++)
		r = change_route(rtnl, index, interface->routes[i], rtnl_route_add, err);
	for (size_t i = 0; r == 0 && i < interface->n_neighbors; i++)
		r = set_neighbor(rtnl, index, interface->neighbors[i], err);
	return r;
}

static int interface_configure(
	struct rtnl *rtnl, int index, const Bulkhead__Agent__Interface *interface, struct err *err)
{
	int r = link_set_up(rtnl, index, interface, err);
	if (r == 0)
		r = add_all(rtnl, index, interface, err);
	if (r < 0)
		return err_wrap(err, "interface '%.16s'", interface->name);
	return 0;
}

/*
 * Finds the NIC by its device's MAC. One whose name is another's wish gets out of the way first.
 */
static int interface_find(struct rtnl *rtnl, const Bulkhead__Agent__Interface *interface,
	unsigned number, int *ret_index, struct err *err)
{
	uint8_t mac[RTNL_MAC_BYTES] = {0};
	char name[IF_NAMESIZE];
	if (!interface->name[0] || strlen(interface->name) >= IF_NAMESIZE ||
		strpbrk(interface->name, "/ \t\n") || interface->name[0] == '.')
		return err_set(
			err, -EINVAL, "'%.32s' cannot be an interface's name", interface->name);
	int r = rtnl_mac_parse(interface->device_mac, mac, err);
	if (r == 0)
		r = rtnl_link_find(rtnl, mac, ret_index, name, err);
	if (r < 0)
		return err_wrap(err, "interface '%.16s'", interface->name);
	if (!strcmp(name, interface->name))
		return 0;
	snprintf(name, sizeof(name), "bulkhead%u", number);
	return rtnl_link_set(rtnl, *ret_index, &(struct rtnl_link_change){.name = name}, err);
}

static int interfaces_apply(
	struct rtnl *rtnl, const Bulkhead__Agent__ConfigureSandboxRequest *request, struct err *err)
{
	int indices[INTERFACES_MAX] = {0};
	int r = rtnl_link_set(rtnl, LOOPBACK_INDEX, &(struct rtnl_link_change){.up = true}, err);
	if (r < 0)
		return err_wrap(err, "loopback");
	for (unsigned i = 0; r == 0 && i < request->n_interfaces; i++)
		r = interface_find(rtnl, request->interfaces[i], i, &indices[i], err);
	for (unsigned i = 0; r == 0 && i < request->n_interfaces; i++)
		r = interface_configure(rtnl, indices[i], request->interfaces[i], err);
	return r;
}

int netconf_interfaces(const Bulkhead__Agent__ConfigureSandboxRequest *request, struct err *err)
{
	if (request->n_interfaces > INTERFACES_MAX)
		return err_set(err, -EINVAL, "%zu interfaces: %d are allowed",
			request->n_interfaces, INTERFACES_MAX);
	struct rtnl rtnl;
	int r = rtnl_open(&rtnl, err);
	if (r < 0)
		return r;
	r = interfaces_apply(&rtnl, request, err);
	rtnl_close(&rtnl);
	return r;
}

/* ---- changes of what was configured ---- */

static bool has_address(const Bulkhead__Agent__Interface *interface, const char *address)
{
	for (size_t i = 0; i < interface->n_addresses; i++)
		if (strcmp(interface->addresses[i], address) == 0)
			return true;
	return false;
}

static bool has_route(
	const Bulkhead__Agent__Interface *interface, const Bulkhead__Agent__Route *route)
{
	for (size_t i = 0; i < interface->n_routes; i++) {
		const Bulkhead__Agent__Route *other = interface->routes[i];
		if (strcmp(other->destination, route->destination) == 0 &&
			strcmp(other->gateway, route->gateway) == 0 &&
			strcmp(other->source, route->source) == 0 &&
			other->metric == route->metric && other->mtu == route->mtu)
			return true;
	}
	return false;
}

static bool has_neighbor(const Bulkhead__Agent__Interface *interface, const char *address)
{
	for (size_t i = 0; i < interface->n_neighbors; i++)
		if (strcmp(interface->neighbors[i]->address, address) == 0)
			return true;
	return false;
}

static int remove_missing(struct rtnl *rtnl, int index, const Bulkhead__Agent__Interface *before,
	const Bulkhead__Agent__Interface *after, struct err *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < before->n_neighbors; i++) {
		struct rtnl_prefix address;
		if (has_neighbor(after, before->neighbors[i]->address))
			continue;
		r = rtnl_prefix_parse(before->neighbors[i]->address, &address, err);
		if (r == 0)
			r = rtnl_neighbor_remove(rtnl, index, &address, err);
	}
	for (size_t i = 0; r == 0 && i < before->n_routes; i++)
		if (!has_route(after, before->routes[i]))
			r = change_route(rtnl, index, before->routes[i], rtnl_route_remove, err);
	for (size_t i = 0; r == 0 && i < before->n_addresses; i++)
		if (!has_address(after, before->addresses[i]))
			r = change_address(
				rtnl, index, before->addresses[i], rtnl_address_remove, err);
	return r;
}

/* A NIC of ours changes its MAC also while it is up. */
static int update_link(struct rtnl *rtnl, int index,
	const Bulkhead__Agent__UpdateInterfacesRequest *before,
	const Bulkhead__Agent__Interface *after, struct err *err)
{
	struct rtnl_link_change change = {.up = !after->down, .down = after->down};
	uint8_t mac[RTNL_MAC_BYTES];
	for (size_t i = 0; i < before->n_interfaces; i++) {
		const Bulkhead__Agent__Interface *from = before->interfaces[i];
		if (strcmp(from->name, after->name) != 0)
			continue;
		if (strcmp(from->mac, after->mac) != 0)
			change.mac = mac;
		if (from->mtu != after->mtu)
			change.mtu = after->mtu;
	}
	if (change.mac && rtnl_mac_parse(after->mac, mac, err) < 0)
		return err->code;
	return rtnl_link_set(rtnl, index, &change, err);
}

static int update_interface(struct rtnl *rtnl,
	const Bulkhead__Agent__UpdateInterfacesRequest *before,
	const Bulkhead__Agent__Interface *after, struct err *err)
{
	int index = (int)if_nametoindex(after->name);
	if (!index)
		return err_errno(err, "find the interface");
	int r = update_link(rtnl, index, before, after, err);
	for (size_t i = 0; r == 0 && i < before->n_interfaces; i++)
		if (strcmp(before->interfaces[i]->name, after->name) == 0)
			r = remove_missing(rtnl, index, before->interfaces[i], after, err);
	/* An address takes others of its network with it, a link that goes down its routes: so all
	 * is asked for again. */
	if (r == 0 && !after->down)
		r = add_all(rtnl, index, after, err);
	return r;
}

static bool is_among(const Bulkhead__Agent__UpdateInterfacesRequest *interfaces, const char *name)
{
	for (size_t i = 0; i < interfaces->n_interfaces; i++)
		if (strcmp(interfaces->interfaces[i]->name, name) == 0)
			return true;
	return false;
}

int netconf_update(const Bulkhead__Agent__UpdateInterfacesRequest *before,
	const Bulkhead__Agent__UpdateInterfacesRequest *after, struct err *err)
{
	struct rtnl rtnl;
	int r = rtnl_open(&rtnl, err);
	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < after->n_interfaces; i++) {
		const Bulkhead__Agent__Interface *to = after->interfaces[i];
		r = is_among(before, to->name) ? update_interface(&rtnl, before, to, err)
					       : err_set(err, -ENODEV, "it was not configured");
		if (r < 0)
			err_wrap(err, "interface '%.16s'", to->name);
	}
	rtnl_close(&rtnl);
	return r;
}

/* Words of resolv.conf and the host name: a line's end or a space would begin something else. */
static int word_check(const char *what, const char *word, struct err *err)
{
	if (!word[0])
		return err_set(err, -EINVAL, "%s is empty", what);
	for (const char *c = word; *c; c++)
		if ((unsigned char)*c <= ' ' || *c == 0x7f)
			return err_set(
				err, -EINVAL, "%s contains a space or control character", what);
	return 0;
}

static int add_words(struct buf *out, const char *before, char **words, size_t n, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		int r = word_check(before, words[i], err);
		if (r == 0)
			r = buf_printf(out, "%s%s", i ? " " : before, words[i]);
		if (r < 0)
			return r;
	}
	return n ? buf_printf(out, "\n") : 0;
}

static int format_resolv_conf(struct buf *out, const Bulkhead__Agent__Dns *dns, struct err *err)
{
	int r = 0;
	if (!dns)
		return 0;
	for (size_t i = 0; r == 0 && i < dns->n_servers; i++)
		r = add_words(out, "nameserver ", &dns->servers[i], 1, err);
	if (r == 0)
		r = add_words(out, "search ", dns->searches, dns->n_searches, err);
	if (r == 0)
		r = add_words(out, "options ", dns->options, dns->n_options, err);
	return r;
}

static int format_hosts(struct buf *out, const Bulkhead__Agent__ConfigureSandboxRequest *request)
{
	int r = buf_printf(out, "127.0.0.1\tlocalhost\n"
				"::1\tlocalhost ip6-localhost ip6-loopback\n"
				"fe00::0\tip6-localnet\n"
				"fe00::0\tip6-mcastprefix\n"
				"fe00::1\tip6-allnodes\n"
				"fe00::2\tip6-allrouters\n");
	if (!request->hostname[0] || !request->n_interfaces)
		return r;
	const Bulkhead__Agent__Interface *first = request->interfaces[0];
	for (size_t i = 0; r == 0 && i < first->n_addresses; i++)
		r = buf_printf(out, "%.*s\t%s\n", (int)strcspn(first->addresses[i], "/"),
			first->addresses[i], request->hostname);
	return r;
}

static int write_file(
	const char *directory, const char *name, struct buf *content, int failed, struct err *err)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	int r = failed;
	if (r == -ENOBUFS || r == -ENOMEM)
		err_set(err, r, "more than %d bytes", FILE_BYTES_MAX);
	if (r == 0)
		r = fd_write_file(
			path, content->data ? content->data : "", content->len, 0644, err);
	buf_done(content);
	return r < 0 ? err_wrap(err, "write %s", path) : 0;
}

/*
 * A file system of their own: containers may write the files, which stay when they end, and so does
 * the memory that these take.
 */
static int make_place(const char *directory, struct err *err)
{
	struct stat own, above;
	_cleanup_free_ char *parent = str_printf("%s/..", directory);
	if (!parent)
		return err_nomem(err);
	if (fd_mkdir_all(directory, 0755, err) < 0)
		return err->code;
	if (stat(directory, &own) < 0 || stat(parent, &above) < 0)
		return err_errno(err, "examine %s", directory);
	if (own.st_dev != above.st_dev)
		return 0; /* repeated */
	if (mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=" PLACE_SIZE) <
		0)
		return err_errno(err, "mount %s", directory);
	return 0;
}

int netconf_names(const Bulkhead__Agent__ConfigureSandboxRequest *request, const char *directory,
	struct err *err)
{
	const char *hostname = request->hostname;
	if (strlen(hostname) > HOST_NAME_BYTES)
		return err_set(
			err, -EINVAL, "the host name has more than %d characters", HOST_NAME_BYTES);
	if (hostname[0]) {
		int r = word_check("the host name", hostname, err);
		if (r < 0)
			return r;
		if (sethostname(hostname, strlen(hostname)) < 0)
			return err_errno(err, "set the host name");
	}
	int r = make_place(directory, err);
	struct buf content = buf_init(FILE_BYTES_MAX);
	if (r == 0)
		r = write_file(directory, "resolv.conf", &content,
			format_resolv_conf(&content, request->dns, err), err);
	if (r == 0)
		r = write_file(directory, "hosts", &content, format_hosts(&content, request), err);
	if (r == 0)
		r = write_file(directory, "hostname", &content,
			buf_printf(&content, "%s\n", hostname), err);
	return r;
}

/* Dots separate unless a slash comes first: then dots belong to names (a VLAN interface's, say). */
static int sysctl_path(const char *key, char path[static PATH_MAX], struct err *err)
{
	size_t len = strlen(key);
	if (!len || len > 255 || key[0] == '/' || key[0] == '.' || strstr(key, "..") ||
		strstr(key, "/."))
		return err_set(err, -EINVAL, "'%.64s' is not a sysctl's name", key);
	bool dotted = key[strcspn(key, "./")] == '.';
	int at = snprintf(path, PATH_MAX, "/proc/sys/%s", key);
	for (int i = (int)strlen("/proc/sys/"); dotted && i < at; i++) {
		if (path[i] == '.')
			path[i] = '/';
		else if (path[i] == '/')
			path[i] = '.';
	}
	return 0;
}

int netconf_sysctls(const Bulkhead__Agent__ConfigureSandboxRequest *request, struct err *err)
{
	/* As containerd 2 has it: echo requests need no raw socket and low ports no capability.
	 * The kernel's own defaults are nobody and 1024. */
	int failed = sysctl_write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647", err);
	if (failed == 0)
		failed = sysctl_write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0", err);
	if (failed < 0)
		return failed;
	for (size_t i = 0; i < request->n_sysctls; i++) {
		char path[PATH_MAX];
		int r = sysctl_path(request->sysctls[i]->key, path, err);
		if (r == 0)
			r = sysctl_write(path, request->sysctls[i]->value, err);
		if (r < 0)
			return err_wrap(err, "sysctl %.64s", request->sysctls[i]->key);
	}
	return 0;
}
