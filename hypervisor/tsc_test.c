#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <x86intrin.h>

#include <cmocka.h>

#include "hypervisor/tsc.h"

static void the_rate_is_the_same_whenever_it_is_measured(void **state)
{
	(void)state;
	struct tsc_mark first = tsc_mark();
	uint32_t one = tsc_khz_since(&first);
	struct tsc_mark second = tsc_mark();
	uint32_t two = tsc_khz_since(&second);
	uint32_t both = tsc_khz_since(&first);
	assert_true(both > 100000); /* 100 MHz: no x86-64 counts more slowly */
	assert_true(abs((int)one - (int)both) < (int)both / 1000);
	assert_true(abs((int)two - (int)both) < (int)both / 1000);
}

static void it_counts_what_passes(void **state)
{
	(void)state;
	struct tsc_mark mark = tsc_mark();
	uint32_t khz = tsc_khz_since(&mark);
	struct timespec from, to;
	clock_gettime(CLOCK_MONOTONIC, &from);
	uint64_t ticks = __rdtsc();
	nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
	ticks = __rdtsc() - ticks;
	clock_gettime(CLOCK_MONOTONIC, &to);
	/* Around it, so as long at least; what comes between on a busy machine makes it longer. */
	double ms =
		(double)(to.tv_sec - from.tv_sec) * 1e3 + (double)(to.tv_nsec - from.tv_nsec) / 1e6;
	assert_true((double)ticks / khz < ms * 1.01);
	assert_true((double)ticks / khz > 300 * 0.99);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_rate_is_the_same_whenever_it_is_measured),
		cmocka_unit_test(it_counts_what_passes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
