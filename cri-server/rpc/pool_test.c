#include "cri-server/rpc/pool.h"

#include <dirent.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
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

struct trickle {
	struct rpc_job job;
	sem_t *gate, *started;
	atomic_uint *passed;
	pthread_t by;
};

static void note_thread(struct rpc_job *job)
{
	struct trickle *t = (struct trickle *)job;
	atomic_uint *passed = t->passed;
	sem_post(t->started);
	sem_wait(t->gate);
	sem_post(t->gate);
	t->by = pthread_self();
	atomic_fetch_add(passed, 1);
}

/* All, or those that do not sleep. */
static unsigned count_workers(bool awake)
{
	unsigned n = 0;
	DIR *dir = opendir("/proc/self/task");
	assert_non_null(dir);
	for (struct dirent *entry; (entry = readdir(dir));) {
		char path[300], line[64] = "";
		snprintf(path, sizeof(path), "/proc/self/task/%s/stat", entry->d_name);
		FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "re");
		if (!file)
			continue;
		const char *name = fgets(line, sizeof(line), file) ? strchr(line, '(') : NULL;
		if (name && strncmp(name, "(rpc-worker) ", 13) == 0)
			n += !awake || name[13] != 'S';
		fclose(file);
	}
	closedir(dir);
	return n;
}

#define AT_ONCE 4

struct trickles {
	sem_t gate, started;
	atomic_uint passed;
	struct trickle jobs[AT_ONCE];
	struct rpc_pool *pool;
};

static void await_sleep(struct trickles *t, unsigned passed)
{
	while (atomic_load(&t->passed) < passed || count_workers(true))
		usleep(1000);
}

/* A pool with as many threads, which have all had a job and wait for another. */
static void trickles_set_up(struct trickles *t, unsigned idle_ms)
{
	const struct rpc_pool_limits limits = {
		.workers = 8, .jobs = 8, .bytes = 100, .idle_ms = idle_ms};
	*t = (struct trickles){.pool = NULL};
	sem_init(&t->gate, 0, 0);
	sem_init(&t->started, 0, 0);
	assert_int_equal(rpc_pool_new(&limits, note_thread, &t->pool, NULL), 0);
	while (count_workers(false) != 1 || count_workers(true))
		usleep(1000);
	for (size_t i = 0; i < AT_ONCE; i++) {
		t->jobs[i] = (struct trickle){.job.quick = true,
			.gate = &t->gate,
			.started = &t->started,
			.passed = &t->passed};
		assert_int_equal(rpc_pool_push(t->pool, &t->jobs[i].job), 0);
		sem_wait(&t->started);
	}
	assert_int_equal(count_workers(false), AT_ONCE);
	sem_post(&t->gate);
	await_sleep(t, AT_ONCE);
}

static void trickles_tear_down(struct trickles *t)
{
	rpc_pool_free(t->pool);
	sem_destroy(&t->gate);
	sem_destroy(&t->started);
}

static void test_one_thread_does_what_trickles_in(void **state)
{
	struct trickles t;
	pthread_t by = pthread_self();
	(void)state;
	trickles_set_up(&t, 600000);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(rpc_pool_push(t.pool, &t.jobs[0].job), 0);
		await_sleep(&t, AT_ONCE + i + 1);
		assert_true(i == 0 || pthread_equal(t.jobs[0].by, by));
		by = t.jobs[0].by;
	}
	trickles_tear_down(&t);
}

static void test_idle_threads_end_but_one(void **state)
{
	struct trickles t;
	(void)state;
	trickles_set_up(&t, 50);
	while (count_workers(false) > 1)
		usleep(1000);
	usleep(100000);
	assert_int_equal(count_workers(false), 1);
	trickles_tear_down(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order_and_bounds),
		cmocka_unit_test(test_large_job_into_empty_queue),
		cmocka_unit_test(test_quick_while_slow_ones_wait),
		cmocka_unit_test(test_one_thread_does_what_trickles_in),
		cmocka_unit_test(test_idle_threads_end_but_one),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
