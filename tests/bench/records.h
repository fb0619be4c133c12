/*
 * What a thousand images, pods and containers cost the server that has them on record: the lists,
 * and its start. tests/bench/run has filled its state directory.
 *
 * It is a process of ours, which ends when we do. One thread.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "cri-server/rpc/client.h"
#include "tests/bench/results.h"

struct records_bench {
	/* As given. */
	const char *program, *config, *socket; /* bulkheadd's */
	/* Made by records_start(). */
	pid_t pid;
	struct rpc_client *client;
};

/* From nothing to its first answer; a server that runs is ended first. With the time it took. */
int records_start(struct records_bench *bench, double *ret_ms, struct err *err);
void records_done(struct records_bench *bench);

/* One sample of each list. */
int records_list(const struct records_bench *bench, struct results *results, struct err *err);
/* Starts again so often. */
int records_restart(
	struct records_bench *bench, unsigned rounds, struct results *results, struct err *err);
