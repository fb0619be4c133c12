/*
 * Checks around protobuf-c for messages that cross a trust boundary.
 *
 * protobuf-c unpacks what it is given: it takes any bytes for a string, cuts one at a NUL without a
 * word, and builds objects some hundred times the size of a message made for that. So the server
 * checks a request's bytes against its descriptor before it unpacks them, and puts an answer's
 * strings right in its bytes.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* What one unpacked message may cost in memory, by a rough upper estimate. */
#define RPC_UNPACKED_MAX (64u << 20)

/*
 * Walks the wire format of a message of the type: 0; -EBADMSG when it is malformed or a string is
 * not UTF-8 or contains a NUL; -ENOBUFS when unpacking could cost more than RPC_UNPACKED_MAX.
 */
int rpc_message_check(
	const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len, struct err *err);

/*
 * Puts '?' for every byte of the strings that is not part of UTF-8: clients would refuse the whole
 * message for it. In place; the message must be well formed, as packing makes it.
 */
void rpc_message_scrub(const ProtobufCMessageDescriptor *type, uint8_t *data, size_t len);
/* The same for one string, as before it is put into JSON. */
void rpc_string_scrub(char *string);

/* The bytes of the first field of a well-formed message, its tag included; len is not 0. */
size_t rpc_message_first_field(const uint8_t *data, size_t len);
