/*
 * A container's volumes, which CRI calls mounts: of the share, which the host serves, and of the
 * guest, which are file systems in memory below CONTAINER_VOLUMES.
 *
 * volumes_mount() is called by the container's init child, in its namespaces, before it enters its
 * root. The others are jobs (process.h) for the messages of the same names; they block.
 */
#pragma once

#include "agent/ids.h"
#include "agent/proto/agent.pb-c.h"
#include "common/err.h"

/*
 * Mounts all of them, those with shorter destinations first, so that each may be the place of
 * another, and makes them read-only when all have their place.
 */
int volumes_mount(int root, const Bulkhead__Agent__CreateContainerRequest *request,
	const struct ids *ids, struct err *err);

int volumes_make(const Bulkhead__Agent__MakeVolumeRequest *request, struct err *err);
int volumes_remove(const Bulkhead__Agent__RemoveVolumesRequest *request, struct err *err);

/* volume_write.c: `volume` is a descriptor of the volume's directory. */
int volume_write(int volume, const Bulkhead__Agent__WriteVolumeRequest *request, struct err *err);
/* The volume's directory; -ENOENT. */
int volumes_open(const char *name, int *ret_fd, struct err *err);
