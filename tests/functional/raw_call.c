/*
 * raw_call SOCKET METHOD [SECONDS] <REQUEST: calls a method of CRI with a packed request, such as
 * crictl would not make. The answer is printed as it is, packed; a refusal as "code = NAME
 * desc = …", and the exit code is then 1.
 * A method that answers with a stream prints, for each message, how many items it has.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/err.h"
#include "cri-server/proto/cri.pb-c.h"
#include "cri-server/rpc/client.h"
#include "cri-server/rpc/status.h"

#define STREAM_PREFIX "Stream"
#define REQUEST_MAX   (32u << 20)

static ProtobufCMessage *read_request(const ProtobufCMethodDescriptor *method)
{
	uint8_t *bytes = malloc(REQUEST_MAX);
	if (!bytes)
		return NULL;
	size_t len = fread(bytes, 1, REQUEST_MAX, stdin);
	ProtobufCMessage *request = protobuf_c_message_unpack(method->input, NULL, len, bytes);
	free(bytes);
	return request;
}

static int print_items(void *userdata, const ProtobufCMessage *message)
{
	(void)userdata;
	const ProtobufCFieldDescriptor *field = &message->descriptor->fields[0];
	printf("%zu\n", *(const size_t *)((const char *)message + field->quantifier_offset));
	return 0;
}

static void print_response(const ProtobufCMessage *response)
{
	size_t len = protobuf_c_message_get_packed_size(response);
	uint8_t *bytes = malloc(len + 1);
	if (bytes)
		fwrite(bytes, 1, protobuf_c_message_pack(response, bytes), stdout);
	free(bytes);
}

int main(int argc, char **argv)
{
	const ProtobufCServiceDescriptor *service = &runtime__v1__runtime_service__descriptor;
	if (argc < 3) {
		fputs("Usage: raw_call SOCKET METHOD [SECONDS] <REQUEST\n", stderr);
		return 2;
	}
	const ProtobufCMethodDescriptor *method =
		protobuf_c_service_descriptor_get_method_by_name(service, argv[2]);
	if (!method) {
		service = &runtime__v1__image_service__descriptor;
		method = protobuf_c_service_descriptor_get_method_by_name(service, argv[2]);
	}
	ProtobufCMessage *request = method ? read_request(method) : NULL;
	if (!request) {
		fputs("raw_call: no such method, or its request cannot be read\n", stderr);
		return 2;
	}
	struct err err = ERR_INIT;
	struct rpc_client *client = NULL;
	ProtobufCMessage *response = NULL;
	uint64_t timeout_ms = argc > 3 ? strtoull(argv[3], NULL, 10) * 1000 : 0;
	int r = rpc_client_new(argv[1], &client, &err);
	bool stream = strncmp(argv[2], STREAM_PREFIX, strlen(STREAM_PREFIX)) == 0;
	if (r == 0 && stream)
		r = rpc_client_stream(client, service, argv[2], request, timeout_ms,
			&(struct rpc_client_sink){print_items, NULL}, &err);
	else if (r == 0)
		r = rpc_client_call(client, service, argv[2], request, timeout_ms, &response, &err);
	if (r < 0)
		printf("code = %s desc = %s\n",
			client ? rpc_status_name(rpc_client_status(client)) : "UNAVAILABLE",
			err.msg);
	if (response)
		print_response(response);
	protobuf_c_message_free_unpacked(request, NULL);
	if (response)
		protobuf_c_message_free_unpacked(response, NULL);
	rpc_client_free(client);
	return r < 0;
}
