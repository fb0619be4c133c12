#include "cri-server/rpc/pool.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>

#include "common/fd.h"
#include "common/loop.h"

#define QUICK_WORKERS_MAX 16

struct queue {
	struct rpc_job *first;
	struct rpc_job **last;
	size_t n;
};

/* A thread that waits, on its stack. */
struct sleeper {
	TAILQ_ENTRY(sleeper) link;
	pthread_cond_t wake;
	bool woken; /* and out of the list */
};

struct rpc_pool {
	rpc_job_fn run;
	struct rpc_pool_limits limits;
	unsigned slow_max; /* jobs that are not quick and run at the same time */

	pthread_mutex_t lock; /* protects what follows */
	/* The last one to wait is woken first: the others come to the end of their time although
	 * jobs trickle in, and what the allocator keeps for each thread goes with them. */
	TAILQ_HEAD(sleeper_stack, sleeper) sleepers;
	pthread_cond_t ended; /* a thread ended */
	struct queue quick, slow;
	size_t bytes;
	unsigned threads, idle, slow_running;
	bool stopping;
};

static void queue_push(struct queue *queue, struct rpc_job *job)
{
	job->next = NULL;
	*queue->last = job;
	queue->last = &job->next;
	queue->n++;
}

static struct rpc_job *queue_pop(struct queue *queue)
{
	struct rpc_job *job = queue->first;
	queue->first = job->next;
	if (!queue->first)
		queue->last = &queue->first;
	queue->n--;
	return job;
}

/* The job that may run now, or NULL. */
static struct rpc_job *take(struct rpc_pool *pool)
{
	struct rpc_job *job = NULL;
	if (pool->quick.first)
		job = queue_pop(&pool->quick);
	else if (pool->slow.first && pool->slow_running < pool->slow_max)
		job = queue_pop(&pool->slow);
	if (job)
		pool->bytes -= job->bytes;
	return job;
}

static void wake_one(struct rpc_pool *pool)
{
	struct sleeper *sleeper = TAILQ_FIRST(&pool->sleepers);
	if (!sleeper)
		return;
	TAILQ_REMOVE(&pool->sleepers, sleeper, link);
	sleeper->woken = true;
	pthread_cond_signal(&sleeper->wake);
}

/* Until there may be work; false when none came for so long that the thread should end. */
static bool wait_for_work(struct rpc_pool *pool, struct sleeper *self)
{
	uint64_t until_ms = ev_now_ms() + pool->limits.idle_ms;
	self->woken = false;
	TAILQ_INSERT_HEAD(&pool->sleepers, self, link);
	pool->idle++;
	while (!self->woken && ev_cond_wait(&self->wake, &pool->lock, until_ms) != ETIMEDOUT)
		;
	pool->idle--;
	if (!self->woken)
		TAILQ_REMOVE(&pool->sleepers, self, link);
	return self->woken;
}

static void run_job(struct rpc_pool *pool, struct rpc_job *job)
{
	bool slow = !job->quick; /* afterwards the job may be gone */
	pool->slow_running += slow;
	pthread_mutex_unlock(&pool->lock);
	pool->run(job);
	pthread_mutex_lock(&pool->lock);
	pool->slow_running -= slow;
	/* This thread may take a quick job next, while others sleep because of the limit. */
	if (slow && pool->slow.first)
		wake_one(pool);
}

static void *worker(void *arg)
{
	struct rpc_pool *pool = arg;
	struct sleeper self;
	bool idle = false;
	pthread_setname_np(pthread_self(), "rpc-worker");
	ev_cond_init(&self.wake);
	pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct rpc_job *job = take(pool);
		if (job)
			run_job(pool, job);
		else if (pool->stopping || (idle && pool->threads > 1))
			break; /* the last one stays: where no more can be made, calls go on */
		idle = !job && !wait_for_work(pool, &self);
	}
	pool->threads--;
	pthread_cond_broadcast(&pool->ended);
	pthread_mutex_unlock(&pool->lock);
	pthread_cond_destroy(&self.wake);
	return NULL;
}

/* The lock is held. */
static int start_thread(struct rpc_pool *pool)
{
	pthread_t thread;
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	int r = pthread_create(&thread, &attr, worker, pool);
	pthread_attr_destroy(&attr);
	pool->threads += r == 0;
	return r;
}

/* Whether no idle thread is left for one more job. Those that were woken still count as idle, so
 * each job that may run is reckoned one. */
static bool wants_thread(const struct rpc_pool *pool, bool quick)
{
	size_t may_run = pool->slow_max - pool->slow_running;
	if (!quick && pool->slow.n >= may_run)
		return false;
	if (pool->slow.n < may_run)
		may_run = pool->slow.n;
	return pool->idle <= pool->quick.n + may_run && pool->threads < pool->limits.workers;
}

int rpc_pool_push(struct rpc_pool *pool, struct rpc_job *job)
{
	struct queue *queue = job->quick ? &pool->quick : &pool->slow;
	pthread_mutex_lock(&pool->lock);
	bool waiting = pool->quick.first || pool->slow.first;
	bool full = queue->n >= pool->limits.jobs ||
		    (waiting && pool->bytes + job->bytes > pool->limits.bytes);
	if (!full && wants_thread(pool, job->quick))
		full = start_thread(pool) != 0 && pool->threads == 0;
	if (!full) {
		queue_push(queue, job);
		pool->bytes += job->bytes;
		wake_one(pool);
	}
	pthread_mutex_unlock(&pool->lock);
	return full ? 1 : 0;
}

int rpc_pool_new(const struct rpc_pool_limits *limits, rpc_job_fn run, struct rpc_pool **ret,
	struct err *err)
{
	struct rpc_pool *pool = calloc(1, sizeof(*pool));
	if (!pool)
		return err_nomem(err);
	unsigned reserved = limits->workers / 2;
	if (reserved > QUICK_WORKERS_MAX)
		reserved = QUICK_WORKERS_MAX;
	pool->run = run;
	pool->limits = *limits;
	pool->slow_max = limits->workers - reserved;
	pool->quick.last = &pool->quick.first;
	pool->slow.last = &pool->slow.first;
	TAILQ_INIT(&pool->sleepers);
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->ended, NULL);

	pthread_mutex_lock(&pool->lock);
	int r = start_thread(pool); /* so that a host without threads is seen at once */
	pthread_mutex_unlock(&pool->lock);
	if (r != 0) {
		rpc_pool_free(pool);
		return err_set(err, -r, "start a worker thread: %s", strerror(r));
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
	while (!TAILQ_EMPTY(&pool->sleepers))
		wake_one(pool);
	while (pool->threads > 0)
		pthread_cond_wait(&pool->ended, &pool->lock);
	pthread_mutex_unlock(&pool->lock);
	pthread_cond_destroy(&pool->ended);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
	return NULL;
}
