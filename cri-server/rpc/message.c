#include "cri-server/rpc/message.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* As deep as protobuf's C++ implementation goes; CRI needs 6. */
#define DEPTH_MAX 100

/*
 * Estimated costs in bytes. protobuf-c notes every field of a message before it parses them (slabs
 * that double), and each string, message and unknown field is an allocation.
 */
#define FIELD_COST      80
#define ALLOCATION_COST 32
#define VARINT_COST     8 /* a packed element: one byte on the wire can become eight */

enum wire_type {
	WIRE_VARINT = 0,
	WIRE_64BIT = 1,
	WIRE_BYTES = 2,
	WIRE_32BIT = 5,
};

struct reader {
	const uint8_t *p;
	const uint8_t *end;
};

struct walk {
	size_t cost;
	struct err *err;
};

/* The length of the UTF-8 sequence at s, 0 if there is none (RFC 3629: no overlong, no surrogate).
 */
static size_t utf8_len(const uint8_t *s, size_t len)
{
	uint8_t low = 0x80, high = 0xbf; /* bounds of the second byte */
	size_t n;

	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xc2 && s[0] <= 0xdf) {
		n = 2;
	} else if (s[0] >= 0xe0 && s[0] <= 0xef) {
		n = 3;
		low = s[0] == 0xe0 ? 0xa0 : 0x80;
		high = s[0] == 0xed ? 0x9f : 0xbf;
	} else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
		n = 4;
		low = s[0] == 0xf0 ? 0x90 : 0x80;
		high = s[0] == 0xf4 ? 0x8f : 0xbf;
	} else {
		return 0;
	}
	if (n > len || s[1] < low || s[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

static bool read_varint(struct reader *r, uint64_t *ret)
{
	uint64_t value = 0;
	for (unsigned shift = 0; shift < 70 && r->p < r->end; shift += 7) {
		uint8_t byte = *r->p++;
		if (shift < 64)
			value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80)) {
			*ret = value;
			return true;
		}
	}
	return false;
}

/* Reads the payload of a field; for the fixed and varint types it is skipped. */
static bool read_payload(struct reader *r, unsigned wire, struct reader *ret)
{
	uint64_t n;

	*ret = (struct reader){0};
	switch (wire) {
	case WIRE_VARINT:
		return read_varint(r, &n);
	case WIRE_64BIT:
		n = 8;
		break;
	case WIRE_32BIT:
		n = 4;
		break;
	case WIRE_BYTES:
		if (!read_varint(r, &n))
			return false;
		break;
	default: /* groups, which proto3 does not have */
		return false;
	}
	if (n > (size_t)(r->end - r->p))
		return false;
	*ret = (struct reader){.p = r->p, .end = r->p + n};
	r->p += n;
	return true;
}

/* Eight bytes at a time: nearly all text is ASCII. */
static bool is_ascii(const uint8_t *string, size_t len)
{
	uint64_t bits = 0;
	for (; len >= sizeof(bits); len -= sizeof(bits), string += sizeof(bits)) {
		uint64_t bytes;
		memcpy(&bytes, string, sizeof(bytes));
		bits |= bytes;
	}
	for (; len > 0; len--)
		bits |= string[len - 1];
	return !(bits & UINT64_C(0x8080808080808080));
}

static int check_string(
	struct walk *w, const ProtobufCMessageDescriptor *type, const char *field, struct reader r)
{
	size_t len = (size_t)(r.end - r.p);
	if (len && memchr(r.p, '\0', len))
		return err_set(
			w->err, -EBADMSG, "%s.%s contains a NUL byte", type->short_name, field);
	if (is_ascii(r.p, len))
		return 0;
	while (r.p < r.end) {
		size_t n = utf8_len(r.p, (size_t)(r.end - r.p));
		if (n == 0)
			return err_set(w->err, -EBADMSG, "%s.%s contains invalid UTF-8",
				type->short_name, field);
		r.p += n;
	}
	return 0;
}

static int charge(struct walk *w, size_t cost)
{
	if (cost > RPC_UNPACKED_MAX - w->cost)
		return err_set(w->err, -ENOBUFS, "message too complex: more than %u MiB unpacked",
			RPC_UNPACKED_MAX >> 20);
	w->cost += cost;
	return 0;
}

static int malformed(struct walk *w, const ProtobufCMessageDescriptor *type)
{
	return err_set(w->err, -EBADMSG, "cannot parse %s: malformed", type->short_name);
}

static size_t bytes_cost(const ProtobufCFieldDescriptor *field, size_t len)
{
	if (!field || field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_BYTES)
		return ALLOCATION_COST + len;
	if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
		const ProtobufCMessageDescriptor *type = field->descriptor;
		return ALLOCATION_COST + type->sizeof_message;
	}
	return VARINT_COST * len;
}

/* Fields of one message that came already, by their place in its descriptor. */
typedef uint64_t seen_fields;

/*
 * What a message costs that is given again: protobuf-c merges it into the one before, for which it
 * copies the lists of both. Those have come with what is parsed so far. A message's later fields
 * than `seen` holds count as given again at once.
 */
static size_t merge_cost(seen_fields *seen, const ProtobufCMessageDescriptor *type,
	const ProtobufCFieldDescriptor *field, size_t parsed)
{
	size_t place = (size_t)(field - type->fields);
	if (field->type != PROTOBUF_C_TYPE_MESSAGE || field->label == PROTOBUF_C_LABEL_REPEATED)
		return 0;
	bool again = place >= 64 || *seen >> place & 1;
	if (!again)
		*seen |= UINT64_C(1) << place;
	return again ? VARINT_COST * parsed : 0;
}

static int walk(struct walk *w, const ProtobufCMessageDescriptor *type, struct reader r, int depth)
{
	const uint8_t *begin = r.p;
	seen_fields seen = 0;
	if (depth > DEPTH_MAX)
		return err_set(w->err, -EBADMSG, "%s: nested too deep", type->short_name);

	while (r.p < r.end) {
		uint64_t tag;
		struct reader payload;
		if (!read_varint(&r, &tag) || tag >> 3 == 0 || tag >> 3 > INT32_MAX ||
			!read_payload(&r, tag & 7, &payload))
			return malformed(w, type);

		const ProtobufCFieldDescriptor *field =
			protobuf_c_message_descriptor_get_field(type, (unsigned)(tag >> 3));
		size_t cost = FIELD_COST;
		if ((tag & 7) == WIRE_BYTES)
			cost += bytes_cost(field, (size_t)(payload.end - payload.p));
		if ((tag & 7) == WIRE_BYTES && field)
			cost += merge_cost(&seen, type, field, (size_t)(payload.end - begin));
		int ret = charge(w, cost);
		if (ret == 0 && field && (tag & 7) == WIRE_BYTES) {
			if (field->type == PROTOBUF_C_TYPE_STRING)
				ret = check_string(w, type, field->name, payload);
			else if (field->type == PROTOBUF_C_TYPE_MESSAGE)
				ret = walk(w, field->descriptor, payload, depth + 1);
		}
		if (ret < 0)
			return ret;
	}
	return 0;
}

int rpc_message_check(
	const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len, struct err *err)
{
	struct walk w = {.err = err};
	if (len == 0)
		return 0;
	return walk(&w, type, (struct reader){.p = data, .end = data + len}, 0);
}

static void scrub_string(uint8_t *string, size_t len)
{
	if (is_ascii(string, len))
		return;
	for (uint8_t *p = string; len > 0;) {
		size_t n = utf8_len(p, len);
		if (n == 0) {
			*p = '?';
			n = 1;
		}
		p += n;
		len -= n;
	}
}

void rpc_string_scrub(char *string)
{
	scrub_string((uint8_t *)string, strlen(string));
}

static void read_field(struct reader *r, uint64_t *ret_tag, struct reader *ret_payload)
{
	bool ok = read_varint(r, ret_tag) && read_payload(r, *ret_tag & 7, ret_payload);
	assert(ok);
	(void)ok;
}

void rpc_message_scrub(const ProtobufCMessageDescriptor *type, uint8_t *data, size_t len)
{
	struct reader r = {.p = data, .end = data + len};
	while (r.p < r.end) {
		uint64_t tag;
		struct reader payload;
		read_field(&r, &tag, &payload);
		if ((tag & 7) != WIRE_BYTES)
			continue;
		const ProtobufCFieldDescriptor *field =
			protobuf_c_message_descriptor_get_field(type, (unsigned)(tag >> 3));
		size_t n = (size_t)(payload.end - payload.p);
		if (field && field->type == PROTOBUF_C_TYPE_STRING)
			scrub_string(data + (payload.p - data), n);
		else if (field && field->type == PROTOBUF_C_TYPE_MESSAGE)
			rpc_message_scrub(field->descriptor, data + (payload.p - data), n);
	}
}

size_t rpc_message_first_field(const uint8_t *data, size_t len)
{
	struct reader r = {.p = data, .end = data + len}, payload;
	uint64_t tag;
	read_field(&r, &tag, &payload);
	return (size_t)(r.p - data);
}
