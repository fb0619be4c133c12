/*
 * What a runtime tells CNI plugins beside their configuration: capability arguments.
 *
 * A plugin that declares a capability ("capabilities": {"portMappings": true}) reads its argument
 * in "runtimeConfig"; others never see it. Sources: containernetworking SPEC 1.1.0, "Deriving
 * runtimeConfig"; CONVENTIONS.md, "Dynamic plugin specific fields". Threads: any.
 */
#pragma once

#include <jansson.h>

#include "common/err.h"
#include "network/cni_config.h"
#include "network/pod_network.h"

/*
 * An object of the arguments by capability, without those that nothing is asked of. -EINVAL, naming
 * it, for an argument that plugins could not make sense of. `network` is whose aliases they are.
 */
int capability_args(const char *network, const struct net_capabilities *capabilities, json_t **ret,
	struct err *err);

/*
 * The plugins of the configuration, each as it reads it but for prevResult: with name and version,
 * and with those arguments that it declares. NULL when memory is out.
 */
json_t *capability_derive(const struct cni_config *config, json_t *args);
