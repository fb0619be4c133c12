/*
 * The network of a pod: a network namespace, what CNI made in it, and the machine's taps.
 *
 * CNI plugins configure interfaces in the pod's namespace (<netns_dir>/bh-<id>) as they would for
 * a process. The machine's NIC takes over each of them: a tap is moved into the namespace beside
 * the CNI interface, and `tc` redirects every frame from one to the other in both directions; the
 * guest gets the interface's MAC, MTU, addresses and routes. The CNI interface keeps its own
 * addresses, which CHECK and other plugins rely on: redirection takes every frame before the
 * namespace's own stack sees it.
 *
 *	net_pod_setup(): netns → CNI ADD → interfaces known      (result cached for DEL)
 *	net_pod_make_tap(): where taps are not made with the machine, but before it
 *	net_pod_attach_tap(): tap into the netns, renamed, redirected
 *	net_pod_teardown(): CNI DEL → netns gone                  (idempotent, from any state)
 *
 * Everything is named after the pod's id, so teardown works from the id alone after any crash.
 * Threads: any; calls for one pod are serialised by the caller. Calls block for the plugins, each
 * at most plugin_timeout_ms. Source: containernetworking SPEC 0.3.1 … 1.1.0.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define NET_INTERFACES_MAX 16
#define NET_ADDRESSES_MAX  16
#define NET_ROUTES_MAX     256
#define NET_NEIGHBORS_MAX  256

struct net;

enum net_redirect {
	NET_REDIRECT_TCFILTER,
	NET_REDIRECT_MACVTAP,
};

struct net_config {
	const char *conf_dir;  /* "/etc/cni/net.d" */
	const char *bin_dirs;  /* colon-separated, "/opt/cni/bin:/usr/lib/cni" */
	const char *cache_dir; /* our results, for DEL: survives a reboot; made when missing */
	const char *netns_dir; /* ours alone; made when missing */
	uint64_t plugin_timeout_ms;
	enum net_redirect redirect; /* how taps take interfaces over: network/redirect.h */
	bool antispoof; /* a guest sends under its own MAC and addresses only: network/antispoof.h
			 */
};

int net_open(const struct net_config *config, struct net **ret, struct err *err);
struct net *net_close(struct net *net);

/*
 * Whether a pod could get a network now: 0; positive 1: no usable configuration, the reason
 * (directory empty, file broken, plugin missing, or not ready by its own STATUS) in err->msg. Reads
 * the directory anew each time.
 */
int net_check(struct net *net, struct err *err);

/* The network name of the configuration in force, for Status; the caller frees. NULL when none. */
char *net_name(struct net *net);

enum net_protocol {
	NET_TCP,
	NET_UDP,
	NET_SCTP,
};

struct net_port_mapping {
	enum net_protocol protocol;
	uint16_t container_port;
	uint16_t host_port;
	const char *host_ip; /* NULL: any */
};

/* What the pod asks of plugins that declare the capability of the name. Empty: it does not ask. */
struct net_capabilities {
	const struct net_port_mapping *ports; /* "portMappings" */
	size_t n_ports;
	uint64_t ingress_bits, egress_bits; /* "bandwidth", per second; 0: unlimited */
	char *const *dns_servers, *const *dns_searches, *const *dns_options; /* "dns" */
	size_t n_dns_servers, n_dns_searches, n_dns_options;
	const char *mac;         /* "mac"; NULL: none */
	char *const *ips;        /* "ips", addresses with or without prefix length */
	char *const *ip_subnets; /* "ipRanges", each a set of its own */
	char *const *aliases;    /* "aliases", on the configured network */
	size_t n_ips, n_ip_subnets, n_aliases;
	/* "io.kubernetes.cri.pod-annotations": keys and values, by turns. */
	const char *const *annotations;
	size_t n_annotations; /* pairs */
};

struct net_pod_spec {
	const char *id;        /* [a-z0-9]{1,64} */
	const char *name;      /* K8S_POD_NAME */
	const char *namespace; /* K8S_POD_NAMESPACE */
	const char *uid;       /* K8S_POD_UID */
	struct net_capabilities capabilities;
};

struct net_route {
	char destination[64]; /* CIDR */
	char gateway[46];     /* "" for an on-link route; may be of IPv6 for IPv4 */
	uint32_t metric;
	uint32_t mtu;    /* 0: the interface's */
	char source[46]; /* preferred, one of the interface's addresses; "" for none */
};

/* One that is configured, not learnt. */
struct net_neighbor {
	char address[46];
	char mac[18];
};

struct net_interface {
	char name[16]; /* as CNI named it: "eth0" */
	char mac[18];
	uint32_t mtu;
	char addresses[NET_ADDRESSES_MAX][64]; /* CIDR */
	size_t n_addresses;
	struct net_route *routes; /* all routes of the main table out of it */
	size_t n_routes;
	struct net_neighbor *neighbors;
	size_t n_neighbors;
	/* Of those that a watch reads; as they are made, they are up. */
	bool down;
	bool no_carrier; /* nobody at the other end, though it is up */
};

/* What the pod has. Plain value, freed by net_pod_info_free(). */
struct net_pod_info {
	char netns[256];
	struct net_interface *interfaces; /* without lo; those that CNI made, in order */
	size_t n_interfaces;
	char **ips;         /* addresses without prefix length, primary first, NULL-terminated */
	char **dns_servers; /* CNI's, NULL-terminated; may be empty */
	char **dns_searches;
	char **dns_options;
	char **sysctls;      /* the plugin tuning's: names and values by turns, NULL-terminated */
	uint64_t plugins_ns; /* what the plugins took of the set-up */
};
struct net_pod_info *net_pod_info_free(struct net_pod_info *info);

/*
 * Makes the namespace and runs ADD. On failure all is undone, by DEL; where that fails too, what is
 * left stays as it is for net_pod_teardown().
 */
int net_pod_setup(struct net *net, const struct net_pod_spec *spec, struct net_pod_info **ret,
	struct err *err);

/* Of the machine's NIC for the pod's n-th interface, in our own namespace, until it is attached. */
#define NET_TAP_NAME_SIZE 16
void net_tap_name(const char *id, size_t n, char name[NET_TAP_NAME_SIZE]);

/* Whether taps are there before the machine, by net_pod_make_tap(); else they are made with it. */
bool net_makes_taps(const struct net *net);

/* Makes the tap for the interface, in our own namespace. */
int net_pod_make_tap(struct net *net, const char *id, const struct net_pod_info *info,
	size_t interface, struct err *err);

/*
 * Moves the tap (in our own namespace now) into the pod's, as "tap<N>" for the interface's
 * position, gives it the interface's MTU, brings both up, and joins them by redirection both ways.
 */
int net_pod_attach_tap(struct net *net, const char *id, const struct net_pod_info *info,
	size_t interface, struct err *err);

/* Runs DEL with the cached result and removes the namespace. Unknown pod, namespace gone: success.
 */
int net_pod_teardown(struct net *net, const char *id, struct err *err);

/*
 * For a pod whose DEL goes on failing: removes the namespace alone, by which the pod's links go.
 * What the plugins still hold is remembered: net_each_pod() finds it, and net_pod_teardown() tries
 * again.
 */
int net_pod_abandon(struct net *net, const char *id, struct err *err);

/* Calls fn for every pod id that this cache_dir has something of. */
int net_each_pod(struct net *net, int (*fn)(void *userdata, const char *id), void *userdata,
	struct err *err);

/* Whether the pod still has what its plugins gave it, by their CHECK. */
int net_pod_check(struct net *net, const char *id, struct err *err);

/*
 * Has the plugins of the configuration in force forget whatever they hold for pods that this
 * cache_dir knows nothing of. Without a configuration: success.
 */
int net_collect(struct net *net, struct err *err);
