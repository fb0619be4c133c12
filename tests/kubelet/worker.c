#include "tests/kubelet/worker.h"

#include <errno.h>
#include <time.h>

#include "tests/kubelet/node.h"

/* False when it was stopped. */
static bool wait_until(struct worker *worker, uint64_t at_ms)
{
	struct timespec at = {
		.tv_sec = (time_t)(at_ms / 1000), .tv_nsec = (long)(at_ms % 1000) * 1000000};
	int r = 0;
	pthread_mutex_lock(&worker->lock);
	while (!worker->stopped && r == 0)
		r = pthread_cond_clockwait(&worker->wake, &worker->lock, CLOCK_MONOTONIC, &at);
	bool stopped = worker->stopped;
	pthread_mutex_unlock(&worker->lock);
	return !stopped;
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	uint64_t begin, took;
	do {
		begin = now_ms();
		worker->result = worker->turn(worker->userdata, &worker->err);
		took = now_ms() - begin;
		worker->turns++;
		if (took > worker->longest_ms)
			worker->longest_ms = took;
	} while (worker->result == 0 && wait_until(worker, begin + worker->period_ms));
	return NULL;
}

int worker_start(struct worker *worker, struct err *err)
{
	pthread_mutex_init(&worker->lock, NULL);
	pthread_cond_init(&worker->wake, NULL);
	int r = pthread_create(&worker->thread, NULL, worker_main, worker);
	return r == 0 ? 0 : err_set(err, -r, "%s: a thread", worker->what);
}

int worker_stop(struct worker *worker, struct err *err)
{
	pthread_mutex_lock(&worker->lock);
	worker->stopped = true;
	pthread_cond_broadcast(&worker->wake);
	pthread_mutex_unlock(&worker->lock);
	pthread_join(worker->thread, NULL);
	pthread_cond_destroy(&worker->wake);
	pthread_mutex_destroy(&worker->lock);
	if (worker->result < 0)
		return err_set(err, worker->result, "%s: %s", worker->what, worker->err.msg);
	return 0;
}
