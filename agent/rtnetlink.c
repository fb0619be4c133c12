#include "agent/rtnetlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "common/fd.h"

/* The kernel answers before sendto() returns; this is for a kernel that does not. */
#define ANSWER_TIMEOUT_S 5
#define DUMP_BYTES       32768

struct request {
	struct nlmsghdr header;
	char body[496]; /* far more than the attributes below need */
};

int rtnl_open(struct rtnl *ret, struct err *err)
{
	_cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		return err_errno(err, "open rtnetlink");
	struct timeval timeout = {.tv_sec = ANSWER_TIMEOUT_S};
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0)
		return err_errno(err, "set up rtnetlink");
	*ret = (struct rtnl){.fd = TAKE_FD(fd)};
	return 0;
}

void rtnl_close(struct rtnl *rtnl)
{
	rtnl->fd = fd_close(rtnl->fd);
}

int rtnl_prefix_parse(const char *text, struct rtnl_prefix *ret, struct err *err)
{
	struct rtnl_prefix prefix = {.family = strchr(text, ':') ? AF_INET6 : AF_INET};
	unsigned longest = prefix.family == AF_INET ? 32 : 128;
	char address[INET6_ADDRSTRLEN];
	size_t len = strcspn(text, "/");
	if (len >= sizeof(address))
		return err_set(err, -EINVAL, "'%.64s' is not an address", text);
	memcpy(address, text, len);
	address[len] = '\0';
	if (inet_pton(prefix.family, address, prefix.address) != 1)
		return err_set(err, -EINVAL, "'%.64s' is not an address", text);
	prefix.length = longest;
	if (text[len]) {
		char *end;
		unsigned long length = strtoul(text + len + 1, &end, 10);
		if (text[len + 1] < '0' || text[len + 1] > '9' || *end || length > longest)
			return err_set(err, -EINVAL, "'%.64s' has no prefix length of 0 to %u",
				text, longest);
		prefix.length = (unsigned)length;
	}
	*ret = prefix;
	return 0;
}

int rtnl_mac_parse(const char *text, uint8_t ret[static RTNL_MAC_BYTES], struct err *err)
{
	unsigned bytes[RTNL_MAC_BYTES];
	int used = 0;
	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &bytes[0], &bytes[1], &bytes[2], &bytes[3],
		    &bytes[4], &bytes[5], &used) != RTNL_MAC_BYTES ||
		used != 17 || text[used])
		return err_set(err, -EINVAL, "'%.32s' is not a MAC address", text);
	for (int i = 0; i < RTNL_MAC_BYTES; i++)
		ret[i] = (uint8_t)bytes[i];
	return 0;
}

static void *request_init(struct request *request, uint16_t type, uint16_t flags, size_t len)
{
	memset(request, 0, sizeof(*request));
	request->header.nlmsg_type = type;
	request->header.nlmsg_flags = NLM_F_REQUEST | flags;
	request->header.nlmsg_len = (uint32_t)NLMSG_LENGTH(len);
	return NLMSG_DATA(&request->header);
}

static void request_add(struct request *request, uint16_t type, const void *data, size_t len)
{
	struct rtattr *attribute =
		(void *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));
	attribute->rta_type = type;
	attribute->rta_len = (uint16_t)RTA_LENGTH(len);
	memcpy(RTA_DATA(attribute), data, len);
	request->header.nlmsg_len =
		(uint32_t)(NLMSG_ALIGN(request->header.nlmsg_len) + RTA_LENGTH(len));
}

/* One attribute within another. */
static void request_add_nested(
	struct request *request, uint16_t outer, uint16_t type, const void *data, size_t len)
{
	struct rtattr *attribute =
		(void *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));
	request_add(request, outer, "", 0);
	request_add(request, type, data, len);
	attribute->rta_len = (uint16_t)RTA_LENGTH(RTA_LENGTH(len));
}

static int request_send(struct rtnl *rtnl, struct request *request, struct err *err)
{
	request->header.nlmsg_seq = ++rtnl->sequence;
	if (send(rtnl->fd, request, request->header.nlmsg_len, 0) < 0)
		return err_errno(err, "send to rtnetlink");
	return 0;
}

/* Sends and takes the acknowledgement; the kernel's refusal is returned without a message. */
static int request_run(struct rtnl *rtnl, struct request *request)
{
	request->header.nlmsg_flags |= NLM_F_ACK;
	int r = request_send(rtnl, request, NULL);
	if (r < 0)
		return r;
	union {
		struct nlmsghdr header;
		char space[1024]; /* an error quotes the request */
	} answer;
	ssize_t n = recv(rtnl->fd, &answer, sizeof(answer), 0);
	if (n < 0)
		return -errno;
	if (!NLMSG_OK(&answer.header, (size_t)n) || answer.header.nlmsg_type != NLMSG_ERROR ||
		answer.header.nlmsg_seq != rtnl->sequence)
		return -EPROTO;
	const struct nlmsgerr *result = NLMSG_DATA(&answer.header);
	return result->error;
}

static int refused(struct err *err, int code, const char *what)
{
	return err_set(err, code, "%s: %s", what, strerror(-code));
}

/* Whether the link of one message of the dump has the MAC. */
static bool link_has_mac(struct nlmsghdr *header, const uint8_t *mac, int *ret_index,
	char ret_name[static IF_NAMESIZE])
{
	struct ifinfomsg *info = NLMSG_DATA(header);
	const char *name = NULL;
	bool found = false;
	int left = (int)IFLA_PAYLOAD(header);
	for (struct rtattr *a = IFLA_RTA(info); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		if (a->rta_type == IFLA_ADDRESS)
			found = RTA_PAYLOAD(a) == RTNL_MAC_BYTES &&
				!memcmp(RTA_DATA(a), mac, RTNL_MAC_BYTES);
		if (a->rta_type == IFLA_IFNAME)
			name = RTA_DATA(a);
	}
	if (!found || !name)
		return false;
	*ret_index = info->ifi_index;
	snprintf(ret_name, IF_NAMESIZE, "%s", name);
	return true;
}

int rtnl_link_find(struct rtnl *rtnl, const uint8_t mac[static RTNL_MAC_BYTES], int *ret_index,
	char ret_name[static IF_NAMESIZE], struct err *err)
{
	struct request request;
	struct ifinfomsg *info =
		request_init(&request, RTM_GETLINK, NLM_F_DUMP, sizeof(struct ifinfomsg));
	info->ifi_family = AF_UNSPEC;
	int r = request_send(rtnl, &request, err);
	_cleanup_free_ char *data = malloc(DUMP_BYTES);
	if (!data)
		return err_nomem(err);
	bool found = false;
	while (r == 0) {
		ssize_t n = recv(rtnl->fd, data, DUMP_BYTES, 0);
		if (n < 0)
			return err_errno(err, "list the links");
		size_t left = (size_t)n;
		for (struct nlmsghdr *h = (void *)data; NLMSG_OK(h, left);
			h = NLMSG_NEXT(h, left)) {
			if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
				r = 1;
			else if (h->nlmsg_type == RTM_NEWLINK && !found)
				found = link_has_mac(h, mac, ret_index, ret_name);
		}
	}
	if (r < 0)
		return r;
	return found ? 0
		     : err_set(err, -ENODEV,
			       "no network interface has the MAC %02x:%02x:%02x:%02x:%02x:%02x",
			       mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

int rtnl_link_set(
	struct rtnl *rtnl, int index, const struct rtnl_link_change *change, struct err *err)
{
	struct request request;
	struct ifinfomsg *info = request_init(&request, RTM_NEWLINK, 0, sizeof(struct ifinfomsg));
	info->ifi_index = index;
	if (change->up || change->down)
		info->ifi_change = IFF_UP;
	if (change->up)
		info->ifi_flags = IFF_UP;
	if (change->name)
		request_add(&request, IFLA_IFNAME, change->name, strlen(change->name) + 1);
	if (change->mac)
		request_add(&request, IFLA_ADDRESS, change->mac, RTNL_MAC_BYTES);
	if (change->mtu)
		request_add(&request, IFLA_MTU, &change->mtu, sizeof(change->mtu));
	int r = request_run(rtnl, &request);
	return r < 0 ? refused(err, r, "change the link") : 0;
}

int rtnl_link_move(struct rtnl *rtnl, int index, int namespace, struct err *err)
{
	struct request request;
	struct ifinfomsg *info = request_init(&request, RTM_NEWLINK, 0, sizeof(struct ifinfomsg));
	info->ifi_index = index;
	request_add(&request, IFLA_NET_NS_FD, &namespace, sizeof(namespace));
	int r = request_run(rtnl, &request);
	return r < 0 ? refused(err, r, "move the link") : 0;
}

static size_t address_bytes(const struct rtnl_prefix *prefix)
{
	return prefix->family == AF_INET ? 4 : 16;
}

int rtnl_address_add(
	struct rtnl *rtnl, int index, const struct rtnl_prefix *address, struct err *err)
{
	struct request request;
	struct ifaddrmsg *info = request_init(
		&request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifaddrmsg));
	info->ifa_family = (uint8_t)address->family;
	info->ifa_prefixlen = (uint8_t)address->length;
	info->ifa_index = (unsigned)index;
	request_add(&request, IFA_LOCAL, address->address, address_bytes(address));
	request_add(&request, IFA_ADDRESS, address->address, address_bytes(address));
	if (address->family == AF_INET6) {
		uint32_t flags = IFA_F_NODAD;
		request_add(&request, IFA_FLAGS, &flags, sizeof(flags));
	} else if (address->length < 31) {
		uint32_t broadcast;
		memcpy(&broadcast, address->address, sizeof(broadcast));
		broadcast |= htonl(UINT32_MAX >> address->length);
		request_add(&request, IFA_BROADCAST, &broadcast, sizeof(broadcast));
	}
	int r = request_run(rtnl, &request);
	return r < 0 && r != -EEXIST ? refused(err, r, "add the address") : 0;
}

/* What is not there, or went with something else before it. */
static bool is_absent(int code)
{
	return code == -EADDRNOTAVAIL || code == -ESRCH || code == -ENOENT;
}

int rtnl_address_remove(
	struct rtnl *rtnl, int index, const struct rtnl_prefix *address, struct err *err)
{
	struct request request;
	struct ifaddrmsg *info = request_init(&request, RTM_DELADDR, 0, sizeof(struct ifaddrmsg));
	info->ifa_family = (uint8_t)address->family;
	info->ifa_prefixlen = (uint8_t)address->length;
	info->ifa_index = (unsigned)index;
	request_add(&request, IFA_LOCAL, address->address, address_bytes(address));
	int r = request_run(rtnl, &request);
	return r < 0 && !is_absent(r) ? refused(err, r, "remove the address") : 0;
}

/* The kernel refuses a destination with bits beyond its length. */
static struct rtnl_prefix masked(const struct rtnl_prefix *prefix)
{
	struct rtnl_prefix result = *prefix;
	for (unsigned i = 0; i < sizeof(result.address); i++) {
		unsigned kept = result.length > i * 8 ? result.length - i * 8 : 0;
		if (kept < 8)
			result.address[i] &= (uint8_t)(0xff00u >> kept);
	}
	return result;
}

/* Of a route over IPv4 it may be one of IPv6, which then answers for the gateway's MAC. */
static void request_add_gateway(
	struct request *request, int family, const struct rtnl_prefix *gateway)
{
	struct {
		uint16_t family;
		uint8_t address[sizeof(struct in6_addr)];
	} via = {.family = (uint16_t)gateway->family};
	const size_t len = address_bytes(gateway);
	memcpy(via.address, gateway->address, len);
	if (gateway->family == family)
		request_add(request, RTA_GATEWAY, gateway->address, len);
	else
		request_add(request, RTA_VIA, &via, sizeof(via.family) + len);
}

/* The kernel's answer, for a new route or the end of one. */
static int route_request(
	struct rtnl *rtnl, int index, const struct rtnl_route *route, uint16_t type)
{
	struct rtnl_prefix destination = masked(&route->destination);
	if ((route->gateway && route->gateway->family != destination.family &&
		    destination.family != AF_INET) ||
		(route->source && route->source->family != destination.family))
		return -EINVAL; /* of another address family */
	struct request request;
	struct rtmsg *info = request_init(&request, type,
		type == RTM_NEWROUTE ? NLM_F_CREATE | NLM_F_EXCL : 0, sizeof(struct rtmsg));
	info->rtm_family = (uint8_t)destination.family;
	info->rtm_dst_len = (uint8_t)destination.length;
	info->rtm_table = RT_TABLE_MAIN;
	info->rtm_protocol = RTPROT_STATIC;
	info->rtm_scope = route->gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
	info->rtm_type = RTN_UNICAST;
	if (destination.length)
		request_add(&request, RTA_DST, destination.address, address_bytes(&destination));
	if (route->gateway) {
		/* Many plugins give gateways outside of the address's prefix (a /32, say). */
		info->rtm_flags = RTNH_F_ONLINK;
		request_add_gateway(&request, destination.family, route->gateway);
	}
	if (route->metric)
		request_add(&request, RTA_PRIORITY, &route->metric, sizeof(route->metric));
	if (route->mtu)
		request_add_nested(
			&request, RTA_METRICS, RTAX_MTU, &route->mtu, sizeof(route->mtu));
	if (route->source)
		request_add(&request, RTA_PREFSRC, route->source->address,
			address_bytes(route->source));
	request_add(&request, RTA_OIF, &index, sizeof(index));
	return request_run(rtnl, &request);
}

int rtnl_route_add(struct rtnl *rtnl, int index, const struct rtnl_route *route, struct err *err)
{
	int r = route_request(rtnl, index, route, RTM_NEWROUTE);
	return r < 0 && r != -EEXIST ? refused(err, r, "add the route") : 0;
}

int rtnl_route_remove(struct rtnl *rtnl, int index, const struct rtnl_route *route, struct err *err)
{
	int r = route_request(rtnl, index, route, RTM_DELROUTE);
	return r < 0 && !is_absent(r) ? refused(err, r, "remove the route") : 0;
}

static void neighbor_init(struct request *request, uint16_t type, uint16_t flags, int index,
	const struct rtnl_prefix *address)
{
	struct ndmsg *info = request_init(request, type, flags, sizeof(struct ndmsg));
	info->ndm_family = (uint8_t)address->family;
	info->ndm_ifindex = index;
	info->ndm_state = NUD_PERMANENT;
	request_add(request, NDA_DST, address->address, address_bytes(address));
}

int rtnl_neighbor_set(struct rtnl *rtnl, int index, const struct rtnl_prefix *address,
	const uint8_t mac[static RTNL_MAC_BYTES], struct err *err)
{
	struct request request;
	neighbor_init(&request, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, index, address);
	request_add(&request, NDA_LLADDR, mac, RTNL_MAC_BYTES);
	int r = request_run(rtnl, &request);
	return r < 0 ? refused(err, r, "set the neighbor") : 0;
}

int rtnl_neighbor_remove(
	struct rtnl *rtnl, int index, const struct rtnl_prefix *address, struct err *err)
{
	struct request request;
	neighbor_init(&request, RTM_DELNEIGH, 0, index, address);
	int r = request_run(rtnl, &request);
	return r < 0 && !is_absent(r) ? refused(err, r, "remove the neighbor") : 0;
}
