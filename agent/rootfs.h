/*
 * A container's root file system: its image's layers under an overlay, whose upper directory is on
 * the pod's scratch disk.
 *
 * All of it happens in the container's own mount namespace, so that nothing is left to unmount when
 * the container ends:
 *
 *	rootfs_begin()    mounts become private; a tmpfs at ROOTFS_STAGE for mount points, and
 *	                  the working directory in it
 *	rootfs_layers()   the layers' disks at "0", "1", …, lowest first
 *	rootfs_overlay()  the overlay replaces the stage at ROOTFS_STAGE
 *	rootfs_enter()    it becomes "/"
 *
 * Called by the container's init child, which blocks.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "agent/ids.h"
#include "common/err.h"

/* An existing directory of the guest's root. */
#define ROOTFS_STAGE "/run/rootfs"
/* Layers of one image; the container runtimes' common bound. */
#define ROOTFS_LAYERS_MAX 127

int rootfs_begin(struct err *err);

/* Waits for the disks of the SCSI targets and mounts their EROFS, read-only. */
int rootfs_layers(const uint32_t *targets, size_t n, const struct ids *ids, struct err *err);

/*
 * Overlays the n layers of the stage with <scratch>/upper and <scratch>/work, which are made and
 * counted as the project (quota.h; 0: none).
 * *ret_root is an O_PATH descriptor of the root.
 */
int rootfs_overlay(
	size_t n_layers, const char *scratch, uint32_t project, int *ret_root, struct err *err);

/*
 * The file system of another image, or the directory or file at its sub_path, read-only, as a
 * mount that is attached nowhere. Between rootfs_overlay() and rootfs_enter().
 */
int rootfs_image(const Bulkhead__Agent__Mount *image, const struct ids *ids, int *ret_mount,
	struct err *err);

/*
 * Makes `root` (a mount) the process's root. No way is left to the guest's, whose mounts are gone
 * from this namespace.
 */
int rootfs_enter(int root, struct err *err);
