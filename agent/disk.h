/*
 * The guest's SCSI disks, found by their target number. Blocks: for jobs and children only.
 */
#pragma once

#include <stddef.h>

#include "common/err.h"

/* "/dev/sdaa…" */
#define DISK_PATH_MAX 32

/*
 * Waits until the disk at 0:0:<target>:0 of the first virtio-scsi host has its block device, whose
 * path goes to ret_path. -ETIMEDOUT names the target.
 */
int disk_wait(
	unsigned target, unsigned timeout_ms, char ret_path[static DISK_PATH_MAX], struct err *err);
