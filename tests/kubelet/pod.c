#include "tests/kubelet/pod.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GRACE_S        1
#define CONTAINERS_MAX 256

struct pod pod_named(const char *name)
{
	struct pod pod = {.attempt = 0};
	snprintf(pod.name, sizeof(pod.name), "%s", name);
	snprintf(pod.uid, sizeof(pod.uid), "%s-uid", name);
	return pod;
}

char *pod_log_directory(const struct node *node, const struct pod *pod)
{
	return str_printf("%s/logs/default_%s_%s", node->dir, pod->name, pod->uid);
}

static int take_id(const char *id, char ret[static POD_ID_MAX], struct err *err)
{
	if (!id[0] || strlen(id) >= POD_ID_MAX)
		return err_set(err, -EBADMSG, "'%s' is no id", id);
	memcpy(ret, id, strlen(id) + 1);
	return 0;
}

/* ---- pods ---- */

struct pod_config {
	Runtime__V1__PodSandboxConfig config;
	Runtime__V1__PodSandboxMetadata metadata;
	Runtime__V1__LinuxPodSandboxConfig linux;
	Runtime__V1__LinuxContainerResources resources;
	Runtime__V1__PodSandboxConfig__LabelsEntry label, *labels[1];
	Runtime__V1__PodSandboxConfig__AnnotationsEntry annotation, *annotations[1];
	char *log_directory;
};

static void pod_config_done(struct pod_config *c)
{
	free(c->log_directory);
}

static int pod_config_compose(
	struct pod_config *c, const struct node *node, const struct pod *pod, struct err *err)
{
	*c = (struct pod_config){
		.config = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT,
		.metadata = RUNTIME__V1__POD_SANDBOX_METADATA__INIT,
		.linux = RUNTIME__V1__LINUX_POD_SANDBOX_CONFIG__INIT,
		.resources = RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT,
		.label = RUNTIME__V1__POD_SANDBOX_CONFIG__LABELS_ENTRY__INIT,
		.annotation = RUNTIME__V1__POD_SANDBOX_CONFIG__ANNOTATIONS_ENTRY__INIT,
		.log_directory = pod_log_directory(node, pod),
	};
	if (!c->log_directory)
		return err_nomem(err);
	c->metadata.name = c->config.hostname = (char *)pod->name;
	c->metadata.uid = (char *)pod->uid;
	c->metadata.namespace_ = (char *)"default";
	c->metadata.attempt = pod->attempt;
	c->label.key = (char *)"io.kubernetes.pod.uid";
	c->label.value = (char *)pod->uid;
	c->annotation.key = (char *)"kubernetes.io/config.source";
	c->annotation.value = (char *)(pod->from_file ? "file" : "api");
	c->resources.memory_limit_in_bytes =
		(int64_t)(pod->memory_bytes ? pod->memory_bytes : node->memory_mib << 20);
	c->linux.cgroup_parent = (char *)node->cgroup_parent;
	c->linux.resources = &c->resources;
	c->labels[0] = &c->label;
	c->annotations[0] = &c->annotation;
	c->config.metadata = &c->metadata;
	c->config.log_directory = c->log_directory;
	c->config.linux = &c->linux;
	c->config.labels = c->labels;
	c->config.annotations = c->annotations;
	c->config.n_labels = c->config.n_annotations = 1;
	return 0;
}

static int check_runtime(struct node *node, struct err *err)
{
	Runtime__V1__StatusRequest request = RUNTIME__V1__STATUS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__StatusResponse *response = NULL;
	int r = node_call(node, "Status", &request.base, NODE_CALL_MS, &response, err);
	for (size_t i = 0; r == 0 && i < response->status->n_conditions; i++)
		if (!response->status->conditions[i]->status)
			r = err_set(err, -EBADMSG, "%s: %s", response->status->conditions[i]->type,
				response->status->conditions[i]->message);
	return r;
}

static int pod_status(struct node *node, const char *id,
	Runtime__V1__PodSandboxStatusResponse **ret, struct err *err)
{
	Runtime__V1__PodSandboxStatusRequest request =
		RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
	request.pod_sandbox_id = (char *)id;
	return node_call(node, "PodSandboxStatus", &request.base, NODE_CALL_MS, ret, err);
}

int pod_is_ready(struct node *node, const char *id, bool *ret, struct err *err)
{
	_cleanup_message_ Runtime__V1__PodSandboxStatusResponse *response = NULL;
	int r = pod_status(node, id, &response, err);
	if (r == 0)
		*ret = response->status->state == POD_READY;
	return r;
}

static int check_as_made(
	const Runtime__V1__PodSandboxStatus *status, const struct pod *pod, struct err *err)
{
	if (status->state != POD_READY || !status->network || !status->network->ip[0] ||
		status->metadata->attempt != pod->attempt ||
		strcmp(status->metadata->uid, pod->uid) != 0)
		return err_set(err, -EBADMSG, "pod %s is not what it was made as", pod->name);
	return 0;
}

int pod_run(struct node *node, struct pod *pod, struct err *err)
{
	Runtime__V1__RunPodSandboxRequest request = RUNTIME__V1__RUN_POD_SANDBOX_REQUEST__INIT;
	_cleanup_(pod_config_done) struct pod_config config;
	_cleanup_message_ Runtime__V1__RunPodSandboxResponse *response = NULL;
	_cleanup_message_ Runtime__V1__PodSandboxStatusResponse *answer = NULL;
	int r = pod_config_compose(&config, node, pod, err);
	request.config = &config.config;
	if (r == 0)
		r = check_runtime(node, err);
	if (r == 0)
		r = node_call(
			node, "RunPodSandbox", &request.base, 2 * NODE_CALL_MS, &response, err);
	if (r == 0)
		r = take_id(response->pod_sandbox_id, pod->id, err);
	if (r == 0)
		r = pod_status(node, pod->id, &answer, err);
	if (r == 0)
		r = check_as_made(answer->status, pod, err);
	return r;
}

int pod_stop(struct node *node, const char *id, struct err *err)
{
	Runtime__V1__StopPodSandboxRequest request = RUNTIME__V1__STOP_POD_SANDBOX_REQUEST__INIT;
	request.pod_sandbox_id = (char *)id;
	return node_call(node, "StopPodSandbox", &request.base, NODE_CALL_MS, NULL, err);
}

int pod_remove(struct node *node, const char *id, struct err *err)
{
	Runtime__V1__RemovePodSandboxRequest request =
		RUNTIME__V1__REMOVE_POD_SANDBOX_REQUEST__INIT;
	request.pod_sandbox_id = (char *)id;
	return node_call(node, "RemovePodSandbox", &request.base, NODE_CALL_MS, NULL, err);
}

int pod_resize(struct node *node, struct pod *pod, uint64_t memory_bytes, struct err *err)
{
	Runtime__V1__UpdatePodSandboxResourcesRequest request =
		RUNTIME__V1__UPDATE_POD_SANDBOX_RESOURCES_REQUEST__INIT;
	Runtime__V1__LinuxContainerResources resources =
		RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	resources.memory_limit_in_bytes = (int64_t)memory_bytes;
	request.pod_sandbox_id = pod->id;
	request.resources = &resources;
	int r = node_call(
		node, "UpdatePodSandboxResources", &request.base, NODE_CALL_MS, NULL, err);
	if (r == 0)
		pod->memory_bytes = memory_bytes;
	return r;
}

int pod_containers(struct node *node, const char *id, Runtime__V1__ListContainersResponse **ret,
	struct err *err)
{
	Runtime__V1__ListContainersRequest request = RUNTIME__V1__LIST_CONTAINERS_REQUEST__INIT;
	Runtime__V1__ContainerFilter filter = RUNTIME__V1__CONTAINER_FILTER__INIT;
	filter.pod_sandbox_id = (char *)id;
	request.filter = &filter;
	return node_call(node, "ListContainers", &request.base, NODE_CALL_MS, ret, err);
}

struct stop {
	struct node *node;
	const char *id;
	pthread_t thread;
	bool begun;
	int result;
	struct err err;
};

static void *stop_main(void *arg)
{
	struct stop *stop = arg;
	stop->result = container_stop(stop->node, stop->id, GRACE_S, &stop->err);
	return NULL;
}

static int stop_all(struct node *node, const Runtime__V1__ListContainersResponse *list,
	struct stop *stops, struct err *err)
{
	size_t n = 0;
	int r = 0;
	for (size_t i = 0; i < list->n_containers && n < CONTAINERS_MAX; i++) {
		if (list->containers[i]->state != CONTAINER_RUNNING)
			continue;
		stops[n] = (struct stop){.node = node, .id = list->containers[i]->id};
		stops[n].begun = pthread_create(&stops[n].thread, NULL, stop_main, &stops[n]) == 0;
		n++;
	}
	for (size_t i = 0; i < n; i++) {
		if (stops[i].begun)
			pthread_join(stops[i].thread, NULL);
		if (r == 0 && !stops[i].begun)
			r = err_set(err, -EAGAIN, "a thread");
		if (r == 0 && stops[i].result < 0)
			r = err_set(err, stops[i].result, "%s", stops[i].err.msg);
	}
	return r;
}

int pod_kill(struct node *node, const char *id, struct err *err)
{
	_cleanup_message_ Runtime__V1__ListContainersResponse *list = NULL;
	_cleanup_free_ struct stop *stops = calloc(CONTAINERS_MAX, sizeof(*stops));
	int r = stops ? pod_containers(node, id, &list, err) : err_nomem(err);
	if (r == 0)
		r = stop_all(node, list, stops, err);
	return r < 0 ? r : pod_stop(node, id, err);
}

int pod_delete(struct node *node, const char *id, struct err *err)
{
	_cleanup_message_ Runtime__V1__ListContainersResponse *list = NULL;
	int r = pod_kill(node, id, err);
	if (r == 0)
		r = pod_containers(node, id, &list, err);
	for (size_t i = 0; r == 0 && i < list->n_containers; i++)
		r = container_remove(node, list->containers[i]->id, err);
	return r < 0 ? r : pod_remove(node, id, err);
}

/* ---- containers ---- */

static int have_image(struct node *node, const char *image, struct err *err)
{
	Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
	Runtime__V1__ImageStatusRequest status = RUNTIME__V1__IMAGE_STATUS_REQUEST__INIT;
	Runtime__V1__PullImageRequest pull = RUNTIME__V1__PULL_IMAGE_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ImageStatusResponse *answer = NULL;
	spec.image = (char *)image;
	status.image = pull.image = &spec;
	int r = node_call(node, "ImageStatus", &status.base, NODE_CALL_MS, &answer, err);
	if (r < 0 || answer->image)
		return r;
	return node_call(node, "PullImage", &pull.base, 0, NULL, err);
}

int container_create(struct node *node, struct container *c, struct err *err)
{
	_cleanup_(pod_config_done) struct pod_config pod;
	_cleanup_free_ char *log = str_printf("%s/%u.log", c->name, c->attempt);
	_cleanup_message_ Runtime__V1__CreateContainerResponse *response = NULL;
	Runtime__V1__CreateContainerRequest request = RUNTIME__V1__CREATE_CONTAINER_REQUEST__INIT;
	Runtime__V1__ContainerConfig config = RUNTIME__V1__CONTAINER_CONFIG__INIT;
	Runtime__V1__ContainerMetadata metadata = RUNTIME__V1__CONTAINER_METADATA__INIT;
	Runtime__V1__ImageSpec image = RUNTIME__V1__IMAGE_SPEC__INIT;
	Runtime__V1__LinuxContainerConfig linux = RUNTIME__V1__LINUX_CONTAINER_CONFIG__INIT;
	Runtime__V1__LinuxContainerResources resources =
		RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	Runtime__V1__Mount mount = RUNTIME__V1__MOUNT__INIT, *mounts = &mount;
	Runtime__V1__ContainerConfig__LabelsEntry
		uid = RUNTIME__V1__CONTAINER_CONFIG__LABELS_ENTRY__INIT,
		name = RUNTIME__V1__CONTAINER_CONFIG__LABELS_ENTRY__INIT, *labels[] = {&uid, &name};
	char *command[] = {(char *)"sh", (char *)"-c", (char *)c->script};
	int r = pod_config_compose(&pod, node, c->pod, err);
	if (r == 0 && !log)
		r = err_nomem(err);
	uid.key = (char *)"io.kubernetes.pod.uid";
	uid.value = (char *)c->pod->uid;
	name.key = (char *)"io.kubernetes.container.name";
	name.value = metadata.name = (char *)c->name;
	metadata.attempt = c->attempt;
	image.image = (char *)(c->image ? c->image : node->image);
	mount.host_path = (char *)c->volume;
	mount.container_path = (char *)"/volume";
	resources.memory_limit_in_bytes = (int64_t)c->memory_bytes;
	linux.resources = &resources;
	config.metadata = &metadata;
	config.image = &image;
	config.command = command;
	config.n_command = ARRAY_SIZE(command);
	config.log_path = log;
	config.linux = &linux;
	config.labels = labels;
	config.n_labels = ARRAY_SIZE(labels);
	config.mounts = &mounts;
	config.n_mounts = c->volume ? 1 : 0;
	request.pod_sandbox_id = (char *)c->pod->id;
	request.config = &config;
	request.sandbox_config = &pod.config;
	if (r == 0)
		r = have_image(node, image.image, err);
	if (r == 0)
		r = node_call(node, "CreateContainer", &request.base, NODE_CALL_MS, &response, err);
	if (r == 0)
		r = take_id(response->container_id, c->id, err);
	return r;
}

int container_start(struct node *node, const char *id, struct err *err)
{
	Runtime__V1__StartContainerRequest request = RUNTIME__V1__START_CONTAINER_REQUEST__INIT;
	request.container_id = (char *)id;
	return node_call(node, "StartContainer", &request.base, NODE_CALL_MS, NULL, err);
}

int container_run(struct node *node, struct container *c, struct err *err)
{
	int r = container_create(node, c, err);
	return r < 0 ? r : container_start(node, c->id, err);
}

int container_status(struct node *node, const char *id, Runtime__V1__ContainerStatusResponse **ret,
	struct err *err)
{
	Runtime__V1__ContainerStatusRequest request = RUNTIME__V1__CONTAINER_STATUS_REQUEST__INIT;
	request.container_id = (char *)id;
	return node_call(node, "ContainerStatus", &request.base, NODE_CALL_MS, ret, err);
}

int container_stop(struct node *node, const char *id, unsigned grace_s, struct err *err)
{
	Runtime__V1__StopContainerRequest request = RUNTIME__V1__STOP_CONTAINER_REQUEST__INIT;
	request.container_id = (char *)id;
	request.timeout = grace_s;
	return node_call(
		node, "StopContainer", &request.base, NODE_CALL_MS + 1000ull * grace_s, NULL, err);
}

int container_remove(struct node *node, const char *id, struct err *err)
{
	Runtime__V1__RemoveContainerRequest request = RUNTIME__V1__REMOVE_CONTAINER_REQUEST__INIT;
	request.container_id = (char *)id;
	return node_call(node, "RemoveContainer", &request.base, NODE_CALL_MS, NULL, err);
}

int container_resize(struct node *node, struct container *c, uint64_t memory_bytes, struct err *err)
{
	Runtime__V1__UpdateContainerResourcesRequest request =
		RUNTIME__V1__UPDATE_CONTAINER_RESOURCES_REQUEST__INIT;
	Runtime__V1__LinuxContainerResources linux = RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	linux.memory_limit_in_bytes = (int64_t)memory_bytes;
	request.container_id = c->id;
	request.linux = &linux;
	int r = node_call(node, "UpdateContainerResources", &request.base, NODE_CALL_MS, NULL, err);
	if (r == 0)
		c->memory_bytes = memory_bytes;
	return r;
}

int container_reopen_log(struct node *node, const char *id, struct err *err)
{
	Runtime__V1__ReopenContainerLogRequest request =
		RUNTIME__V1__REOPEN_CONTAINER_LOG_REQUEST__INIT;
	request.container_id = (char *)id;
	return node_call(node, "ReopenContainerLog", &request.base, NODE_CALL_MS, NULL, err);
}

char *container_log(const struct node *node, const struct container *c)
{
	_cleanup_free_ char *dir = pod_log_directory(node, c->pod);
	return dir ? str_printf("%s/%s/%u.log", dir, c->name, c->attempt) : NULL;
}

int container_probe(struct node *node, const char *id, const char *script, unsigned timeout_s,
	char **ret_output, struct err *err)
{
	Runtime__V1__ExecSyncRequest request = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ExecSyncResponse *response = NULL;
	char *command[] = {(char *)"sh", (char *)"-c", (char *)script};
	request.container_id = (char *)id;
	request.cmd = command;
	request.n_cmd = ARRAY_SIZE(command);
	request.timeout = timeout_s;
	int r = node_call(node, "ExecSync", &request.base, NODE_CALL_MS + 1000ull * timeout_s,
		&response, err);
	if (r < 0)
		return r;
	if (ret_output) {
		*ret_output = strndup((char *)response->stdout.data, response->stdout.len);
		if (!*ret_output)
			return err_nomem(err);
	}
	return response->exit_code;
}
