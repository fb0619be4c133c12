/*
 * One stream between a client's Unix socket and a port of the guest.
 *
 *	HELLO → REQUESTED → OPEN → CLOSED → gone      the client connected
 *	            OPEN (at once)                    the guest connected
 *
 *	HELLO      the client has not yet written its CONNECT line
 *	REQUESTED  REQUEST is to be sent or was; the guest answers RESPONSE or RST
 *	OPEN       data flows; each direction may end by itself (half close)
 *	CLOSED     the client is gone and the guest has been told by SHUTDOWN; it answers RST
 *	ENDING     the guest is gone, or is told so by RST: what it sent before still goes to
 *	           the client
 *
 * Guest to client: data goes from guest memory straight into the socket; what the socket does not
 * take is kept in a backlog, which the credit that we grant bounds. Client to guest: data is
 * read from the socket straight into guest memory, as far as the guest grants credit; nothing is
 * kept. A client that does not read, or a guest that does not, stops its own stream only.
 *
 * Owned by the mux; freed by itself when both sides are done. Only mux.c and connection.c use this.
 */
#pragma once

#include <linux/virtio_vsock.h>

#include "hypervisor/vsock/backlog.h"
#include "hypervisor/vsock/mux.h"

/* A packet's header in the host's byte order. */
struct vs_header {
	uint32_t host_port;
	uint32_t guest_port;
	uint32_t len;
	uint16_t type;
	uint16_t op;
	uint32_t flags;
	uint32_t buf_alloc;
	uint32_t fwd_cnt;
};

enum vs_conn_state {
	VS_CONN_HELLO,
	VS_CONN_REQUESTED,
	VS_CONN_OPEN,
	VS_CONN_CLOSED,
	VS_CONN_ENDING,
};

struct vs_conn {
	LIST_ENTRY(vs_conn) all;
	LIST_ENTRY(vs_conn) bucket;
	TAILQ_ENTRY(vs_conn) turn;
	struct vs_mux *mux;
	enum vs_conn_state state;
	bool has_ports; /* stands in a bucket */
	bool queued;    /* stands in the mux's queue */
	uint32_t host_port;
	uint32_t guest_port;

	int fd;
	struct ev_source *io;
	struct ev_source *timer;
	char hello[32];
	size_t hello_len;

	uint32_t pending; /* bits 1 << op: packets without data that are to be sent */
	/* client → guest */
	bool readable;   /* the socket had something when last asked */
	bool read_ended; /* nothing more is read from the client */
	bool credit_asked;
	uint32_t sent; /* bytes, modulo 2^32, like those below */
	uint32_t peer_buf_alloc;
	uint32_t peer_fwd_cnt;
	uint32_t shutdown_flags; /* what we end, as SHUTDOWN says it */
	/* guest → client */
	bool write_failed; /* the client takes nothing more: what comes is dropped */
	uint32_t guest_shutdown;
	uint32_t received;
	uint32_t forwarded_told;
	struct vs_backlog backlog;
};

/* A client's connection. Takes fd, also on failure. */
int vs_conn_new_client(struct vs_mux *mux, int fd, struct err *err);

/* A connection that the guest's REQUEST asks for and that fd, which is taken, serves. */
int vs_conn_new_guest(struct vs_mux *mux, int fd, const struct vs_header *request, struct err *err);

struct vs_conn *vs_conn_free(struct vs_conn *conn);

/* A packet for this connection. The list is changed. May free conn. */
void vs_conn_receive(
	struct vs_conn *conn, const struct vs_header *header, struct iovec *iov, size_t n);

/*
 * Fills in the next packet: data, if any, goes to iov (at least one byte of room; changed). False:
 * there is none. May free conn.
 */
bool vs_conn_transmit(
	struct vs_conn *conn, struct vs_header *ret_header, struct iovec *iov, size_t n);

/*
 * The guest opens its port pair anew: true when it knows of the end, so that the pair is free for
 * another connection. What it sent before still goes to the client. May free conn.
 */
bool vs_conn_release_ports(struct vs_conn *conn);

/* For connection.c: see mux.c. */
uint32_t vs_mux_new_host_port(struct vs_mux *mux);
void vs_mux_enter(struct vs_mux *mux, struct vs_conn *conn);
void vs_mux_queue(struct vs_mux *mux, struct vs_conn *conn);
void vs_mux_reply_rst(struct vs_mux *mux, const struct vs_header *header);
