/*
 * CNI plugins within which a bulkheadd before us was killed. They go on to their end (cni.c says
 * why), and what they make after DEL has run for their pod would be nobody's: DEL waits for them.
 *
 * They are known by the CNI_CONTAINERID in their environment, which what they start has too.
 * Constant after orphans_find(); threads: any.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct orphan {
	char *id; /* of the pod */
	int pidfd;
};

struct orphans {
	struct orphan *items;
	size_t n;
};

/* Those that run now with our user's rights. Best effort: what cannot be examined is none. */
void orphans_find(struct orphans *ret);
void orphans_done(struct orphans *orphans);

/* Until those of a pod have ended; after timeout_ms they are killed, as any plugin then is. */
void orphans_await(const struct orphans *orphans, const char *id, uint64_t timeout_ms);
