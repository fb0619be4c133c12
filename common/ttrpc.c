#include "common/ttrpc.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/ttrpc_internal.h"

/* "The sender has closed its side": what a unary call means anyway. The other flags are streams'.
 */
#define FLAG_REMOTE_CLOSED 0x01

ssize_t ttrpc_decode(const void *data, size_t len, struct ttrpc_frame *ret_frame, struct err *err)
{
	if (len < TTRPC_HEADER_SIZE)
		return 0;
	const uint8_t *bytes = data;
	uint32_t header[2];
	memcpy(header, bytes, sizeof(header));
	uint32_t payload_len = ntohl(header[0]);
	struct ttrpc_frame frame = {
		.stream_id = ntohl(header[1]),
		.type = bytes[8],
		.flags = bytes[9],
		.payload = bytes + TTRPC_HEADER_SIZE,
		.payload_len = payload_len,
	};
	if (payload_len > TTRPC_PAYLOAD_MAX)
		return err_set(err, -EPROTO, "ttrpc: a frame of %u bytes, more than %u",
			payload_len, TTRPC_PAYLOAD_MAX);
	if (frame.type != TTRPC_REQUEST && frame.type != TTRPC_RESPONSE)
		return err_set(err, -EPROTO, "ttrpc: a frame of unknown type %u", frame.type);
	if (frame.flags & ~FLAG_REMOTE_CLOSED)
		return err_set(err, -EPROTO, "ttrpc: flags 0x%02x of a stream, which is not built",
			frame.flags);
	if (frame.stream_id % 2 == 0)
		return err_set(err, -EPROTO, "ttrpc: even stream id %u", frame.stream_id);
	if (len - TTRPC_HEADER_SIZE < payload_len)
		return 0;
	*ret_frame = frame;
	return (ssize_t)(TTRPC_HEADER_SIZE + frame.payload_len);
}

static int encode_header(struct buf *out, const struct ttrpc_frame *frame)
{
	if (frame->payload_len > TTRPC_PAYLOAD_MAX)
		return -EMSGSIZE;
	size_t total = TTRPC_HEADER_SIZE + frame->payload_len;
	if (total > out->max - out->len)
		return -ENOBUFS;
	if (!buf_reserve(out, total))
		return -ENOMEM;
	uint8_t header[TTRPC_HEADER_SIZE];
	uint32_t words[2] = {htonl((uint32_t)frame->payload_len), htonl(frame->stream_id)};
	memcpy(header, words, sizeof(words));
	header[8] = frame->type;
	header[9] = frame->flags;
	return buf_append(out, header, sizeof(header));
}

int ttrpc_encode(struct buf *out, const struct ttrpc_frame *frame)
{
	int r = encode_header(out, frame);
	return r < 0 ? r : buf_append(out, frame->payload, frame->payload_len);
}

int ttrpc_encode_message(
	struct buf *out, uint32_t stream_id, uint8_t type, const ProtobufCMessage *message)
{
	struct ttrpc_frame frame = {
		.stream_id = stream_id,
		.type = type,
		.payload_len = protobuf_c_message_get_packed_size(message),
	};
	int r = encode_header(out, &frame);
	if (r < 0)
		return r;
	/* encode_header() has made the room for both. */
	protobuf_c_message_pack(message, (uint8_t *)out->data + out->len);
	buf_commit(out, frame.payload_len);
	return 0;
}

int ttrpc_pack(const ProtobufCMessage *message, ProtobufCBinaryData *ret, struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	if (len > TTRPC_PAYLOAD_MAX)
		return err_set(err, -EMSGSIZE, "a message of %zu bytes, more than %u", len,
			TTRPC_PAYLOAD_MAX);
	uint8_t *data = malloc(len + 1);
	if (!data)
		return err_nomem(err);
	protobuf_c_message_pack(message, data);
	*ret = (ProtobufCBinaryData){.len = len, .data = data};
	return 0;
}

static void *budget_alloc(void *allocator_data, size_t size)
{
	size_t *left = allocator_data;
	if (size > *left)
		return NULL;
	*left -= size;
	return malloc(size);
}

static void budget_free(void *allocator_data, void *pointer)
{
	(void)allocator_data;
	free(pointer);
}

static void drop_unknown(ProtobufCMessage *message);

static void drop_unknown_below(ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
	char *at = (char *)message + field->offset;
	size_t n = 1;
	if (field->label == PROTOBUF_C_LABEL_REPEATED) {
		n = *(const size_t *)((const char *)message + field->quantifier_offset);
		at = *(char **)at;
	}
	ProtobufCMessage **below = (ProtobufCMessage **)at;
	for (size_t i = 0; i < n; i++)
		if (below[i])
			drop_unknown(below[i]);
}

/* What we know nothing of would otherwise be kept with the message, for as long as that is. */
static void drop_unknown(ProtobufCMessage *message)
{
	for (unsigned i = 0; i < message->n_unknown_fields; i++)
		free(message->unknown_fields[i].data);
	free(message->unknown_fields);
	message->unknown_fields = NULL;
	message->n_unknown_fields = 0;
	for (unsigned i = 0; i < message->descriptor->n_fields; i++)
		if (message->descriptor->fields[i].type == PROTOBUF_C_TYPE_MESSAGE)
			drop_unknown_below(message, &message->descriptor->fields[i]);
}

ProtobufCMessage *ttrpc_unpack(
	const ProtobufCMessageDescriptor *descriptor, const void *data, size_t len, size_t budget)
{
	size_t left = budget;
	ProtobufCAllocator allocator = {
		.alloc = budget_alloc,
		.free = budget_free,
		.allocator_data = &left,
	};
	ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, &allocator, len, data);
	if (message)
		drop_unknown(message);
	return message;
}

ProtobufCMessage *ttrpc_unpack_envelope(
	const ProtobufCMessageDescriptor *descriptor, const struct ttrpc_frame *frame)
{
	return ttrpc_unpack(descriptor, frame->payload, frame->payload_len,
		frame->payload_len + TTRPC_ENVELOPE_EXTRA_MAX);
}

int ttrpc_flush(int fd, struct buf *out)
{
	size_t sent = 0;
	int r = 0;
	while (sent < out->len) {
		ssize_t n =
			send(fd, out->data + sent, out->len - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			r = errno == EAGAIN ? 0 : -errno;
			break;
		}
		sent += (size_t)n;
	}
	buf_consume(out, sent);
	ttrpc_shrink(out);
	return r;
}

ssize_t ttrpc_fill(int fd, struct buf *in)
{
	size_t room = in->max - in->len;
	size_t want = room < TTRPC_READ_CHUNK_BYTES ? room : TTRPC_READ_CHUNK_BYTES;
	void *to = buf_reserve(in, want);
	if (!to)
		return -ENOMEM;
	ssize_t n = recv(fd, to, want, MSG_DONTWAIT);
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	buf_commit(in, (size_t)n);
	return n;
}

void ttrpc_shrink(struct buf *buf)
{
	if (!buf->len && buf->cap > 2 * TTRPC_READ_CHUNK_BYTES)
		buf_done(buf);
}
