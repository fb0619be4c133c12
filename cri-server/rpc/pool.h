/*
 * Threads that take jobs from bounded queues: as many as there is work for, up to a limit; those
 * without work for a while end.
 *
 * A job is embedded in what it belongs to and stays the caller's; the pool runs it once. Both the
 * number of waiting jobs and their size are bounded, because clients decide on them. Jobs that may
 * wait for something (a download, a process) never take all threads: some are left to the quick
 * ones, which are therefore run at once however many others wait. Each kind runs in order.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

struct rpc_pool;

struct rpc_job {
	struct rpc_job *next; /* the pool's */
	size_t bytes;         /* memory that the job holds while it waits */
	bool quick;           /* waits for nothing but locks that are held briefly */
};

typedef void (*rpc_job_fn)(struct rpc_job *job);

struct rpc_pool_limits {
	unsigned workers; /* threads; a half of them, at most 16, run quick jobs only */
	size_t jobs;      /* waiting, of either kind */
	size_t bytes;     /* of the waiting ones; a single larger job is taken by an empty queue */
	unsigned idle_ms; /* how long a thread without work is kept */
};

int rpc_pool_new(const struct rpc_pool_limits *limits, rpc_job_fn run, struct rpc_pool **ret,
	struct err *err);

/* Waits until all jobs have run and ends the threads. NULL is accepted; returns NULL. */
struct rpc_pool *rpc_pool_free(struct rpc_pool *pool);

/* 0, or positive 1 when the queue is full, or no thread runs and none can be started. Any thread.
 */
int rpc_pool_push(struct rpc_pool *pool, struct rpc_job *job);
