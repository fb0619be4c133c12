#include "network/capability.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"

/* As other runtimes give it: the rate alone is to count. In bits. */
#define BURST_BITS INT32_MAX

static json_t *port_to_json(const struct net_port_mapping *port)
{
	static const char *const protocols[] = {
		[NET_TCP] = "tcp", [NET_UDP] = "udp", [NET_SCTP] = "sctp"};

	return json_pack("{s:i, s:i, s:s, s:s}", "hostPort", (int)port->host_port, "containerPort",
		(int)port->container_port, "protocol", protocols[port->protocol], "hostIP",
		port->host_ip ? port->host_ip : "");
}

/* An address, or with `prefixed` one that may have a prefix length. */
static bool is_address(const char *text, bool prefixed)
{
	unsigned char bytes[sizeof(struct in6_addr)];
	char address[INET6_ADDRSTRLEN];
	const char *slash = prefixed ? strchr(text, '/') : NULL;
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	unsigned long max;
	char *end;

	if (len >= sizeof(address))
		return false;
	memcpy(address, text, len);
	address[len] = '\0';
	if (inet_pton(AF_INET, address, bytes) == 1)
		max = 32;
	else if (inet_pton(AF_INET6, address, bytes) == 1)
		max = 128;
	else
		return false;
	return !slash ||
	       (slash[1] >= '0' && slash[1] <= '9' && strtoul(slash + 1, &end, 10) <= max && !*end);
}

/* Those with a host port: the kubelet lists ports that are not mapped, too. */
static int add_ports(json_t *args, const struct net_capabilities *c, struct err *err)
{
	json_auto_t *ports = json_array();
	size_t i;

	if (!ports)
		return err_nomem(err);
	for (i = 0; i < c->n_ports; i++) {
		const struct net_port_mapping *port = &c->ports[i];

		if (port->host_port == 0)
			continue;
		if (port->container_port == 0 ||
			(port->host_ip && *port->host_ip && !is_address(port->host_ip, false)))
			return err_set(err, -EINVAL,
				"the mapping of host port %u has no container port or an invalid "
				"host IP",
				port->host_port);
		if (json_array_append_new(ports, port_to_json(port)) < 0)
			return err_nomem(err);
	}
	if (json_array_size(ports) > 0 && json_object_set(args, "portMappings", ports) < 0)
		return err_nomem(err);
	return 0;
}

static int add_rate(json_t *bandwidth, const char *rate, const char *burst, uint64_t bits)
{
	if (bits == 0)
		return 0;
	return json_object_set_new(bandwidth, rate, json_integer((json_int_t)bits)) < 0 ||
			       json_object_set_new(bandwidth, burst, json_integer(BURST_BITS)) < 0
		       ? -ENOMEM
		       : 0;
}

static int add_bandwidth(json_t *args, const struct net_capabilities *c, struct err *err)
{
	json_auto_t *bandwidth = json_object();

	if (!bandwidth || add_rate(bandwidth, "ingressRate", "ingressBurst", c->ingress_bits) < 0 ||
		add_rate(bandwidth, "egressRate", "egressBurst", c->egress_bits) < 0)
		return err_nomem(err);
	if (json_object_size(bandwidth) > 0 && json_object_set(args, "bandwidth", bandwidth) < 0)
		return err_nomem(err);
	return 0;
}

/* A list under the key, where it is not empty. JSON takes UTF-8 alone. */
static int add_list(json_t *to, const char *key, char *const *items, size_t n, struct err *err)
{
	json_auto_t *list = json_array();
	size_t i;

	if (n == 0)
		return 0;
	for (i = 0; i < n; i++)
		if (json_array_append_new(list, json_string(items[i])) < 0)
			return err_set(err, -EINVAL, "%s: what the pod asks for is not text", key);
	return json_object_set(to, key, list) < 0 ? err_nomem(err) : 0;
}

static int add_dns(json_t *args, const struct net_capabilities *c, struct err *err)
{
	json_auto_t *dns = json_object();
	int r;

	if (!dns)
		return err_nomem(err);
	r = add_list(dns, "servers", c->dns_servers, c->n_dns_servers, err);
	if (r == 0)
		r = add_list(dns, "searches", c->dns_searches, c->n_dns_searches, err);
	if (r == 0)
		r = add_list(dns, "options", c->dns_options, c->n_dns_options, err);
	if (r < 0)
		return r;
	if (json_object_size(dns) > 0 && json_object_set(args, "dns", dns) < 0)
		return err_nomem(err);
	return 0;
}

static int add_mac(json_t *args, const struct net_capabilities *c, struct err *err)
{
	unsigned int byte[6];
	char tail;

	if (!c->mac)
		return 0;
	if (strlen(c->mac) != 17 || sscanf(c->mac, "%2x:%2x:%2x:%2x:%2x:%2x%c", &byte[0], &byte[1],
					    &byte[2], &byte[3], &byte[4], &byte[5], &tail) != 6)
		return err_set(err, -EINVAL, "'%.64s' is not a MAC address", c->mac);
	return json_object_set_new(args, "mac", json_string(c->mac)) < 0 ? err_nomem(err) : 0;
}

static int add_ips(json_t *args, const struct net_capabilities *c, struct err *err)
{
	size_t i;

	for (i = 0; i < c->n_ips; i++)
		if (!is_address(c->ips[i], true))
			return err_set(err, -EINVAL, "'%.64s' is not an address", c->ips[i]);
	return add_list(args, "ips", c->ips, c->n_ips, err);
}

static int add_ranges(json_t *args, const struct net_capabilities *c, struct err *err)
{
	json_auto_t *sets = json_array();
	size_t i;

	for (i = 0; i < c->n_ip_subnets; i++) {
		if (!strchr(c->ip_subnets[i], '/') || !is_address(c->ip_subnets[i], true))
			return err_set(err, -EINVAL, "'%.64s' is not a subnet", c->ip_subnets[i]);
		if (json_array_append_new(sets, json_pack("[{s:s}]", "subnet", c->ip_subnets[i])) <
			0)
			return err_nomem(err);
	}
	if (c->n_ip_subnets > 0 && json_object_set(args, "ipRanges", sets) < 0)
		return err_nomem(err);
	return 0;
}

static int add_aliases(
	json_t *args, const char *network, const struct net_capabilities *c, struct err *err)
{
	json_auto_t *aliases = json_object();
	int r;

	if (!aliases)
		return err_nomem(err);
	r = add_list(aliases, network, c->aliases, c->n_aliases, err);
	if (r == 0 && c->n_aliases > 0 && json_object_set(args, "aliases", aliases) < 0)
		return err_nomem(err);
	return r;
}

static int add_annotations(json_t *args, const struct net_capabilities *c, struct err *err)
{
	json_auto_t *annotations = json_object();
	size_t i;

	for (i = 0; i < c->n_annotations; i++) {
		const char *key = c->annotations[2 * i], *value = c->annotations[2 * i + 1];

		if (json_object_set_new(annotations, key, json_string(value)) < 0)
			return err_set(err, -EINVAL, "annotation '%.64s' is not text", key);
	}
	if (c->n_annotations > 0 &&
		json_object_set(args, "io.kubernetes.cri.pod-annotations", annotations) < 0)
		return err_nomem(err);
	return 0;
}

int capability_args(const char *network, const struct net_capabilities *capabilities, json_t **ret,
	struct err *err)
{
	static int (*const adders[])(
		json_t * args, const struct net_capabilities *c, struct err *err) = {
		add_ports, add_bandwidth, add_dns, add_mac, add_ips, add_ranges, add_annotations};
	json_auto_t *args = json_object();
	size_t i;
	int r;

	if (!args)
		return err_nomem(err);
	for (i = 0; i < ARRAY_SIZE(adders); i++) {
		r = adders[i](args, capabilities, err);
		if (r < 0)
			return r;
	}
	r = add_aliases(args, network, capabilities, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(args);
	return 0;
}

/* SPEC, "Deriving execution configuration from plugin configuration". */
static json_t *derive_plugin(const struct cni_config *config, const json_t *plugin, json_t *args)
{
	json_auto_t *derived = json_deep_copy(plugin);
	json_auto_t *capabilities = NULL, *runtime_config = json_object();
	const char *name;
	json_t *wanted;

	if (!derived || !runtime_config)
		return NULL;
	capabilities = json_incref(json_object_get(derived, "capabilities"));
	(void)json_object_del(derived, "capabilities");
	(void)json_object_del(derived, "runtimeConfig");
	(void)json_object_del(derived, "prevResult");
	if (json_object_set_new(derived, "name", json_string(config->name)) < 0 ||
		json_object_set_new(derived, "cniVersion", json_string(config->version)) < 0)
		return NULL;
	json_object_foreach(capabilities, name, wanted) {
		json_t *arg = json_object_get(args, name);

		if (json_is_true(wanted) && arg && json_object_set(runtime_config, name, arg) < 0)
			return NULL;
	}
	if (json_object_size(runtime_config) > 0 &&
		json_object_set(derived, "runtimeConfig", runtime_config) < 0)
		return NULL;
	return TAKE_PTR(derived);
}

json_t *capability_derive(const struct cni_config *config, json_t *args)
{
	json_auto_t *plugins = json_array();
	const json_t *plugin;
	size_t i;

	if (!plugins)
		return NULL;
	json_array_foreach(config->plugins, i, plugin) {
		if (json_array_append_new(plugins, derive_plugin(config, plugin, args)) < 0)
			return NULL;
	}
	return TAKE_PTR(plugins);
}
