/* Whether there is room for threads: what libraries do without one of theirs is not for us. */
#pragma once

#include <stddef.h>

#include "common/err.h"

/*
 * Starts so many threads, which end again before it returns: 0, or -EAGAIN where the kernel's
 * limits of processes forbid it, or -ENOMEM. `why` says in the message what they are for. Any
 * thread.
 */
int threads_check(size_t n, const char *why, struct err *err);
