/*
 * layer-overlay DEVICE…: lists the root that the agent makes of these layers, block devices with
 * EROFS images, lowest first: the agent's own code, which finds them as a machine's disks. In
 * mounts of its own.
 */
#include <err.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/disk.h"
#include "agent/rootfs.h"
#include "common/fd.h"
#include "tests/layers/list.h"

static char **devices;

int disk_wait(
	unsigned target, unsigned timeout_ms, char ret_path[static DISK_PATH_MAX], struct err *err)
{
	(void)timeout_ms;
	(void)err;
	snprintf(ret_path, DISK_PATH_MAX, "%s", devices[target]);
	return 0;
}

int main(int argc, char **argv)
{
	struct err error = ERR_INIT;
	uint32_t targets[ROOTFS_LAYERS_MAX];
	const struct ids ids = IDS_INIT;
	size_t n = (size_t)argc - 1;
	int root;
	if (n > ROOTFS_LAYERS_MAX)
		errx(1, "too many layers");
	devices = argv + 1;
	for (size_t i = 0; i < n; i++)
		targets[i] = (uint32_t)i;
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0 || mkdir(ROOTFS_STAGE, 0700) < 0)
		err(1, "make mounts");
	if (rootfs_begin(&error) < 0 || rootfs_layers(targets, n, &ids, &error) < 0 ||
		rootfs_overlay(n, "/run/scratch", 0, &root, &error) < 0 ||
		rootfs_enter(root, &error) < 0)
		errx(1, "%s", error.msg);
	/* As a container sees it: without the rights to overlayfs's own attributes it has none in
	 * the way. */
	list_tree("/.");
	if (fflush(stdout) != 0)
		err(1, "write");
	/* The root has no /proc, for which a sanitizer's search for leaks at exit waits. */
	_exit(0);
}
