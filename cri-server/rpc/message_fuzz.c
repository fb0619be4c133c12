/*
 * What rpc_message_check() lets through, protobuf-c unpacks, and the strings are then as checked:
 * packing it as an answer changes nothing. An answer made with whatever strings passes the check.
 * The first byte chooses the type.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cri-server/proto/cri.pb-c.h"
#include "cri-server/rpc/answer.h"
#include "cri-server/rpc/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void answer_strings(const uint8_t *data, size_t size)
{
	Runtime__V1__ContainerStatusResponse response =
		RUNTIME__V1__CONTAINER_STATUS_RESPONSE__INIT;
	Runtime__V1__ContainerStatus status = RUNTIME__V1__CONTAINER_STATUS__INIT;
	Runtime__V1__ContainerStatusResponse__InfoEntry entry =
		RUNTIME__V1__CONTAINER_STATUS_RESPONSE__INFO_ENTRY__INIT;
	Runtime__V1__ContainerStatusResponse__InfoEntry *entries[] = {&entry};
	char *text = strndup((const char *)data, size);
	assert(text);
	status.message = text;
	status.reason = text + strlen(text) / 2;
	response.status = &status;
	entry.key = text;
	entry.value = text;
	response.info = entries;
	response.n_info = 1;

	struct rpc_answer answer;
	int r = respond(&response.base, &answer, NULL);
	assert(r == 0);
	r = rpc_message_check(answer.type, answer.data, answer.len, NULL);
	assert(r == 0);
	(void)r;
	rpc_answer_done(&answer);
	free(text);
}

static void answer_same(const ProtobufCMessage *message)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	uint8_t *packed = malloc(len + 1);
	struct rpc_answer answer;
	assert(packed);
	protobuf_c_message_pack(message, packed);
	int r = respond(message, &answer, NULL);
	assert(r == 0 && answer.len == len && memcmp(answer.data, packed, len) == 0);
	(void)r;
	rpc_answer_done(&answer);
	free(packed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const ProtobufCServiceDescriptor *service = &runtime__v1__runtime_service__descriptor;
	if (size == 0)
		return 0;
	const ProtobufCMessageDescriptor *type =
		service->methods[data[0] % service->n_methods].input;
	answer_strings(data + 1, size - 1);
	if (rpc_message_check(type, data + 1, size - 1, NULL) < 0)
		return 0;
	ProtobufCMessage *message = protobuf_c_message_unpack(type, NULL, size - 1, data + 1);
	if (!message) /* a known field of another wire type */
		return 0;
	answer_same(message);
	protobuf_c_message_free_unpacked(message, NULL);
	return 0;
}
