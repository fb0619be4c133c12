/*
 * What a guest may ask the host's kernel to do with its frames.
 *
 * Before each frame the guest writes a virtio-net header: cut this into segments of that size, put
 * the checksum of what begins here there. Whoever sends the frame on does so later, behind every
 * filter, and no classic filter sees the header. A program of eBPF where the tap's frames pass
 * (network/redirect.h) drops these:
 *
 *	a frame above the interface's MTU, or one whose segments would be. Veth and bridges drop
 *	the first alone, others neither.
 *	segments of anything but TCP and UDP
 *	a checksum to be put into any frame but TCP's and UDP's, or from before its transport header
 *	on: it would be written over addresses that a filter has seen.
 *
 * The length of a segment is counted from the frame itself: the kernel's own bpf_check_mtu() takes
 * the guest's word for where the transport header begins.
 *
 * A program cannot ask for the place of a checksum. That there is one to be put:
 *bpf_l4_csum_replace() leaves such a frame as it is, as only the pseudo header counts then. That it
 *does not lie before the transport header: no frame can be cut by bpf_skb_change_tail() to less
 *than what its headers take, and the transport header of such a frame begins where the checksum
 *does. Of the kernel's two makes the one counts until the checksum's end instead: there it may
 *still be written over the last two bytes of the destination; with both over the ports. Sources:
 *virtio 1.2, 5.1.6; bpf-helpers(7); the kernel's include/linux/virtio_net.h and net/core/filter.c.
 */
#pragma once

#include <stdint.h>

#include "common/err.h"

/*
 * Loads the program for an interface of the MTU: a direct action of cls_bpf, which returns
 * TC_ACT_SHOT or TC_ACT_UNSPEC. ret_fd is the caller's; what it is attached to keeps it.
 * -EOPNOTSUPP: the kernel has no eBPF, or one before Linux 5.7.
 */
int offloads_load(uint32_t mtu, int *ret_fd, struct err *err);
