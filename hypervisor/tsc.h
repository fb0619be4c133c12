/*
 * The rate of the host's time-stamp counter, which is that of an emulated guest's. Such a guest is
 * told: what its kernel finds out for itself, against timers that QEMU emulates while others run on
 * the host's CPUs, may be many times too low, and then all of its time runs so much too fast.
 *
 * Two marks, some time apart, give the rate. Plain values; any thread.
 */
#pragma once

#include <stdint.h>

struct tsc_mark {
	uint64_t ticks;
	int64_t ns; /* CLOCK_MONOTONIC_RAW at the same moment */
};

struct tsc_mark tsc_mark(void);

/* In kHz, to one in a thousand. Blocks until 100 ms have passed since the mark, if they have not.
 */
uint32_t tsc_khz_since(const struct tsc_mark *mark);
