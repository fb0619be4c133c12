/*
 * ttrpc: requests and responses of a protobuf service over one stream connection, many at once.
 * Source: containerd/ttrpc PROTOCOL.md. A frame is a 10-byte header (length, stream id: big endian
 * 32 bits; type, flags: one byte) and a payload; unary calls only.
 *
 * Both ends distrust each other's sizes: a frame above TTRPC_PAYLOAD_MAX, an unknown type, an even
 * stream id, a stream id used twice, an answer to no call, or more than TTRPC_CALLS_MAX open calls
 * ends the connection. Errors travel as the negative errno of struct err in Status.code (as a
 * positive number) with the message; both ends are ours.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/loop.h"

#define TTRPC_HEADER_SIZE 10
#define TTRPC_PAYLOAD_MAX (4u << 20)
#define TTRPC_CALLS_MAX   1024

enum ttrpc_type {
	TTRPC_REQUEST = 1,
	TTRPC_RESPONSE = 2,
};

struct ttrpc_frame {
	uint32_t stream_id;
	uint8_t type;
	uint8_t flags;
	const uint8_t *payload; /* into the buffer that was decoded */
	size_t payload_len;
};

/*
 * Takes the first frame of data. Returns the bytes it occupies, 0 when more are needed, -EPROTO
 * for a header that is not acceptable.
 */
ssize_t ttrpc_decode(const void *data, size_t len, struct ttrpc_frame *ret_frame, struct err *err);

/* Appends one frame. 0, -ENOBUFS, -ENOMEM. */
int ttrpc_encode(struct buf *out, const struct ttrpc_frame *frame);

/*
 * Server: serves one service on one connection, on the loop's thread. Each method of the service
 * has a row in `methods`; one that has none answers -EOPNOTSUPP with its name. A handler answers at
 * once or later, exactly once, by ttrpc_reply() or ttrpc_fail(); a call whose connection is gone
 * may still be answered (to nobody).
 */
struct ttrpc_call;
struct ttrpc_conn;

struct ttrpc_method {
	const char *name;
	/* request is valid until the handler returns */
	void (*handle)(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *request);
};

struct ttrpc_service {
	const ProtobufCServiceDescriptor *descriptor;
	const struct ttrpc_method *methods;
	size_t n_methods;
	void *userdata;
	/* Before each call, whose request is not looked at yet: an error refuses it. May be NULL.
	 */
	int (*admit)(
		void *userdata, const struct ttrpc_conn *conn, const char *method, struct err *err);
	/* The connection ended and is freed when this returns; may be NULL. */
	void (*on_close)(void *userdata, struct ttrpc_conn *conn);
};

/* Takes fd (closed with the connection, also on failure). `service` stays the caller's. */
int ttrpc_conn_new(struct ev_loop *loop, int fd, const struct ttrpc_service *service,
	struct ttrpc_conn **ret, struct err *err);
/* How large requests may be from now on; TTRPC_PAYLOAD_MAX unless it is said. */
void ttrpc_conn_bound(struct ttrpc_conn *conn, size_t payload_max);
/* Ends the connection without on_close; open calls are answered to nobody. */
struct ttrpc_conn *ttrpc_conn_free(struct ttrpc_conn *conn);

/* Its connection; NULL when that is gone. */
struct ttrpc_conn *ttrpc_call_conn(const struct ttrpc_call *call);
void ttrpc_reply(struct ttrpc_call *call, const ProtobufCMessage *response);
void ttrpc_fail(struct ttrpc_call *call, const struct err *err);

/*
 * Client: many threads call at once, each blocks for its own answer; the loop's thread reads.
 * Reference counted: the creator holds one, each call in progress another.
 */
struct ttrpc_client;

/*
 * Takes fd (also on failure). on_close runs once on the loop's thread when the peer closes or
 * breaks the protocol; not after ttrpc_client_close(). To be called on the loop's thread, or before
 * the loop runs: it may read, and close, before this returns otherwise.
 */
int ttrpc_client_new(struct ev_loop *loop, int fd, ev_fn on_close, void *userdata,
	struct ttrpc_client **ret, struct err *err);

/*
 * One call. timeout_ms 0 means no limit. *ret_response is a new message (free it with
 * protobuf_c_message_free_unpacked(…, NULL)); ret_response may be NULL. Errors: the peer's own code
 * and message; -ETIMEDOUT; -EPIPE the connection is gone; -EPROTO the answer does not parse;
 * -EMSGSIZE. Must not be called on the loop's thread.
 */
int ttrpc_client_call(struct ttrpc_client *client, const ProtobufCServiceDescriptor *service,
	const char *method, const ProtobufCMessage *request, uint64_t timeout_ms,
	ProtobufCMessage **ret_response, struct err *err);

/*
 * Ends the connection: every waiting call returns -EPIPE. Drops the creator's reference. Any
 * thread. On another than the loop's it waits for an on_close that runs at the moment: hold no lock
 * that on_close takes. NULL is accepted.
 */
struct ttrpc_client *ttrpc_client_close(struct ttrpc_client *client);
