#include "common/threads.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/fd.h"

#define GONE_TRIES 1000 /* of 1 ms */

static void *wait_at(void *gate)
{
	pthread_mutex_lock(gate);
	pthread_mutex_unlock(gate);
	return NULL;
}

static nlink_t count_threads(void)
{
	struct stat st;

	return stat("/proc/self/task", &st) < 0 ? 0 : st.st_nlink;
}

/* One that has been joined may count against the limit for a moment yet. */
static void await_gone(nlink_t before)
{
	const struct timespec pause = {.tv_nsec = 1000000};

	for (int i = 0; i < GONE_TRIES && count_threads() > before; i++)
		nanosleep(&pause, NULL);
}

int threads_check(size_t n, const char *why, struct err *err)
{
	_cleanup_free_ pthread_t *threads = calloc(n, sizeof(*threads));
	pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
	nlink_t before = count_threads();
	size_t started = 0;
	int r = 0;

	if (!threads)
		return err_nomem(err);
	pthread_mutex_lock(&gate);
	while (started < n && (r = pthread_create(&threads[started], NULL, wait_at, &gate)) == 0)
		started++;
	pthread_mutex_unlock(&gate);
	for (size_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	pthread_mutex_destroy(&gate);
	await_gone(before);
	return r ? err_set(err, -r,
			   "Start %zu threads, %s: %s: raise the limit of processes (TasksMax, "
			   "ulimit -u)",
			   n, why, strerror(r))
		 : 0;
}
