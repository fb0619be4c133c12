/*
 * CRI's resources: checked, turned into the agent's, and changed while a container runs.
 */
#pragma once

#include "cri-server/runtime/internal.h"

/* -EINVAL with the field's name. NULL is fine. */
int resources_check(const Runtime__V1__LinuxContainerResources *resources, struct err *err);
/* *ret is NULL for NULL; freed by bulkhead__agent__resources__free_unpacked(). */
int resources_for_agent(const Runtime__V1__LinuxContainerResources *from,
	Bulkhead__Agent__Resources **ret, struct err *err);
/* A copy of `base` (may be NULL) in which what `change` sets is as it says, as in containerd. */
Runtime__V1__LinuxContainerResources *resources_merge(
	const Runtime__V1__LinuxContainerResources *base,
	const Runtime__V1__LinuxContainerResources *change);
