/* What both ends of ttrpc share; for common/ttrpc*.c alone. */
#pragma once

#include "common/ttrpc.h"

/*
 * Bytes that wait for a peer which does not read: room for some of the largest frames. The server
 * cuts such a peer off; a client's calls wait for room until their time is up.
 */
#define TTRPC_OUTPUT_MAX (4u * (TTRPC_PAYLOAD_MAX + TTRPC_HEADER_SIZE))

#define TTRPC_READ_CHUNK_BYTES (64u << 10)

/*
 * Unpacks a message from a peer; free it with protobuf_c_message_free_unpacked(…, NULL). NULL when
 * it does not parse or would take more than `budget` bytes of memory (a byte on the wire can become
 * a structure). What the descriptor does not know is dropped.
 */
#define TTRPC_UNPACKED_MAX (64u << 20)
ProtobufCMessage *ttrpc_unpack(
	const ProtobufCMessageDescriptor *descriptor, const void *data, size_t len, size_t budget);

/*
 * The same for what is around a message, which the loop takes apart for all connections: a few
 * fields, one of which is the message, and no more work than that.
 */
#define TTRPC_ENVELOPE_EXTRA_MAX (64u << 10)
ProtobufCMessage *ttrpc_unpack_envelope(
	const ProtobufCMessageDescriptor *descriptor, const struct ttrpc_frame *frame);

/* Appends one frame whose payload is the message. 0, -EMSGSIZE, -ENOBUFS, -ENOMEM. */
int ttrpc_encode_message(
	struct buf *out, uint32_t stream_id, uint8_t type, const ProtobufCMessage *message);

/* Packs the message; empty, not NULL, for a message without content. */
int ttrpc_pack(const ProtobufCMessage *message, ProtobufCBinaryData *ret, struct err *err);

/* Sends what the socket takes. 0, also when some is left, or -errno. Never SIGPIPE. */
int ttrpc_flush(int fd, struct buf *out);

/* Reads once into `in`. Bytes read, 0 at the end of the stream, -EAGAIN, or -errno. */
ssize_t ttrpc_fill(int fd, struct buf *in);

/* Gives the memory of an empty buffer back where a large frame has left it large. */
void ttrpc_shrink(struct buf *buf);
