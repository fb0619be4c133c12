/*
 * What a container's files cost: its image's and its writable layer's against the same blocks of
 * the disks they lie on, in the same guest; a volume's against the same directory in a container of
 * containerd with runc. guest/disk_load.c does it, inside. One thread.
 */
#pragma once

#include "tests/bench/container.h"

struct disk_bench {
	struct bench_peer ours; /* the image has /large */
	struct bench_peer baseline;
	const char *volume; /* a directory of the host with disk_load and `large` */
	const char *dir;    /* for logs */
};

/* Rows disk.image_read, disk.scratch_write, volume.read, volume.small_files and what they are
 * compared with. */
int disk_measure(const struct disk_bench *bench, struct results *results, struct err *err);
