/*
 * The statistics of CRI: samples are brought up to date first, without a lock; the answer is put
 * together under runtime->lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/daemon.h"
#include "cri-server/runtime/stats.h"

static const char *scratch_dir(const struct rpc_call *call)
{
	return ((struct daemon *)rpc_call_userdata(call))->scratch_dir;
}

METHOD(stats_service_container)
{
	struct runtime *rt = call_runtime(call);
	const Runtime__V1__ContainerStatsRequest *req =
		(const Runtime__V1__ContainerStatsRequest *)request;
	struct container *c = container_find(rt, req->container_id, err);
	if (!c)
		return err->code;
	usage_refresh(&c->sandbox, 1);
	struct stats_container storage;
	Runtime__V1__ContainerStatsResponse response = RUNTIME__V1__CONTAINER_STATS_RESPONSE__INIT;
	response.stats = &storage.stats;
	pthread_mutex_lock(&rt->lock);
	int r = container_visible(c) ? stats_fill_container(&storage, c, scratch_dir(call), err)
				     : err_set(err, -ENOENT, "container '%s' not found", c->id);
	if (r == 0)
		r = respond(&response.base, ret_response, err);
	pthread_mutex_unlock(&rt->lock);
	container_unref(c);
	return r;
}

static bool begins_with(const char *id, const char *prefix)
{
	return strncmp(id, prefix, strlen(prefix)) == 0;
}

static bool container_wanted(
	const struct container *c, const Runtime__V1__ContainerStatsFilter *filter)
{
	if (!container_visible(c))
		return false;
	return !filter ||
	       (begins_with(c->id, filter->id) &&
		       begins_with(c->sandbox->id, filter->pod_sandbox_id) &&
		       labels_match((void *)filter->label_selector, filter->n_label_selector,
			       (void *)c->config->labels, c->config->n_labels));
}

/* Of the pods, those that may have a wanted container are asked. The lock is held. */
static bool has_wanted(const struct sandbox *sandbox, const void *userdata)
{
	const Runtime__V1__ContainerStatsFilter *filter = userdata;
	const struct container *c;
	/* Who wants all, as a kubelet does, need not look at each of a thousand for each. */
	if (!filter || (!filter->id[0] && !filter->pod_sandbox_id[0] && !filter->n_label_selector))
		return true;
	TAILQ_FOREACH(c, &sandbox->runtime->containers, link)
		if (c->sandbox == sandbox && container_wanted(c, filter))
			return true;
	return false;
}

static int answer_containers(struct runtime *rt, const Runtime__V1__ContainerStatsFilter *filter,
	const char *scratch, struct rpc_answer *ret_response, struct err *err)
{
	struct container *c;
	size_t n = 0;
	int r = 0;
	TAILQ_FOREACH(c, &rt->containers, link)
		n += container_wanted(c, filter);
	_cleanup_free_ struct stats_container *items = calloc(n + 1, sizeof(*items));
	_cleanup_free_ Runtime__V1__ContainerStats **pointers = calloc(n + 1, sizeof(*pointers));
	if (!items || !pointers)
		return err_nomem(err);
	Runtime__V1__ListContainerStatsResponse response =
		RUNTIME__V1__LIST_CONTAINER_STATS_RESPONSE__INIT;
	response.stats = pointers;
	TAILQ_FOREACH(c, &rt->containers, link)
		if (r == 0 && container_wanted(c, filter)) {
			r = stats_fill_container(&items[response.n_stats], c, scratch, err);
			pointers[response.n_stats] = &items[response.n_stats].stats;
			response.n_stats++;
		}
	return r < 0 ? r : respond(&response.base, ret_response, err);
}

METHOD(stats_service_list_containers)
{
	struct runtime *rt = call_runtime(call);
	const Runtime__V1__ListContainerStatsRequest *req =
		(const Runtime__V1__ListContainerStatsRequest *)request;
	struct sandbox **sandboxes = NULL;
	size_t n = req->filter ? req->filter->n_label_selector : 0;
	int r = labels_check("label selectors", n, SELECTORS_MAX, err);
	if (r < 0)
		return r;
	r = usage_sandboxes(rt, has_wanted, req->filter, &sandboxes, &n, err);
	if (r < 0)
		return r;
	usage_refresh(sandboxes, n);
	usage_sandboxes_free(sandboxes, n);
	pthread_mutex_lock(&rt->lock);
	r = answer_containers(rt, req->filter, scratch_dir(call), ret_response, err);
	pthread_mutex_unlock(&rt->lock);
	return r;
}

/* ---- pods ---- */

static int fill_sandbox(struct stats_sandbox *stats, const struct sandbox *sandbox,
	const char *scratch, struct err *err)
{
	struct container *c;
	size_t n = 0;
	TAILQ_FOREACH(c, &sandbox->runtime->containers, link)
		n += c->sandbox == sandbox && container_visible(c);
	_cleanup_free_ struct container **containers = calloc(n + 1, sizeof(struct container *));
	if (!containers)
		return err_nomem(err);
	n = 0;
	TAILQ_FOREACH(c, &sandbox->runtime->containers, link)
		if (c->sandbox == sandbox && container_visible(c))
			containers[n++] = c;
	return stats_fill_sandbox(stats, sandbox, containers, n, scratch, err);
}

METHOD(stats_service_sandbox)
{
	struct runtime *rt = call_runtime(call);
	const Runtime__V1__PodSandboxStatsRequest *req =
		(const Runtime__V1__PodSandboxStatsRequest *)request;
	struct sandbox *sandbox = sandbox_find(rt, req->pod_sandbox_id, err);
	if (!sandbox)
		return err->code;
	usage_refresh(&sandbox, 1);
	struct stats_sandbox stats = {0};
	Runtime__V1__PodSandboxStatsResponse response =
		RUNTIME__V1__POD_SANDBOX_STATS_RESPONSE__INIT;
	response.stats = &stats.stats;
	pthread_mutex_lock(&rt->lock);
	int r = sandbox_visible(sandbox)
			? fill_sandbox(&stats, sandbox, scratch_dir(call), err)
			: err_set(err, -ENOENT, "sandbox '%s' not found", sandbox->id);
	if (r == 0)
		r = respond(&response.base, ret_response, err);
	pthread_mutex_unlock(&rt->lock);
	stats_sandbox_done(&stats);
	sandbox_unref(sandbox);
	return r;
}

static bool sandbox_wanted(const struct sandbox *sandbox, const void *userdata)
{
	const Runtime__V1__PodSandboxStatsFilter *filter = userdata;
	if (!sandbox_visible(sandbox))
		return false;
	return !filter ||
	       (begins_with(sandbox->id, filter->id) &&
		       labels_match((void *)filter->label_selector, filter->n_label_selector,
			       (void *)sandbox->config->labels, sandbox->config->n_labels));
}

/* The lock is held. */
static int answer_sandboxes(struct sandbox **sandboxes, size_t n, const char *scratch,
	struct rpc_answer *ret_response, struct err *err)
{
	_cleanup_free_ struct stats_sandbox *items = calloc(n + 1, sizeof(*items));
	_cleanup_free_ Runtime__V1__PodSandboxStats **pointers = calloc(n + 1, sizeof(*pointers));
	if (!items || !pointers)
		return err_nomem(err);
	Runtime__V1__ListPodSandboxStatsResponse response =
		RUNTIME__V1__LIST_POD_SANDBOX_STATS_RESPONSE__INIT;
	response.stats = pointers;
	int r = 0;
	for (size_t i = 0; i < n && r == 0; i++) {
		if (sandboxes[i]->gone)
			continue;
		r = fill_sandbox(&items[i], sandboxes[i], scratch, err);
		pointers[response.n_stats++] = &items[i].stats;
	}
	if (r == 0)
		r = respond(&response.base, ret_response, err);
	for (size_t i = 0; i < n; i++)
		stats_sandbox_done(&items[i]);
	return r;
}

METHOD(stats_service_list_sandboxes)
{
	struct runtime *rt = call_runtime(call);
	const Runtime__V1__ListPodSandboxStatsRequest *req =
		(const Runtime__V1__ListPodSandboxStatsRequest *)request;
	struct sandbox **sandboxes = NULL;
	size_t n = req->filter ? req->filter->n_label_selector : 0;
	int r = labels_check("label selectors", n, SELECTORS_MAX, err);
	if (r < 0)
		return r;
	r = usage_sandboxes(rt, sandbox_wanted, req->filter, &sandboxes, &n, err);
	if (r < 0)
		return r;
	usage_refresh(sandboxes, n);
	pthread_mutex_lock(&rt->lock);
	r = answer_sandboxes(sandboxes, n, scratch_dir(call), ret_response, err);
	pthread_mutex_unlock(&rt->lock);
	usage_sandboxes_free(sandboxes, n);
	return r;
}
