/*
 * The processes of a cgroup and what they hold open, by /proc. Bounded: a container decides how
 * many there are. Nothing here waits. Threads: the loop's alone.
 */
#pragma once

#include <stdint.h>

struct usage_processes {
	uint64_t processes;
	uint64_t descriptors; /* of the first processes only, see usage_process.c */
	uint64_t sockets;
};

/* Of the cgroup (an O_PATH directory) and those directly below it. */
void usage_processes(int cgroup, struct usage_processes *ret);
