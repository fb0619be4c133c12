/*
 * One call, from its arrival to its last completion event.
 *
 *    waiting ─arrives→ receiving ─request→ queued → running → answered → freed
 *                          └─ unknown method, no request, queue full ─┘
 *
 * gRPC reports progress as tags on the completion queue; a tag of ours carries the function that
 * takes it. Tags run on the server's polling thread, which alone frees calls; handlers run on
 * workers. Once it has answered, a worker no longer touches the call: its freeing may already be
 * under way. An answered call lives until both the answer and the end of the stream were reported.
 */
#pragma once

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "cri-server/rpc/dispatch.h"
#include "cri-server/rpc/pool.h"

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

/* Asks gRPC for the next call. From then on calls renew the request themselves until the shutdown.
 */
void rpc_call_wait(struct rpc_transport *transport);

/* The pool's job: runs the handler of a call and answers. */
void rpc_call_run(struct rpc_job *job);
