/*
 * What pods use, as their guests say: the last sample of each, brought up to date on demand.
 *
 * A guest that does not answer holds up nobody for long: samples are taken in parallel, each within
 * a second, and one that let that pass is given a tenth of it until it answers again. Its last
 * sample stands, with its time.
 */
#pragma once

#include "agent/proto/agent.pb-c.h"
#include "cri-server/runtime/internal.h"

/* Blocks for about a second at most. References stay the caller's. */
void usage_refresh(struct sandbox *const *sandboxes, size_t n);

/* The container's part of its pod's last sample; NULL: none, or it does not run. runtime->lock. */
const Bulkhead__Agent__Usage *usage_of(const struct container *container);

/* Sandboxes that want() accepts, with references; the caller drops them and frees the array. */
int usage_sandboxes(struct runtime *rt, bool (*want)(const struct sandbox *, const void *),
	const void *userdata, struct sandbox ***ret, size_t *ret_n, struct err *err);
void usage_sandboxes_free(struct sandbox **sandboxes, size_t n);
