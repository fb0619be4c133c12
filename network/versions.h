/*
 * Which of a configuration's versions of the specification its plugins speak. They are asked
 * (VERSION) when they or the configuration's versions are others than those that were asked last.
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
	char *asked;          /* versions and plugins, as text; or NULL */
	const char *spoken;   /* what they speak of these */
};

void versions_init(struct versions *versions);
void versions_done(struct versions *versions);

/*
 * Sets config->version to the latest that all of them speak. -EINVAL names a plugin that does not
 * speak the latest, where there is none. Blocks for plugins that are asked.
 */
int versions_check(struct versions *versions, const struct cni_runtime *runtime,
	struct cni_config *config, struct err *err);
