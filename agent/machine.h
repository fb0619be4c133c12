/*
 * The guest machine as the agent makes it: mounts, console, vsock, the sandbox's configuration,
 * power.
 *
 * For PID 1 of a guest alone: it changes the machine it runs on.
 */
#pragma once

#include "agent/proto/agent.pb-c.h"
#include "common/err.h"

/* Listens on a vsock port. Needs no device yet and nothing mounted. Non-blocking. */
int machine_listen(unsigned port, int *ret_fd, struct err *err);

/* Makes a root that containers can pivot away from, and mounts the kernel's file systems. */
int machine_mount(struct err *err);

/* Lifts what bounds the ids and open files of all processes together: their cgroups count both. */
int machine_lift_limits(struct err *err);

/* server_ops. */
int machine_set_clock(int64_t realtime_ns, struct err *err);
/* What AdjustClock does. */
int machine_adjust_clock(int64_t by_ns, int64_t *ret_realtime_ns, struct err *err);
int machine_configure(const Bulkhead__Agent__ConfigureSandboxRequest *request, struct err *err);

/* Job: writes back what the file systems hold. */
int machine_sync(void *arg, struct err *err);
_Noreturn void machine_power_off(void);
