/*
 * A fixed number of threads that take jobs from a bounded queue, in order.
 *
 * A job is embedded in what it belongs to and stays the caller's; the pool runs it once. Both the
 * number of waiting jobs and their size are bounded, because clients decide on them.
 */
#pragma once

#include <stddef.h>

#include "common/err.h"

struct rpc_pool;

struct rpc_job {
	struct rpc_job *next; /* the pool's */
	size_t bytes;         /* memory that the job holds while it waits */
};

typedef void (*rpc_job_fn)(struct rpc_job *job);

struct rpc_pool_limits {
	unsigned workers;
	size_t jobs;  /* waiting */
	size_t bytes; /* of the waiting ones; a single larger job is taken by an empty queue */
};

int rpc_pool_new(const struct rpc_pool_limits *limits, rpc_job_fn run, struct rpc_pool **ret,
	struct err *err);

/* Waits until all jobs have run and ends the threads. NULL is accepted; returns NULL. */
struct rpc_pool *rpc_pool_free(struct rpc_pool *pool);

/* 0, or positive 1 when the queue is full. Any thread. */
int rpc_pool_push(struct rpc_pool *pool, struct rpc_job *job);
