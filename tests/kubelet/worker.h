/*
 * Something that a kubelet does over and over on a thread of its own: every period, late turns
 * skipped, until it is stopped or a turn fails. What fails is kept and told by worker_stop().
 *
 * worker_start() and worker_stop() are for the one thread that owns it; the figures may be read
 * after the stop.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

struct worker {
	const char *what;
	uint64_t period_ms;
	int (*turn)(void *userdata, struct err *err);
	void *userdata;
	/* Made by worker_start(). */
	pthread_t thread;
	pthread_mutex_t lock; /* protects `stopped` */
	pthread_cond_t wake;
	bool stopped;
	unsigned turns;
	uint64_t longest_ms; /* of a turn */
	int result;
	struct err err;
};

int worker_start(struct worker *worker, struct err *err);
/* Returns when its turn has ended: 0, or what failed. */
int worker_stop(struct worker *worker, struct err *err);
