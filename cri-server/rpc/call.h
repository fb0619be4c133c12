/*
 * One call, from its arrival to its last completion event.
 *
 *    waiting ─arrives→ receiving ─request→ queued → running → answered → freed
 *                          └─ unknown method, no request, queue full ─┘
 *
 * gRPC reports progress as tags on the completion queue; a tag of ours carries the function that
 * takes it. Tags run on the server's polling thread, which alone frees calls; handlers run on
 * workers. Once it has answered, a worker no longer touches the call: its freeing may already be
 * under way. An answered call lives until both the answer and the end of the stream were reported,
 * and, when it answers with a stream of messages, as long as somebody has a reference.
 */
#pragma once

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "cri-server/rpc/dispatch.h"
#include "cri-server/rpc/pool.h"

/* Longer than any path of ours; one that does not fit is unknown anyway. */
#define PATH_MAX_BYTES 256

struct rpc_call;

/*
 * `given` is set when gRPC gets the tag and read when the tag comes back: gRPC orders the two
 * anyway, but in code that TSan cannot look into.
 */
struct rpc_tag {
	void (*fn)(struct rpc_tag *tag, bool ok);
	void *owner;
	atomic_bool given;
};

/* What calls need of their server; outlives them all. */
struct rpc_transport {
	grpc_server *server;
	grpc_completion_queue *queue;
	struct rpc_dispatch *dispatch;
	struct rpc_pool *pool;
	const struct log *log;
	void *userdata;

	pthread_mutex_t lock;   /* protects what follows */
	pthread_cond_t changed; /* n_calls fell to zero, or shut_down was set */
	unsigned n_calls;       /* the waiting one included */
	bool shut_down;         /* gRPC has reported the end of its shutdown */
};

/* What a call that answers with a stream has beside (stream.c). Under the call's lock. */
struct rpc_stream {
	struct rpc_tag sent;
	struct rpc_outgoing *first, **last; /* not given to gRPC yet */
	size_t n_messages, n_bytes;
	bool handled; /* a worker has it; until then the pool's job is all that holds it */
	bool sending; /* `sent` is awaited */
	bool begun;   /* the initial metadata is sent */
	bool ending;  /* nothing is queued any more; the status follows what is */
	bool ended;   /* the status was given to gRPC */
	grpc_status_code status;
	struct err err;
};

struct rpc_call {
	struct rpc_job job;
	struct rpc_transport *transport;
	grpc_call *call;
	grpc_call_details details;
	grpc_metadata_array metadata;
	struct rpc_tag arrived, received, ended, answered;

	char path[PATH_MAX_BYTES];
	const struct rpc_route *route; /* NULL: unknown */
	uint64_t arrived_ms;
	grpc_byte_buffer *payload;
	int ended_cancelled; /* written by gRPC before `ended` is reported */

	pthread_mutex_t lock; /* protects what follows */
	unsigned pending;     /* of the tags `ended` and `answered`, and references to a stream */
	bool cancelled;
	int cancel_fd; /* -EBADF until somebody asks for it */
	struct rpc_stream stream;
};

/* Asks gRPC for the next call. From then on calls renew the request themselves until the shutdown.
 */
void rpc_call_wait(struct rpc_transport *transport);

/* The pool's job: runs the handler of a call and answers. */
void rpc_call_run(struct rpc_job *job);

/* One of what `pending` counts is over; the last frees the call. */
void rpc_call_done(struct rpc_call *call);
void rpc_call_start(struct rpc_call *call, const grpc_op *ops, size_t n_ops, struct rpc_tag *tag);
void rpc_call_log(const struct rpc_call *call, const struct rpc_reply *reply);

/* stream.c */
void rpc_stream_init(struct rpc_call *call);
void rpc_stream_done(struct rpc_call *call);
/*
 * A worker takes the call: from here on its client's going away ends it. Not before, for a call
 * that was ended may be freed at any time. False: the client has gone, and it is ended.
 */
bool rpc_stream_begin(struct rpc_call *call);
/* Ends with the reply's status what was not ended. */
void rpc_stream_end(struct rpc_call *call, const struct rpc_reply *reply);
/* The client is gone: nothing more is sent. Of a call that waits for a worker: nothing yet. */
void rpc_stream_abandon(struct rpc_call *call);
