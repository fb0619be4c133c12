/*
 * Version, Status and the runtime's configuration: the node as the kubelet sees it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "common/fault.h"
#include "common/fd.h"
#include "cri-server/image/service.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/turns.h"
#include "cri-server/version.h"

#define POD_CIDR_SETTING "pod_cidr"

METHOD(status_version)
{
	(void)call;
	const Runtime__V1__VersionRequest *req = (const Runtime__V1__VersionRequest *)request;
	Runtime__V1__VersionResponse response = RUNTIME__V1__VERSION_RESPONSE__INIT;
	response.version = req->version[0] ? req->version : (char *)"0.1.0";
	response.runtime_name = (char *)"bulkhead";
	response.runtime_version = (char *)BULKHEAD_VERSION;
	response.runtime_api_version = (char *)"v1";
	return respond(&response.base, ret_response, err);
}

/* What a node operator wants to see first when something is odd. */
static char *verbose_info(struct runtime *rt)
{
	_cleanup_free_ char *network = net_name(rt->net);
	json_t *info = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s*, s:i}", "version",
		BULKHEAD_VERSION, "hypervisor", hv_version(rt->hv), "accelerator",
		hv_accelerator_name(rt->hv), "acceleratorReason", hv_accelerator_reason(rt->hv),
		"transport", hv_transport_name(rt->hv), "stateDir", rt->config->state_dir,
		"libvirt", rt->config->hypervisor.libvirt_uri, "network", network, "podsWaiting",
		(int)turns_waiting(rt->starts));
	char *text = info ? json_dumps(info, JSON_COMPACT) : NULL;
	json_decref(info);
	return text;
}

static int answer_status(struct runtime *rt, bool verbose,
	Runtime__V1__RuntimeCondition **conditions, struct rpc_answer *ret_response,
	struct err *err)
{
	Runtime__V1__RuntimeStatus status = RUNTIME__V1__RUNTIME_STATUS__INIT;
	Runtime__V1__StatusResponse response = RUNTIME__V1__STATUS_RESPONSE__INIT;
	Runtime__V1__StatusResponse__InfoEntry config =
		RUNTIME__V1__STATUS_RESPONSE__INFO_ENTRY__INIT;
	Runtime__V1__StatusResponse__InfoEntry pulling =
		RUNTIME__V1__STATUS_RESPONSE__INFO_ENTRY__INIT;
	Runtime__V1__StatusResponse__InfoEntry *entries[] = {&config, &pulling};
	_cleanup_free_ char *info = NULL, *pulls = NULL;
	size_t n = rt->config->n_handlers;
	_cleanup_free_ Runtime__V1__RuntimeHandler *handlers = calloc(n, sizeof(*handlers));
	_cleanup_free_ Runtime__V1__RuntimeHandler **pointers = calloc(n, sizeof(*pointers));
	Runtime__V1__RuntimeHandlerFeatures handler_features =
		RUNTIME__V1__RUNTIME_HANDLER_FEATURES__INIT;
	Runtime__V1__RuntimeFeatures features = RUNTIME__V1__RUNTIME_FEATURES__INIT;
	if (!handlers || !pointers)
		return err_nomem(err);
	for (size_t i = 0; i < n; i++) {
		pointers[i] = &handlers[i];
		runtime__v1__runtime_handler__init(&handlers[i]);
		handlers[i].name = rt->config->handlers[i].name;
		handlers[i].features = &handler_features;
	}
	features.supplemental_groups_policy = true;
	handler_features.recursive_read_only_mounts = true;
	handler_features.user_namespaces = true;
	status.conditions = conditions;
	status.n_conditions = 2;
	response.status = &status;
	response.runtime_handlers = pointers;
	response.n_runtime_handlers = n;
	response.features = &features;
	if (verbose) {
		info = verbose_info(rt);
		pulls = image_service_pulls(rt->images);
		if (!info || !pulls)
			return err_nomem(err);
		config.key = (char *)"config";
		config.value = info;
		pulling.key = (char *)"pulls";
		pulling.value = pulls;
		response.info = entries;
		response.n_info = ARRAY_SIZE(entries);
	}
	return respond(&response.base, ret_response, err);
}

METHOD(status_status)
{
	struct runtime *rt = call_runtime(call);
	const Runtime__V1__StatusRequest *req = (const Runtime__V1__StatusRequest *)request;
	Runtime__V1__RuntimeCondition runtime = RUNTIME__V1__RUNTIME_CONDITION__INIT;
	Runtime__V1__RuntimeCondition network = RUNTIME__V1__RUNTIME_CONDITION__INIT;
	Runtime__V1__RuntimeCondition *conditions[] = {&runtime, &network};
	struct err hypervisor_err = ERR_INIT, network_err = ERR_INIT;

	runtime.type = (char *)"RuntimeReady";
	runtime.status = hv_check(rt->hv, &hypervisor_err) == 0;
	if (!runtime.status) {
		runtime.reason = (char *)"HypervisorNotReady";
		runtime.message = hypervisor_err.msg;
	}
	network.type = (char *)"NetworkReady";
	network.status = net_check(rt->net, &network_err) == 0;
	if (!network.status) {
		network.reason = (char *)"NetworkPluginNotReady";
		network.message = network_err.msg;
	}
	return answer_status(rt, req->verbose, conditions, ret_response, err);
}

METHOD(status_runtime_config)
{
	(void)request;
	Runtime__V1__RuntimeConfigResponse response = RUNTIME__V1__RUNTIME_CONFIG_RESPONSE__INIT;
	Runtime__V1__LinuxRuntimeConfiguration linux =
		RUNTIME__V1__LINUX_RUNTIME_CONFIGURATION__INIT;
	linux.cgroup_driver = strcmp(call_runtime(call)->config->cgroup_driver, "systemd") == 0
				      ? RUNTIME__V1__CGROUP_DRIVER__SYSTEMD
				      : RUNTIME__V1__CGROUP_DRIVER__CGROUPFS;
	response.linux = &linux;
	return respond(&response.base, ret_response, err);
}

/* The pod CIDR is kept for operators to see; CNI's own configuration decides addresses, as in
 * containerd. */
METHOD(status_update_runtime_config)
{
	struct runtime *rt = call_runtime(call);
	const Runtime__V1__UpdateRuntimeConfigRequest *req =
		(const Runtime__V1__UpdateRuntimeConfigRequest *)request;
	const Runtime__V1__NetworkConfig *network =
		req->runtime_config ? req->runtime_config->network_config : NULL;
	if (network && network->pod_cidr[0]) {
		Bulkhead__Store__Setting setting = BULKHEAD__STORE__SETTING__INIT;
		setting.value = network->pod_cidr;
		int r = store_put(rt->store, STORE_SETTING, POD_CIDR_SETTING, &setting.base, err);
		FAULT_POINT("UpdateRuntimeConfig", "done");
		if (r < 0)
			return r;
		log_event(rt->log, LOG_LEVEL_INFO, "pod CIDR recorded", "cidr", network->pod_cidr,
			NULL);
	}
	Runtime__V1__UpdateRuntimeConfigResponse response =
		RUNTIME__V1__UPDATE_RUNTIME_CONFIG_RESPONSE__INIT;
	return respond(&response.base, ret_response, err);
}
