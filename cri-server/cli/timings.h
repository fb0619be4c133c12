/*
 * `run --timings`: the pod's address and how long each step took, the bring-up's own steps as the
 * server measured them. Plain value; one thread.
 */
#pragma once

#include <stdint.h>

#include "cri-server/cli/cli.h"

#define TIMINGS_MAX 32

struct timings {
	struct {
		char name[32];
		double ms;
	} rows[TIMINGS_MAX];
	size_t n;
	uint64_t mark_ns; /* when the step that runs began */
};

/* A step begins. */
void timings_begin(struct timings *timings);
/* It ended. */
void timings_end(struct timings *timings, const char *name);

/* Asks the server for the pod's address, which goes to stderr, and for the steps of its bring-up.
 */
int timings_pod(struct timings *timings, struct cli *cli, const char *pod_id, struct err *err);

/* All rows to stderr. */
void timings_print(const struct timings *timings);
