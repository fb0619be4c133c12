/*
 * What the files of runtime/ share.
 *
 * Locks, outermost first:
 *	sandbox->op    serialises what changes one pod (run, stop, remove; create, start, remove of
 *	               its containers); held across calls to libvirt, CNI and the agent
 *	runtime->lock  protects both indexes, every reference count, and every record: a record is
 *	               written holding it (and, by RPCs, `op`), read holding it. Held for memory and
 *	               one database write, never across a wait for a machine. List and status RPCs
 *	               need only this one
 *
 * Threads: RPC workers; each agent's event thread (container_exited(), exec_exited()); `io` runs
 * the agents' control connections and is told of changed volumes, `keeper` the jobs that may block
 * but belong to no RPC (a machine that died); the logs have a loop of their own.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "agent/client/client.h"
#include "common/loop.h"
#include "common/userns.h"
#include "cri-server/message.h"
#include "cri-server/proto/cri.pb-c.h"
#include "cri-server/runtime/dir_watch.h"
#include "cri-server/runtime/fanout.h"
#include "cri-server/runtime/logs.h"
#include "cri-server/runtime/runtime.h"
#include "cri-server/runtime/steps.h"
#include "cri-server/seccomp/cache.h"
#include "hypervisor/vm.h"
#include "network/pod_network.h"
#include "network/watch.h"

/* 128 random bits in hex: short enough for socket paths and tap names made of it. */
#define ID_LEN 32

struct worker_loop {
	struct ev_loop *loop;
	pthread_t thread;
	bool runs; /* the thread */
};

struct runtime {
	const struct config *config;
	const struct log *log;
	struct store *store;
	struct img *images;
	struct hv *hv;
	struct net *net;
	struct net_watcher *watcher;
	struct dir_watcher *volume_watcher; /* on io */
	struct logs *logs;
	struct events *events;
	struct filter_cache *filters; /* of seccomp, for all containers */
	struct turns *starts;         /* of pods, until their guests answer */
	struct worker_loop io;
	struct worker_loop keeper;

	pthread_mutex_t lock;
	TAILQ_HEAD(, sandbox) sandboxes;
	TAILQ_HEAD(, container) containers;
	TAILQ_HEAD(, exec) execs;
	unsigned recovering; /* lock; threads that still look after pods of an earlier process */
	size_t unsettled;    /* lock; pods that they have not dealt with */
	bool closing;        /* lock; they are to end */
	pthread_cond_t recovered; /* with lock: one of the three changed */
};

/* A machine with its agent. Reference counted, so that a call to the agent needs no lock. */
struct machine {
	struct runtime *runtime;
	atomic_uint refs;
	char sandbox_id[ID_LEN + 1];
	struct hv_vm *vm;
	struct agent *agent;           /* NULL until the guest answered */
	unsigned starts;               /* runtime->lock; exec'd processes that are being started */
	uint64_t turn_ended_ms;        /* the same; of the last one that was, 0: none yet */
	pthread_cond_t fewer_starts;   /* with runtime->lock */
	pthread_mutex_t debug_console; /* its program is being brought into the guest */
	unsigned vcpus; /* the sandbox's op; that the guest has online, 0: not known */
	bool pinned;    /* likewise; to some of the node's processors, or not known */
};

struct sandbox {
	TAILQ_ENTRY(sandbox) link;
	struct runtime *runtime;
	unsigned refs; /* runtime->lock */
	bool gone;     /* runtime->lock; out of the index, only references are left */
	char id[ID_LEN + 1];
	Runtime__V1__PodSandboxConfig *config;      /* never changes */
	Runtime__V1__LinuxPodSandboxConfig *limits; /* op; as updated, NULL: never */
	pthread_mutex_t op;
	Bulkhead__Store__Sandbox *record;
	bool unsaved;                      /* runtime->lock; what is recorded may differ */
	struct machine *machine;           /* runtime->lock; NULL: none (yet, or any more) */
	bool recovering;                   /* runtime->lock; a start has not dealt with it yet */
	char unreached[256];               /* runtime->lock; why a start still tries to reach it */
	bool settled;                      /* runtime->lock; the agent's events may be taken */
	uint32_t last_target;              /* op; where the last disk was attached */
	struct mirror *mirror;             /* op; there while there is a machine */
	struct network_follower *follower; /* op; likewise */
	unsigned release_failures;         /* op; of its network, since we started */
	struct step_times times; /* runtime->lock; of the bring-up; zero after a restart */
	uint64_t plugins_ns;     /* of its network; zero after a restart */
	Bulkhead__Agent__StatsResponse *usage; /* runtime->lock; the last sample, NULL: none */
	bool usage_slow;                       /* runtime->lock; it did not answer the last time */
	struct rpc_answer listed; /* runtime->lock; ListPodSandbox' of it alone, in listed_state */
	Runtime__V1__PodSandboxState listed_state;
};

struct container {
	TAILQ_ENTRY(container) link;
	struct runtime *runtime;
	unsigned refs; /* runtime->lock */
	bool gone;     /* runtime->lock; out of the index, only references are left */
	char id[ID_LEN + 1];
	Runtime__V1__ContainerConfig *config; /* never changes */
	struct sandbox *sandbox;              /* a reference */
	Runtime__V1__LinuxContainerResources
		*resources; /* runtime->lock; as updated, NULL: never */
	Bulkhead__Store__Container *record;
	bool unsaved;             /* runtime->lock; what is recorded may differ */
	struct log_writer *log;   /* runtime->lock; NULL: it does not run, or as recover.c says */
	bool start_untold;        /* runtime->lock; no event told of its start yet */
	bool end_untold;          /* runtime->lock; the same of its end */
	bool asked_to_end;        /* runtime->lock; its stop signal was sent, by us */
	struct fanout *fanout;    /* its output and input for attached clients */
	pthread_cond_t changed;   /* with runtime->lock: the state changed */
	struct rpc_answer listed; /* runtime->lock; ListContainers' of it alone, in listed_state */
	Runtime__V1__ContainerState listed_state;
	struct rpc_answer attributes; /* runtime->lock; its statistics without figures */
};

/* An exec'd process whose exit somebody waits for; belongs to who waits. */
struct exec {
	TAILQ_ENTRY(exec) link;
	const char *sandbox_id;
	const char *container_id; /* or AGENT_GUEST */
	char id[ID_LEN + 1];
	bool exited;
	int32_t exit_code;
	pthread_cond_t changed; /* with runtime->lock */
	/* Called with runtime->lock held when it has exited; may be NULL. */
	void (*wake)(void *userdata);
	void *userdata;
};

/* runtime.c */
struct runtime *call_runtime(const struct rpc_call *call);
void make_id(char id[ID_LEN + 1]);
int64_t realtime_ns(void);
/* Waits on cond with runtime->lock held; false when the monotonic deadline passed. */
bool wait_until(struct runtime *rt, pthread_cond_t *cond, uint64_t deadline_ms);
/*
 * A look-up by id or by the unique beginning of one: every candidate is offered, then the end asks
 * what was found. An empty id finds nothing.
 */
struct id_search {
	const char *id;
	void *found;
	bool ambiguous;
};
void id_search_offer(struct id_search *search, const char *id, void *candidate);
/* What was found; NULL with -ENOENT, or -EINVAL where several begin so. noun: "sandbox". */
void *id_search_end(const struct id_search *search, const char *noun, struct err *err);
/* Filters look through these with runtime->lock held, for each pod. */
#define LABELS_MAX    4096
#define SELECTORS_MAX 128
/* -EINVAL: more than the most. noun: "labels". */
int labels_check(const char *noun, size_t n, size_t max, struct err *err);
/* Whether every key=value of `wanted` is in `labels`: two arrays of the generated map entries. */
bool labels_match(void *const *wanted, size_t n_wanted, void *const *labels, size_t n_labels);

/* machine.c */
struct machine_spec {
	const struct config_handler *handler;
	const Runtime__V1__PodSandboxConfig *config;
	size_t n_nics;
	const char *scratch;
};
/* Creates it paused. */
int machine_create(struct runtime *rt, const char *sandbox_id, const struct machine_spec *spec,
	struct machine **ret, struct err *err);
/* Bounds what it takes of the host's CPUs too, once it has booted. */
int machine_limit(struct machine *machine, const struct sandbox *sandbox, struct err *err);
/* Lets it boot. */
int machine_resume(struct machine *machine, struct err *err);
/* Talks to the agent of a machine that boots or runs; its events after number `after` arrive. */
int machine_connect(struct machine *machine, struct sandbox *sandbox, uint64_t after,
	uint64_t timeout_ms, struct err *err);
/* Finds one of an earlier process. 0; positive 1: it is gone. */
int machine_find(struct runtime *rt, const char *sandbox_id, struct machine **ret, struct err *err);
struct machine *machine_ref(struct machine *machine);
/* The last one closes the agent's connection: never from an agent's callback. Returns NULL. */
struct machine *machine_unref(struct machine *machine);
/* The NIC's MAC for the pod's n-th interface. */
void machine_nic_mac(const char *sandbox_id, size_t n, char mac[18]);

/* grow.c; `op` is held for both */
/*
 * Gives the sandbox's machine what the limits of its containers need together, `with` among them,
 * which is new, or whose limits become `resources` (may be NULL). What exceeds the handler's limits
 * is not there, as on a node with less than that; logged. -ENOBUFS: the guest did not take it.
 */
int grow_for_container(struct machine *machine, struct container *with,
	const Runtime__V1__LinuxContainerResources *resources, struct err *err);
/* The same for the limits of the pod. */
int grow_for_pod(struct machine *machine, struct sandbox *sandbox,
	const Runtime__V1__LinuxContainerResources *resources, struct err *err);
/* -ENOBUFS: more memory than the machine may ever have. */
int grow_check(const struct machine *machine, const struct sandbox *sandbox,
	const Runtime__V1__LinuxContainerResources *resources, struct err *err);

/* pin.c; `op` is held for both */
/*
 * Lets the machine run on those of the node's processors and memory nodes that its containers are
 * given together, `with` among them, which is new, or whose resources become these (may be NULL).
 */
int pin_for_container(struct machine *machine, struct container *with,
	const Runtime__V1__LinuxContainerResources *resources, struct err *err);
/* The same without one that goes; a failure is logged. */
void pin_without(struct machine *machine, struct container *without);

/* sandbox.c */
struct sandbox *sandbox_new(struct runtime *rt, const char *id,
	const Runtime__V1__PodSandboxConfig *config, struct err *err);
/* By id or unique prefix, with a reference; NULL with -ENOENT. */
struct sandbox *sandbox_find(struct runtime *rt, const char *id, struct err *err);
void sandbox_unref(struct sandbox *sandbox);
/* -ENOENT when it is gone: it was removed, or failed to come up, while the caller waited for `op`.
 */
int sandbox_check_found(struct sandbox *sandbox, struct err *err);
/* With runtime->lock held. */
int sandbox_save_locked(struct sandbox *sandbox, struct err *err);
/* Nobody finds it any more; the index's reference is the caller's to drop. `op` is held. */
void sandbox_leave_index(struct sandbox *sandbox);
/* All events of the agent up to this one are dealt with. 0 or -errno. */
int sandbox_record_event(struct sandbox *sandbox, uint64_t sequence);
/* The same for one that tells of nothing: AGENT_EVENT_STRAY. */
int sandbox_record_stray(struct sandbox *sandbox, uint64_t sequence);
/*
 * Blocks while a start has not found the pod's machine again, nor given it up: for calls that take
 * no `op`, for what they look at is settled then.
 */
void sandbox_await_recovery(struct sandbox *sandbox);
/*
 * Then takes `op`: for calls, which may come before the start has taken it. -ECANCELED when the
 * caller has gone away before, and `op` is not taken.
 */
int sandbox_lock(struct sandbox *sandbox, struct rpc_call *call, struct err *err);
/*
 * The machine with a reference, or NULL with -EBADFD: the pod does not run. -EAGAIN: it does, but a
 * start has not reached it yet for want of something.
 */
struct machine *sandbox_machine(struct sandbox *sandbox, struct err *err);
/* Awaits a start's recovery too, for calls that take no `op`. 0, or -EBADFD: it does not run. */
int sandbox_check_runs(struct sandbox *sandbox, struct err *err);
/* Ends machine and network, keeps the record. `op` is held. */
int sandbox_stop(struct sandbox *sandbox, struct err *err);
/* Stops and deletes all of it. `op` is held. */
int sandbox_remove(struct sandbox *sandbox, struct err *err);
/* Tells the keeper that the machine ended by itself. Any thread; does not block. */
void sandbox_report_death(struct runtime *rt, const char *sandbox_id, const char *reason);
int sandbox_set_state(
	struct sandbox *sandbox, Bulkhead__Store__SandboxState state, struct err *err);
/* Lets go of the machine; calls to its agent in progress fail. Not from an agent's callback. */
void sandbox_drop_machine(struct sandbox *sandbox);
/* The scratch disk's path; the caller frees. */
char *sandbox_scratch_path(const struct runtime *rt, const char *id);

/* bring_up.c */
int sandbox_run(struct rpc_call *call, const Runtime__V1__PodSandboxConfig *config,
	const struct config_handler *handler, char ret_id[ID_LEN + 1], struct err *err);
/* The names of the steps, in the order of sandbox->times; returns how many. */
size_t bring_up_step_names(const char *names[STEPS_MAX]);

/* disks.c */
/* Attaches the layers that the machine does not have yet; records them. `op` is held. */
int disks_attach(struct sandbox *sandbox, struct machine *machine, char *const *layers, size_t n,
	uint32_t *ret_targets, struct err *err);
/* Attaches a block device of the host, unless the machine has it so. */
int disks_attach_device(struct sandbox *sandbox, struct machine *machine, const char *device,
	bool read_only, uint32_t *ret_target, struct err *err);
/* Detaches what no container of the sandbox but `except` needs. `op` is held. */
void disks_release(
	struct sandbox *sandbox, struct machine *machine, const struct container *except);

/* devices.c: attaches what the container's devices need, adds them to the request. `op` is held. */
int devices_attach(struct container *c, struct machine *machine,
	Bulkhead__Agent__CreateContainerRequest *request, struct err *err);

/* volumes.c; `op`
 is held for all of them */
/*
 * Makes the volumes that the container's mounts ask for, unless its pod has them, and adds to the
 * request how the agent mounts them. What was made when it fails is volumes_release()'s to take
 * away. It ends between two mounts when the call, which may be NULL, is cancelled.
 */
int volumes_attach(struct container *c, struct machine *machine,
	Bulkhead__Agent__CreateContainerRequest *request, struct rpc_call *call, struct err *err);
/*
 * Before the container is recorded: notes in its configuration what digests its image volumes have,
 * and in its record their layers, which are held and attached with its root's.
 */
int volumes_note_images(struct container *c, struct err *err);
/* Takes away what no container of the sandbox but `except` needs. */
void volumes_release(
	struct sandbox *sandbox, struct machine *machine, const struct container *except);
/* For a machine whose agent answers: starts the sandbox's mirror and takes up what is recorded. */
int volumes_resume(struct sandbox *sandbox, struct machine *machine, struct err *err);

/* container.c */
struct container *container_new(struct sandbox *sandbox, const char *id,
	const Runtime__V1__ContainerConfig *config, struct err *err);
/* By id or unique prefix, with a reference; NULL with -ENOENT or -EINVAL. */
struct container *container_find(struct runtime *rt, const char *id, struct err *err);
void container_unref(struct container *container);
/* Resources and overhead, as created or as updated since; NULL: none. `op` is held. */
const Runtime__V1__LinuxPodSandboxConfig *sandbox_limits(const struct sandbox *sandbox);

/*
 * As its record says. runtime->lock is held: `op` alone does not keep it, for an exit comes from
 * the guest at any time.
 */
bool container_runs(const struct container *container);
/* The same of the whole state, for who does not hold the lock: it may be another already. */
Bulkhead__Store__ContainerState container_state(struct container *container);
/* By it: it was not started yet, or runs. */
bool container_may_run(struct container *container);
/* As created or as updated since; NULL: none. `op` or runtime->lock is held. */
const Runtime__V1__LinuxContainerResources *container_resources(const struct container *container);
/* With runtime->lock held. */
int container_save_locked(struct container *container, struct err *err);
/* Records the state and wakes who waits for it. `op` is held. */
int container_set_state(
	struct container *container, Bulkhead__Store__ContainerState state, struct err *err);
/* Nobody finds it any more; drops the index's reference. */
void container_forget(struct container *container);
/* Calls fn with a reference for each container of the sandbox, stopping at an error. */
int containers_each(struct sandbox *sandbox, int (*fn)(struct container *, void *, struct err *),
	void *userdata, struct err *err);
/*
 * What the guest does not find or may not do concerns the image's programs and users. NOT_FOUND or
 * PERMISSION_DENIED would speak of what the client named; containerd answers UNKNOWN. Returns what
 * the agent's answer r is for the client.
 */
int container_image_error(int r, struct err *err);

/* container_create.c; `op` of its sandbox is held for all of them */
int container_create(struct rpc_call *call, struct sandbox *sandbox,
	const Runtime__V1__ContainerConfig *config, char ret_id[ID_LEN + 1], struct err *err);
/* Adds an image's layers to those that are held and attached for the container. */
int container_add_layers(
	struct container *container, const Bulkhead__Store__Image *image, struct err *err);
/* Lets the agent take down what it made for the container, which has ended or never ran. */
int container_remove_in_guest(struct machine *machine, const char *id, struct err *err);

/* container_log.c */
/* Opens the log and the streams of a container that starts or runs. */
int container_open_log(struct container *container, struct machine *machine, struct err *err);
/* The same, where no stream is asked for any more from until_ms on. */
int container_resume_log(
	struct container *container, struct machine *machine, uint64_t until_ms, struct err *err);
/*
 * Waits until then for the end of its streams in its log; false when that took too long, or it has
 * a log that nobody writes.
 */
bool container_drain_log(struct container *container, uint64_t until_ms);
/* Lets go of the log, if it is open. */
void container_close_log(struct container *container);
/* The same, and forgets how far it was written; the log itself is kubelet's and stays. */
void container_discard_log(struct container *container);

/* container_run.c */
/* `op` of its sandbox is held for these. */
int container_start(struct container *container, struct err *err);
int container_remove(struct container *container, struct err *err);
/* Signals, waits, kills. `op` need not be held. */
int container_stop(
	struct container *container, uint64_t grace_ms, struct rpc_call *call, struct err *err);
/*
 * On the agent's event thread: what agent_callbacks' on_event is to return. Where the end cannot be
 * written it is known all the same, and the event is to come again.
 */
int container_exited(struct sandbox *sandbox, const Bulkhead__Agent__Event *event);
/* Writes the exit down, where that failed. */
int container_save_exit(struct container *container, struct err *err);
/*
 * Waits for what the sandbox's containers wrote to be in their logs, some seconds for all:
 * its machine has ended.
 */
void containers_drain(struct sandbox *sandbox);
/*
 * Then: records every unfinished one as ended with it, and the exits that could not be written.
 * runtime->lock is held.
 */
int containers_lost_locked(struct sandbox *sandbox, const char *reason, struct err *err);
/* Where that was in a transaction, which failed. Likewise. */
void containers_unsaved_locked(struct sandbox *sandbox);
/* Tells of these ends, with what is recorded of the pod by now. Likewise. */
void containers_tell_lost_locked(struct sandbox *sandbox);

/* sandbox_check.c: -EINVAL or -EOPNOTSUPP where no pod can be as the client wants it. */
int sandbox_config_check(const Runtime__V1__PodSandboxConfig *config, struct err *err);

/* process.c: what the agent is asked for, from CRI's and the image's configuration */
int process_for_container(const struct sandbox *sandbox, const Runtime__V1__ContainerConfig *config,
	const Bulkhead__Store__ImageConfig *image, Bulkhead__Agent__CreateContainerRequest **ret,
	struct err *err);

/*
 * security.c: the same of its security context; filters and sc may be NULL. A target container's id
 * is as the client gave it, unchecked.
 */
int security_fill(Bulkhead__Agent__CreateContainerRequest *request, struct filter_cache *filters,
	const Runtime__V1__LinuxContainerSecurityContext *sc,
	const Bulkhead__Store__ImageConfig *image, struct err *err);

/* Whom the guest found it to run as. The record is not saved yet. */
int security_record_user(Bulkhead__Store__Container *record,
	const Bulkhead__Agent__CreateContainerResponse *answer, struct err *err);

/* user_namespace.c: what a pod's or a container's options ask for, on their own. */
int userns_check(const Runtime__V1__NamespaceOption *ns, struct err *err);
/* Whether the pod, whose options were checked, has one; without, ret is all 0. */
bool userns_of_pod(const Runtime__V1__PodSandboxConfig *config, struct userns_map *ret);
/* A container's is its pod's; sc may be NULL. */
int userns_check_container(const Runtime__V1__PodSandboxConfig *pod,
	const Runtime__V1__LinuxContainerSecurityContext *sc, struct err *err);
/* Whether the files of the mount are to be shown with the containers' ids. */
int userns_check_mount(const Runtime__V1__PodSandboxConfig *pod, const Runtime__V1__Mount *mount,
	bool *ret_mapped, struct err *err);

/* What an exec asks for; the rest is as the container's own process has it. */
struct exec_spec {
	const ProtobufCBinaryData *process; /* packed: what else runs there runs as */
	char **args;
	size_t n_args;
	bool terminal, stdin;
	unsigned columns, rows; /* of the terminal, 0: not known */
};
/* exec.c */
#define EXEC_ARGS_MAX  65536
#define EXEC_BYTES_MAX (2u << 20) /* what Linux takes where the stack may have 8 MiB */
/*
 * Of Exec and ExecSync, before anything of it is kept: -EINVAL where it is empty, or no process
 * could be started with so much.
 */
int exec_check_command(char *const *args, size_t n, size_t *ret_bytes, struct err *err);
/* From here on its exit is noted. */
void exec_register(struct sandbox *sandbox, const char *container_id, struct exec *exec);
void exec_unregister(struct runtime *rt, struct exec *exec);
/*
 * Hundreds that are started at once share the guest's processor fairly: all of them late. So a few
 * of a machine are, from here to exec_turn_end(), and the others wait: until deadline_ms
 * (-ETIMEDOUT) at most, or until for minutes no turn has ended (-EAGAIN), or until the call, which
 * may be NULL, is cancelled.
 */
int exec_turn_begin(
	struct machine *machine, struct rpc_call *call, uint64_t deadline_ms, struct err *err);
void exec_turn_end(struct machine *machine);
/* Starts a registered one. After a failure too exec_discard() is due. */
int exec_start(struct machine *machine, const struct exec *exec, const struct exec_spec *spec,
	struct err *err);
int exec_open_stream(struct machine *machine, const struct exec *exec,
	Bulkhead__Agent__Stream stream, int *ret_fd, uint64_t *ret_offset, struct err *err);
/* Kills what is left of it and lets the agent forget it. */
void exec_discard(struct machine *machine, const struct exec *exec);
/* Whether somebody waited for it. */
bool exec_exited(struct sandbox *sandbox, const Bulkhead__Agent__Event *event);

/* recover.c */
/*
 * Reads what is recorded. Nothing else may look at it meanwhile: the store's lock is held around
 * runtime->lock, which it is nowhere else.
 */
int runtime_load(struct runtime *rt, struct err *err);
/* Logs what of a start failed, which keeps the rest of it from nothing. */
void start_complain(
	const struct runtime *rt, const char *what, const char *id, const struct err *err);
/* May go on, on threads of its own, after it has returned. */
int runtime_recover(struct runtime *rt, struct err *err);
/* Waits until it does not; what it would go on trying is left. */
void runtime_end_recovery(struct runtime *rt);

/* Whether clients see it. runtime->lock is held. */
bool sandbox_visible(const struct sandbox *sandbox);
bool container_visible(const struct container *container);
/* The answers of the status methods, not verbose. runtime->lock is held. */
int sandbox_status_response(struct sandbox *sandbox, struct rpc_answer *ret, struct err *err);
int container_status_response(
	const struct container *container, struct rpc_answer *ret, struct err *err);

/* The methods, each in the file of its noun. */
#define METHOD(name)                                                                               \
	int name(struct rpc_call *call, const ProtobufCMessage *request,                           \
		struct rpc_answer *ret_response, struct err *err)
METHOD(status_version);
METHOD(status_status);
METHOD(status_runtime_config);
METHOD(status_update_runtime_config);
METHOD(sandbox_service_run);
METHOD(sandbox_service_stop);
METHOD(sandbox_service_remove);
METHOD(sandbox_service_status);
METHOD(sandbox_service_list);
METHOD(container_service_create);
METHOD(container_service_start);
METHOD(container_service_stop);
METHOD(container_service_remove);
METHOD(container_service_status);
METHOD(container_service_list);
METHOD(container_service_reopen_log);
METHOD(exec_service_sync);
METHOD(stats_service_container);
METHOD(stats_service_list_containers);
METHOD(stats_service_sandbox);
METHOD(stats_service_list_sandboxes);
METHOD(metrics_service_descriptors);
METHOD(metrics_service_list);
METHOD(container_service_checkpoint);
METHOD(streaming_service_exec);
METHOD(streaming_service_attach);
METHOD(streaming_service_port_forward);
METHOD(resources_service_container);
METHOD(resources_service_sandbox);
