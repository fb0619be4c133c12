#include "cri-server/rpc/pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "common/fd.h"

struct rpc_pool {
	rpc_job_fn run;
	struct rpc_pool_limits limits;

	pthread_mutex_t lock; /* protects what follows, but for the threads */
	pthread_cond_t work;  /* a job came, or stopping */
	struct rpc_job *first;
	struct rpc_job **last;
	size_t n_jobs;
	size_t bytes;
	bool stopping;

	unsigned n_threads;
	pthread_t threads[];
};

static struct rpc_job *take(struct rpc_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	while (!pool->first && !pool->stopping)
		pthread_cond_wait(&pool->work, &pool->lock);
	struct rpc_job *job = pool->first;
	if (job) {
		pool->first = job->next;
		if (!pool->first)
			pool->last = &pool->first;
		pool->n_jobs--;
		pool->bytes -= job->bytes;
	}
	pthread_mutex_unlock(&pool->lock);
	return job;
}

static void *worker(void *arg)
{
	struct rpc_pool *pool = arg;
	struct rpc_job *job;
	while ((job = take(pool)))
		pool->run(job);
	return NULL;
}

int rpc_pool_push(struct rpc_pool *pool, struct rpc_job *job)
{
	pthread_mutex_lock(&pool->lock);
	bool full = pool->n_jobs >= pool->limits.jobs ||
		    (pool->n_jobs > 0 && pool->bytes + job->bytes > pool->limits.bytes);
	if (!full) {
		job->next = NULL;
		*pool->last = job;
		pool->last = &job->next;
		pool->n_jobs++;
		pool->bytes += job->bytes;
		pthread_cond_signal(&pool->work);
	}
	pthread_mutex_unlock(&pool->lock);
	return full ? 1 : 0;
}

int rpc_pool_new(const struct rpc_pool_limits *limits, rpc_job_fn run, struct rpc_pool **ret,
	struct err *err)
{
	struct rpc_pool *pool = calloc(1, sizeof(*pool) + limits->workers * sizeof(pthread_t));
	if (!pool)
		return err_nomem(err);
	pool->run = run;
	pool->limits = *limits;
	pool->last = &pool->first;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->work, NULL);

	for (unsigned i = 0; i < limits->workers; i++) {
		int r = pthread_create(&pool->threads[i], NULL, worker, pool);
		if (r != 0) {
			rpc_pool_free(pool);
			return err_set(err, -r, "start %u worker threads: %s", limits->workers,
				strerror(r));
		}
		pthread_setname_np(pool->threads[i], "rpc-worker");
		pool->n_threads++;
	}
	*ret = pool;
	return 0;
}

struct rpc_pool *rpc_pool_free(struct rpc_pool *pool)
{
	if (!pool)
		return NULL;
	pthread_mutex_lock(&pool->lock);
	pool->stopping = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->n_threads; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
	return NULL;
}
