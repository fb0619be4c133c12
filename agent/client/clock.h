/*
 * The guest's clock, kept by the host's: set with each Hello, and looked at with each answer to
 * NextEvents, every 30 s at least. It is wrong after the machine or the host stood still, after the
 * host's clock was set, after somebody in the guest set it, and a little by drift.
 *
 * An answer tells the guest's time when it was sent; how long it was on its way is not known. So
 * what looks wrong is measured by a short call, and moved by the difference, which is right however
 * long that call takes. A guest that lies costs a few calls per second, and harms its own pod.
 */
#pragma once

#include <stdint.h>

#include "agent/client/client.h"

/* Of one agent; begins as zeros. Its event thread's. */
struct clock_watch {
	uint64_t tried_ms; /* when it was measured last */
};

/* CLOCK_REALTIME. */
int64_t clock_now_ns(void);

/* An answer came that was sent at guest_ns. Blocks for some calls where that looks wrong. What
 * fails is tried again with the next answer. */
void clock_watch(struct agent *agent, struct clock_watch *watch, int64_t guest_ns);
