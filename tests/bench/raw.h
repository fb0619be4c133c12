/*
 * The raw machine: QEMU started directly on a pod's machine without the pod. It is what
 * RunPodSandbox is held against, so it is made from the command line of a real pod's QEMU: what
 * needs a partner outside (NIC, vsock device, monitor, shared directory) and libvirt's confinement
 * are left out, the disk is an empty file of the same size, the console comes to us.
 *
 *	raw_machine_learn() → raw_boot() → booted → raw_end() → raw_boot() …
 *
 * One thread. The machine ends with that thread at the latest.
 */
#pragma once

#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

struct raw_machine {
	json_t *arguments; /* strings; owned */
};

struct raw_boot {
	pid_t pid;
	int console; /* reading end */
};

#define RAW_BOOT_INIT                                                                              \
	{                                                                                          \
		.console = -EBADF                                                                  \
	}

/* Learns the command line from the QEMU of the pod with the id; dir is where its disk will lie. */
int raw_machine_learn(
	pid_t qemu, const char *id, const char *dir, struct raw_machine *ret, struct err *err);
void raw_machine_done(struct raw_machine *machine);

/*
 * Starts it and waits, at most a minute, for the agent's first instruction, which says a line on
 * the console. *ret_ns: from just before the new process to the line's arrival. End it in any case.
 */
int raw_boot(const struct raw_machine *machine, struct raw_boot *boot, uint64_t *ret_ns,
	struct err *err);
void raw_end(struct raw_boot *boot);
