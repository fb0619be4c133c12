/*
 * What a guest may send: frames under its interface's own MAC and addresses, and no others.
 *
 * The guest owns its NIC and its kernel, so it can send whatever a process with CAP_NET_RAW could:
 * frames of another MAC, packets of another pod's address, ARP and neighbour discovery that divert
 * others' traffic, router advertisements, tagged and unknown frames. A classic BPF program
 * where the tap's frames pass (network/redirect.h) drops these:
 *
 *	every frame   no VLAN tag, the interface's MAC as source, IPv4, IPv6 or ARP
 *	ARP           Ethernet and IPv4, sender of the interface's MAC and addresses (or no address)
 *	IPv4          source one of the interface's addresses; TCP, UDP, SCTP, ESP; ICMP but
 *	              redirects, router advertisements and questions other than echo; IGMP but
 *	              queries; a header that is whole and says no more than is there
 *	IPv6          source one of the interface's or its link-local address; "::" for duplicate
 *	              address detection and listener reports alone; no extension header but the
 *	              hop-by-hop one of those reports, fragments and ESP; no router advertisement,
 *	              no redirect; neighbour advertisements for own addresses, and link-layer
 *	              options of the own MAC; a header that says no more than is there
 *
 * IPv6 link-local addresses are those of the MAC (EUI-64), as the guest's kernel makes them.
 * An interface without addresses of a family may send none of it. A frame that ends before what is
 * compared goes no further either: where it is redirected, the namespace's stack gets it, to which
 * it is not addressed; where it would go on by itself, what the program does not take is dropped.
 * With it comes the program of network/offloads.h, for what is asked for beside a frame.
 * Sources: packet(7), bpf(2), RFC 826, 4861, 4862, 3810, 2710, 6980.
 */
#pragma once

#include <linux/filter.h>
#include <netlink/netlink.h>
#include <stddef.h>

#include "common/err.h"
#include "network/pod_network.h"
#include "network/redirect.h"

/* As many instructions as the kernel takes: more than any interface needs. */
#define ANTISPOOF_INSTRUCTIONS_MAX BPF_MAXINSNS

/*
 * Writes the program for the interface, which sees a frame from its MAC header on and returns
 * `dropped` or TC_ACT_UNSPEC, and 0 for a frame that ends too early. ret_n: its length. -EINVAL:
 * the interface's MAC or an address is not one.
 */
int antispoof_program(const struct net_interface *interface, uint32_t dropped,
	struct sock_filter *ret_program, size_t *ret_n, struct err *err);

/*
 * Puts both programs where what the guest sends by the joined tap passes. One that is there is
 * replaced at once. -ENOENT or -EOPNOTSUPP: the kernel has no cls_bpf, or takes no eBPF.
 */
int antispoof_attach(struct nl_sock *sock, const struct redirect_tap *tap,
	const struct net_interface *interface, struct err *err);
