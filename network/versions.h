/*
 * Whether the plugins of a configuration speak its version of the specification. They are asked
 * (VERSION) when they or the configuration's version are others than those that were asked last.
 *
 * Threads: any.
 */
#pragma once

#include <pthread.h>

#include "common/err.h"
#include "network/cni.h"
#include "network/cni_config.h"

struct versions {
	pthread_mutex_t lock; /* of what follows */
	char *spoken;         /* the version and the plugins that speak it, as text; or NULL */
};

void versions_init(struct versions *versions);
void versions_done(struct versions *versions);

/* -EINVAL names a plugin that does not. Blocks for plugins that are asked. */
int versions_check(struct versions *versions, const struct cni_runtime *runtime,
	const struct cni_config *config, struct err *err);
