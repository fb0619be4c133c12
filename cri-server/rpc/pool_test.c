#include "cri-server/rpc/pool.h"

#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"

struct test_job {
	struct rpc_job job;
	sem_t *gate;    /* waited for at the start */
	sem_t *started; /* posted before that */
	int *order;     /* the next number to take */
	int number;
};

static void run(struct rpc_job *job)
{
	struct test_job *t = (struct test_job *)job;
	sem_post(t->started);
	sem_wait(t->gate);
	t->number = ++*t->order;
	sem_post(t->gate);
}

static void test_order_and_bounds(void **state)
{
	(void)state;
	sem_t gate, started;
	sem_init(&gate, 0, 0);
	sem_init(&started, 0, 0);
	int order = 0;
	struct test_job jobs[5];
	for (size_t i = 0; i < ARRAY_SIZE(jobs); i++)
		jobs[i] = (struct test_job){
			.job.bytes = 10, .gate = &gate, .started = &started, .order = &order};

	struct rpc_pool *pool = NULL;
	const struct rpc_pool_limits limits = {.workers = 1, .jobs = 2, .bytes = 100};
	assert_int_equal(rpc_pool_new(&limits, run, &pool, NULL), 0);
	assert_int_equal(rpc_pool_push(pool, &jobs[0].job), 0);
	sem_wait(&started); /* the worker has it, the queue is empty */
	assert_int_equal(rpc_pool_push(pool, &jobs[1].job), 0);
	jobs[2].job.bytes = 91;
	assert_int_equal(rpc_pool_push(pool, &jobs[2].job), 1); /* too many bytes */
	jobs[2].job.bytes = 90;
	assert_int_equal(rpc_pool_push(pool, &jobs[2].job), 0);
	jobs[3].job.bytes = 0;
	assert_int_equal(rpc_pool_push(pool, &jobs[3].job), 1); /* too many jobs */

	sem_post(&gate);
	rpc_pool_free(pool); /* runs what waits */
	assert_int_equal(jobs[0].number, 1);
	assert_int_equal(jobs[1].number, 2);
	assert_int_equal(jobs[2].number, 3);
	assert_int_equal(jobs[3].number, 0);
	sem_destroy(&gate);
	sem_destroy(&started);
}

static void test_large_job_into_empty_queue(void **state)
{
	(void)state;
	sem_t gate, started;
	sem_init(&gate, 0, 1);
	sem_init(&started, 0, 0);
	int order = 0;
	struct test_job job = {
		.job.bytes = 1000, .gate = &gate, .started = &started, .order = &order};
	struct rpc_pool *pool = NULL;
	const struct rpc_pool_limits limits = {.workers = 2, .jobs = 2, .bytes = 100};
	assert_int_equal(rpc_pool_new(&limits, run, &pool, NULL), 0);
	assert_int_equal(rpc_pool_push(pool, &job.job), 0);
	rpc_pool_free(pool);
	assert_int_equal(job.number, 1);
	assert_null(rpc_pool_free(NULL));
	sem_destroy(&gate);
	sem_destroy(&started);
}

static void test_quick_while_slow_ones_wait(void **state)
{
	(void)state;
	sem_t gate, open, started;
	sem_init(&gate, 0, 0);
	sem_init(&open, 0, 1);
	sem_init(&started, 0, 0);
	int slow_order = 0, quick_order = 0;
	struct test_job slow[6], quick[3];
	struct rpc_pool *pool = NULL;
	const struct rpc_pool_limits limits = {
		.workers = 4, .jobs = 4, .bytes = 100, .idle_ms = 20};
	assert_int_equal(rpc_pool_new(&limits, run, &pool, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(slow); i++) {
		slow[i] =
			(struct test_job){.gate = &gate, .started = &started, .order = &slow_order};
		assert_int_equal(rpc_pool_push(pool, &slow[i].job), 0);
		if (i < 2) /* of four threads, two */
			sem_wait(&started);
	}
	struct test_job more = slow[0];
	assert_int_equal(rpc_pool_push(pool, &more.job), 1); /* four wait */
	usleep(50000);                                       /* idle threads end; others come */
	for (size_t i = 0; i < ARRAY_SIZE(quick); i++) {
		quick[i] = (struct test_job){.job.quick = true,
			.gate = &open,
			.started = &started,
			.order = &quick_order};
		assert_int_equal(rpc_pool_push(pool, &quick[i].job), 0);
		sem_wait(&started); /* or the test hangs */
	}
	assert_int_equal(slow_order, 0);
	sem_post(&gate);
	rpc_pool_free(pool);
	assert_int_equal(quick_order, 3);
	assert_int_equal(slow_order, 6);
	sem_destroy(&gate);
	sem_destroy(&open);
	sem_destroy(&started);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order_and_bounds),
		cmocka_unit_test(test_large_job_into_empty_queue),
		cmocka_unit_test(test_quick_while_slow_ones_wait),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
