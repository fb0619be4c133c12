/*
 * A node as its kubelet sees it: the runtime's socket, and how long each call took.
 *
 * Plain value that main() fills and that lasts as long as the program. Any thread may call; each
 * call has a connection of its own while it lasts.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/fd.h"
#include "cri-server/proto/cri.pb-c.h"
#include "cri-server/rpc/client.h"

#define NODE_CLIENTS_MAX 64
#define NODE_METHODS_MAX 32

/* The kubelet's runtimeRequestTimeout. */
#define NODE_CALL_MS 120000

struct method_times {
	const char *method;
	float *ms; /* in the order in which the calls ended */
	size_t n, size;
};

struct node {
	/* As given. */
	const char *socket, *image, *dir;
	const char *dead_image, *unused_image; /* of scenario_collect(); NULL: none */
	const char *cgroup_parent;
	uint64_t memory_mib; /* of a pod; 0: the runtime handler's */
	uint64_t relist_ms;
	uint64_t count;      /* of whatever a scenario has many of */
	uint64_t pods;       /* in which many containers are */
	uint64_t server_pid; /* of the runtime, for scenario_soak() */
	const char *output;  /* a file for its rows; NULL: none */
	/* Made on the way, and read, under the lock. */
	pthread_mutex_t lock;
	struct rpc_client *idle[NODE_CLIENTS_MAX];
	size_t n_idle;
	struct method_times times[NODE_METHODS_MAX];
};

void message_freep(void *message);
/* For pointers to answers; NULL is nothing. */
#define _cleanup_message_ _cleanup_(message_freep)

/*
 * Calls a method of either service, by its name; blocks until it is answered, at most deadline_ms.
 * *ret_response is the caller's; with NULL the answer is dropped. What it takes is noted where it
 * succeeds. Errors are rpc_client_call()'s: -ENOENT for what is not there (any more).
 */
int node_call(struct node *node, const char *method, const ProtobufCMessage *request,
	uint64_t deadline_ms, void *ret_response, struct err *err);

/* So many per cent of the times take no longer; 0 of none. */
float node_percentile(const float *ms, size_t n, unsigned percent);

void node_done(struct node *node);

uint64_t now_ms(void);
void sleep_ms(uint64_t ms);
