/*
 * How a sandbox comes up: the table of steps, each with its way back.
 *
 *	its turn → record → scratch disk → network (netns, CNI) ─┐
 *	                                   machine, paused     ─┴→ guest boots, agent answers ─┐
 *	                                                           tap wired                  ─┴→
 *	guest configured → ready
 *
 * What is done for the network has a thread of its own (network_job.h): neither the making of the
 * machine nor the plugins need the other, nor does the boot need the tap. A machine is made with
 * one NIC; in the rare case that the plugins made another number of interfaces it is made anew.
 *
 * Until the guest answers this is work for the host's processors: a bounded number of pods have
 * their turn at a time, else all that are asked for at once would miss the boot's deadline
 * together. Nothing is there of one that waits but its name.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/spawn.h"
#include "cri-server/runtime/events.h"
#include "cri-server/runtime/guest_network.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/network_job.h"
#include "cri-server/runtime/turns.h"

#define CONFIGURE_MS 30000 /* on a host that boots many at once each is slow */
#define MKFS_MS      30000
#define NETWORK_STEP 3 /* its row in the table */

/* What the steps work on. */
struct bring_up {
	struct runtime *rt;
	struct sandbox *sandbox;
	struct rpc_call *call;
	const struct config_handler *handler;
	char *scratch;
	struct machine *machine;
	size_t n_nics;
	bool has_turn;
	bool leftover; /* an undo failed: the record stays, for RemovePodSandbox to try again */
	struct step_times times;
	struct network_job network;
};

static int turn_run(void *subject, struct err *err)
{
	struct bring_up *up = subject;
	int r = turns_take(
		up->rt->starts, rpc_call_cancel_fd(up->call), rpc_call_time_left_ms(up->call), err);
	up->has_turn = r == 0;
	return r;
}

static void turn_undo(void *subject)
{
	struct bring_up *up = subject;
	if (up->has_turn)
		turns_give(up->rt->starts);
	up->has_turn = false;
}

static int make_key(Bulkhead__Store__Sandbox *record, struct err *err)
{
	uint8_t *key = malloc(AGENT_KEY_BYTES);
	if (!key)
		return err_nomem(err);
	arc4random_buf(key, AGENT_KEY_BYTES);
	record->agent_key = (ProtobufCBinaryData){AGENT_KEY_BYTES, key};
	return 0;
}

static int record_run(void *subject, struct err *err)
{
	struct bring_up *up = subject;
	struct sandbox *sandbox = up->sandbox;
	size_t len = runtime__v1__pod_sandbox_config__get_packed_size(sandbox->config);
	sandbox->record->config.data = malloc(len ? len : 1);
	if (!sandbox->record->config.data)
		return err_nomem(err);
	sandbox->record->config.len = runtime__v1__pod_sandbox_config__pack(
		sandbox->config, sandbox->record->config.data);
	sandbox->record->created_ns = realtime_ns();
	int r = message_set_string(&sandbox->record->runtime_handler, up->handler->name, err);
	if (r == 0)
		r = make_key(sandbox->record, err);
	return r < 0 ? r
		     : sandbox_set_state(
			       sandbox, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_CREATING, err);
}

static void record_undo(void *subject)
{
	struct bring_up *up = subject;
	if (up->leftover)
		sandbox_set_state(
			up->sandbox, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_NOTREADY, NULL);
	else
		store_delete(up->rt->store, STORE_SANDBOX, up->sandbox->id, NULL);
}

/* The writable disk: a sparse file with an empty file system, which only the guest will ever mount.
 */
static int scratch_run(void *subject, struct err *err)
{
	struct bring_up *up = subject;
	up->scratch = sandbox_scratch_path(up->rt, up->sandbox->id);
	if (!up->scratch)
		return err_nomem(err);
	_cleanup_close_ int fd = open(up->scratch, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(err, "create %s", up->scratch);
	if (ftruncate(fd, (off_t)(up->handler->scratch_mib << 20)) < 0)
		return err_errno(err, "size %s", up->scratch);
	/* No journal: the disk lives as long as its machine. Tables are made as they are needed.
	 * Each container's files are a project, so that the guest knows what they take. */
	const char *const argv[] = {"mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O",
		"^has_journal,^resize_inode,quota,project", "-E",
		"lazy_itable_init=1,nodiscard,quotatype=prjquota", up->scratch, NULL};
	struct spawn_result result = SPAWN_RESULT_INIT(4096);
	const struct spawn_options options = {
		.argv = argv, .timeout_ms = MKFS_MS, .cancel_fd = -EBADF, .netns_fd = -EBADF};
	int r = spawn_check(&options, &result, err);
	spawn_result_done(&result);
	return r;
}

static void scratch_undo(void *subject)
{
	struct bring_up *up = subject;
	if (up->scratch)
		unlink(up->scratch);
}

static int network_run(void *subject, struct err *err)
{
	struct bring_up *up = subject;
	return network_job_begin(&up->network, err);
}

static void network_undo(void *subject)
{
	struct bring_up *up = subject;
	struct err err = ERR_INIT;
	network_job_done(&up->network);
	if (net_pod_teardown(up->rt->net, up->sandbox->id, &err) < 0) {
		up->leftover = true;
		log_event(up->rt->log, LOG_LEVEL_ERROR, "network not released", "pod",
			up->sandbox->id, "err", err.msg, NULL);
	}
}

static int create_machine(struct bring_up *up, size_t n_nics, struct err *err)
{
	const struct machine_spec spec = {
		.handler = up->handler,
		.config = up->sandbox->config,
		.n_nics = n_nics,
		.scratch = up->scratch,
	};
	up->n_nics = n_nics;
	return machine_create(up->rt, up->sandbox->id, &spec, &up->machine, err);
}

/* A machine whose taps must be there before it waits for the plugins. */
static int create_run(void *subject, struct err *err)
{
	struct bring_up *up = subject;
	if (!net_makes_taps(up->rt->net))
		return create_machine(up, 1, err);
	int r = network_job_make_taps(&up->network, err);
	return r < 0 ? r : create_machine(up, up->network.info->n_interfaces, err);
}

static void create_undo(void *subject)
{
	struct bring_up *up = subject;
	struct err err = ERR_INIT;
	network_job_wait(&up->network, &err); /* its taps */
	sandbox_drop_machine(up->sandbox);
	up->machine = machine_unref(up->machine);
	if (hv_vm_destroy(up->rt->hv, up->sandbox->id, &err) < 0) {
		up->leftover = true;
		log_event(up->rt->log, LOG_LEVEL_ERROR, "machine not removed", "pod",
			up->sandbox->id, "err", err.msg, NULL);
	}
}

/* The network is there, or failed. Its step's time is what the plugins took, not the wait for them.
 */
static int join_run(void *subject, struct err *err)
{
	struct bring_up *up = subject;
	int r = network_job_join(&up->network, err);
	up->times.ns[NETWORK_STEP] = up->network.plugins_step_ns;
	if (r == 0 && up->network.info->n_interfaces != up->n_nics) {
		create_undo(up);
		r = create_machine(up, up->network.info->n_interfaces, err);
	}
	return r < 0 ? r : network_job_wire(&up->network, err);
}

static int boot_run(void *subject, struct err *err)
{
	struct bring_up *up = subject;
	int r = machine_resume(up->machine, err);
	if (r < 0)
		return r;
	uint64_t timeout_ms = up->rt->config->hypervisor.boot_timeout_ms;
	uint64_t left_ms = rpc_call_time_left_ms(up->call);
	r = machine_connect(
		up->machine, up->sandbox, 0, left_ms < timeout_ms ? left_ms : timeout_ms, err);
	if (r == 0)
		turn_undo(up);
	return r;
}

static int wire_run(void *subject, struct err *err)
{
	struct bring_up *up = subject;
	return network_job_wait(&up->network, err);
}

/* The kubelet's DNS configuration, or where it gives none the CNI plugins'. */
static void fill_dns(Bulkhead__Agent__Dns *dns, const Runtime__V1__PodSandboxConfig *config,
	const struct net_pod_info *info)
{
	if (config->dns_config) {
		dns->servers = config->dns_config->servers;
		dns->n_servers = config->dns_config->n_servers;
		dns->searches = config->dns_config->searches;
		dns->n_searches = config->dns_config->n_searches;
		dns->options = config->dns_config->options;
		dns->n_options = config->dns_config->n_options;
		return;
	}
	char **const lists[] = {info->dns_servers, info->dns_searches, info->dns_options};
	char ***const to[] = {&dns->servers, &dns->searches, &dns->options};
	size_t *const counts[] = {&dns->n_servers, &dns->n_searches, &dns->n_options};
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		*to[i] = lists[i];
		while (lists[i][*counts[i]])
			(*counts[i])++;
	}
}

/* What the network's plugins set, then what the pod asks for: the last one counts. Pointers to
 * texts of both. */
static int collect_sysctls(const Runtime__V1__PodSandboxConfig *config,
	const struct net_pod_info *info, Bulkhead__Agent__Sysctl **ret,
	Bulkhead__Agent__Sysctl ***ret_pointers, size_t *ret_n)
{
	size_t n = 0, asked = config->linux ? config->linux->n_sysctls : 0;
	while (info->sysctls[2 * n])
		n++;
	*ret = calloc(n + asked + 1, sizeof(**ret));
	*ret_pointers = calloc(n + asked + 1, sizeof(**ret_pointers));
	if (!*ret || !*ret_pointers)
		return -ENOMEM;
	for (size_t i = 0; i < n + asked; i++) {
		Bulkhead__Agent__Sysctl *to = (*ret_pointers)[i] = *ret + i;
		bulkhead__agent__sysctl__init(to);
		to->key = i < n ? info->sysctls[2 * i] : config->linux->sysctls[i - n]->key;
		to->value = i < n ? info->sysctls[2 * i + 1] : config->linux->sysctls[i - n]->value;
	}
	*ret_n = n + asked;
	return 0;
}

static int configure_guest(struct bring_up *up, struct guest_interfaces *g, struct err *err)
{
	const Runtime__V1__PodSandboxConfig *config = up->sandbox->config;
	Bulkhead__Agent__ConfigureSandboxRequest request =
		BULKHEAD__AGENT__CONFIGURE_SANDBOX_REQUEST__INIT;
	Bulkhead__Agent__Dns dns = BULKHEAD__AGENT__DNS__INIT;
	Bulkhead__Agent__UserNamespace userns = BULKHEAD__AGENT__USER_NAMESPACE__INIT;
	struct userns_map map;
	_cleanup_free_ Bulkhead__Agent__Sysctl *sysctls = NULL;
	_cleanup_free_ Bulkhead__Agent__Sysctl **pointers = NULL;
	size_t n_sysctls;
	if (collect_sysctls(config, up->network.info, &sysctls, &pointers, &n_sysctls) < 0)
		return err_nomem(err);
	fill_dns(&dns, config, up->network.info);
	/* A pod's name may be longer than a host's: kubelets cut it off, other clients leave it to
	 * us. */
	char hostname[64];
	snprintf(hostname, sizeof(hostname), "%.63s", config->metadata->name);
	request.hostname = config->hostname[0] ? config->hostname : hostname;
	request.interfaces = g->pointers;
	request.n_interfaces = g->n;
	request.dns = &dns;
	request.sysctls = pointers;
	request.n_sysctls = n_sysctls;
	request.share_tag = (char *)HV_SHARE_TAG;
	if (userns_of_pod(config, &map)) {
		userns.uid = map.uid;
		userns.n_uids = map.n_uids;
		userns.gid = map.gid;
		userns.n_gids = map.n_gids;
		request.user_namespace = &userns;
	}
	return agent_call(
		up->machine->agent, "ConfigureSandbox", &request.base, CONFIGURE_MS, NULL, err);
}

static int configure_run(void *subject, struct err *err)
{
	struct bring_up *up = subject;
	struct guest_interfaces *g = NULL;
	int r = guest_interfaces_new(up->sandbox->id, up->network.info->interfaces,
		up->network.info->n_interfaces, &g, err);
	if (r == 0)
		r = configure_guest(up, g, err);
	guest_interfaces_free(g);
	return r;
}

static int ready_run(void *subject, struct err *err)
{
	struct bring_up *up = subject;
	int r = machine_limit(up->machine, up->sandbox, err);
	if (r == 0)
		r = volumes_resume(up->sandbox, up->machine, err);
	if (r < 0)
		return r;
	network_follow(up->sandbox, up->machine, up->network.info);

	pthread_mutex_lock(&up->rt->lock);
	up->sandbox->machine = TAKE_PTR(up->machine);
	up->sandbox->settled = true;
	pthread_mutex_unlock(&up->rt->lock);
	r = sandbox_set_state(up->sandbox, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&up->rt->lock);
	events_tell_sandbox(
		up->sandbox, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_CREATED_EVENT);
	events_tell_sandbox(
		up->sandbox, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STARTED_EVENT);
	pthread_mutex_unlock(&up->rt->lock);
	return 0;
}

/* Half-made again: a start that finds it so goes on undoing. */
static void ready_undo(void *subject)
{
	struct bring_up *up = subject;
	sandbox_set_state(up->sandbox, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_CREATING, NULL);
}

static const struct step bring_up_steps[] = {
	{"turn", turn_run, turn_undo},
	{"record", record_run, record_undo},
	{"scratch", scratch_run, scratch_undo},
	[NETWORK_STEP] = {"network", network_run, network_undo},
	{"create", create_run, create_undo},
	{"join", join_run, NULL},
	{"boot", boot_run, NULL},
	{"wire", wire_run, NULL}, /* a tap goes with its machine */
	{"configure", configure_run, NULL},
	{"ready", ready_run, ready_undo},
};
STEP_TABLE(bring_up_table, "RunPodSandbox", bring_up_steps);

size_t bring_up_step_names(const char *names[STEPS_MAX])
{
	for (size_t i = 0; i < ARRAY_SIZE(bring_up_steps); i++)
		names[i] = bring_up_steps[i].name;
	return ARRAY_SIZE(bring_up_steps);
}

static bool same_metadata(
	const Runtime__V1__PodSandboxMetadata *a, const Runtime__V1__PodSandboxMetadata *b)
{
	return strcmp(a->name, b->name) == 0 && strcmp(a->uid, b->uid) == 0 &&
	       strcmp(a->namespace_, b->namespace_) == 0 && a->attempt == b->attempt;
}

/* Enters the index, unless a sandbox of the same name, namespace, uid and attempt is there. */
static int reserve(struct runtime *rt, struct sandbox *sandbox, struct err *err)
{
	struct sandbox *other;
	int r = 0;
	pthread_mutex_lock(&rt->lock);
	TAILQ_FOREACH(other, &rt->sandboxes, link)
		if (same_metadata(other->config->metadata, sandbox->config->metadata)) {
			r = err_set(err, -EEXIST,
				"a sandbox for pod '%s' in namespace '%s', attempt %u, exists: %s; "
				"remove "
				"it first",
				other->config->metadata->name, other->config->metadata->namespace_,
				other->config->metadata->attempt, other->id);
			break;
		}
	if (r == 0)
		TAILQ_INSERT_TAIL(&rt->sandboxes, sandbox, link);
	pthread_mutex_unlock(&rt->lock);
	return r;
}

static bool caller_gone(void *subject)
{
	struct bring_up *up = subject;
	return rpc_call_cancelled(up->call);
}

int sandbox_run(struct rpc_call *call, const Runtime__V1__PodSandboxConfig *config,
	const struct config_handler *handler, char ret_id[ID_LEN + 1], struct err *err)
{
	struct runtime *rt = call_runtime(call);
	char id[ID_LEN + 1];
	make_id(id);
	struct sandbox *sandbox = sandbox_new(rt, id, config, err);
	if (!sandbox)
		return err->code;
	/* Before others can find it: whoever does waits until it is up or gone. */
	pthread_mutex_lock(&sandbox->op);
	int r = reserve(rt, sandbox, err);
	if (r < 0) {
		pthread_mutex_unlock(&sandbox->op);
		sandbox_unref(sandbox);
		return r;
	}
	struct bring_up up = {.rt = rt,
		.sandbox = sandbox,
		.call = call,
		.handler = handler,
		.network = {.rt = rt, .sandbox = sandbox}};
	r = steps_run(&bring_up_table, &up, caller_gone, &up.times, err);
	/* The last step's time too, when it is ready and others look at it. */
	pthread_mutex_lock(&rt->lock);
	sandbox->times = up.times;
	pthread_mutex_unlock(&rt->lock);
	if (r == -ENOENT) /* a plugin, a kernel: nothing that the client named */
		r = err->code = -EIO;
	network_job_done(&up.network);
	free(up.scratch);
	bool nothing_left = r < 0 && !up.leftover;
	if (nothing_left)
		sandbox_leave_index(sandbox);
	pthread_mutex_unlock(&sandbox->op);
	if (nothing_left)
		sandbox_unref(sandbox);
	if (r < 0)
		return err_wrap(err, "run pod '%s'", config->metadata->name);
	memcpy(ret_id, id, sizeof(id));
	return 0;
}
