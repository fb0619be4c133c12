/*
 * UpdateContainerResources and UpdatePodSandboxResources: limits take effect in the running guest.
 * The machine grows for them, before they are set, as far as its handler allows.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/fault.h"
#include "common/fd.h"
#include "cri-server/runtime/resources.h"
#include "cri-server/runtime/sizing.h"

#define CALL_MS 10000

/* container_id empty: all containers of the pod together. */
static int tell_guest(struct machine *machine, const char *container_id,
	const Runtime__V1__LinuxContainerResources *resources, struct err *err)
{
	Bulkhead__Agent__UpdateResourcesRequest request =
		BULKHEAD__AGENT__UPDATE_RESOURCES_REQUEST__INIT;
	request.container_id = (char *)container_id;
	int r = resources_for_agent(resources, &request.resources, err);
	if (r == 0)
		r = agent_call(
			machine->agent, "UpdateResources", &request.base, CALL_MS, NULL, err);
	if (request.resources)
		bulkhead__agent__resources__free_unpacked(request.resources, NULL);
	return r;
}

static int record(
	struct container *c, Runtime__V1__LinuxContainerResources *merged, struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(&merged->base);
	uint8_t *data = malloc(len + 1);
	if (!data)
		return err_nomem(err);
	protobuf_c_message_pack(&merged->base, data);
	pthread_mutex_lock(&c->runtime->lock);
	free(c->record->resources.data);
	c->record->resources = (ProtobufCBinaryData){.data = data, .len = len};
	int r = container_save_locked(c, err);
	Runtime__V1__LinuxContainerResources *old = c->resources;
	c->resources = merged;
	pthread_mutex_unlock(&c->runtime->lock);
	if (old)
		runtime__v1__linux_container_resources__free_unpacked(old, NULL);
	return r;
}

/* What the machine could not have when the container was made is not asked for again. */
static bool wants_more(
	const struct container *c, const Runtime__V1__LinuxContainerResources *merged)
{
	struct sizing_sum has = {0}, wants = {0};
	sizing_add(&has, container_resources(c));
	sizing_add(&wants, merged);
	return wants.memory_mib > has.memory_mib;
}

/* Room and place first, then the limits. */
static int update_guest(
	struct container *c, const Runtime__V1__LinuxContainerResources *merged, struct err *err)
{
	struct machine *machine = sandbox_machine(c->sandbox, err);
	if (!machine)
		return -EBADFD;
	int r = wants_more(c, merged) ? grow_check(machine, c->sandbox, merged, err) : 0;
	if (r == 0)
		r = grow_for_container(machine, c, merged, err);
	if (r == 0)
		r = pin_for_container(machine, c, merged, err);
	FAULT_POINT("UpdateContainerResources", "guest");
	if (r == 0)
		r = tell_guest(machine, c->id, merged, err);
	if (r < 0)
		pin_for_container(machine, c, container_resources(c), NULL);
	machine_unref(machine);
	return r;
}

/* The machine's cgroup on the host, and the guest's of all containers. */
static int apply_to_pod(struct machine *machine, struct sandbox *sandbox,
	const Runtime__V1__LinuxContainerResources *resources, struct err *err)
{
	int r = resources ? grow_check(machine, sandbox, resources, err) : 0;
	if (r == 0 && resources)
		r = grow_for_pod(machine, sandbox, resources, err);
	FAULT_POINT("UpdatePodSandboxResources", "guest");
	if (r == 0)
		r = machine_limit(machine, sandbox, err);
	return r < 0 || !resources ? r : tell_guest(machine, "", resources, err);
}

static int record_pod(struct sandbox *sandbox, struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(&sandbox->limits->base);
	uint8_t *data = malloc(len + 1);
	if (!data)
		return err_nomem(err);
	protobuf_c_message_pack(&sandbox->limits->base, data);
	pthread_mutex_lock(&sandbox->runtime->lock);
	free(sandbox->record->limits.data);
	sandbox->record->limits = (ProtobufCBinaryData){.data = data, .len = len};
	int r = sandbox_save_locked(sandbox, err);
	pthread_mutex_unlock(&sandbox->runtime->lock);
	return r;
}

/* What it has, with what the request sets. NULL: no memory. */
static Runtime__V1__LinuxPodSandboxConfig *merge_pod(
	const struct sandbox *sandbox, const Runtime__V1__UpdatePodSandboxResourcesRequest *req)
{
	static const Runtime__V1__LinuxContainerResources nothing =
		RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	const Runtime__V1__LinuxPodSandboxConfig *has = sandbox_limits(sandbox);
	Runtime__V1__LinuxPodSandboxConfig *merged = calloc(1, sizeof(*merged));
	if (!merged)
		return NULL;
	runtime__v1__linux_pod_sandbox_config__init(merged);
	merged->resources = resources_merge(
		has ? has->resources : NULL, req->resources ? req->resources : &nothing);
	merged->overhead = resources_merge(
		has ? has->overhead : NULL, req->overhead ? req->overhead : &nothing);
	if (merged->resources && merged->overhead)
		return merged;
	runtime__v1__linux_pod_sandbox_config__free_unpacked(merged, NULL);
	return NULL;
}

/* `op` is held. What was refused is as if it had not been asked for. */
static int update_pod(struct sandbox *sandbox,
	const Runtime__V1__UpdatePodSandboxResourcesRequest *req, struct err *err)
{
	struct machine *machine = sandbox_machine(sandbox, err);
	Runtime__V1__LinuxPodSandboxConfig *before = sandbox->limits, *merged;
	if (!machine)
		return -EBADFD;
	merged = merge_pod(sandbox, req);
	int r = merged ? 0 : err_nomem(err);
	if (r == 0) {
		sandbox->limits = merged;
		r = apply_to_pod(machine, sandbox, req->resources, err);
		if (r < 0) {
			sandbox->limits = before;
			before = merged;
			machine_limit(machine, sandbox, NULL);
		}
		if (before)
			runtime__v1__linux_pod_sandbox_config__free_unpacked(before, NULL);
	}
	machine_unref(machine);
	if (r < 0)
		return r;
	FAULT_POINT("UpdatePodSandboxResources", "record");
	r = record_pod(sandbox, err);
	FAULT_POINT("UpdatePodSandboxResources", "done");
	return r;
}

/* `op` is held. */
static int update(
	struct container *c, const Runtime__V1__LinuxContainerResources *change, struct err *err)
{
	bool lives = container_may_run(c);
	Runtime__V1__LinuxContainerResources *merged =
		resources_merge(container_resources(c), change);
	if (!merged)
		return err_nomem(err);
	int r = resources_check(merged, err);
	/* An ended one has no more than its record. */
	if (r == 0 && lives)
		r = update_guest(c, merged, err);
	if (r < 0) {
		runtime__v1__linux_container_resources__free_unpacked(merged, NULL);
		return r;
	}
	FAULT_POINT("UpdateContainerResources", "record");
	r = record(c, merged, err);
	FAULT_POINT("UpdateContainerResources", "done");
	return r;
}

METHOD(resources_service_container)
{
	const Runtime__V1__UpdateContainerResourcesRequest *req =
		(const Runtime__V1__UpdateContainerResourcesRequest *)request;
	struct container *c = container_find(call_runtime(call), req->container_id, err);
	if (!c)
		return err->code;
	int r = req->linux ? sandbox_lock(c->sandbox, call, err)
			   : err_set(err, -EINVAL, "resources of Linux are needed");
	if (r == 0) {
		r = c->gone ? err_set(err, -ENOENT, "container '%s' not found", c->id)
			    : update(c, req->linux, err);
		pthread_mutex_unlock(&c->sandbox->op);
	}
	container_unref(c);
	if (r < 0)
		return err_wrap(err, "update container resources");
	Runtime__V1__UpdateContainerResourcesResponse response =
		RUNTIME__V1__UPDATE_CONTAINER_RESOURCES_RESPONSE__INIT;
	return respond(&response.base, ret_response, err);
}

METHOD(resources_service_sandbox)
{
	const Runtime__V1__UpdatePodSandboxResourcesRequest *req =
		(const Runtime__V1__UpdatePodSandboxResourcesRequest *)request;
	struct sandbox *sandbox = sandbox_find(call_runtime(call), req->pod_sandbox_id, err);
	if (!sandbox)
		return err->code;
	int r = sandbox_lock(sandbox, call, err);
	if (r == 0) {
		r = sandbox_check_found(sandbox, err);
		if (r == 0)
			r = resources_check(req->resources, err);
		if (r == 0)
			r = resources_check(req->overhead, err);
		if (r == 0)
			r = update_pod(sandbox, req, err);
		pthread_mutex_unlock(&sandbox->op);
	}
	sandbox_unref(sandbox);
	if (r < 0)
		return err_wrap(err, "update pod sandbox resources");
	Runtime__V1__UpdatePodSandboxResourcesResponse response =
		RUNTIME__V1__UPDATE_POD_SANDBOX_RESOURCES_RESPONSE__INIT;
	return respond(&response.base, ret_response, err);
}
