/*
 * A gRPC client for unary calls over a Unix socket, as generic as the server: bulkheadctl's way to any
 * CRI runtime. One call at a time per client; blocking.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

#include "common/err.h"

struct rpc_client;

int rpc_client_new(const char *socket_path, struct rpc_client **ret, struct err *err);
struct rpc_client *rpc_client_free(struct rpc_client *client);

/*
 * Calls service.method. timeout_ms 0: no deadline. *ret_response is freed by the caller. Errors carry the server's
 * message and rpc_status_to_errno() of its status; a socket that nobody answers on says which.
 */
int rpc_client_call(struct rpc_client *client, const ProtobufCServiceDescriptor *service,
	const char *method, const ProtobufCMessage *request, uint64_t timeout_ms,
	ProtobufCMessage **ret_response, struct err *err);
