/*
 * What a container finds mounted in its root beside its image: /proc, /sys, /dev and their like,
 * the pod's files in /etc; and what it must not see or change of them.
 *
 *	mounts_populate()  before the root is entered: it needs the guest's /dev and the pod's files
 *	mounts_console()   after the terminal was opened in the container's /dev/pts
 *	mounts_seal()      last: masked and read-only paths, and the root itself
 *
 * Called by the container's init child, in its namespaces.
 */
#pragma once

#include "agent/ids.h"
#include "agent/proto/agent.pb-c.h"
#include "common/err.h"

int mounts_populate(int root, const Bulkhead__Agent__CreateContainerRequest *request,
	const struct ids *ids, struct err *err);

/* Puts the terminal that is standard input at /dev/console. */
int mounts_console(struct err *err);

int mounts_seal(const Bulkhead__Agent__CreateContainerRequest *request, struct err *err);
