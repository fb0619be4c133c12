/*
 * The agent's service: answers the host's calls and keeps the table of containers and processes.
 *
 *	control port: ttrpc, one dispatch table (agent.proto's Agent)     stream port: stream.h
 *
 * What touches the machine itself (clock, network, power) goes through server_ops, so that the
 * server runs unchanged where it is not PID 1. Threads: the loop's alone; nothing blocks.
 */
#pragma once

#include <stdint.h>

#include "agent/ids.h"
#include "agent/process.h"
#include "agent/proto/agent.pb-c.h"
#include "common/err.h"
#include "common/loop.h"

/* A difference below it is made up for by running faster or slower, as NTP does. */
#define CLOCK_STEP_NS INT64_C(128000000)

struct server;

struct server_ops {
	int (*set_clock)(int64_t realtime_ns, struct err *err);
	/* Moves it, unless by_ns is 0, and tells what it is now. */
	int (*adjust_clock)(int64_t by_ns, int64_t *ret_realtime_ns, struct err *err);
	/* Before it, in the agent, where the request has a user namespace. */
	int (*enter)(const Bulkhead__Agent__ConfigureSandboxRequest *request, struct ids *ret,
		struct err *err);
	/* In a child (process.h), with all that ConfigureSandbox asks for; may block. */
	int (*configure)(const Bulkhead__Agent__ConfigureSandboxRequest *request, struct err *err);
	int (*update)(const Bulkhead__Agent__UpdateInterfacesRequest *before,
		const Bulkhead__Agent__UpdateInterfacesRequest *after, struct err *err);
	/* The host was answered. */
	void (*power_off)(void *userdata);
	void *userdata;
};

struct server_options {
	struct ev_loop *loop;
	struct reaper *reaper;
	int control_fd; /* listening sockets, non-blocking; taken, also on failure */
	int stream_fd;
	uint64_t boot_ns; /* CLOCK_BOOTTIME at main() */
	struct server_ops ops;
};

int server_new(const struct server_options *options, struct server **ret, struct err *err);
struct server *server_free(struct server *server);
