/*
 * What the guest hears of its interfaces: as they are made, and as they change in the pod's
 * namespace afterwards (network/watch.h).
 */
#pragma once

#include "agent/proto/agent.pb-c.h"
#include "common/err.h"
#include "network/pod_network.h"

struct machine;
struct sandbox;
struct network_follower;

/* Interfaces in the agent's words, which borrow the strings of network's. */
struct guest_interfaces {
	Bulkhead__Agent__Interface *pointers[NET_INTERFACES_MAX];
	size_t n;
	Bulkhead__Agent__Interface interfaces[NET_INTERFACES_MAX];
	char macs[NET_INTERFACES_MAX][18];
	char *addresses[NET_INTERFACES_MAX][NET_ADDRESSES_MAX];
	Bulkhead__Agent__Route *routes;
	Bulkhead__Agent__Route **route_pointers;
	Bulkhead__Agent__Neighbor *neighbors;
	Bulkhead__Agent__Neighbor **neighbor_pointers;
};

/* Those without a name are left out. Free with guest_interfaces_free(). */
int guest_interfaces_new(const char *sandbox_id, struct net_interface *interfaces, size_t n,
	struct guest_interfaces **ret, struct err *err);
struct guest_interfaces *guest_interfaces_free(struct guest_interfaces *guest);

/*
 * From now on the guest follows what changes in the namespace; `known` is what it was told at its
 * start, NULL: not known any more. What fails is logged: a pod lives without. Under the sandbox's
 * `op`, with a machine whose agent answers; ends in sandbox_drop_machine().
 */
void network_follow(
	struct sandbox *sandbox, struct machine *machine, const struct net_pod_info *known);
/* Waits for a change that is being made, at most seconds. NULL is accepted. Returns NULL. */
struct network_follower *network_follower_free(struct network_follower *follower);
