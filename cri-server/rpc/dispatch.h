/*
 * From a gRPC path and the request's bytes to a handler and the bytes of its answer. Knows nothing
 * of gRPC's transport. Immutable once made; any thread.
 */
#pragma once

#include <grpc/status.h>

#include "cri-server/rpc/server.h"

struct rpc_dispatch;

/* One method of a registered service. */
struct rpc_route {
	const ProtobufCServiceDescriptor *service;
	const ProtobufCMethodDescriptor *method;
	rpc_handler handle;        /* NULL: answers UNIMPLEMENTED */
	rpc_stream_handler stream; /* of a method that answers with a stream */
	bool quick;
};

/* What goes back to the client. */
struct rpc_reply {
	grpc_status_code status;
	struct err err;           /* the message of a status other than OK */
	struct rpc_answer answer; /* of status OK */
};

/* -EINVAL: a row names no method of its descriptor, or one twice. */
int rpc_dispatch_new(const struct rpc_service *services, size_t n_services,
	struct rpc_dispatch **ret, struct err *err);
struct rpc_dispatch *rpc_dispatch_free(struct rpc_dispatch *dispatch);

/* The route for "/package.Service/Method"; NULL with the reply that says what is unknown. */
const struct rpc_route *rpc_dispatch_find(
	const struct rpc_dispatch *dispatch, const char *path, struct rpc_reply *reply);

/* Answers with the status for the code and err's message. */
void rpc_reply_fail(struct rpc_reply *reply, grpc_status_code status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Checks and unpacks the request; NULL with the reply filled when that fails. Freed with
 * protobuf_c_message_free_unpacked().
 */
ProtobufCMessage *rpc_route_unpack(
	const struct rpc_route *route, const uint8_t *data, size_t len, struct rpc_reply *reply);

/* Checks the type and size of an answer or one message of a stream. -ENOBUFS: it is too large. */
int rpc_route_check(
	const struct rpc_route *route, const struct rpc_answer *answer, struct err *err);

/* Runs the handler, for as long as it takes; fills the reply. */
void rpc_route_run(const struct rpc_route *route, struct rpc_call *call,
	const ProtobufCMessage *request, struct rpc_reply *reply);
