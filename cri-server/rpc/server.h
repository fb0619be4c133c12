/*
 * The gRPC server: gRPC core's completion queue on one side, protobuf-c services on the other.
 *
 * Generic: a service is its protobuf-c descriptor and a table of handlers by method name. No method
 * is marshalled by hand: the request is unpacked and the answer packed through the descriptors.
 * Every method of the descriptor is registered; one without a handler answers UNIMPLEMENTED with
 * its name.
 *
 * Threads: one polls the completion queue and decodes; workers, started as they are needed up to a
 * limit, run the handlers, which may block. Some of them are kept for methods that are quick. When
 * all others are busy and the backlog is full, calls are answered RESOURCE_EXHAUSTED. Messages up
 * to RPC_MESSAGE_MAX both ways. A handler that fails answers with the status of rpc/status.h and
 * the error's message.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/log.h"
#include "cri-server/rpc/answer.h"

#define RPC_MESSAGE_MAX (16u << 20)

struct rpc_call;
struct rpc_server;

/*
 * Handles one unary call on a worker thread. 0 after respond(); or -errno. The request is valid
 * until it returns.
 */
typedef int (*rpc_handler)(struct rpc_call *call, const ProtobufCMessage *request,
	struct rpc_answer *ret_response, struct err *err);

/*
 * Handles one call that answers with a stream of messages. Negative ends it with the error. With 0
 * the call is open until rpc_call_end(): the handler has ended it, or given a reference to somebody
 * who will.
 */
typedef int (*rpc_stream_handler)(
	struct rpc_call *call, const ProtobufCMessage *request, struct err *err);

struct rpc_method {
	const char *name; /* as in the descriptor */
	rpc_handler handle;
};

struct rpc_stream_method {
	const char *name;
	rpc_stream_handler handle;
};

struct rpc_service {
	const ProtobufCServiceDescriptor *descriptor;
	const struct rpc_method *methods;
	size_t n_methods;
	/* Names of methods that wait for nothing outside, ended by NULL: they are answered at once
	 * however many others wait. May be NULL. */
	const char *const *quick;
	/* Those that answer with a stream. May be NULL. */
	const struct rpc_stream_method *streams;
	size_t n_streams;
};

struct rpc_server_config {
	const char *socket_path; /* Unix socket, made with mode 0600 */
	unsigned workers;        /* the most calls that are handled at the same time */
	const struct log *log;   /* one line per call at debug level, per failed call at info */
	void *userdata;          /* rpc_call_userdata() */
};

/*
 * Listens and serves. Errors: a row that names no method of its descriptor (-EINVAL); the socket is
 * in use by a living server (-EADDRINUSE); the path is too long or its directory missing.
 */
int rpc_server_start(const struct rpc_server_config *config, const struct rpc_service *services,
	size_t n_services, struct rpc_server **ret, struct err *err);

/*
 * Stops accepting, lets running calls finish for at most grace_ms, cancels the rest, waits for
 * them, removes the socket and frees the server. NULL is accepted.
 */
struct rpc_server *rpc_server_stop(struct rpc_server *server, uint64_t grace_ms);

void *rpc_call_userdata(const struct rpc_call *call);
/* Milliseconds until the caller's deadline; UINT64_MAX without one; 0 when it passed. */
uint64_t rpc_call_time_left_ms(const struct rpc_call *call);
/* Becomes readable when the caller cancelled, went away, or its deadline passed. Borrowed. */
int rpc_call_cancel_fd(struct rpc_call *call);
bool rpc_call_cancelled(struct rpc_call *call);

/*
 * For calls that answer with a stream; any thread, none blocks.
 *
 * Sends a copy of the message, which respond() has packed, after those before it. A client that
 * reads too slowly has at most RPC_STREAM_MESSAGES or RPC_STREAM_BYTES waiting: then its call is
 * ended with RESOURCE_EXHAUSTED. -EPIPE: the call has ended, for this reason or because the client
 * went away; -ENOBUFS: the message has more than RPC_MESSAGE_MAX bytes.
 */
#define RPC_STREAM_MESSAGES 1024
#define RPC_STREAM_BYTES    (64u << 20)
int rpc_call_send(struct rpc_call *call, const struct rpc_answer *message, struct err *err);
/* Ends the stream after what was sent; NULL: OK. Repeated: the first counts. */
void rpc_call_end(struct rpc_call *call, const struct err *error);
/* For whoever keeps the call beyond its handler. */
struct rpc_call *rpc_call_ref(struct rpc_call *call);
struct rpc_call *rpc_call_unref(struct rpc_call *call);

/*
 * Answers a call whose stream carries in parts what a unary method answers at once: both responses
 * have one repeated field of messages, of one number and type, and both requests are alike.
 */
int rpc_stream_list(
	struct rpc_call *call, const ProtobufCMessage *request, rpc_handler list, struct err *err);
