/*
 * The few rtnetlink requests that a guest's network needs: find a link, set it up, addresses,
 * routes, neighbors.
 *
 * Each function sends one request and waits for the kernel's answer, which comes at once. libnl
 * would be the larger half of the static agent. Source: rtnetlink(7), linux/rtnetlink.h.
 */
#pragma once

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

#define RTNL_MAC_BYTES 6

struct rtnl {
	int fd;
	uint32_t sequence;
};

struct rtnl_prefix {
	int family; /* AF_INET or AF_INET6 */
	unsigned length;
	uint8_t address[16];
};

int rtnl_open(struct rtnl *ret, struct err *err);
void rtnl_close(struct rtnl *rtnl);

/* "10.1.2.3/24", "fd00::1/64", or an address alone, whose length is then 32 or 128. -EINVAL. */
int rtnl_prefix_parse(const char *text, struct rtnl_prefix *ret, struct err *err);

/* "aa:bb:cc:dd:ee:ff". -EINVAL. */
int rtnl_mac_parse(const char *text, uint8_t ret[static RTNL_MAC_BYTES], struct err *err);

/* The link with the MAC: its index and name. -ENODEV. */
int rtnl_link_find(struct rtnl *rtnl, const uint8_t mac[static RTNL_MAC_BYTES], int *ret_index,
	char ret_name[static IF_NAMESIZE], struct err *err);

/* What is to change; a NULL or 0 member stays as it is. Name and MAC change on a link that is down
 * only. */
struct rtnl_link_change {
	const char *name;
	const uint8_t *mac;
	uint32_t mtu;
	bool up, down;
};
int rtnl_link_set(
	struct rtnl *rtnl, int index, const struct rtnl_link_change *change, struct err *err);

/* Into the network namespace of the descriptor. */
int rtnl_link_move(struct rtnl *rtnl, int index, int namespace, struct err *err);

/* IPv6 addresses are usable at once: no duplicate detection. One that is there is success. */
int rtnl_address_add(
	struct rtnl *rtnl, int index, const struct rtnl_prefix *address, struct err *err);
/* One that is not there is success, here and below. */
int rtnl_address_remove(
	struct rtnl *rtnl, int index, const struct rtnl_prefix *address, struct err *err);

struct rtnl_route {
	struct rtnl_prefix destination;
	const struct rtnl_prefix
		*gateway;                 /* NULL: on link. Need not be in any prefix of the link */
	uint32_t metric;                  /* 0: the kernel's */
	uint32_t mtu;                     /* 0: the link's */
	const struct rtnl_prefix *source; /* the preferred one, of a link; NULL: none */
};
/* One that is there is success. */
int rtnl_route_add(struct rtnl *rtnl, int index, const struct rtnl_route *route, struct err *err);
int rtnl_route_remove(
	struct rtnl *rtnl, int index, const struct rtnl_route *route, struct err *err);

/* A neighbor that is not asked for by ARP or ND; one with the address is replaced. */
int rtnl_neighbor_set(struct rtnl *rtnl, int index, const struct rtnl_prefix *address,
	const uint8_t mac[static RTNL_MAC_BYTES], struct err *err);
int rtnl_neighbor_remove(
	struct rtnl *rtnl, int index, const struct rtnl_prefix *address, struct err *err);
