/*
 * The network of a pod that comes up. What takes long runs on a thread beside the rest of the
 * bring-up:
 *
 *	network_job_begin()   plugins, on a thread       the machine is made meanwhile
 *	network_job_join()    what they made is known
 *	network_job_wire()    taps wired, on a thread    the guest boots meanwhile
 *	network_job_wait()    the guest may have its interfaces
 *
 * A tap that moves into the pod's namespace waits for the kernel, for several of its clock's ticks;
 * the guest's NIC is not up by then. At most one thread runs at a time. A plain value of one owner,
 * begun as {.rt, .sandbox}; used on the owner's thread alone.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "network/pod_network.h"

struct runtime;
struct sandbox;

struct network_job {
	struct runtime *rt;
	struct sandbox *sandbox;
	pthread_t thread;
	bool runs; /* then what follows is the thread's */
	bool joined;
	struct net_pod_info *info;
	uint64_t plugins_step_ns; /* from the thread's beginning to the plugins' end */
	int result;
	struct err err;
};

int network_job_begin(struct network_job *job, struct err *err);
/* Waits for the plugins. What they made is in job->info and in the sandbox's record. It may be
 * repeated. */
int network_job_join(struct network_job *job, struct err *err);
/* Before the machine is made, where net_makes_taps(): joins, and makes one for each interface. */
int network_job_make_taps(struct network_job *job, struct err *err);
/* After the machine is made, whose taps are in our namespace. */
int network_job_wire(struct network_job *job, struct err *err);
/* Waits for a thread that runs; its result, which is told once. */
int network_job_wait(struct network_job *job, struct err *err);
/* Waits likewise. */
void network_job_done(struct network_job *job);
