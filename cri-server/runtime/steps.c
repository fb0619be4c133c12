#include "cri-server/runtime/steps.h"

#include <assert.h>
#include <errno.h>
#include <time.h>

uint64_t steps_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void unwind(const struct step *steps, size_t done, void *subject)
{
	while (done-- > 0)
		if (steps[done].undo)
			steps[done].undo(subject);
}

int steps_run(const struct step *steps, size_t n, void *subject, bool (*cancelled)(void *subject),
	struct step_times *ret_times, struct err *err)
{
	assert(n <= STEPS_MAX);
	for (size_t i = 0; i < n; i++) {
		if (cancelled && cancelled(subject)) {
			unwind(steps, i, subject);
			return err_set(err, -ECANCELED, "the caller went away before step %s",
				steps[i].name);
		}
		uint64_t begin = steps_now_ns();
		int r = steps[i].run(subject, err);
		ret_times->ns[i] = steps_now_ns() - begin;
		if (r < 0) {
			err_wrap(err, "%s", steps[i].name);
			unwind(steps, i + 1, subject);
			return r;
		}
	}
	return 0;
}
