/*
 * Start-up: what the records say and what the host has are made one.
 *
 * Recorded and alive: kept, its agent connected again, its logs resumed, exits that happened
 * meanwhile arrive as events. Recorded but half-made (CREATING, REMOVING): undone or finished.
 * Recorded as running and dead: marked so. Alive and not recorded (machine, network, disk):
 * removed. Pods are dealt with at the same time, each under its `op`; those whose guest does not
 * answer soon are gone on with while others are served. What cannot be removed now is logged and
 * tried again at the next start; it does not keep the others from being served.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/runtime/guest_network.h"
#include "cri-server/runtime/internal.h"

#define CONNECT_MS  15000 /* to an agent that was up before */
#define CALL_MS     10000
#define DISCARD_MS  20000 /* for all in a guest that nobody knows; one may take 10 s to end */
#define SERVE_MS    5000 /* for all pods; then those that are left are gone on with while we serve */
#define THREADS_MAX 32

static void complain(
	const struct runtime *rt, const char *what, const char *id, const struct err *err)
{
	log_event(rt->log, LOG_LEVEL_ERROR, what, "id", id, "err", err->msg, NULL);
}

/* ---- records into memory ---- */

static int load_sandbox(void *userdata, const char *id, const ProtobufCMessage *message)
{
	struct runtime *rt = userdata;
	const Bulkhead__Store__Sandbox *record = (const Bulkhead__Store__Sandbox *)message;
	Runtime__V1__PodSandboxConfig *config = runtime__v1__pod_sandbox_config__unpack(
		NULL, record->config.len, record->config.data);
	bool usable = config && strlen(id) == ID_LEN;
	struct sandbox *sandbox = usable ? sandbox_new(rt, id, config, NULL) : NULL;
	if (config)
		runtime__v1__pod_sandbox_config__free_unpacked(config, NULL);
	if (!sandbox)
		return usable ? -ENOMEM : -EBADMSG;
	bulkhead__store__sandbox__free_unpacked(sandbox->record, NULL);
	sandbox->record = (Bulkhead__Store__Sandbox *)message_copy(message);
	if (record->limits.len)
		sandbox->limits = runtime__v1__linux_pod_sandbox_config__unpack(
			NULL, record->limits.len, record->limits.data);
	if (!sandbox->record) {
		sandbox_unref(sandbox);
		return -ENOMEM;
	}
	sandbox->recovering = true;
	TAILQ_INSERT_TAIL(&rt->sandboxes, sandbox, link);
	return 0;
}

struct loading {
	struct runtime *rt;
	char (*lost)[ID_LEN + 1]; /* containers whose pod has no record */
	size_t n_lost;
};

static int note_lost(struct loading *loading, const char *id)
{
	void *longer = reallocarray(loading->lost, loading->n_lost + 1, sizeof(*loading->lost));
	if (!longer)
		return -ENOMEM;
	loading->lost = longer;
	snprintf(loading->lost[loading->n_lost++], sizeof(*loading->lost), "%s", id);
	return 0;
}

static int load_container(void *userdata, const char *id, const ProtobufCMessage *message)
{
	struct loading *loading = userdata;
	struct runtime *rt = loading->rt;
	const Bulkhead__Store__Container *record = (const Bulkhead__Store__Container *)message;
	struct sandbox *sandbox = sandbox_find(rt, record->sandbox_id, NULL);
	if (!sandbox)
		return note_lost(loading, id);
	Runtime__V1__ContainerConfig *config = runtime__v1__container_config__unpack(
		NULL, record->config.len, record->config.data);
	struct container *c = NULL;
	int r = -EBADMSG;
	if (config && strlen(id) == ID_LEN) {
		c = container_new(sandbox, id, config, NULL);
		r = c ? 0 : -ENOMEM;
	}
	if (c) {
		bulkhead__store__container__free_unpacked(c->record, NULL);
		c->record = (Bulkhead__Store__Container *)message_copy(message);
		if (record->resources.len)
			c->resources = runtime__v1__linux_container_resources__unpack(
				NULL, record->resources.len, record->resources.data);
		if (c->record) {
			TAILQ_INSERT_TAIL(&rt->containers, c, link);
		} else {
			container_unref(c);
			r = -ENOMEM;
		}
	}
	if (config)
		runtime__v1__container_config__free_unpacked(config, NULL);
	sandbox_unref(sandbox);
	return r;
}

/* Of a container that went with its pod the record may be left, as when it could not be written. */
static int load_containers(struct runtime *rt, struct err *err)
{
	struct loading loading = {.rt = rt};
	int r = store_each(rt->store, STORE_CONTAINER, load_container, &loading, err);
	for (size_t i = 0; i < loading.n_lost && r == 0; i++) {
		r = store_delete(rt->store, STORE_CONTAINER, loading.lost[i], err);
		if (r == 0)
			log_event(rt->log, LOG_LEVEL_WARNING,
				"record of a container without a pod removed", "container",
				loading.lost[i], NULL);
	}
	free(loading.lost);
	return r < 0 ? err_wrap(err, "read the records of containers") : 0;
}

/* ---- a sandbox whose machine lives ---- */

/* The agent knows of a start that was recorded, or it never happened: then it may be repeated. */
static int settle_container(struct container *c,
	const Bulkhead__Agent__ListContainersResponse *list, struct machine *machine,
	struct err *err)
{
	if (container_state(c) != BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING)
		return 0;
	for (size_t i = 0; i < list->n_processes; i++) {
		const Bulkhead__Agent__ProcessInfo *info = list->processes[i];
		if (info->process_id[0] || strcmp(info->container_id, c->id) != 0)
			continue;
		if (info->state == BULKHEAD__AGENT__PROCESS_STATE__PROCESS_CREATED)
			break;
		if (container_open_log(c, machine, err) < 0) /* ReopenContainerLog tries again */
			complain(c->runtime, "log not resumed", c->id, err);
		return 0;
	}
	pthread_mutex_lock(&c->runtime->lock);
	c->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATED;
	c->record->started_ns = 0;
	int r = container_save_locked(c, err);
	pthread_mutex_unlock(&c->runtime->lock);
	return r;
}

struct settling {
	struct machine *machine;
	const Bulkhead__Agent__ListContainersResponse *list;
};

static int settle(struct container *c, void *userdata, struct err *err)
{
	const struct settling *settling = userdata;
	return settle_container(c, settling->list, settling->machine, err);
}

static int discard_exec(
	struct machine *machine, const Bulkhead__Agent__ProcessInfo *info, struct err *err)
{
	Bulkhead__Agent__RemoveProcessRequest request =
		BULKHEAD__AGENT__REMOVE_PROCESS_REQUEST__INIT;
	request.container_id = info->container_id;
	request.process_id = info->process_id;
	return agent_call(machine->agent, "RemoveProcess", &request.base, CALL_MS, NULL, err);
}

static int discard_container(
	struct machine *machine, const Bulkhead__Agent__ProcessInfo *info, struct err *err)
{
	Bulkhead__Agent__RemoveContainerRequest request =
		BULKHEAD__AGENT__REMOVE_CONTAINER_REQUEST__INIT;
	request.container_id = info->container_id;
	return agent_call(machine->agent, "RemoveContainer", &request.base, DISCARD_MS, NULL, err);
}

static bool is_recorded(const struct sandbox *sandbox, const Bulkhead__Agent__ProcessInfo *info)
{
	struct container *c = strlen(info->container_id) == ID_LEN
				      ? container_find(sandbox->runtime, info->container_id, NULL)
				      : NULL;
	bool own = c && c->sandbox == sandbox;
	if (c)
		container_unref(c);
	return own;
}

/*
 * Nobody waits for a command that a process before us ran, nor knows of a container whose record is
 * gone, as with records from a backup. How many there are is the guest's word: it is not listened
 * to for longer than they all may take.
 */
static void discard_unknown(struct sandbox *sandbox, struct machine *machine,
	const Bulkhead__Agent__ListContainersResponse *list)
{
	uint64_t until = ev_now_ms() + DISCARD_MS;
	for (size_t i = 0; i < list->n_processes && ev_now_ms() < until; i++) {
		const Bulkhead__Agent__ProcessInfo *info = list->processes[i];
		struct err err = ERR_INIT;
		int r = 0;
		if (!is_recorded(sandbox, info))
			r = discard_container(machine, info, &err);
		else if (info->process_id[0])
			r = discard_exec(machine, info, &err);
		if (r < 0) {
			complain(sandbox->runtime, "process of a guest not removed", sandbox->id,
				&err);
			return;
		}
	}
}

static int reconnect(struct sandbox *sandbox, struct machine *machine, struct err *err)
{
	int r = machine_connect(machine, sandbox, sandbox->record->event_sequence, CONNECT_MS, err);
	if (r < 0)
		return r;
	Bulkhead__Agent__ListContainersRequest request =
		BULKHEAD__AGENT__LIST_CONTAINERS_REQUEST__INIT;
	ProtobufCMessage *response = NULL;
	r = agent_call(machine->agent, "ListContainers", &request.base, CALL_MS, &response, err);
	if (r < 0)
		return r;
	const Bulkhead__Agent__ListContainersResponse *list = (void *)response;
	struct settling settling = {machine, list};
	r = containers_each(sandbox, settle, &settling, err);
	if (r == 0)
		discard_unknown(sandbox, machine, list);
	protobuf_c_message_free_unpacked(response, NULL);
	return r;
}

/* 0; positive 1 when there is no machine that could be kept. */
static int revive(struct sandbox *sandbox, struct err *err)
{
	struct runtime *rt = sandbox->runtime;
	struct machine *machine;
	int r = machine_find(rt, sandbox->id, &machine, err);
	if (r != 0)
		return r;
	r = reconnect(sandbox, machine, err);
	if (r == 0)
		r = volumes_resume(sandbox, machine, err);
	if (r < 0) {
		machine_unref(machine);
		return r;
	}
	network_follow(sandbox, machine, NULL);
	pthread_mutex_lock(&rt->lock);
	sandbox->machine = machine;
	sandbox->settled = true;
	pthread_mutex_unlock(&rt->lock);
	return 0;
}

/* ---- one sandbox, one container ---- */

static void recover_sandbox(struct sandbox *sandbox)
{
	struct runtime *rt = sandbox->runtime;
	struct err err = ERR_INIT;
	int r = 0;
	switch (sandbox->record->state) {
	case BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY:
		r = revive(sandbox, &err);
		if (r != 0) {
			sandbox_report_death(rt, sandbox->id,
				r < 0 ? err.msg : "the machine ended while bulkheadd did not run");
			return;
		}
		log_event(rt->log, LOG_LEVEL_INFO, "pod found again", "pod", sandbox->id, NULL);
		return;
	case BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_NOTREADY:
		r = sandbox_stop(sandbox, &err); /* finishes one that was interrupted */
		break;
	default:
		r = sandbox_remove(sandbox, &err);
		break;
	}
	if (r < 0)
		complain(rt, "pod not cleaned up", sandbox->id, &err);
}

/* Before anything runs beside us. */
static void hold_layers(struct runtime *rt)
{
	struct container *c;
	TAILQ_FOREACH(c, &rt->containers, link) {
		struct err err = ERR_INIT;
		if (img_hold(rt->images, c->id, c->record->layers, c->record->n_layers, &err) < 0)
			complain(rt, "layers not held", c->id, &err);
	}
}

/* After its sandbox: one that was half-made or half-removed goes. */
static int finish_container(struct container *c, void *userdata, struct err *err)
{
	(void)userdata;
	(void)err;
	struct err failure = ERR_INIT;
	Bulkhead__Store__ContainerState state = container_state(c);
	bool half = state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATING ||
		    state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_REMOVING;
	if (half && container_remove(c, &failure) < 0)
		complain(c->runtime, "container not cleaned up", c->id, &failure);
	return 0;
}

/* All sandboxes, each with a reference. */
static int list_sandboxes(struct runtime *rt, struct sandbox ***ret, size_t *ret_n, struct err *err)
{
	struct sandbox *sandbox;
	size_t n = 0;
	pthread_mutex_lock(&rt->lock);
	TAILQ_FOREACH(sandbox, &rt->sandboxes, link)
		n++;
	struct sandbox **all = calloc(n + 1, sizeof(struct sandbox *));
	n = 0;
	TAILQ_FOREACH(sandbox, &rt->sandboxes, link)
		if (all) {
			sandbox->refs++;
			all[n++] = sandbox;
		}
	pthread_mutex_unlock(&rt->lock);
	if (!all)
		return err_nomem(err);
	*ret = all;
	*ret_n = n;
	return 0;
}

/* ---- all sandboxes at once ---- */

/* Shared by its threads; the last one frees it. runtime->lock protects the numbers. */
struct recovery {
	struct runtime *rt;
	struct sandbox **all;
	size_t n, next;
	unsigned threads;
};

static void recover_one(struct sandbox *sandbox)
{
	pthread_mutex_lock(&sandbox->op);
	recover_sandbox(sandbox);
	pthread_mutex_lock(&sandbox->runtime->lock);
	sandbox->recovering = false;
	pthread_cond_broadcast(&sandbox->runtime->recovered);
	pthread_mutex_unlock(&sandbox->runtime->lock);
	containers_each(sandbox, finish_container, NULL, NULL);
	pthread_mutex_unlock(&sandbox->op);
}

static struct sandbox *next_sandbox(struct recovery *recovery)
{
	struct runtime *rt = recovery->rt;
	pthread_mutex_lock(&rt->lock);
	struct sandbox *sandbox =
		recovery->next < recovery->n ? recovery->all[recovery->next++] : NULL;
	pthread_mutex_unlock(&rt->lock);
	return sandbox;
}

static void leave(struct recovery *recovery)
{
	struct runtime *rt = recovery->rt;
	pthread_mutex_lock(&rt->lock);
	bool last = --recovery->threads == 0;
	if (last)
		free(recovery->all);
	if (last)
		free(recovery);
	rt->recovering--;
	pthread_cond_broadcast(&rt->recovered);
	pthread_mutex_unlock(&rt->lock);
}

static void *recover_main(void *arg)
{
	struct recovery *recovery = arg;
	for (struct sandbox *sandbox; (sandbox = next_sandbox(recovery));) {
		recover_one(sandbox);
		pthread_mutex_lock(&recovery->rt->lock);
		recovery->rt->unsettled--;
		pthread_cond_broadcast(&recovery->rt->recovered);
		pthread_mutex_unlock(&recovery->rt->lock);
		sandbox_unref(sandbox);
	}
	leave(recovery);
	return NULL;
}

/* With one thread at least: where none can be made, this one does the work. */
static void start_threads(struct recovery *recovery)
{
	struct runtime *rt = recovery->rt;
	size_t wanted = recovery->n < THREADS_MAX ? recovery->n : THREADS_MAX;
	pthread_mutex_lock(&rt->lock);
	rt->unsettled = recovery->n;
	rt->recovering = recovery->threads = 1; /* ours, until all are started */
	for (size_t i = 0; i < wanted; i++) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, recover_main, recovery) != 0)
			break;
		pthread_detach(thread);
		rt->recovering++;
		recovery->threads++;
	}
	bool alone = recovery->threads == 1;
	pthread_mutex_unlock(&rt->lock);
	if (alone)
		recover_main(recovery);
	else
		leave(recovery);
}

/* Returns when all are dealt with, or enough time has passed. */
static int recover_all(struct runtime *rt, struct sandbox **all, size_t n, struct err *err)
{
	struct recovery *recovery = calloc(1, sizeof(*recovery));
	uint64_t deadline = ev_now_ms() + SERVE_MS;
	if (!recovery) {
		for (size_t i = 0; i < n; i++)
			sandbox_unref(all[i]);
		free(all);
		return err_nomem(err);
	}
	*recovery = (struct recovery){.rt = rt, .all = all, .n = n};
	start_threads(recovery);
	pthread_mutex_lock(&rt->lock);
	while (rt->unsettled && wait_until(rt, &rt->recovered, deadline))
		;
	size_t left = rt->unsettled;
	pthread_mutex_unlock(&rt->lock);
	if (left)
		log_event(rt->log, LOG_LEVEL_WARNING, "serving before all pods are found again",
			NULL);
	return 0;
}

void runtime_await_recovery(struct runtime *rt)
{
	pthread_mutex_lock(&rt->lock);
	while (rt->recovering)
		pthread_cond_wait(&rt->recovered, &rt->lock);
	pthread_mutex_unlock(&rt->lock);
}

/* ---- what nobody knows ---- */

static bool known(struct runtime *rt, const char *id)
{
	struct sandbox *sandbox = strlen(id) == ID_LEN ? sandbox_find(rt, id, NULL) : NULL;
	if (sandbox)
		sandbox_unref(sandbox);
	return sandbox;
}

static int remove_unknown_vm(void *userdata, const char *id)
{
	struct runtime *rt = userdata;
	struct err err = ERR_INIT;
	if (!known(rt, id) && hv_vm_destroy(rt->hv, id, &err) < 0)
		complain(rt, "unknown machine not removed", id, &err);
	return 0;
}

static int remove_unknown_network(void *userdata, const char *id)
{
	struct runtime *rt = userdata;
	struct err err = ERR_INIT;
	if (!known(rt, id) && net_pod_teardown(rt->net, id, &err) < 0)
		complain(rt, "unknown network not released", id, &err);
	return 0;
}

/* What a plugin holds for pods that nobody knows, as after a crash within its DEL. */
static int collect_network(struct runtime *rt, struct err *err)
{
	int r = net_each_pod(rt->net, remove_unknown_network, rt, err);
	struct err own = ERR_INIT;
	if (r == 0 && net_collect(rt->net, &own) < 0)
		complain(rt, "network not collected", "", &own);
	return r;
}

/* Files of state_dir/<name> that begin with the id of a sandbox or container. */
static int remove_unknown_files(struct runtime *rt, const char *name, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/%s", rt->config->state_dir, name);
	if (!path)
		return err_nomem(err);
	DIR *dir = opendir(path);
	if (!dir)
		return err_errno(err, "open %s", path);
	for (struct dirent *entry; (entry = readdir(dir));) {
		char id[ID_LEN + 1];
		if (strlen(entry->d_name) < ID_LEN)
			continue;
		snprintf(id, sizeof(id), "%.*s", ID_LEN, entry->d_name);
		struct container *c = container_find(rt, id, NULL);
		if (c)
			container_unref(c);
		else if (!known(rt, id))
			unlinkat(dirfd(dir), entry->d_name, 0);
	}
	closedir(dir);
	return 0;
}

int runtime_load(struct runtime *rt, struct err *err)
{
	int r = store_each(rt->store, STORE_SANDBOX, load_sandbox, rt, err);
	if (r < 0)
		return err_wrap(err, "read the records of sandboxes");
	/* Loading looks sandboxes up, in memory only. */
	r = load_containers(rt, err);
	if (r < 0)
		return r;
	hold_layers(rt);
	return 0;
}

int runtime_recover(struct runtime *rt, struct err *err)
{
	int r = img_collect(rt->images, err);
	struct sandbox **all;
	size_t n;
	if (r == 0)
		r = list_sandboxes(rt, &all, &n, err);
	if (r == 0)
		r = recover_all(rt, all, n, err);
	if (r == 0)
		r = hv_each_vm(rt->hv, remove_unknown_vm, rt, err);
	if (r == 0)
		r = collect_network(rt, err);
	if (r == 0)
		r = remove_unknown_files(rt, "scratch", err);
	return r < 0 ? r : remove_unknown_files(rt, "logs", err);
}
