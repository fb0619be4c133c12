/*
 * How a machine's tap takes over a CNI interface: every frame that arrives at one of them leaves by
 * the other, unchanged, and the namespace's own stack sees none of them.
 *
 * Made of an ingress qdisc on each link with one filter, a u32 that matches all, whose action is
 * "mirred egress redirect". The classifier made for this, matchall, is missing from many kernels
 * that have u32. Checksum and segmentation offloads travel with the frames.
 *
 * The only place that says how: a bridge, macvtap or XDP would replace this file alone.
 */
#pragma once

#include <netlink/netlink.h>

#include "common/err.h"

/* The hook on a link that redirection makes, and in which order filters stand there. */
#define REDIRECT_INGRESS        0xffff0000u
#define REDIRECT_PRIORITY_GUARD 1 /* what drops frames: network/antispoof.h */
#define REDIRECT_PRIORITY       2

/*
 * Joins the links with these indices, in the namespace of the socket. Neither may have an ingress
 * qdisc yet. On failure neither is left with one.
 */
int redirect_join(struct nl_sock *sock, int link_a, int link_b, struct err *err);
