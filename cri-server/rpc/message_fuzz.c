/*
 * What rpc_message_check() lets through, protobuf-c unpacks, and the strings are then as checked.
 * The first byte chooses the type.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cri-server/proto/cri.pb-c.h"
#include "cri-server/rpc/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const ProtobufCServiceDescriptor *service = &runtime__v1__runtime_service__descriptor;
	if (size == 0)
		return 0;
	const ProtobufCMessageDescriptor *type =
		service->methods[data[0] % service->n_methods].input;
	if (rpc_message_check(type, data + 1, size - 1, NULL) < 0)
		return 0;
	ProtobufCMessage *message = protobuf_c_message_unpack(type, NULL, size - 1, data + 1);
	if (!message) /* a known field of another wire type */
		return 0;

	/* Checked strings need no scrubbing: it changes nothing. */
	size_t len = protobuf_c_message_get_packed_size(message);
	uint8_t *before = malloc(2 * len + 1);
	assert(before);
	protobuf_c_message_pack(message, before);
	rpc_message_scrub(message);
	protobuf_c_message_pack(message, before + len);
	assert(memcmp(before, before + len, len) == 0);
	free(before);
	protobuf_c_message_free_unpacked(message, NULL);
	return 0;
}
