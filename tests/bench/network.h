/*
 * What the wiring of a pod's network costs: TCP throughput and the time of a question and its
 * answer between two pods, and between the same two machines once their taps are ports of the
 * bridge themselves, with no namespace, veth, redirection or filter of ours in between.
 *
 * One thread. The pods of a round are removed in any case.
 */
#pragma once

#include "cri-server/rpc/client.h"
#include "tests/bench/results.h"
#include "tests/bench/wiring.h"

struct network_bench {
	struct rpc_client *client;
	const char *image_ref; /* has /bin/net_load */
	const char *dir;       /* for logs */
	struct wiring wiring;
	unsigned rounds;
};

int network_measure(const struct network_bench *bench, struct results *results, struct err *err);
