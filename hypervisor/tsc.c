#include "hypervisor/tsc.h"

#include <time.h>
#include <x86intrin.h>

#define TRIES       64
#define INTERVAL_NS 100000000
#define NS_IN_MS    1000000

static int64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The best of many: whoever was interrupted between the two readings took long. */
struct tsc_mark tsc_mark(void)
{
	struct tsc_mark best = {0};
	int64_t width = INT64_MAX;
	for (int i = 0; i < TRIES; i++) {
		int64_t before = now_ns();
		uint64_t ticks = __rdtsc();
		int64_t after = now_ns();
		if (after - before >= width)
			continue;
		width = after - before;
		best = (struct tsc_mark){.ticks = ticks, .ns = before + width / 2};
	}
	return best;
}

uint32_t tsc_khz_since(const struct tsc_mark *mark)
{
	struct tsc_mark end = tsc_mark();
	while (end.ns - mark->ns < INTERVAL_NS) {
		int64_t left = INTERVAL_NS - (end.ns - mark->ns);
		nanosleep(&(struct timespec){.tv_nsec = left}, NULL);
		end = tsc_mark();
	}
	double ms = (double)(end.ns - mark->ns) / NS_IN_MS;
	return (uint32_t)((double)(end.ticks - mark->ticks) / ms);
}
