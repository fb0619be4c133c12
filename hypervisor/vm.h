/*
 * Virtual machines for pods: define, boot, hot-attach, connect, watch, destroy.
 *
 * `struct hv` is the host's side once per process: the libvirt connection (the embedded QEMU driver
 * or a libvirtd), the accelerator that was found to work, and the thread that carries libvirt's
 * events. `struct hv_vm` is one machine. Its life:
 *
 *	hv_vm_create() → paused → hv_vm_resume() → running → hv_vm_destroy() → gone
 *	                                                └→ died (power-off, crash, QEMU killed)
 *
 * Domains are transient: one that ends is no longer known to libvirt. They outlive this process and
 * are found again by hv_vm_open(). Everything a machine has on the host (domain, vsock helper,
 * sockets, console file) is named after its id and lies in <run_dir>/vm/<id>, so hv_vm_destroy()
 * works from the id alone, at any point of a creation, in any state, any number of times.
 *
 * Threads: all functions may be called from any thread; calls for one VM are serialised by the
 * caller (the sandbox's lock), but hv_vm_connect(), which several may call at once. Functions block
 * for libvirt, for the times stated; a QEMU that does not answer it within a minute is killed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/log.h"
#include "common/userns.h"

struct hv;
struct hv_vm;

/* Ids of machines: 1…64 characters of [a-z0-9-]; they become file and domain names ("bh-<id>"). */
#define HV_ID_MAX 64
/* virtio-scsi targets that a disk may take. Target 0 is the scratch disk. */
#define HV_DISK_TARGET_MAX 255
/* CPUs of a machine: what the guest's kernel is built for. */
#define HV_VCPUS_MAX 64
/* How the guest finds the share. */
#define HV_SHARE_TAG "pod"

enum hv_accelerator {
	HV_ACCELERATOR_AUTO, /* probe KVM, else TCG */
	HV_ACCELERATOR_KVM,
	HV_ACCELERATOR_TCG,
};

struct hv_config {
	const char *libvirt_uri; /* "qemu:///embed?root=DIR" or "qemu:///system" */
	const char *run_dir;     /* sockets and consoles; exists */
	enum hv_accelerator accelerator;
	const char *kernel; /* uncompressed vmlinux with a PVH note */
	const char *initramfs;
	const char *kernel_arguments; /* appended to ours; "" for none */
	const char *virtiofsd;
	const char *vsock_helper; /* path of bulkhead-vsock; bulkhead-console lies beside it */
	unsigned monitor_ms;      /* in which QEMU must answer libvirt; 0: a minute */
};

/* The path of bulkhead-console, beside bulkhead-vsock; the caller frees. NULL: memory is out. */
char *hv_console_program(const char *vsock_helper);

/* A machine ended without hv_vm_destroy(). reason is for people. Called on the event thread; must
 * not block. */
typedef void (*hv_died_fn)(void *userdata, const char *id, const char *reason);

/*
 * Opens libvirt and settles the accelerator. Writes what the embedded driver needs below its root
 * (etc/qemu.conf). The first open on a host probes QEMU's capabilities: about 4 s, then cached.
 * Errors name the remedy: root not writable, QEMU missing, kernel missing, another process owns the
 * root.
 */
int hv_open(const struct hv_config *config, const struct log *log, hv_died_fn on_died,
	void *userdata, struct hv **ret, struct err *err);
struct hv *hv_close(struct hv *hv);

/* "kvm" or "tcg", and why: "KVM_RUN of a 64-bit guest did not finish in 500 ms". Valid as long as
 * hv. */
const char *hv_accelerator_name(const struct hv *hv);
const char *hv_accelerator_reason(const struct hv *hv);
/* "vhost-vsock" or "vhost-user". */
const char *hv_transport_name(const struct hv *hv);
/* QEMU's and libvirt's versions for Status and `check`: "QEMU 7.2.22, libvirt 9.0.0". */
const char *hv_version(const struct hv *hv);

/*
 * Whether the driver still answers: 0, or an error for the RuntimeReady condition.
 */
int hv_check(struct hv *hv, struct err *err);

/*
 * The KVM probe alone, as `bulkheadctl check` shows it: 0 works; positive 1: does not, with the
 * reason in `reason`. Runs in a child process, for a second of processor time and ten of wall time
 * at most. Used by hv_open() too.
 */
int hv_probe_kvm(char *reason, size_t size);

struct hv_nic {
	const char *tap; /* its name in our network namespace */
	bool made;       /* a macvtap, there already; else libvirt makes it */
	const char *mac; /* "aa:bb:cc:dd:ee:ff" */
};

/*
 * What all of a machine's processes together may take of the host. 0: no limit of CPU time; memory
 * and shares: as they are.
 */
struct hv_limits {
	uint64_t memory_mib;
	uint64_t cpu_shares;
	uint64_t cpu_quota_us, cpu_period_us;
};

struct hv_vm_spec {
	const char *id;
	unsigned vcpus;
	unsigned vcpus_max; /* to which it may grow; less than vcpus: not at all */
	unsigned memory_mib;
	unsigned memory_max_mib; /* likewise; rounded down to 128 MiB more than memory_mib */
	const struct hv_nic *nics;
	size_t n_nics;
	const char *scratch; /* raw image file for target 0 */
	bool share;          /* with a share for volumes, whose virtiofs tag is HV_SHARE_TAG */
	const char *cgroup;  /* "/a/b", made and removed with the machine; NULL: none */
	struct hv_limits limits;
};

/* Starts QEMU with its CPUs paused. Half a second under TCG. On failure nothing is left. */
int hv_vm_create(struct hv *hv, const struct hv_vm_spec *spec, struct hv_vm **ret, struct err *err);

/* Lets the CPUs run. */
int hv_vm_resume(struct hv_vm *vm, struct err *err);

/*
 * Finds a machine that an earlier process created. 0; positive 1: there is none (never was, or
 * died).
 */
int hv_vm_open(struct hv *hv, const char *id, struct hv_vm **ret, struct err *err);

/* Frees the handle; the machine goes on. NULL is accepted. */
struct hv_vm *hv_vm_unref(struct hv_vm *vm);

/*
 * Connects to a port the guest's agent listens on; the fd is a blocking stream socket. While the
 * machine boots this retries until timeout_ms; it ends early when the machine dies. On -ETIMEDOUT
 * and when the machine died (-EHOSTDOWN) the message quotes the end of the console, escaped.
 */
int hv_vm_connect(
	struct hv_vm *vm, uint32_t port, uint64_t timeout_ms, int *ret_fd, struct err *err);

/*
 * What a machine has, or is about to have because it was asked to grow, and may have at most. Its
 * CPUs are those that the guest may bring online; it may have fewer online.
 */
struct hv_size {
	unsigned vcpus, vcpus_max;
	unsigned memory_mib, memory_max_mib;
};
/* Any thread may read one that nobody makes grow. */
const struct hv_size *hv_vm_size(const struct hv_vm *vm);
/*
 * Gives the machine more, up to what it may have at most; less than it has changes nothing. Memory
 * comes by virtio-mem, which the guest takes by itself, in the order of 100 ms for a GiB; CPUs
 * appear in the guest and wait there to be brought online. -ERANGE: more than the most.
 */
int hv_vm_grow(struct hv_vm *vm, unsigned vcpus, unsigned memory_mib, struct err *err);

/*
 * Whether the guest's NIC with this MAC, which the spec gave it, has a carrier. Any thread may call
 * it, whatever others do with the machine. Milliseconds; nothing where it is so already.
 */
int hv_vm_set_link(struct hv_vm *vm, const char *mac, bool up, struct err *err);

/* Hot-attaches a read-only raw image (an EROFS layer) as SCSI target 1…HV_DISK_TARGET_MAX; 10 ms.
 */
int hv_vm_attach_disk(struct hv_vm *vm, unsigned target, const char *path, struct err *err);
/*
 * The same for a block device of the host. QEMU opens it by a node of the machine's own in /dev.
 */
int hv_vm_attach_device(
	struct hv_vm *vm, unsigned target, const char *path, bool read_only, struct err *err);
/* Takes it away again; one that is not attached is success. */
int hv_vm_detach_disk(struct hv_vm *vm, unsigned target, struct err *err);

/*
 * Volumes: hv_vm_bind() shows the guest the tree of mounts at `source` (any descriptor of a file or
 * directory; borrowed) as <name> in the share's root, in place of what was there. It stays until
 * hv_vm_unbind() or the machine's end, whatever becomes of this process. Names: 1 to 64 of
 * [a-z0-9-]. With a map (or NULL) a file whose id is 0 on disk is the guest's map->uid, and so on;
 * -EINVAL where a file system cannot do that. Some milliseconds.
 */
enum {
	HV_BIND_READ_ONLY = 1,       /* the topmost mount */
	HV_BIND_READ_ONLY_BELOW = 2, /* all mounts */
	HV_BIND_FOLLOW = 4, /* what is mounted below later, or unmounted, is so for the guest too */
};
int hv_vm_bind(struct hv_vm *vm, const char *name, int source, unsigned flags,
	const struct userns_map *map, struct err *err);
/* One that was bound with HV_BIND_READ_ONLY alone may be written from now on. */
int hv_vm_bind_writable(struct hv_vm *vm, const char *name, struct err *err);
/* Success also where there is none. */
int hv_vm_unbind(struct hv_vm *vm, const char *name, struct err *err);
/* Calls fn for each name that is bound, or was about to be. */
int hv_vm_each_bind(struct hv_vm *vm, int (*fn)(void *userdata, const char *name), void *userdata,
	struct err *err);

/* A pidfd of the process that serves the share, which the pod cannot do without. The caller closes
 * it. */
int hv_vm_share_pidfd(struct hv_vm *vm, int *ret_pidfd, struct err *err);

/* Sets the limits of its cgroup anew; of a machine without one: nothing. */
int hv_vm_limit(struct hv_vm *vm, const struct hv_limits *limits, struct err *err);

/*
 * Which of the host's processors and memory nodes the machine's processes may use: lists as cgroups
 * have them, "0-3,8"; empty: what the cgroup above has. Of a machine without a cgroup: nothing.
 * -EOPNOTSUPP: the host has no cgroups for that.
 */
int hv_vm_pin(struct hv_vm *vm, const char *cpus, const char *mems, struct err *err);

/* QEMU's process id, 0 when unknown; for cgroups and statistics. */
int hv_vm_pid(struct hv_vm *vm);

/* What QEMU and the machine's helpers cost the host. */
struct hv_cost {
	uint64_t cpu_ns;
	uint64_t pss_bytes; /* shared pages by the part of those who share them */
	uint64_t rss_bytes;
	unsigned processes;
};
/* A millisecond or a few: the kernel walks page tables. A machine that is gone costs nothing. */
int hv_vm_cost(struct hv *hv, const char *id, struct hv_cost *ret, struct err *err);

/*
 * Ends the machine whatever its state and removes all that it has on the host. A guest that should
 * end by itself was asked before, by its agent; hv_vm_wait_off() waits for that. No such machine is
 * success.
 */
int hv_vm_destroy(struct hv *hv, const char *id, struct err *err);

/* Waits until the machine has ended by itself: 0, or positive 1 when timeout_ms passed first. */
int hv_vm_wait_off(struct hv *hv, const char *id, uint64_t timeout_ms);

/* Calls fn for the id of every machine of ours that runs or has left something in run_dir. */
int hv_each_vm(
	struct hv *hv, int (*fn)(void *userdata, const char *id), void *userdata, struct err *err);

/*
 * The last bytes of the guest's console, at most max, raw, also of a machine that has ended and was
 * not destroyed yet; the caller frees. "" when there is none. Waits a second at most.
 */
int hv_vm_console(struct hv *hv, const char *id, size_t max, char **ret_text, struct err *err);
/* Its file on this host, whether it is there or not; the caller frees. NULL when memory is out. */
char *hv_vm_console_path(struct hv *hv, const char *id);
