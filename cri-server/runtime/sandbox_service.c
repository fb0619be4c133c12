/* The sandbox methods of CRI: answers are composed here. */
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/fd.h"
#include "cri-server/rpc/message.h"
#include "cri-server/runtime/internal.h"

METHOD(sandbox_service_run)
{
	struct runtime *rt = call_runtime(call);
	const Runtime__V1__RunPodSandboxRequest *req =
		(const Runtime__V1__RunPodSandboxRequest *)request;
	int r = sandbox_config_check(req->config, err);
	if (r < 0)
		return r;
	const struct config_handler *handler = config_handler(rt->config, req->runtime_handler);
	if (!handler)
		return err_set(err, -EINVAL,
			"no runtime handler '%.64s' is configured; runtime_handlers of the "
			"configuration lists them",
			req->runtime_handler);
	char id[ID_LEN + 1];
	r = sandbox_run(call, req->config, handler, id, err);
	if (r < 0)
		return r;
	Runtime__V1__RunPodSandboxResponse response = RUNTIME__V1__RUN_POD_SANDBOX_RESPONSE__INIT;
	response.pod_sandbox_id = id;
	return respond(&response.base, ret_response, err);
}

/* Runs fn with the sandbox's `op`. One that is not there is success: these calls are repeated. */
static int with_sandbox(struct rpc_call *call, const char *id,
	int (*fn)(struct sandbox *, struct err *), struct err *err)
{
	struct sandbox *sandbox = sandbox_find(call_runtime(call), id, err);
	if (!sandbox)
		return err->code == -ENOENT ? 0 : err->code;
	int r = sandbox_lock(sandbox, call, err);
	if (r == 0) {
		r = sandbox_check_found(sandbox, NULL) < 0 ? 0 : fn(sandbox, err);
		pthread_mutex_unlock(&sandbox->op);
	}
	sandbox_unref(sandbox);
	return r;
}

METHOD(sandbox_service_stop)
{
	const Runtime__V1__StopPodSandboxRequest *req =
		(const Runtime__V1__StopPodSandboxRequest *)request;
	int r = with_sandbox(call, req->pod_sandbox_id, sandbox_stop, err);
	if (r < 0)
		return err_wrap(err, "stop sandbox");
	Runtime__V1__StopPodSandboxResponse response = RUNTIME__V1__STOP_POD_SANDBOX_RESPONSE__INIT;
	return respond(&response.base, ret_response, err);
}

METHOD(sandbox_service_remove)
{
	const Runtime__V1__RemovePodSandboxRequest *req =
		(const Runtime__V1__RemovePodSandboxRequest *)request;
	int r = with_sandbox(call, req->pod_sandbox_id, sandbox_remove, err);
	if (r < 0)
		return err_wrap(err, "remove sandbox");
	/* Of all calls it leaves most in pieces that only the allocator could use again. */
	malloc_trim(0);
	Runtime__V1__RemovePodSandboxResponse response =
		RUNTIME__V1__REMOVE_POD_SANDBOX_RESPONSE__INIT;
	return respond(&response.base, ret_response, err);
}

/* ---- status and list: under runtime->lock, from the records ---- */

/* One whose removal did not finish is shown: whoever asked for it asks again. */
bool sandbox_visible(const struct sandbox *sandbox)
{
	return sandbox->record->state != BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_CREATING;
}

static Runtime__V1__PodSandboxState cri_state(const struct sandbox *sandbox)
{
	return sandbox->record->state == BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY
		       ? RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY
		       : RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_NOTREADY;
}

/* What is looked at for a verbose answer alone, without a lock. */
struct inspection {
	struct hv_cost host; /* of the pod's machine: its containers' figures do not stand for it */
	char *console;       /* the path of its file; NULL when memory is out */
	const char *cni_check; /* "ok", "none" or what the plugins' CHECK says */
	struct err cni_err;
};

static void inspect(struct runtime *rt, const char *id, struct inspection *ret)
{
	*ret = (struct inspection){.cni_check = "ok", .console = hv_vm_console_path(rt->hv, id)};
	hv_vm_cost(rt->hv, id, &ret->host, NULL);
	int r = net_pod_check(rt->net, id, &ret->cni_err);
	if (r < 0)
		ret->cni_check = r == -ENOENT ? "none" : ret->cni_err.msg;
}

/* JSON takes no text that is not UTF-8: a guest's, a plugin's, or one that was cut. */
static char *readable(const char *text)
{
	char *copy = strdup(text);
	if (copy)
		rpc_string_scrub(copy);
	return copy;
}

static char *verbose_info(const struct sandbox *sandbox, const struct inspection *seen)
{
	_cleanup_free_ char *cni_check = readable(seen->cni_check);
	_cleanup_free_ char *death = readable(sandbox->record->death);
	const struct hv_cost *host = &seen->host;
	const char *names[STEPS_MAX];
	size_t n = bring_up_step_names(names);
	json_t *steps = json_object();
	for (size_t i = 0; i < n; i++)
		json_object_set_new(steps, names[i], json_real((double)sandbox->times.ns[i] / 1e6));
	json_t *info = json_pack("{s:s, s:s, s:s, s:s, s:s*, s:o, s:f, s:{s:I, s:I, s:I, s:i}}",
		"netns", sandbox->record->netns, "cniCheck", cni_check, "death", death, "hostname",
		sandbox->config->hostname, "console", seen->console, "bringUpMs", steps,
		"cniPluginsMs", (double)sandbox->plugins_ns / 1e6, "hostUsage", "cpuNanoseconds",
		(json_int_t)host->cpu_ns, "memoryPssBytes", (json_int_t)host->pss_bytes,
		"memoryRssBytes", (json_int_t)host->rss_bytes, "processes", (int)host->processes);
	char *text = info ? json_dumps(info, JSON_COMPACT) : NULL;
	json_decref(info);
	return text;
}

/* seen: for a verbose answer, else NULL. */
static int answer_status(struct sandbox *sandbox, const struct inspection *seen,
	struct rpc_answer *ret_response, struct err *err)
{
	const Bulkhead__Store__Sandbox *record = sandbox->record;
	const Runtime__V1__PodSandboxConfig *config = sandbox->config;
	Runtime__V1__PodSandboxStatus status = RUNTIME__V1__POD_SANDBOX_STATUS__INIT;
	Runtime__V1__PodSandboxNetworkStatus network =
		RUNTIME__V1__POD_SANDBOX_NETWORK_STATUS__INIT;
	Runtime__V1__LinuxPodSandboxStatus linux = RUNTIME__V1__LINUX_POD_SANDBOX_STATUS__INIT;
	Runtime__V1__Namespace ns = RUNTIME__V1__NAMESPACE__INIT;
	Runtime__V1__NamespaceOption defaults = RUNTIME__V1__NAMESPACE_OPTION__INIT;
	Runtime__V1__PodSandboxStatusResponse response =
		RUNTIME__V1__POD_SANDBOX_STATUS_RESPONSE__INIT;
	Runtime__V1__PodIP additional[NET_ADDRESSES_MAX], *pointers[NET_ADDRESSES_MAX];
	Runtime__V1__PodSandboxStatusResponse__InfoEntry entry =
		RUNTIME__V1__POD_SANDBOX_STATUS_RESPONSE__INFO_ENTRY__INIT;
	Runtime__V1__PodSandboxStatusResponse__InfoEntry *entries[] = {&entry};
	_cleanup_free_ char *info = NULL;

	status.id = sandbox->id;
	status.metadata = config->metadata;
	status.state = cri_state(sandbox);
	status.created_at = record->created_ns;
	/* A map's entries are of one form, whichever message they are declared in. */
	status.labels = (Runtime__V1__PodSandboxStatus__LabelsEntry **)config->labels;
	status.n_labels = config->n_labels;
	status.annotations =
		(Runtime__V1__PodSandboxStatus__AnnotationsEntry **)config->annotations;
	status.n_annotations = config->n_annotations;
	status.runtime_handler = record->runtime_handler;
	if (!record->network_released && record->n_ips) {
		network.ip = record->ips[0];
		for (size_t i = 1; i < record->n_ips && i < ARRAY_SIZE(additional); i++) {
			pointers[network.n_additional_ips] = &additional[i];
			runtime__v1__pod_ip__init(&additional[i]);
			additional[i].ip = record->ips[i];
			network.n_additional_ips++;
		}
		network.additional_ips = pointers;
	}
	status.network = &network;
	ns.options = &defaults;
	if (config->linux && config->linux->security_context &&
		config->linux->security_context->namespace_options)
		ns.options = config->linux->security_context->namespace_options;
	linux.namespaces = &ns;
	status.linux = &linux;
	response.status = &status;
	if (seen) {
		info = verbose_info(sandbox, seen);
		if (!info)
			return err_nomem(err);
		entry.key = (char *)"info";
		entry.value = info;
		response.info = entries;
		response.n_info = 1;
	}
	return respond(&response.base, ret_response, err);
}

int sandbox_status_response(struct sandbox *sandbox, struct rpc_answer *ret, struct err *err)
{
	return answer_status(sandbox, NULL, ret, err);
}

METHOD(sandbox_service_status)
{
	struct runtime *rt = call_runtime(call);
	const Runtime__V1__PodSandboxStatusRequest *req =
		(const Runtime__V1__PodSandboxStatusRequest *)request;
	struct sandbox *sandbox = sandbox_find(rt, req->pod_sandbox_id, err);
	if (!sandbox)
		return err->code;
	struct inspection seen = {.console = NULL};
	if (req->verbose)
		inspect(rt, sandbox->id, &seen);
	pthread_mutex_lock(&rt->lock);
	int r = sandbox_visible(sandbox)
			? answer_status(sandbox, req->verbose ? &seen : NULL, ret_response, err)
			: err_set(err, -ENOENT, "sandbox '%s' not found", sandbox->id);
	pthread_mutex_unlock(&rt->lock);
	free(seen.console);
	sandbox_unref(sandbox);
	return r;
}

static bool wanted(const struct sandbox *sandbox, const Runtime__V1__PodSandboxFilter *filter)
{
	if (!sandbox_visible(sandbox))
		return false;
	if (!filter)
		return true;
	if (filter->id[0] && strncmp(sandbox->id, filter->id, strlen(filter->id)) != 0)
		return false;
	if (filter->state && filter->state->state != cri_state(sandbox))
		return false;
	return labels_match((void *)filter->label_selector, filter->n_label_selector,
		(void *)sandbox->config->labels, sandbox->config->n_labels);
}

static void fill_item(Runtime__V1__PodSandbox *item, struct sandbox *sandbox)
{
	runtime__v1__pod_sandbox__init(item);
	item->id = sandbox->id;
	item->metadata = sandbox->config->metadata;
	item->state = cri_state(sandbox);
	item->created_at = sandbox->record->created_ns;
	item->labels = (Runtime__V1__PodSandbox__LabelsEntry **)sandbox->config->labels;
	item->n_labels = sandbox->config->n_labels;
	item->annotations =
		(Runtime__V1__PodSandbox__AnnotationsEntry **)sandbox->config->annotations;
	item->n_annotations = sandbox->config->n_annotations;
	item->runtime_handler = sandbox->record->runtime_handler;
}

/* The list as it would be of this one alone. Its state is all that changes of it. */
static int list_one(struct sandbox *sandbox, const struct rpc_answer **ret, struct err *err)
{
	int r = 0;
	if (!sandbox->listed.data || sandbox->listed_state != cri_state(sandbox)) {
		Runtime__V1__PodSandbox item, *items[] = {&item};
		Runtime__V1__ListPodSandboxResponse response =
			RUNTIME__V1__LIST_POD_SANDBOX_RESPONSE__INIT;
		fill_item(&item, sandbox);
		response.items = items;
		response.n_items = ARRAY_SIZE(items);
		rpc_answer_done(&sandbox->listed);
		sandbox->listed_state = item.state;
		r = respond(&response.base, &sandbox->listed, err);
	}
	*ret = &sandbox->listed;
	return r;
}

static int answer_list(struct runtime *rt, const Runtime__V1__PodSandboxFilter *filter,
	struct rpc_answer *ret_response, struct err *err)
{
	struct sandbox *sandbox;
	size_t n = 0;
	int r = 0;
	TAILQ_FOREACH(sandbox, &rt->sandboxes, link)
		n++;
	_cleanup_free_ const struct rpc_answer **parts = calloc(n + 1, sizeof(*parts));
	if (!parts)
		return err_nomem(err);
	n = 0;
	TAILQ_FOREACH(sandbox, &rt->sandboxes, link)
		if (r == 0 && wanted(sandbox, filter))
			r = list_one(sandbox, &parts[n++], err);
	return r < 0 ? r
		     : respond_joined(&runtime__v1__list_pod_sandbox_response__descriptor, parts, n,
			       ret_response, err);
}

METHOD(sandbox_service_list)
{
	struct runtime *rt = call_runtime(call);
	const Runtime__V1__ListPodSandboxRequest *req =
		(const Runtime__V1__ListPodSandboxRequest *)request;
	size_t n = req->filter ? req->filter->n_label_selector : 0;
	int r = labels_check("label selectors", n, SELECTORS_MAX, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&rt->lock);
	r = answer_list(rt, req->filter, ret_response, err);
	pthread_mutex_unlock(&rt->lock);
	return r;
}
