/*
 * For tests and fuzzers: the guest's side of a device. Guest memory that a test fills as a driver
 * would, right or wrong, and a device on a loop that serves it.
 *
 *	guest address   0 … 1 MiB: rings; 1 … 2 MiB: buffers of packets
 *	QEMU's address  VST_USER_ADDR on, with a gap between the two regions
 *
 * The regions lie one behind the other for the guest and are mapped apart. Every failure to set
 * them up ends the program: it is the test's machine that fails, not what it tests.
 */
#pragma once

#include <linux/virtio_ring.h>
#include <linux/virtio_vsock.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/log.h"
#include "common/loop.h"
#include "hypervisor/vsock/device.h"

#define VST_REGIONS     2
#define VST_REGION_SIZE (1u << 20)
#define VST_USER_ADDR   0x7f0000000000ull
#define VST_USER_STEP   0x10000000ull
#define VST_RING_SIZE   128
/* One packet's buffer, header and data, of each entry of each ring. */
#define VST_BUFFER_SIZE 4096u
#define VST_PAYLOAD_MAX (VST_BUFFER_SIZE - sizeof(struct virtio_vsock_hdr))
#define VST_CID         42

struct vst_driver {
	uint64_t ring_addr; /* of the guest, like all below */
	uint64_t buffers_addr;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t next_used;
};

struct vst_guest {
	int fds[VST_REGIONS];
	uint8_t *data[VST_REGIONS];
	struct vst_driver drivers[VS_QUEUES];
};

void vst_guest_init(struct vst_guest *guest);
void vst_guest_done(struct vst_guest *guest);
/* The table that QEMU would make of it, mapped: vs_memory_done() it, or give it to a device. */
struct vs_memory vst_guest_map(const struct vst_guest *guest);
struct vs_region_spec vst_region_spec(unsigned region);
/* What is at a guest's address; the bytes up to the end of its region. */
uint8_t *vst_guest_at(const struct vst_guest *guest, uint64_t addr);

struct vs_ring_addr vst_ring_addr(const struct vst_guest *guest, unsigned queue);
void vst_set_desc(struct vst_guest *guest, unsigned queue, uint16_t index, struct vring_desc desc);
/* Makes the chain that begins at `head` available. */
void vst_offer(struct vst_guest *guest, unsigned queue, uint16_t head);
/* The next chain that the device gave back. */
bool vst_take_used(struct vst_guest *guest, unsigned queue, struct vring_used_elem *ret);
/* Empties both rings, as after a reset; all buffers to the guest are offered. */
void vst_guest_reset(struct vst_guest *guest);

/* QEMU's part: a message with descriptors, of which there may be none. What sendmsg(2) returns. */
#define VST_FDS_MAX 32
ssize_t vst_send_fds(int socket, const void *data, size_t len, const int *fds, unsigned n);

/* A driver for packets: ring 0's buffers are all offered, and offered again once they were read. */

struct vst_packet {
	struct virtio_vsock_hdr hdr;
	uint8_t data[VST_PAYLOAD_MAX];
};

/* Fields that are the same in all packets from the guest are filled in: addresses, type. */
void vst_send(struct vst_guest *guest, struct virtio_vsock_hdr hdr, const void *data);
/* As it stands; `len` bytes of data whatever the header says. */
void vst_send_raw(
	struct vst_guest *guest, const struct virtio_vsock_hdr *hdr, const void *data, size_t len);
/* The next packet to the guest, if one came. */
bool vst_receive(struct vst_guest *guest, struct vst_packet *ret);

/* A device that is set up and served as QEMU does it. */
struct vst_world {
	struct vst_guest guest;
	struct log log; /* the test's: a level below errors keeps it quiet */
	struct ev_loop *loop;
	struct vs_device *device;
	int kick_fds[VS_QUEUES];
	int call_fds[VS_QUEUES];
	char dir[32];       /* a new directory; the guest's port P is dialled at <dir>/v_P */
	char dial_path[40]; /* <dir>/v */
};

void vst_world_init(struct vst_world *world);
void vst_world_done(struct vst_world *world);
/* Gives rings, descriptors and memory to the device; they may have been stopped before. */
void vst_world_start(struct vst_world *world);
/* As after a reset of the guest's device. */
void vst_world_restart(struct vst_world *world);
/* Kicks both queues and lets the loop do what there is to do. */
void vst_world_run(struct vst_world *world);
/* One round of a loop: what is due now. */
void vst_round(struct ev_loop *loop);
/* A client that connected: its end, non-blocking. */
int vst_client(struct vst_world *world);
/* Listens where the guest's port P is dialled; non-blocking. */
int vst_listen(struct vst_world *world, unsigned port);
