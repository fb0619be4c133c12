/*
 * The device nodes of a container.
 */
#pragma once

#include <stdbool.h>

#include "agent/cgroup.h"
#include "agent/ids.h"
#include "agent/proto/agent.pb-c.h"
#include "common/err.h"

/*
 * Fills the directory `dev` with the nodes and links that every container has and, with
 * `guest_nodes`, with all others of the guest's /dev.
 */
int devices_make(int dev, bool guest_nodes, struct err *err);

/*
 * Makes the nodes that the request names, in place of what is there, and tells the rules by which
 * they may be used. Waits for disks. `rules` is empty before.
 */
int devices_add(int root, const Bulkhead__Agent__CreateContainerRequest *request,
	const struct ids *ids, struct device_rules *rules, struct err *err);
