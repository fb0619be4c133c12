/*
 * Start-up: what the records say and what the host has are made one.
 *
 * Recorded and alive: kept, its agent connected again, its logs resumed, exits that happened
 * meanwhile arrive as events. Recorded but half-made (CREATING, REMOVING): undone or finished.
 * Recorded as running and dead: marked so. Alive and not recorded (machine, network, disk):
 * removed. Pods are dealt with at the same time, each under its `op`; those whose guest does not
 * answer soon are gone on with while others are served, and so are those for which the host has not
 * the means now (descriptors, threads, memory, room): nothing is known against their machines. A
 * log that cannot be resumed is tried again while its pod is used. What cannot be removed now is
 * logged and tried again at the next start; it does not keep the others from being served.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/fd.h"
#include "cri-server/runtime/guest_network.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/mirror.h"

#define CONNECT_MS  15000 /* to an agent that was up before */
#define CALL_MS     10000
#define LOGS_MS     20000 /* for all containers' logs of a pod */
#define DISCARD_MS  20000 /* for all in a guest that nobody knows; one may take 10 s to end */
#define SERVE_MS    5000 /* for all pods; then those that are left are gone on with while we serve */
#define THREADS_MAX 32
#define RETRY_MS    1000

/* ---- a sandbox whose machine lives ---- */

struct settling {
	struct machine *machine;
	const Bulkhead__Agent__ListContainersResponse *list;
	uint64_t until_ms;
};

static int try_log(struct container *c, const struct settling *settling, struct err *err)
{
	if (fault_fails("Start", "log"))
		return err_set(err, -EMFILE, "a test wants it to lack this");
	return container_resume_log(c, settling->machine, settling->until_ms, err);
}

/* The pod is found all the same; what failed is tried again: retry_logs(). */
static void resume_log(struct container *c, const struct settling *settling, struct err *err)
{
	if (try_log(c, settling, err) < 0)
		start_complain(c->runtime, "log not resumed, which is tried again", c->id, err);
}

/* The agent knows of a start that was recorded, or it never happened: then it may be repeated. */
static int settle(struct container *c, void *userdata, struct err *err)
{
	const struct settling *settling = userdata;
	const Bulkhead__Agent__ListContainersResponse *list = settling->list;
	Bulkhead__Store__ContainerState state = container_state(c);
	if (state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED &&
		c->record->log_incomplete)
		resume_log(c, settling, err);
	if (state != BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING)
		return 0;
	for (size_t i = 0; i < list->n_processes; i++) {
		const Bulkhead__Agent__ProcessInfo *info = list->processes[i];
		if (info->process_id[0] || strcmp(info->container_id, c->id) != 0)
			continue;
		if (info->state == BULKHEAD__AGENT__PROCESS_STATE__PROCESS_CREATED)
			break;
		resume_log(c, settling, err);
		return 0;
	}
	pthread_mutex_lock(&c->runtime->lock);
	c->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATED;
	c->record->started_ns = 0;
	int r = container_save_locked(c, err);
	pthread_mutex_unlock(&c->runtime->lock);
	if (r < 0) /* the next start, which finds it so again, comes to the same */
		start_complain(c->runtime, "start that never was not taken back", c->id, err);
	return 0;
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
		bool in_guest = strcmp(info->container_id, AGENT_GUEST) == 0;
		if (!in_guest && !is_recorded(sandbox, info))
			r = discard_container(machine, info, &err);
		else if (info->process_id[0])
			r = discard_exec(machine, info, &err);
		if (r < 0) {
			start_complain(sandbox->runtime, "process of a guest not removed",
				sandbox->id, &err);
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
	struct settling settling = {machine, list, ev_now_ms() + LOGS_MS};
	r = containers_each(sandbox, settle, &settling, err);
	if (r == 0)
		discard_unknown(sandbox, machine, list);
	protobuf_c_message_free_unpacked(response, NULL);
	return r;
}

/* What says nothing of the machine. */
static bool is_shortage(int r)
{
	return r == -ENOSPC || r == -EDQUOT || r == -EMFILE || r == -ENFILE || r == -ENOMEM ||
	       r == -EAGAIN;
}

static int let_go_of_log(struct container *c, void *userdata, struct err *err)
{
	(void)userdata;
	(void)err;
	container_close_log(c);
	return 0;
}

/* 0; positive 1 when there is no machine that could be kept. A shortage leaves all as it was. */
static int revive(struct sandbox *sandbox, struct err *err)
{
	struct runtime *rt = sandbox->runtime;
	struct machine *machine;
	int r = machine_find(rt, sandbox->id, &machine, err);
	/* That libvirt cannot tell is a lack of it, whatever it is that it says. */
	if (r != 0)
		return r < 0 ? -EAGAIN : r;
	r = fault_fails("Start", "reach") ? err_set(err, -EMFILE, "a test wants it to lack this")
					  : reconnect(sandbox, machine, err);
	if (r == 0)
		r = volumes_resume(sandbox, machine, err);
	if (is_shortage(r)) {
		sandbox->mirror = mirror_free(sandbox->mirror);
		containers_each(sandbox, let_go_of_log, NULL, NULL);
	}
	if (r < 0) {
		machine_unref(machine);
		return r;
	}
	network_follow(sandbox, machine, NULL);
	pthread_mutex_lock(&rt->lock);
	sandbox->unreached[0] = '\0';
	sandbox->machine = machine;
	sandbox->settled = true;
	pthread_mutex_unlock(&rt->lock);
	return 0;
}

/* ---- logs that could not be resumed with their pod ---- */

/* Whether the guest has, or may yet have, what nobody writes to its log. The lock is held. */
static bool lacks_log_locked(const struct container *c)
{
	bool ended = c->record->state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED;
	return !c->log && (container_runs(c) || (ended && c->record->log_incomplete));
}

/* Without a machine nothing is left to be fetched. */
static bool lacks_logs(struct sandbox *sandbox)
{
	struct runtime *rt = sandbox->runtime;
	struct container *c;
	bool lacks = false;
	pthread_mutex_lock(&rt->lock);
	TAILQ_FOREACH(c, &rt->containers, link)
		lacks |= c->sandbox == sandbox && lacks_log_locked(c);
	lacks = lacks && sandbox->machine;
	pthread_mutex_unlock(&rt->lock);
	return lacks;
}

/* One that fails again keeps the others from nothing. */
static int retry_log(struct container *c, void *userdata, struct err *err)
{
	struct err failure = ERR_INIT;
	(void)err;
	pthread_mutex_lock(&c->runtime->lock);
	bool lacks = lacks_log_locked(c);
	pthread_mutex_unlock(&c->runtime->lock);
	if (lacks && try_log(c, userdata, &failure) == 0)
		log_event(c->runtime->log, LOG_LEVEL_INFO, "log resumed", "container", c->id, NULL);
	return 0;
}

/* Its time is short: calls for the pod wait meanwhile. */
static void retry_logs(struct sandbox *sandbox)
{
	struct machine *machine = sandbox_machine(sandbox, NULL);
	if (!machine)
		return;
	struct settling settling = {.machine = machine, .until_ms = ev_now_ms() + CALL_MS};
	containers_each(sandbox, retry_log, &settling, NULL);
	machine_unref(machine);
}

/* ---- one sandbox, one container ---- */

/* It is known why calls for it fail until it is found. */
static void note_unreached(struct sandbox *sandbox, const struct err *err)
{
	pthread_mutex_lock(&sandbox->runtime->lock);
	bool known = sandbox->unreached[0];
	snprintf(sandbox->unreached, sizeof(sandbox->unreached), "%.255s", err->msg);
	pthread_mutex_unlock(&sandbox->runtime->lock);
	if (!known)
		start_complain(
			sandbox->runtime, "pod lives but cannot be reached yet", sandbox->id, err);
}

/* False: to be tried again. */
static bool recover_sandbox(struct sandbox *sandbox)
{
	struct runtime *rt = sandbox->runtime;
	struct err err = ERR_INIT;
	int r = 0;
	switch (sandbox->record->state) {
	case BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY:
		r = revive(sandbox, &err);
		if (is_shortage(r)) {
			note_unreached(sandbox, &err);
			return false;
		}
		if (r != 0) {
			sandbox_report_death(rt, sandbox->id,
				r < 0 ? err.msg : "the machine ended while bulkheadd did not run");
			return true;
		}
		log_event(rt->log, LOG_LEVEL_INFO, "pod found again", "pod", sandbox->id, NULL);
		return true;
	case BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_NOTREADY:
		r = sandbox_stop(sandbox, &err); /* finishes one that was interrupted */
		break;
	default:
		r = sandbox_remove(sandbox, &err);
		break;
	}
	if (r < 0)
		start_complain(rt, "pod not cleaned up", sandbox->id, &err);
	/* A half-made one is not shown, and whoever asked for it could not remove it. */
	if (sandbox->record->state == BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_CREATING)
		sandbox_set_state(sandbox, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_NOTREADY, NULL);
	return true;
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
		start_complain(c->runtime, "container not cleaned up", c->id, &failure);
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
	struct sandbox **all; /* those that nobody has at hand, from `next` on, round and round */
	size_t size, next, n;
	unsigned threads;
};

/* False: to be tried again. */
static bool recover_one(struct sandbox *sandbox)
{
	pthread_mutex_lock(&sandbox->op);
	/* Whoever asked for its end meanwhile has had it. */
	bool gone = sandbox_check_found(sandbox, NULL) < 0;
	bool before = sandbox->settled; /* by an earlier try, but for logs */
	bool dealt_with = gone || before || recover_sandbox(sandbox);
	pthread_mutex_lock(&sandbox->runtime->lock);
	sandbox->recovering = false;
	if (dealt_with && !before)
		sandbox->runtime->unsettled--;
	pthread_cond_broadcast(&sandbox->runtime->recovered);
	pthread_mutex_unlock(&sandbox->runtime->lock);
	if (before)
		retry_logs(sandbox);
	else if (dealt_with)
		containers_each(sandbox, finish_container, NULL, NULL);
	bool done = dealt_with && !lacks_logs(sandbox);
	pthread_mutex_unlock(&sandbox->op);
	return done;
}

static struct sandbox *next_sandbox(struct recovery *recovery)
{
	struct runtime *rt = recovery->rt;
	pthread_mutex_lock(&rt->lock);
	struct sandbox *sandbox = NULL;
	if (recovery->n) {
		sandbox = recovery->all[recovery->next];
		recovery->next = (recovery->next + 1) % recovery->size;
		recovery->n--;
	}
	pthread_mutex_unlock(&rt->lock);
	return sandbox;
}

/* False when we stop: the next bulkheadd will find it. */
static bool put_back(struct recovery *recovery, struct sandbox *sandbox)
{
	struct runtime *rt = recovery->rt;
	uint64_t deadline = ev_now_ms() + RETRY_MS;
	pthread_mutex_lock(&rt->lock);
	while (!rt->closing && wait_until(rt, &rt->recovered, deadline))
		;
	bool go_on = !rt->closing;
	if (go_on)
		recovery->all[(recovery->next + recovery->n++) % recovery->size] = sandbox;
	pthread_mutex_unlock(&rt->lock);
	return go_on;
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
		if (!recover_one(sandbox) && put_back(recovery, sandbox))
			continue;
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
	*recovery = (struct recovery){.rt = rt, .all = all, .size = n, .n = n};
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

void runtime_end_recovery(struct runtime *rt)
{
	pthread_mutex_lock(&rt->lock);
	rt->closing = true;
	pthread_cond_broadcast(&rt->recovered);
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
		start_complain(rt, "unknown machine not removed", id, &err);
	return 0;
}

static int remove_unknown_network(void *userdata, const char *id)
{
	struct runtime *rt = userdata;
	struct err err = ERR_INIT;
	if (!known(rt, id) && net_pod_teardown(rt->net, id, &err) < 0)
		start_complain(rt, "unknown network not released", id, &err);
	return 0;
}

/* What a plugin holds for pods that nobody knows, as after a crash within its DEL. */
static int collect_network(struct runtime *rt, struct err *err)
{
	int r = net_each_pod(rt->net, remove_unknown_network, rt, err);
	struct err own = ERR_INIT;
	if (r == 0 && net_collect(rt->net, &own) < 0)
		start_complain(rt, "network not collected", "", &own);
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

int runtime_recover(struct runtime *rt, struct err *err)
{
	struct err own = ERR_INIT;
	if (img_collect(rt->images, &own) < 0)
		start_complain(rt, "images not collected", "", &own);
	if (img_remake_layers(rt->images, &own) < 0)
		start_complain(rt, "layers not made again", "", &own);
	struct sandbox **all;
	size_t n;
	int r = list_sandboxes(rt, &all, &n, err);
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
