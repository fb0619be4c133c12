/*
 * What cgroups and interfaces have used: the kernel's own files, read as they are.
 *
 * Nothing here waits. A file that the kernel does not have counts 0. Threads: the loop's alone.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "agent/proto/agent.pb-c.h"

/* From one sample of a cgroup's CPU time to the next; starts at zero time with made_ns set. */
struct usage_rate {
	uint64_t cpu_ns;
	uint64_t at_ns; /* CLOCK_MONOTONIC; at first, when the cgroup was made */
	uint64_t nano_cores;
};

/* An answer's Usage with the messages that it points to. */
struct usage {
	Bulkhead__Agent__Usage message;
	Bulkhead__Agent__Pressure pressures[3];
	Bulkhead__Agent__Stall stalls[6];
};

void usage_rate_begin(struct usage_rate *rate);
/* Reads the cgroup (an O_PATH directory); all fields but those of id and layer. */
void usage_read(int cgroup, struct usage_rate *rate, struct usage *ret);

/* Names are at most this long, with the NUL. */
#define USAGE_NAME_MAX 16
struct usage_interface {
	Bulkhead__Agent__InterfaceUsage message;
	char name[USAGE_NAME_MAX];
};

/* The lines of /proc/net/dev but the loopback's; returns how many, at most `max`. */
size_t usage_parse_interfaces(const char *text, struct usage_interface *ret, size_t max);
size_t usage_read_interfaces(struct usage_interface *ret, size_t max);

/* The guest's memory and swap in bytes. */
void usage_read_machine(uint64_t *ret_memory, uint64_t *ret_swap);

/* For tests: what the files' texts say. */
void usage_parse_pressure(
	const char *text, Bulkhead__Agent__Stall *some, Bulkhead__Agent__Stall *full);
uint64_t usage_io_sum(const char *text, const char *key);
