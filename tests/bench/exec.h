/*
 * What exec costs as its user sees it, `crictl exec` against containerd with runc: the time of
 * `true`, and how fast bytes go through `cat`, in and out at once. One container on each server,
 * rounds in turns. One thread.
 */
#pragma once

#include "tests/bench/container.h"

struct exec_bench {
	struct bench_peer ours, baseline;
	const char *our_socket, *baseline_socket;
	const char *crictl; /* the program */
	const char *dir;    /* for logs */
};

/* Rows exec.stream and exec.throughput, and what they are compared with. */
int exec_measure(const struct exec_bench *bench, struct results *results, struct err *err);
