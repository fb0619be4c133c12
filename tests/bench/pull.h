/*
 * What pulls cost, against a containerd with the same images from the same registry: an image of
 * which nothing is there, then one that shares all layers but one with it; and what both take on
 * the disk. Memory is looked at in a pull of its own, for looking takes time. Both servers have no
 * image before and after. One thread (and one that samples).
 */
#pragma once

#include <sys/types.h>

#include "tests/bench/results.h"

struct pull_server {
	const char *socket;
	const char *directory; /* where its images lie */
};

struct pull_bench {
	struct pull_server ours, baseline;
	pid_t server_pid;           /* bulkheadd's */
	const char *first, *shared; /* images */
	unsigned rounds;
};

int pull_measure(const struct pull_bench *bench, struct results *results, struct err *err);
