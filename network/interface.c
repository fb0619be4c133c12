/*
 * Links of a pod's namespace, read.
 */
#include "network/interface.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/neighbour.h>
#include <netlink/route/route.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "network/netlink.h"
#include "network/redirect.h"

/* The whole state of the namespace, read once. */
struct state {
	struct nl_cache *links;
	struct nl_cache *addresses;
	struct nl_cache *neighbors;
	struct netlink_routes routes;
};

static void state_done(struct state *state)
{
	nl_cache_free(state->links);
	nl_cache_free(state->addresses);
	nl_cache_free(state->neighbors);
	netlink_routes_done(&state->routes);
}

static int state_read(struct nl_sock *sock, struct state *state, struct err *err)
{
	int r;

	r = rtnl_link_alloc_cache(sock, AF_UNSPEC, &state->links);
	if (r < 0)
		return netlink_error(err, r, "list the pod's links");
	r = rtnl_addr_alloc_cache(sock, &state->addresses);
	if (r < 0)
		return netlink_error(err, r, "list the pod's addresses");
	r = rtnl_neigh_alloc_cache(sock, &state->neighbors);
	if (r < 0)
		return netlink_error(err, r, "list the pod's neighbors");
	return netlink_routes_read(sock, &state->routes, err);
}

/* Fallback links that tunnel modules put into each new namespace are down or not Ethernet. */
static bool is_from_cni(struct rtnl_link *link)
{
	const char *kind = rtnl_link_get_type(link);

	return rtnl_link_get_arptype(link) == ARPHRD_ETHER &&
	       (rtnl_link_get_flags(link) & IFF_UP) && !(kind && !strcmp(kind, "tun"));
}

/* Writes address/prefix. An address that is not IP leaves out empty. */
static void format_cidr(
	char *out, size_t size, int family, const struct nl_addr *address, unsigned int prefix)
{
	unsigned char bytes[sizeof(struct in6_addr)] = {0};
	char text[INET6_ADDRSTRLEN];
	size_t len = address ? nl_addr_get_len(address) : 0;

	out[0] = '\0';
	if (len > sizeof(bytes))
		return;
	if (len > 0)
		memcpy(bytes, nl_addr_get_binary_addr(address), len);
	if (inet_ntop(family, bytes, text, sizeof(text)))
		(void)snprintf(out, size, "%s/%u", text, prefix);
}

static bool same_prefix(const struct nl_addr *a, const struct nl_addr *b, unsigned int prefix)
{
	const unsigned char *x = nl_addr_get_binary_addr(a), *y = nl_addr_get_binary_addr(b);
	unsigned int whole = prefix / 8, rest = prefix % 8;

	if (nl_addr_get_len(a) != nl_addr_get_len(b) || nl_addr_get_len(a) * 8 < prefix)
		return false;
	return memcmp(x, y, whole) == 0 &&
	       (rest == 0 || ((x[whole] ^ y[whole]) >> (8 - rest)) == 0);
}

static bool is_out_of(struct rtnl_route *route, int link)
{
	struct rtnl_nexthop *hop = rtnl_route_nexthop_n(route, 0);

	return hop && rtnl_route_get_table(route) == RT_TABLE_MAIN &&
	       rtnl_route_get_type(route) == RTN_UNICAST && rtnl_route_nh_get_ifindex(hop) == link;
}

/* Whether the kernel's route to the address's own network is there: a plugin may take it away. */
static bool has_connected_route(
	const struct state *state, int link, struct rtnl_addr *address, unsigned int prefix)
{
	struct nl_addr *local = rtnl_addr_get_local(address);
	size_t i;

	for (i = 0; i < state->routes.n; i++) {
		struct rtnl_route *route = state->routes.items[i];
		struct nl_addr *dst = rtnl_route_get_dst(route);

		if (is_out_of(route, link) && rtnl_route_get_protocol(route) == RTPROT_KERNEL &&
			dst && nl_addr_get_prefixlen(dst) == prefix &&
			same_prefix(local, dst, prefix))
			return true;
	}
	return false;
}

/*
 * Not the addresses that the kernel made by itself: IPv6 link-local ones, which the guest's kernel
 * will make likewise, and those from router advertisements, which are not permanent. Nobody would
 * renew them: neither this namespace nor the guest listens to advertisements.
 */
static bool is_configured(struct rtnl_addr *address, int link)
{
	int family = rtnl_addr_get_family(address);

	return rtnl_addr_get_ifindex(address) == link && rtnl_addr_get_local(address) &&
	       (family == AF_INET || family == AF_INET6) &&
	       (rtnl_addr_get_flags(address) & IFA_F_PERMANENT) &&
	       !(family == AF_INET6 && rtnl_addr_get_scope(address) == RT_SCOPE_LINK);
}

/*
 * An address whose connected route is not there is given with the full prefix length, since the
 * guest's kernel would make the route anew. (ptp replaces it by one through the gateway.)
 */
static int read_addresses(
	const struct state *state, int link, struct net_interface *interface, struct err *err)
{
	struct nl_object *object;

	for (object = nl_cache_get_first(state->addresses); object;
		object = nl_cache_get_next(object)) {
		struct rtnl_addr *address = (struct rtnl_addr *)object;
		unsigned int prefix;

		if (!is_configured(address, link))
			continue;
		if (interface->n_addresses == NET_ADDRESSES_MAX)
			return err_set(err, -E2BIG, "interface %s has more than %d addresses",
				interface->name, NET_ADDRESSES_MAX);
		prefix = (unsigned int)rtnl_addr_get_prefixlen(address);
		if (!has_connected_route(state, link, address, prefix))
			prefix = rtnl_addr_get_family(address) == AF_INET ? 32 : 128;
		format_cidr(interface->addresses[interface->n_addresses],
			sizeof(interface->addresses[0]), rtnl_addr_get_family(address),
			rtnl_addr_get_local(address), prefix);
		interface->n_addresses++;
	}
	return 0;
}

static struct nl_addr *gateway_of(struct rtnl_route *route)
{
	struct rtnl_nexthop *hop = rtnl_route_nexthop_n(route, 0);
	struct nl_addr *gateway = rtnl_route_nh_get_gateway(hop);

	/* Of a route over IPv4 it may be one of IPv6. */
	if (!gateway)
		gateway = rtnl_route_nh_get_via(hop);
	return gateway && nl_addr_get_len(gateway) > 0 ? gateway : NULL;
}

/*
 * Whether it is the kernel's to the other end of an address, which is outside of the address's own
 * prefix: the guest gets the address alone.
 */
static bool is_to_peer(const struct state *state, int link, struct rtnl_route *route)
{
	struct nl_addr *dst = rtnl_route_get_dst(route);
	struct nl_object *object;

	for (object = nl_cache_get_first(state->addresses); dst && object;
		object = nl_cache_get_next(object)) {
		struct rtnl_addr *address = (struct rtnl_addr *)object;
		struct nl_addr *peer = rtnl_addr_get_peer(address);
		unsigned int prefix = (unsigned int)rtnl_addr_get_prefixlen(address);

		if (is_configured(address, link) && peer && nl_addr_get_prefixlen(dst) == prefix &&
			same_prefix(peer, dst, prefix) &&
			!same_prefix(rtnl_addr_get_local(address), dst, prefix))
			return true;
	}
	return false;
}

/* Not those that come with an address, and those of router advertisements (is_configured()). */
static bool is_configured_route(const struct state *state, int link, struct rtnl_route *route)
{
	uint8_t protocol = rtnl_route_get_protocol(route);

	if (!is_out_of(route, link) || protocol == RTPROT_RA)
		return false;
	return protocol != RTPROT_KERNEL || is_to_peer(state, link, route);
}

/* Of another interface the guest might not have it yet. */
static bool is_own_source(const struct net_interface *interface, const char *source)
{
	const size_t len = strlen(source);
	size_t i;

	for (i = 0; i < interface->n_addresses; i++)
		if (strncmp(interface->addresses[i], source, len) == 0 &&
			interface->addresses[i][len] == '/')
			return true;
	return false;
}

static void format_address(char *out, size_t size, const struct nl_addr *address)
{
	if (address && nl_addr_get_len(address) > 0)
		(void)inet_ntop(nl_addr_get_family(address), nl_addr_get_binary_addr(address), out,
			(socklen_t)size);
}

static void format_route(
	const struct net_interface *interface, struct rtnl_route *route, struct net_route *out)
{
	struct nl_addr *dst = rtnl_route_get_dst(route);
	int family = rtnl_route_get_family(route);

	format_cidr(out->destination, sizeof(out->destination), family, dst,
		dst ? nl_addr_get_prefixlen(dst) : 0);
	format_address(out->gateway, sizeof(out->gateway), gateway_of(route));
	format_address(out->source, sizeof(out->source), rtnl_route_get_pref_src(route));
	if (!is_own_source(interface, out->source))
		out->source[0] = '\0';
	out->metric = rtnl_route_get_priority(route);
	(void)rtnl_route_get_metric(route, RTAX_MTU, &out->mtu);
}

/* On-link routes first: the gateways of the others may be reachable only by them. */
static int read_routes(
	const struct state *state, int link, struct net_interface *interface, struct err *err)
{
	size_t i;
	int pass;

	interface->routes = calloc(NET_ROUTES_MAX, sizeof(*interface->routes));
	if (!interface->routes)
		return err_nomem(err);
	for (pass = 0; pass < 2; pass++) {
		for (i = 0; i < state->routes.n; i++) {
			struct rtnl_route *route = state->routes.items[i];

			if (!is_configured_route(state, link, route) || !!gateway_of(route) != pass)
				continue;
			if (interface->n_routes == NET_ROUTES_MAX)
				return err_set(err, -E2BIG, "interface %s has more than %d routes",
					interface->name, NET_ROUTES_MAX);
			format_route(interface, route, &interface->routes[interface->n_routes++]);
		}
	}
	return 0;
}

static int read_neighbors(
	const struct state *state, int link, struct net_interface *interface, struct err *err)
{
	struct nl_object *object;

	interface->neighbors = calloc(NET_NEIGHBORS_MAX, sizeof(*interface->neighbors));
	if (!interface->neighbors)
		return err_nomem(err);
	for (object = nl_cache_get_first(state->neighbors); object;
		object = nl_cache_get_next(object)) {
		struct rtnl_neigh *neighbor = (struct rtnl_neigh *)object;
		struct nl_addr *address = rtnl_neigh_get_dst(neighbor);
		struct nl_addr *mac = rtnl_neigh_get_lladdr(neighbor);
		struct net_neighbor *to = &interface->neighbors[interface->n_neighbors];

		if (rtnl_neigh_get_ifindex(neighbor) != link ||
			!(rtnl_neigh_get_state(neighbor) & NUD_PERMANENT) || !address || !mac ||
			nl_addr_get_len(mac) != 6)
			continue;
		if (interface->n_neighbors == NET_NEIGHBORS_MAX)
			return err_set(err, -E2BIG, "interface %s has more than %d neighbors",
				interface->name, NET_NEIGHBORS_MAX);
		if (!inet_ntop(nl_addr_get_family(address), nl_addr_get_binary_addr(address),
			    to->address, sizeof(to->address)))
			continue;
		(void)nl_addr2str(mac, to->mac, sizeof(to->mac));
		interface->n_neighbors++;
	}
	return 0;
}

static int read_one(const struct state *state, struct rtnl_link *link,
	struct net_interface *interface, struct err *err)
{
	struct nl_addr *mac = rtnl_link_get_addr(link);
	int index = rtnl_link_get_ifindex(link);
	int r;

	(void)snprintf(interface->name, sizeof(interface->name), "%s", rtnl_link_get_name(link));
	if (!mac || nl_addr_get_len(mac) != 6)
		return err_set(err, -EIO, "interface %s has no MAC address", interface->name);
	(void)nl_addr2str(mac, interface->mac, sizeof(interface->mac));
	interface->mtu = rtnl_link_get_mtu(link);
	interface->down = !(rtnl_link_get_flags(link) & IFF_UP);
	r = read_addresses(state, index, interface, err);
	if (r == 0)
		r = read_routes(state, index, interface, err);
	return r < 0 ? r : read_neighbors(state, index, interface, err);
}

struct net_interface *interfaces_free(struct net_interface *interfaces, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		free(interfaces[i].routes);
		free(interfaces[i].neighbors);
	}
	free(interfaces);
	return NULL;
}

/* Of a bond or a bridge, which gets its frames. A VRF only has routes of its own. */
static bool is_part(const struct state *state, struct rtnl_link *link)
{
	const int index = rtnl_link_get_master(link);
	_cleanup_(link_putp) struct rtnl_link *master =
		index > 0 ? rtnl_link_get(state->links, index) : NULL;
	const char *kind = master ? rtnl_link_get_type(master) : NULL;

	return master && !(kind && !strcmp(kind, "vrf"));
}

static int read_matching(const struct state *state, const char *first, bool is_first,
	struct net_interface *interfaces, size_t *n, struct err *err)
{
	struct nl_object *object;
	int r;

	for (object = nl_cache_get_first(state->links); object;
		object = nl_cache_get_next(object)) {
		struct rtnl_link *link = (struct rtnl_link *)object;

		if (!is_from_cni(link) || is_part(state, link) ||
			!strcmp(rtnl_link_get_name(link), first) != is_first)
			continue;
		if (*n == NET_INTERFACES_MAX)
			return err_set(err, -E2BIG, "CNI made more than %d interfaces",
				NET_INTERFACES_MAX);
		r = read_one(state, link, &interfaces[(*n)++], err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Reads the namespace, and makes room for what is found in it. */
static int begin_reading(struct nl_sock *sock, struct state *state,
	struct net_interface **ret_interfaces, struct err *err)
{
	int r = state_read(sock, state, err);

	if (r < 0)
		return r;
	*ret_interfaces = calloc(NET_INTERFACES_MAX, sizeof(**ret_interfaces));
	return *ret_interfaces ? 0 : err_nomem(err);
}

int interfaces_read(struct nl_sock *sock, const char *first, struct net_interface **ret,
	size_t *ret_n, struct err *err)
{
	_cleanup_(state_done) struct state state = {.links = NULL};
	struct net_interface *interfaces;
	size_t n = 0;
	int r;

	r = begin_reading(sock, &state, &interfaces, err);
	if (r < 0)
		return r;
	r = read_matching(&state, first, true, interfaces, &n, err);
	if (r == 0)
		r = read_matching(&state, first, false, interfaces, &n, err);
	if (r == 0 && n == 0)
		r = err_set(err, -EIO, "CNI made no Ethernet interface that is up");
	if (r < 0) {
		interfaces_free(interfaces, n);
		return r;
	}
	*ret = interfaces;
	*ret_n = n;
	return 0;
}

/* The position of the interface that a tap stands for, which its alias names; negative: it is none.
 */
static int tap_position(struct rtnl_link *link)
{
	const char *alias = rtnl_link_get_ifalias(link);
	unsigned int position;
	int used = 0;

	if (!redirect_of_kind(rtnl_link_get_type(link)) || !alias ||
		sscanf(rtnl_link_get_name(link), INTERFACE_TAP "%2u%n", &position, &used) != 1 ||
		rtnl_link_get_name(link)[used] || position >= NET_INTERFACES_MAX)
		return -1;
	return (int)position;
}

int interfaces_read_joined(
	struct nl_sock *sock, struct net_interface **ret, size_t *ret_n, struct err *err)
{
	_cleanup_(state_done) struct state state = {.links = NULL};
	struct net_interface *interfaces;
	struct nl_object *object;
	size_t n = 0;
	int r;

	r = begin_reading(sock, &state, &interfaces, err);
	if (r < 0)
		return r;
	for (object = nl_cache_get_first(state.links); r == 0 && object;
		object = nl_cache_get_next(object)) {
		int position = tap_position((struct rtnl_link *)object);
		_cleanup_(link_putp) struct rtnl_link *link = NULL;

		if (position < 0)
			continue;
		if ((size_t)position >= n)
			n = (size_t)position + 1;
		link = rtnl_link_get_by_name(
			state.links, rtnl_link_get_ifalias((struct rtnl_link *)object));
		if (link) {
			struct net_interface *interface = &interfaces[position];

			r = read_one(&state, link, interface, err);
			interface->no_carrier = !interface->down && !rtnl_link_get_carrier(link);
		}
	}
	if (r < 0) {
		interfaces_free(interfaces, n);
		return r;
	}
	*ret = interfaces;
	*ret_n = n;
	return 0;
}
