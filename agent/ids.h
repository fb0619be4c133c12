/*
 * Whose ids the pod's containers have: the guest's own or, where the pod has a user namespace,
 * those of a range of the guest's. All containers of the pod share it.
 *
 * The agent enters the network and IPC namespaces that belong to it and stays outside of itself. A
 * container's child mounts and makes everything with the guest's rights, but as the user who is
 * root inside (ids_make_as_root()), and enters at its end (security.h).
 */
#pragma once

#include "agent/proto/agent.pb-c.h"
#include "common/userns.h"

struct ids {
	int userns; /* -EBADF: the guest's own ids */
	struct userns_map map;
};

#define IDS_INIT                                                                                   \
	{                                                                                          \
		.userns = -EBADF                                                                   \
	}

/* The guest's id for one of a container's. */
uint32_t ids_uid(const struct ids *ids, uint32_t inside);
uint32_t ids_gid(const struct ids *ids, uint32_t inside);

/*
 * Makes the pod's namespaces, moves the guest's network devices into them and the calling process
 * too. In the agent itself; some milliseconds.
 */
int ids_enter(
	const Bulkhead__Agent__ConfigureSandboxRequest *request, struct ids *ret, struct err *err);

/* In a child: what it makes from now on is root's as the container sees it; its rights stay. */
int ids_make_as_root(const struct ids *ids, struct err *err);

/* Shows the files of a detached mount with the container's ids. */
int ids_map_mount(const struct ids *ids, int mount, struct err *err);
