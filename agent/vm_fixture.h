/*
 * For tests: one machine under QEMU with the real kernel and agent, a network card, a scratch disk
 * (SCSI target 0) and a layer of busybox (target 1); and the client connected to it. Linked into
 * tests only.
 *
 * Needs root, QEMU, busybox, mkfs.erofs, mke2fs, and in BULKHEAD_KERNEL and BULKHEAD_INITRAMFS what
 * to boot. Runs without KVM: it is about what the guest does, not about how fast.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

#include "agent/client/client.h"
#include "common/loop.h"

#define VM_MAC        "52:54:00:12:34:56"
#define VM_GATEWAY    "10.0.2.2"
#define VM_EVENTS_MAX 256

struct vm_event {
	char container_id[64];
	char process_id[64];
	int code;
	bool oom_killed;
};

struct vm {
	char dir[64];
	char program[256]; /* of bulkhead-vsock */
	pid_t qemu;
	pid_t vsock;
	struct ev_loop *loop;
	pthread_t loop_thread;
	struct agent_transport transport;
	struct agent *agent;
	uint64_t started_ms;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct vm_event events[VM_EVENTS_MAX];
	size_t n_events;
	bool lost;
};

/* Whether the environment has what is needed. */
bool vm_can_run(void);
int vm_start(struct vm *vm, struct err *err);
/* Ends what runs and removes its files; prints the console when the test failed. */
void vm_stop(struct vm *vm, bool print_console);

/* Connects the client anew, telling that events up to `after` are recorded. */
int vm_connect(struct vm *vm, uint64_t after, struct err *err);

/* Waits for the exit of a process; false after timeout_ms. */
bool vm_wait_exit(struct vm *vm, const char *container_id, const char *process_id,
	uint64_t timeout_ms, struct vm_event *ret);
/* Has QEMU's monitor do a command without arguments, as "stop". */
int vm_monitor(struct vm *vm, const char *command, struct err *err);
/* Waits until QEMU has ended by itself. */
bool vm_wait_off(struct vm *vm, uint64_t timeout_ms);
