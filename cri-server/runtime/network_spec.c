#include "cri-server/runtime/network_spec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"

#define BITS_MIN 1e3
#define BITS_MAX 1e15

/* The suffixes of quantities; an exponent is a part of the number that strtod() reads. */
static const struct {
	const char *suffix;
	double factor;
} suffixes[] = {
	{"", 1},
	{"k", 1e3},
	{"M", 1e6},
	{"G", 1e9},
	{"T", 1e12},
	{"P", 1e15},
	{"Ki", 1024.},
	{"Mi", 1024. * 1024},
	{"Gi", 1024. * 1024 * 1024},
	{"Ti", 1024. * 1024 * 1024 * 1024},
};

int network_bandwidth(const char *text, uint64_t *ret_bits, struct err *err)
{
	char *end = (char *)text;
	double bits = strtod(text, &end);

	/* strtod() reads more: hexadecimal, "inf", signs, white space. */
	if (!strchr("0123456789.", *text) || strspn(text, "0123456789.eE+-") < (size_t)(end - text))
		end = (char *)text;

	for (size_t i = 0; i < ARRAY_SIZE(suffixes) && end != text; i++) {
		if (strcmp(end, suffixes[i].suffix) != 0)
			continue;
		bits *= suffixes[i].factor;
		if (bits < BITS_MIN || bits > BITS_MAX)
			break;
		*ret_bits = (uint64_t)bits;
		return 0;
	}
	return err_set(
		err, -EINVAL, "'%.64s' is not a bandwidth between 1k and 1P bits per second", text);
}

static int fill_ports(
	struct network_spec *spec, const Runtime__V1__PodSandboxConfig *config, struct err *err)
{
	static const enum net_protocol protocols[] = {
		[RUNTIME__V1__PROTOCOL__TCP] = NET_TCP,
		[RUNTIME__V1__PROTOCOL__UDP] = NET_UDP,
		[RUNTIME__V1__PROTOCOL__SCTP] = NET_SCTP,
	};
	size_t n = 0;

	spec->ports = calloc(config->n_port_mappings + 1, sizeof(*spec->ports));
	if (!spec->ports)
		return err_nomem(err);
	for (size_t i = 0; i < config->n_port_mappings; i++) {
		const Runtime__V1__PortMapping *from = config->port_mappings[i];

		spec->ports[n++] = (struct net_port_mapping){
			.protocol = protocols[from->protocol],
			.container_port = (uint16_t)from->container_port,
			.host_port = (uint16_t)from->host_port,
			.host_ip = from->host_ip[0] ? from->host_ip : NULL,
		};
	}
	spec->pod.capabilities.ports = spec->ports;
	spec->pod.capabilities.n_ports = n;
	return 0;
}

/* Items separated by commas, blanks around them left out. The last of such an annotation counts. */
static int split(struct network_list *list, const char *text, struct err *err)
{
	char *rest;

	free(list->text);
	list->n = 0;
	rest = list->text = strdup(text);
	if (!rest)
		return err_nomem(err);
	for (char *item; (item = strsep(&rest, ","));) {
		item += strspn(item, " \t");
		item[strcspn(item, " \t")] = '\0';
		if (!*item)
			return err_set(err, -EINVAL, "it has an empty item");
		if (list->n == NETWORK_LIST_MAX)
			return err_set(err, -EINVAL, "it has more than %d items", NETWORK_LIST_MAX);
		list->items[list->n++] = item;
	}
	return 0;
}

static int take_annotation(
	struct network_spec *spec, const char *key, const char *value, struct err *err)
{
	struct net_capabilities *c = &spec->pod.capabilities;

	if (strcmp(key, "kubernetes.io/ingress-bandwidth") == 0)
		return network_bandwidth(value, &c->ingress_bits, err);
	if (strcmp(key, "kubernetes.io/egress-bandwidth") == 0)
		return network_bandwidth(value, &c->egress_bits, err);
	if (strcmp(key, "cni.bulkhead.io/ips") == 0)
		return split(&spec->ips, value, err);
	if (strcmp(key, "cni.bulkhead.io/ip-ranges") == 0)
		return split(&spec->ranges, value, err);
	if (strcmp(key, "cni.bulkhead.io/aliases") == 0)
		return split(&spec->aliases, value, err);
	if (strcmp(key, "cni.bulkhead.io/mac") == 0)
		c->mac = value;
	return 0;
}

static int fill_annotations(
	struct network_spec *spec, const Runtime__V1__PodSandboxConfig *config, struct err *err)
{
	struct net_capabilities *c = &spec->pod.capabilities;

	spec->annotations = calloc(2 * config->n_annotations + 1, sizeof(*spec->annotations));
	if (!spec->annotations)
		return err_nomem(err);
	for (size_t i = 0; i < config->n_annotations; i++) {
		const char *key = config->annotations[i]->key;
		const char *value = config->annotations[i]->value;

		if (take_annotation(spec, key, value, err) < 0)
			return err_wrap(err, "annotation '%s'", key);
		spec->annotations[2 * i] = key;
		spec->annotations[2 * i + 1] = value;
	}
	c->annotations = spec->annotations;
	c->n_annotations = config->n_annotations;
	c->ips = spec->ips.items;
	c->n_ips = spec->ips.n;
	c->ip_subnets = spec->ranges.items;
	c->n_ip_subnets = spec->ranges.n;
	c->aliases = spec->aliases.items;
	c->n_aliases = spec->aliases.n;
	return 0;
}

static void fill_dns(struct net_capabilities *c, const Runtime__V1__DNSConfig *dns)
{
	if (!dns)
		return;
	c->dns_servers = dns->servers;
	c->n_dns_servers = dns->n_servers;
	c->dns_searches = dns->searches;
	c->n_dns_searches = dns->n_searches;
	c->dns_options = dns->options;
	c->n_dns_options = dns->n_options;
}

int network_spec_fill(struct network_spec *spec, const char *id,
	const Runtime__V1__PodSandboxConfig *config, struct err *err)
{
	*spec = (struct network_spec){
		.pod = {.id = id,
			.name = config->metadata->name,
			.namespace = config->metadata->namespace_,
			.uid = config->metadata->uid},
	};
	fill_dns(&spec->pod.capabilities, config->dns_config);
	int r = fill_ports(spec, config, err);
	return r < 0 ? r : fill_annotations(spec, config, err);
}

void network_spec_done(struct network_spec *spec)
{
	free(spec->ports);
	free(spec->annotations);
	free(spec->ips.text);
	free(spec->ranges.text);
	free(spec->aliases.text);
}
