#include "tests/bench/cri.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/proto/cri.pb-c.h"
#include "cri-server/rpc/message.h"

#define CALL_MS 600000

static void message_freep(void *message)
{
	protobuf_c_message_free_unpacked(*(ProtobufCMessage **)message, NULL);
}
#define _cleanup_message_ _cleanup_(message_freep)

static int call(struct rpc_client *client, const char *method, const ProtobufCMessage *request,
	void *ret_response, struct err *err)
{
	ProtobufCMessage *response;
	int r = rpc_client_call(client, &runtime__v1__runtime_service__descriptor, method, request,
		CALL_MS, &response, err);
	if (r < 0)
		return err_wrap(err, "%s", method);
	*(ProtobufCMessage **)ret_response = response;
	return 0;
}

int cri_pull(struct rpc_client *client, const char *image, char **ret_ref, struct err *err)
{
	Runtime__V1__PullImageRequest request = RUNTIME__V1__PULL_IMAGE_REQUEST__INIT;
	Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
	_cleanup_message_ ProtobufCMessage *response = NULL;
	spec.image = (char *)image;
	request.image = &spec;
	int r = rpc_client_call(client, &runtime__v1__image_service__descriptor, "PullImage",
		&request.base, CALL_MS, &response, err);
	if (r < 0)
		return err_wrap(err, "PullImage");
	*ret_ref = TAKE_PTR(((Runtime__V1__PullImageResponse *)response)->image_ref);
	return 0;
}

int cri_list(struct rpc_client *client, enum cri_list list, size_t expected, struct err *err)
{
	static const struct {
		const ProtobufCServiceDescriptor *service;
		const char *method;
	} lists[] = {
		[CRI_LIST_IMAGES] = {&runtime__v1__image_service__descriptor, "ListImages"},
		[CRI_LIST_CONTAINERS] = {&runtime__v1__runtime_service__descriptor,
			"ListContainers"},
		[CRI_LIST_SANDBOXES] = {&runtime__v1__runtime_service__descriptor,
			"ListPodSandbox"},
		[CRI_LIST_CONTAINER_STATS] = {&runtime__v1__runtime_service__descriptor,
			"ListContainerStats"},
	};
	const char *method = lists[list].method;
	const ProtobufCMethodDescriptor *type =
		protobuf_c_service_descriptor_get_method_by_name(lists[list].service, method);
	/* No filter: a message without fields. */
	_cleanup_message_ ProtobufCMessage *request =
		protobuf_c_message_unpack(type->input, NULL, 0, (const uint8_t *)"");
	struct buf answer;
	size_t n = 0;
	if (!request)
		return err_nomem(err);
	int r = rpc_client_call_packed(
		client, lists[list].service, method, request, CALL_MS, &answer, err);
	if (r < 0)
		return err_wrap(err, "%s", method);
	/* It holds nothing but the items. */
	const uint8_t *data = (const uint8_t *)answer.data;
	for (size_t at = 0; at < answer.len; n++)
		at += rpc_message_first_field(data + at, answer.len - at);
	buf_done(&answer);
	return n == expected
		       ? 0
		       : err_set(err, -EBADMSG, "%s: %zu instead of %zu", method, n, expected);
}

int cri_remove_image(struct rpc_client *client, const char *image, struct err *err)
{
	Runtime__V1__RemoveImageRequest request = RUNTIME__V1__REMOVE_IMAGE_REQUEST__INIT;
	Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
	_cleanup_message_ ProtobufCMessage *response = NULL;
	spec.image = (char *)image;
	request.image = &spec;
	int r = rpc_client_call(client, &runtime__v1__image_service__descriptor, "RemoveImage",
		&request.base, CALL_MS, &response, err);
	return r < 0 ? err_wrap(err, "RemoveImage") : 0;
}

int cri_run_pod(struct rpc_client *client, const char *name, const char *log_directory,
	char **ret_id, struct err *err)
{
	Runtime__V1__RunPodSandboxRequest request = RUNTIME__V1__RUN_POD_SANDBOX_REQUEST__INIT;
	Runtime__V1__PodSandboxConfig config = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__PodSandboxMetadata metadata = RUNTIME__V1__POD_SANDBOX_METADATA__INIT;
	Runtime__V1__LinuxPodSandboxConfig linux = RUNTIME__V1__LINUX_POD_SANDBOX_CONFIG__INIT;
	_cleanup_message_ Runtime__V1__RunPodSandboxResponse *response = NULL;
	metadata.name = metadata.uid = config.hostname = (char *)name;
	metadata.namespace_ = (char *)"bench";
	config.metadata = &metadata;
	config.log_directory = (char *)log_directory;
	config.linux = &linux;
	request.config = &config;
	int r = call(client, "RunPodSandbox", &request.base, &response, err);
	if (r == 0)
		*ret_id = TAKE_PTR(response->pod_sandbox_id);
	return r;
}

int cri_remove_pod(struct rpc_client *client, const char *id, struct err *err)
{
	Runtime__V1__StopPodSandboxRequest stop = RUNTIME__V1__STOP_POD_SANDBOX_REQUEST__INIT;
	Runtime__V1__RemovePodSandboxRequest remove = RUNTIME__V1__REMOVE_POD_SANDBOX_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__StopPodSandboxResponse *stopped = NULL;
	_cleanup_message_ Runtime__V1__RemovePodSandboxResponse *removed = NULL;
	stop.pod_sandbox_id = remove.pod_sandbox_id = (char *)id;
	int r = call(client, "StopPodSandbox", &stop.base, &stopped, err);
	return r < 0 ? r : call(client, "RemovePodSandbox", &remove.base, &removed, err);
}

static int parse_info(const char *text, json_t **ret, struct err *err)
{
	json_error_t error;
	*ret = json_loads(text, 0, &error);
	return *ret ? 0 : err_set(err, -EBADMSG, "parse the verbose information: %s", error.text);
}

static int pod_info(struct rpc_client *client, const char *pod_id, json_t **ret, struct err *err)
{
	Runtime__V1__PodSandboxStatusRequest request =
		RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__PodSandboxStatusResponse *response = NULL;
	request.pod_sandbox_id = (char *)pod_id;
	request.verbose = true;
	int r = call(client, "PodSandboxStatus", &request.base, &response, err);
	if (r < 0)
		return r;
	if (response->n_info == 0)
		return err_set(err, -EBADMSG, "PodSandboxStatus: no verbose information");
	return parse_info(response->info[0]->value, ret, err);
}

int cri_info(struct rpc_client *client, const char *pod_id, json_t **ret, struct err *err)
{
	Runtime__V1__StatusRequest request = RUNTIME__V1__STATUS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__StatusResponse *response = NULL;
	if (pod_id)
		return pod_info(client, pod_id, ret, err);
	request.verbose = true;
	int r = call(client, "Status", &request.base, &response, err);
	if (r < 0)
		return r;
	if (response->n_info == 0)
		return err_set(err, -EBADMSG, "Status: no verbose information");
	return parse_info(response->info[0]->value, ret, err);
}

/* As a kubelet asks for them. */
static const char *const masked[] = {"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys",
	"/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
	"/proc/scsi", "/sys/firmware"};
static const char *const read_only[] = {
	"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};

int cri_create_container(struct rpc_client *client, const char *pod_id,
	const struct cri_container *container, char **ret_id, struct err *err)
{
	Runtime__V1__CreateContainerRequest request = RUNTIME__V1__CREATE_CONTAINER_REQUEST__INIT;
	Runtime__V1__ContainerConfig config = RUNTIME__V1__CONTAINER_CONFIG__INIT;
	Runtime__V1__ContainerMetadata metadata = RUNTIME__V1__CONTAINER_METADATA__INIT;
	Runtime__V1__ImageSpec image = RUNTIME__V1__IMAGE_SPEC__INIT;
	Runtime__V1__LinuxContainerConfig linux = RUNTIME__V1__LINUX_CONTAINER_CONFIG__INIT;
	Runtime__V1__LinuxContainerSecurityContext security =
		RUNTIME__V1__LINUX_CONTAINER_SECURITY_CONTEXT__INIT;
	Runtime__V1__SecurityProfile seccomp = RUNTIME__V1__SECURITY_PROFILE__INIT;
	/* containerd takes its pod for given. */
	Runtime__V1__PodSandboxConfig pod = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__PodSandboxMetadata pod_metadata = RUNTIME__V1__POD_SANDBOX_METADATA__INIT;
	Runtime__V1__LinuxPodSandboxConfig pod_linux = RUNTIME__V1__LINUX_POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__Mount mount = RUNTIME__V1__MOUNT__INIT, *mounts = &mount;
	_cleanup_message_ Runtime__V1__CreateContainerResponse *response = NULL;
	const char *const *command = container->command;
	metadata.name = (char *)command[0];
	image.image = (char *)container->image;
	mount.host_path = (char *)container->volume;
	mount.container_path = (char *)"/volume";
	seccomp.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__RuntimeDefault;
	security.privileged = container->privileged;
	security.seccomp = &seccomp;
	if (!container->privileged) {
		security.masked_paths = (char **)masked;
		security.n_masked_paths = ARRAY_SIZE(masked);
		security.readonly_paths = (char **)read_only;
		security.n_readonly_paths = ARRAY_SIZE(read_only);
	}
	linux.security_context = &security;
	config.metadata = &metadata;
	config.image = &image;
	config.command = (char **)command;
	while (command[config.n_command])
		config.n_command++;
	config.log_path = (char *)"0.log";
	config.linux = &linux;
	config.mounts = &mounts;
	config.n_mounts = container->volume ? 1 : 0;
	pod.metadata = &pod_metadata;
	pod.linux = &pod_linux;
	request.sandbox_config = &pod;
	request.pod_sandbox_id = (char *)pod_id;
	request.config = &config;
	int r = call(client, "CreateContainer", &request.base, &response, err);
	if (r == 0)
		*ret_id = TAKE_PTR(response->container_id);
	return r;
}

int cri_pod_address(struct rpc_client *client, const char *id, char **ret, struct err *err)
{
	Runtime__V1__PodSandboxStatusRequest request =
		RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__PodSandboxStatusResponse *response = NULL;
	request.pod_sandbox_id = (char *)id;
	int r = call(client, "PodSandboxStatus", &request.base, &response, err);
	if (r < 0)
		return r;
	if (!response->status || !response->status->network)
		return err_set(err, -EBADMSG, "PodSandboxStatus: no address");
	*ret = TAKE_PTR(response->status->network->ip);
	return 0;
}

int cri_remove_container(struct rpc_client *client, const char *id, struct err *err)
{
	Runtime__V1__RemoveContainerRequest request = RUNTIME__V1__REMOVE_CONTAINER_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__RemoveContainerResponse *response = NULL;
	request.container_id = (char *)id;
	return call(client, "RemoveContainer", &request.base, &response, err);
}

int cri_start_container(struct rpc_client *client, const char *id, struct err *err)
{
	Runtime__V1__StartContainerRequest request = RUNTIME__V1__START_CONTAINER_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__StartContainerResponse *response = NULL;
	request.container_id = (char *)id;
	return call(client, "StartContainer", &request.base, &response, err);
}

int cri_exec(struct rpc_client *client, const char *id, const char *const *command,
	char **ret_output, struct err *err)
{
	Runtime__V1__ExecSyncRequest request = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ExecSyncResponse *response = NULL;
	request.container_id = (char *)id;
	request.cmd = (char **)command;
	while (command[request.n_cmd])
		request.n_cmd++;
	int r = call(client, "ExecSync", &request.base, &response, err);
	if (r < 0)
		return r;
	if (response->exit_code != 0)
		return err_set(
			err, -EIO, "ExecSync: %s: exit code %d", command[0], response->exit_code);
	if (!ret_output)
		return 0;
	*ret_output = strndup((char *)response->stdout.data, response->stdout.len);
	return *ret_output ? 0 : err_nomem(err);
}
