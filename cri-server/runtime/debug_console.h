/*
 * The debug console: a shell in the guest itself, as its root, outside of all containers. Only
 * where the configuration names a program for it (hypervisor.debug_console); the guest has no shell
 * of its own.
 *
 * The program, which must be static, is written into a file system in the guest's memory, that no
 * container sees, by the calls that make volumes; it stays there until the machine ends. Then it is
 * an exec like others, of which the agent is told that it is in no container.
 */
#pragma once

#include "agent/proto/agent.pb-c.h"
#include "common/err.h"

struct machine;
struct runtime;
struct sandbox;

/*
 * Whether container_id asks for a debug console: 0: no; 1: yes, of the pod *ret, a reference.
 * -EBADFD: the configuration does not permit it, or the pod does not run; -ENOENT: no such pod.
 */
int debug_console_find(
	struct runtime *rt, const char *container_id, struct sandbox **ret, struct err *err);

/* Brings the program into the guest, in place of the one that is there. Blocks for the guest. */
int debug_console_prepare(struct machine *machine, struct err *err);

/* What it begins as, packed; ret->data is the caller's to free. */
int debug_console_process(ProtobufCBinaryData *ret, struct err *err);
