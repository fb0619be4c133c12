/*
 * All vsock connections of one VM, and the packets they exchange with the guest.
 *
 * Towards the host the mux takes clients of the hybrid convention (`CONNECT <port>\n` →
 * `OK <port>\n`, then a byte stream) and dials Unix sockets for connections that the guest opens.
 * Towards the guest it takes and makes packets (virtio 1.2, 5.10.6), one at a time: the device
 * calls vs_mux_receive() for each packet from the guest and vs_mux_transmit() while there is room
 * for packets to it.
 *
 * Connections that have something to say stand in one queue and take turns, a packet each. What
 * the guest can make us remember is bounded: VS_CONNECTIONS_MAX connections, VS_BACKLOG_SIZE bytes
 * each that their client has not taken, and VS_REPLIES_MAX answers to packets that belong to no
 * connection; when those are used up, the device takes no packet before the guest has fetched some.
 *
 * The loop's thread alone uses it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "common/loop.h"
#include "hypervisor/vsock/ring.h"

/* Three for each process that an agent keeps, and room for the others. */
#define VS_CONNECTIONS_MAX 4096
#define VS_REPLIES_MAX     128
/* How long a client may take for its CONNECT line, the guest for its answer, and to end. */
#define VS_ANSWER_TIMEOUT_MS 10000

struct vs_conn;

/* An RST for a packet that belongs to no connection. */
struct vs_reply {
	uint32_t host_port;
	uint32_t guest_port;
	uint16_t type;
};

struct vs_mux {
	struct ev_loop *loop;
	uint64_t guest_cid;
	const char *dial_prefix; /* the guest's port P on the host is <dial_prefix>_P */
	/* There is something to transmit; called at the end of a callback of the loop. */
	void (*on_work)(void *userdata);
	void *userdata;

	bool up; /* the guest has a driver */
	uint32_t last_host_port;
	unsigned n_conns;
	LIST_HEAD(, vs_conn) conns;
	LIST_HEAD(, vs_conn) buckets[256];
	TAILQ_HEAD(, vs_conn) ready;
	struct vs_reply replies[VS_REPLIES_MAX]; /* a ring */
	unsigned first_reply;
	unsigned n_replies;
	struct iovec payload[VS_RING_SIZE_MAX];
};

/* `dial_prefix` stays the caller's. */
void vs_mux_init(
	struct vs_mux *mux, struct ev_loop *loop, uint64_t guest_cid, const char *dial_prefix);

/* The driver came or went. When it went every connection is gone, on the host's side too. */
void vs_mux_set_up(struct vs_mux *mux, bool up);

/* A client connected; takes fd, which is non-blocking, also on failure. -EMFILE: too many
 * connections. */
int vs_mux_accept(struct vs_mux *mux, int fd, struct err *err);

/* Whether there is room to answer one more packet. */
bool vs_mux_can_receive(const struct vs_mux *mux);

/*
 * Takes a packet from the guest. The data is in the guest's memory and is gone into a socket or a
 * buffer on return. 0; -EPROTO: it is no packet at all.
 */
int vs_mux_receive(struct vs_mux *mux, const struct vs_chain *chain, struct err *err);

/* Whether vs_mux_transmit() may have a packet. */
bool vs_mux_has_work(const struct vs_mux *mux);

/*
 * Writes the next packet into the chain. Returns its length, 0 when there turned out to be none;
 * -EPROTO: the chain has no room for a header and a byte.
 */
int vs_mux_transmit(struct vs_mux *mux, const struct vs_chain *chain, struct err *err);
