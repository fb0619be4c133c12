/*
 * What the files of this room share. Ownership and threads: vm.h.
 */
#pragma once

#include <libvirt/libvirt.h>
#include <pthread.h>
#include <stdatomic.h>

#include "common/loop.h"
#include "hypervisor/cgroup.h"
#include "hypervisor/transport.h"
#include "hypervisor/tsc.h"
#include "hypervisor/user.h"
#include "hypervisor/vm.h"

/* A machine that hv_vm_destroy() is ending; lives on its stack. */
struct hv_ending {
	const char *id;
	bool gone; /* its last event has arrived */
	struct hv_ending *next;
};

struct hv {
	virConnectPtr connection;
	struct hv_config config; /* strings owned */
	char *state_dir;         /* where the driver keeps the pid files of domains */
	char *log_dir;           /* likewise, what QEMU wrote */
	char *lib_dir;           /* likewise, where each machine has a directory */
	const struct log *log;
	hv_died_fn on_died;
	void *userdata;
	bool kvm;
	bool libvirtd;       /* machines are one's, not our own driver's */
	struct tsc_mark tsc; /* as it was opened */
	bool vhost_net;      /* the kernel moves frames between taps and guests */
	char accelerator_reason[256];
	const struct transport *transport; /* of machines that are made */
	char version[64];
	struct cgroups cgroups;
	struct user qemu_user; /* of whose group machines are */

	pthread_t thread; /* runs libvirt's event loop */
	bool thread_runs;
	atomic_bool stop;
	int wake_timer;
	int lifecycle_callback;

	pthread_mutex_t lock; /* protects what follows */
	pthread_cond_t changed;
	struct hv_ending *endings;
};

struct hv_vm {
	struct hv *hv;
	char id[HV_ID_MAX + 1];
	char *dir;
	virDomainPtr domain;
	uint32_t cid;
	uid_t uid; /* of QEMU and its helpers; 0: ours, or what libvirt's build decides */
	struct hv_size size;
	unsigned boot_memory_mib; /* without what came later */
};

/* Fills err from libvirt's last error, with a code by its kind, and returns the code. */
int hv_fail(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The block devices' nodes of a machine: its id, then the disk's target. */
#define HV_DEVICE_NODES "/dev/bulkhead-%s-"

int hv_check_id(const char *id, struct err *err);
char *hv_vm_dir(const struct hv *hv, const char *id);

/*
 * Where the connection is to a libvirtd, with its end ours is asked for (SIGTERM): a connection
 * does not come back, and whoever starts us again gives us a new one.
 */
int hv_watch_connection(struct hv *hv, struct err *err);
/* Before it is closed, which libvirt would tell of as well. */
void hv_unwatch_connection(struct hv *hv);

/* Whether libvirt has it running: 1 or 0; an error where it cannot tell. */
int hv_is_active(virDomainPtr domain, const char *id, struct err *err);

/* The domain of ours with the id: 0; positive 1: none; the caller frees it. */
int hv_lookup(struct hv *hv, const char *id, virDomainPtr *ret, struct err *err);

/*
 * Waits until a lifecycle event arrives or the time (CLOCK_MONOTONIC, ms) has come; the lock is
 * held. Positive 1: the time has come.
 */
int hv_wait_changed(struct hv *hv, uint64_t until_ms);

/* A pidfd of the QEMU that runs the machine, and its id; -ESRCH when there is none. */
int hv_open_qemu(const struct hv *hv, const char *id, int *ret_pid);

/*
 * monitor.c: for the time of a call that libvirt has QEMU's monitor answer. Where memory or
 * descriptors are out, or QEMU has ended, nothing bounds it.
 */
int hv_monitor_begin(const struct hv_vm *vm);
void hv_monitor_end(const int *timer);
#define _cleanup_monitor_ _cleanup_(hv_monitor_end)

/* vm_user.c */
/* Whether a machine that is there has it: 1 or 0. */
int vm_user_is_taken(const struct hv *hv, uid_t uid, struct err *err);
int vm_user_pick(struct hv_vm *vm, struct err *err);
/* That of a machine that runs, as libvirt has it; 0: it does not say. */
void vm_user_take(struct hv_vm *vm, uid_t uid);
#define VM_USER_TEXT 24
/* As the helpers want it; NULL: they stay what we are. */
const char *vm_user_text(const struct hv_vm *vm, char text[VM_USER_TEXT]);
/* So that the machine may open it, and no other. */
int vm_user_give(const struct hv_vm *vm, const char *path, struct err *err);
/* Takes from it what libvirt gave it for its start; before its guest runs. */
int vm_user_fence(const struct hv_vm *vm, struct err *err);

/* vm_cgroup.c */
int vm_cgroup_make(
	const struct hv_vm *vm, const char *path, const struct hv_limits *limits, struct err *err);
/* Whether the process is in it, which no process of the machine can leave. */
bool vm_cgroup_has(const struct hv *hv, const char *id, pid_t pid);
/* QEMU, and what the kernel does for it. */
int vm_cgroup_enter(struct hv_vm *vm, const struct cgroup_place *place, struct err *err);
/* Kills whatever is left in it. dir: the machine's directory, which names it. */
int vm_cgroup_remove(const struct hv *hv, const char *dir, struct err *err);

/* Prepares the embedded driver's root; `qemu:///system` needs nothing. */
int driver_prepare(struct hv *hv, struct err *err);
/* Writes its configuration, which depends on the accelerator. */
int driver_configure(const struct hv *hv, struct err *err);
/* What libvirt made there is no machine's to write, once it is open. */
void driver_fence(const struct hv *hv);

static inline void hv_domain_freep(virDomainPtr *domain)
{
	if (*domain)
		virDomainFree(*domain);
}
#define _cleanup_domain_ _cleanup_(hv_domain_freep)
