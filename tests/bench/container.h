/*
 * What a container of busybox costs in a pod that runs, from CreateContainer's request to
 * StartContainer's answer, against containerd with runc: one pod on each server, rounds in turns.
 * Each container is removed before the next, so that nothing of it is found made. The servers have
 * the images, and are left without the pods. One thread.
 */
#pragma once

#include "cri-server/rpc/client.h"
#include "tests/bench/results.h"

/* A server, and how it names an image. */
struct bench_peer {
	struct rpc_client *client;
	const char *image;
};

/* Rows container.create_start and containerd.create_start. `dir` is for logs. */
int container_measure(const struct bench_peer *ours, const struct bench_peer *baseline,
	const char *dir, struct results *results, struct err *err);
