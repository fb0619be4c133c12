/*
 * What the kernel does for one large frame of a pod to another pod of the node, as their machines
 * would send and read it: with the wiring, and on the bridge without it. The pods have networks
 * by the plugins and taps, but no machines, which take so much longer that the difference is lost.
 *
 * One thread; nothing is left in any case.
 */
#pragma once

#include "tests/bench/results.h"
#include "tests/bench/wiring.h"

struct frame_bench {
	const char *conf_dir; /* CNI's */
	struct wiring wiring;
};

/* Adds "net.frame" and "bare.frame", in microseconds of the sender's write(2). */
int frame_measure(const struct frame_bench *bench, struct results *results, struct err *err);
