/*
 * Start-up: what the records say and what the host has are made one.
 *
 * Recorded and alive: kept, its agent connected again, its logs resumed, exits that happened
 * meanwhile arrive as events. Recorded but half-made (CREATING, REMOVING): undone or finished.
 * Recorded as running and dead: marked so. Alive and not recorded (machine, network, disk):
 * removed. What cannot be removed now is logged and tried again at the next start; it does not keep
 * the others from being served.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/runtime/guest_network.h"
#include "cri-server/runtime/internal.h"

#define CONNECT_MS 15000 /* to an agent that was up before; one pod after the other */
#define CALL_MS    10000

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
	if (!sandbox->record) {
		sandbox_unref(sandbox);
		return -ENOMEM;
	}
	TAILQ_INSERT_TAIL(&rt->sandboxes, sandbox, link);
	return 0;
}

static int load_container(void *userdata, const char *id, const ProtobufCMessage *message)
{
	struct runtime *rt = userdata;
	const Bulkhead__Store__Container *record = (const Bulkhead__Store__Container *)message;
	struct sandbox *sandbox = sandbox_find(rt, record->sandbox_id, NULL);
	Runtime__V1__ContainerConfig *config = runtime__v1__container_config__unpack(
		NULL, record->config.len, record->config.data);
	struct container *c = NULL;
	int r = -EBADMSG;
	if (sandbox && config && strlen(id) == ID_LEN) {
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
	if (sandbox)
		sandbox_unref(sandbox);
	return r;
}

/* ---- a sandbox whose machine lives ---- */

/* The agent knows of a start that was recorded, or it never happened: then it may be repeated. */
static int settle_container(struct container *c,
	const Bulkhead__Agent__ListContainersResponse *list, struct machine *machine,
	struct err *err)
{
	if (!container_runs(c))
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

/* Nobody waits for a command that a process before us ran. */
static void discard_execs(
	struct machine *machine, const Bulkhead__Agent__ListContainersResponse *list)
{
	for (size_t i = 0; i < list->n_processes; i++) {
		if (!list->processes[i]->process_id[0])
			continue;
		Bulkhead__Agent__RemoveProcessRequest request =
			BULKHEAD__AGENT__REMOVE_PROCESS_REQUEST__INIT;
		request.container_id = list->processes[i]->container_id;
		request.process_id = list->processes[i]->process_id;
		agent_call(machine->agent, "RemoveProcess", &request.base, CALL_MS, NULL, NULL);
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
		discard_execs(machine, list);
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

static int hold_layers(struct container *c, void *userdata, struct err *err)
{
	(void)userdata;
	return img_hold(c->runtime->images, c->id, c->record->layers, c->record->n_layers, err);
}

/* After its sandbox: one that was half-made or half-removed goes. */
static int finish_container(struct container *c, void *userdata, struct err *err)
{
	(void)userdata;
	(void)err;
	struct err failure = ERR_INIT;
	bool half = c->record->state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATING ||
		    c->record->state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_REMOVING;
	if (half && container_remove(c, &failure) < 0)
		complain(c->runtime, "container not cleaned up", c->id, &failure);
	return 0;
}

static int each_sandbox(struct runtime *rt, void (*fn)(struct sandbox *), struct err *err)
{
	struct sandbox *sandbox;
	size_t n = 0, i = 0;
	pthread_mutex_lock(&rt->lock);
	TAILQ_FOREACH(sandbox, &rt->sandboxes, link)
		n++;
	_cleanup_free_ struct sandbox **all = calloc(n + 1, sizeof(struct sandbox *));
	TAILQ_FOREACH(sandbox, &rt->sandboxes, link)
		if (all) {
			sandbox->refs++;
			all[i++] = sandbox;
		}
	pthread_mutex_unlock(&rt->lock);
	if (!all)
		return err_nomem(err);
	for (i = 0; i < n; i++) {
		pthread_mutex_lock(&all[i]->op);
		fn(all[i]);
		pthread_mutex_unlock(&all[i]->op);
		sandbox_unref(all[i]);
	}
	return 0;
}

static void hold_of(struct sandbox *sandbox)
{
	struct err err = ERR_INIT;
	if (containers_each(sandbox, hold_layers, NULL, &err) < 0)
		complain(sandbox->runtime, "layers not held", sandbox->id, &err);
}

static void finish_of(struct sandbox *sandbox)
{
	containers_each(sandbox, finish_container, NULL, NULL);
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

int runtime_recover(struct runtime *rt, struct err *err)
{
	int r = store_each(rt->store, STORE_SANDBOX, load_sandbox, rt, err);
	if (r < 0)
		return err_wrap(err, "read the records of sandboxes");
	/* Loading looks sandboxes up, in memory only. */
	r = store_each(rt->store, STORE_CONTAINER, load_container, rt, err);
	if (r < 0)
		return err_wrap(err, "read the records of containers");
	r = each_sandbox(rt, hold_of, err);
	if (r == 0)
		r = img_collect(rt->images, err);
	if (r == 0)
		r = each_sandbox(rt, recover_sandbox, err);
	if (r == 0)
		r = each_sandbox(rt, finish_of, err);
	if (r == 0)
		r = hv_each_vm(rt->hv, remove_unknown_vm, rt, err);
	if (r == 0)
		r = collect_network(rt, err);
	if (r == 0)
		r = remove_unknown_files(rt, "scratch", err);
	return r < 0 ? r : remove_unknown_files(rt, "logs", err);
}
