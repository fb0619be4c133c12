/*
 * How a machine's tap takes over a CNI interface, in the pod's namespace: every frame that arrives
 * at the one leaves by the other, unchanged.
 *
 *	tcfilter   the tap comes with the machine and is moved here. An ingress qdisc on each link
 *	           with one filter, a u32 that matches all, whose action is "mirred egress
 *	           redirect": the namespace's own stack sees no frame. (The classifier made for
 *	           this, matchall, is missing from many kernels that have u32.)
 *	macvtap    the tap is a macvtap over the interface, in passthru mode. It is made before the
 *	           machine in our own namespace, where the machine finds it by its name, and then
 *	           moved here. The namespace's stack sees multicast, too.
 *
 * Checksum and segmentation offloads travel with the frames in both. This is the only place that
 * says how: a bridge or XDP would be another row.
 */
#pragma once

#include <netlink/netlink.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "network/interface.h"
#include "network/pod_network.h"

/* In which order filters stand on a hook. */
#define REDIRECT_PRIORITY_GUARD 1 /* of network/antispoof.h */
#define REDIRECT_PRIORITY       2

struct redirect {
	const char *kind; /* of the tap as a link: "tun" */
	uint32_t guard;   /* the tap's hook, tc's parent, that passes what the guest sends */
	bool goes_on;     /* what no filter takes there reaches the interface all the same */
	/*
	 * Makes the tap over the link with this index, in the namespace of the socket, and puts it
	 * in another. NULL: it comes with the machine.
	 */
	int (*make)(struct nl_sock *sock, int interface, const struct interface_place *place,
		struct err *err);
	/*
	 * Joins the links with these indices, in the namespace of the socket, which have no hooks
	 * yet. On failure neither is left with one.
	 */
	int (*join)(struct nl_sock *sock, int interface, int tap, struct err *err);
};

extern const struct redirect redirect_tcfilter, redirect_macvtap;

const struct redirect *redirect_of(enum net_redirect redirect);

/* That makes taps of this kind, which may be NULL; NULL: none. */
const struct redirect *redirect_of_kind(const char *kind);

/* A tap in a pod's namespace. */
struct redirect_tap {
	const struct redirect *redirect;
	int link;
};

/* By its name, in the namespace of the socket. -ENODEV: no link has it; -EINVAL: it is no tap. */
int redirect_find_tap(
	struct nl_sock *sock, const char *name, struct redirect_tap *ret, struct err *err);
