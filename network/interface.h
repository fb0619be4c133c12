/*
 * The links of a pod's namespace, as the kernel has them: what the machine's NICs must become.
 * Functions run on a thread inside that namespace (netns_call()), but for interface_move().
 */
#pragma once

#include <netlink/netlink.h>
#include <stddef.h>

#include "common/err.h"
#include "network/pod_network.h"

/* The name in the namespace of the tap at position 0, 1, … */
#define INTERFACE_TAP "tap"

/* What is NULL, 0 or false stays as it is. */
struct interface_change {
	const char *alias;
	uint32_t mtu; /* of a tap: what it can have of it */
	bool up;
};
int interface_set(
	struct nl_sock *sock, int index, const struct interface_change *wanted, struct err *err);
int interface_up(struct nl_sock *sock, int index, struct err *err);

struct interface_place {
	int netns_fd;
	const char *name;
	uint32_t mtu;
};

/*
 * Moves a tap of the socket's namespace into another, with a new name, and what it can have of the
 * MTU. It is then down.
 */
int interface_move(struct nl_sock *sock, const char *name, const struct interface_place *place,
	struct err *err);

/*
 * Reads the interfaces that CNI made: Ethernet, up, no tap and no part of another; `first` before
 * the others, which are in the order of making. Freed with interfaces_free().
 */
int interfaces_read(struct nl_sock *sock, const char *first, struct net_interface **ret,
	size_t *ret_n, struct err *err);

/*
 * Reads the interfaces that taps are joined to, as their aliases tell, each at its tap's position;
 * also those that are down. One that is gone has no name.
 */
int interfaces_read_joined(
	struct nl_sock *sock, struct net_interface **ret, size_t *ret_n, struct err *err);

struct net_interface *interfaces_free(struct net_interface *interfaces, size_t n);

/*
 * Keeps the namespace's own stack quiet on a link whose frames the guest sends and receives.
 * `silent`: it has no IPv6 at all (the tap).
 */
int interface_quieten(const char *name, bool silent, struct err *err);
