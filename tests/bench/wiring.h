/*
 * The wiring of a pod's first interface, taken away and made again while its machine runs.
 *
 *	wired   as the pod was made
 *	bare    the tap is a port of the bridge itself, in the place of the pod's veth
 *
 * One thread.
 */
#pragma once

#include "common/err.h"

struct wiring {
	const char *program; /* tests/bench/unwire */
	const char *dir;     /* for what libraries want to keep */
};

/* What is wired becomes bare. Some ticks of the kernel's clock. */
int wiring_remove(const struct wiring *wiring, const char *pod, const char *netns, struct err *err);

/* What is bare becomes wired, by the functions that wire pods. */
int wiring_restore(
	const struct wiring *wiring, const char *pod, const char *netns, struct err *err);
