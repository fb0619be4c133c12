/*
 * The vhost-user protocol, back-end side: QEMU's messages on one Unix connection set up a device.
 *
 * Source: "Vhost-user Protocol" in QEMU's documentation. Offered: VIRTIO_F_VERSION_1,
 * VIRTIO_RING_F_EVENT_IDX and protocol features; of these CONFIG (QEMU asks for the guest's CID
 * with it) and REPLY_ACK. QEMU keeps the event queue to itself. The guest may have taken QEMU over:
 * each message is checked in size, number of descriptors and content before anything is done, and
 * the first one that is wrong ends the session.
 *
 * The loop's thread alone uses it.
 */
#pragma once

#include <stdint.h>

#include "common/err.h"
#include "common/loop.h"
#include "hypervisor/vsock/device.h"

struct vs_vhost;

/* The session is over: err is NULL when QEMU closed the connection, and says else what was wrong.
 */
typedef void (*vs_vhost_end_fn)(void *userdata, const struct err *err);

/*
 * Serves fd (non-blocking; taken, also on failure). `device` stays the caller's and outlives the
 * session. on_end is called once at most, from the loop.
 */
int vs_vhost_new(struct ev_loop *loop, int fd, struct vs_device *device, vs_vhost_end_fn on_end,
	void *userdata, struct vs_vhost **ret, struct err *err);
struct vs_vhost *vs_vhost_free(struct vs_vhost *vhost);
