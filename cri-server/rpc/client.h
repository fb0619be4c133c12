/*
 * A gRPC client over a Unix socket, as generic as the server: bulkheadctl's way to
 * any CRI runtime. One connection; one call at a time per client; blocking.
 */
#pragma once

#include <grpc/status.h>
#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

struct rpc_client;

/*
 * Connects to the socket. The errors are those of connect(2): -ENOENT and -ECONNREFUSED when no
 * server is there, -EACCES.
 */
int rpc_client_new(const char *socket_path, struct rpc_client **ret, struct err *err);
struct rpc_client *rpc_client_free(struct rpc_client *client);

/*
 * From now on a call is cancelled, and fails with -ECANCELED, as soon as fd is readable (a
 * signalfd, say; borrowed, not read from). Negative: calls are not interrupted, as at first.
 */
void rpc_client_set_interrupt(struct rpc_client *client, int fd);

/*
 * Calls service.method. timeout_ms 0: no deadline. *ret_response is the caller's, freed with
 * protobuf_c_message_free_unpacked(). Errors carry the server's message and rpc_status_to_errno()
 * of its status; -EBADMSG when the response cannot be parsed.
 */
int rpc_client_call(struct rpc_client *client, const ProtobufCServiceDescriptor *service,
	const char *method, const ProtobufCMessage *request, uint64_t timeout_ms,
	ProtobufCMessage **ret_response, struct err *err);

/* The same with the response as it came, unchecked, in a new buffer, the caller's. */
int rpc_client_call_packed(struct rpc_client *client, const ProtobufCServiceDescriptor *service,
	const char *method, const ProtobufCMessage *request, uint64_t timeout_ms, struct buf *ret,
	struct err *err);

/*
 * Calls a method that answers with a stream: the sink gets each message, which it borrows, until
 * the server ends the stream or the sink returns other than 0, which cancels the call and is
 * success. Errors as rpc_client_call().
 */
struct rpc_client_sink {
	int (*on_message)(void *userdata, const ProtobufCMessage *message);
	void *userdata;
};
int rpc_client_stream(struct rpc_client *client, const ProtobufCServiceDescriptor *service,
	const char *method, const ProtobufCMessage *request, uint64_t timeout_ms,
	const struct rpc_client_sink *sink, struct err *err);

/* What the server answered to the last call that was made; more exact than the errno. */
grpc_status_code rpc_client_status(const struct rpc_client *client);
