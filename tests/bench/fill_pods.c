/*
 * fill_pods STATE_DIR COUNT: records so many pods with a container each, in a state directory that
 * fill_images filled and no bulkheadd uses, as a kubelet's pods are recorded that ran and ended:
 * with the labels, annotations, variables and mounts that it gives them.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/proto/agent.pb-c.h"
#include "common/fd.h"
#include "cri-server/proto/cri.pb-c.h"
#include "cri-server/store/records.pb-c.h"
#include "cri-server/store/store.h"

#define ID      33
#define ENVS    20
#define MOUNTS  4
#define ENTRIES 8
#define NAME    96
#define BODY    16384
#define SECOND  1000000000LL
#define BEGAN   (1700000000LL * SECOND)

/* The entries of all maps of CRI's are of one form. */
typedef Runtime__V1__ContainerConfig__LabelsEntry map_entry;

struct texts {
	unsigned number;
	char pod_id[ID], id[ID], uid[40], pod_name[NAME], image_id[72], image[NAME], layer[72];
	map_entry labels[ENTRIES], annotations[ENTRIES];
	map_entry *label_list[ENTRIES], *annotation_list[ENTRIES];
};

static void set_entry(map_entry *entry, const char *key, const char *value)
{
	runtime__v1__container_config__labels_entry__init(entry);
	entry->key = (char *)key;
	entry->value = (char *)value;
}

static void make_texts(struct texts *t, unsigned number)
{
	static const char *const labels[] = {"app.kubernetes.io/name", "app.kubernetes.io/instance",
		"app.kubernetes.io/component", "pod-template-hash"};
	static const char *const annotations[] = {"kubernetes.io/config.source",
		"kubernetes.io/config.seen", "io.kubernetes.container.hash",
		"io.kubernetes.container.restartCount",
		"io.kubernetes.container.terminationMessagePath",
		"io.kubernetes.container.terminationMessagePolicy",
		"io.kubernetes.pod.terminationGracePeriod", "io.kubernetes.container.ports"};
	t->number = number;
	snprintf(t->pod_id, sizeof(t->pod_id), "%032x", 0x10000000 + number);
	snprintf(t->id, sizeof(t->id), "%032x", 0x20000000 + number);
	snprintf(t->uid, sizeof(t->uid), "8f4d7c1e-0000-4000-8000-%012u", number);
	snprintf(t->pod_name, sizeof(t->pod_name), "service-%u-7d9c8b6f5-x2x4z", number);
	/* fill_images's */
	snprintf(t->image_id, sizeof(t->image_id), "sha256:%063xd", number);
	snprintf(t->image, sizeof(t->image), "registry.example.org/team/service-%u:v1.2.3", number);
	snprintf(t->layer, sizeof(t->layer), "sha256:%063xa", 0);
	set_entry(&t->labels[0], "io.kubernetes.pod.name", t->pod_name);
	set_entry(&t->labels[1], "io.kubernetes.pod.namespace", "production");
	set_entry(&t->labels[2], "io.kubernetes.pod.uid", t->uid);
	set_entry(&t->labels[3], "io.kubernetes.container.name", "service");
	for (size_t i = 0; i < ARRAY_SIZE(labels); i++)
		set_entry(&t->labels[4 + i], labels[i], "service");
	for (size_t i = 0; i < ENTRIES; i++) {
		set_entry(&t->annotations[i], annotations[i], "2026-01-01T00:00:00.000000000Z");
		t->label_list[i] = &t->labels[i];
		t->annotation_list[i] = &t->annotations[i];
	}
}

/* Into `body`, which has BODY bytes and room for what is packed here. */
static ProtobufCBinaryData pack(const ProtobufCMessage *message, uint8_t *body)
{
	return (ProtobufCBinaryData){protobuf_c_message_pack(message, body), body};
}

static int add_pod(struct store *store, struct texts *t, struct err *err)
{
	Runtime__V1__PodSandboxConfig config = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__PodSandboxMetadata metadata = RUNTIME__V1__POD_SANDBOX_METADATA__INIT;
	Runtime__V1__LinuxPodSandboxConfig linux = RUNTIME__V1__LINUX_POD_SANDBOX_CONFIG__INIT;
	Bulkhead__Store__Sandbox record = BULKHEAD__STORE__SANDBOX__INIT;
	Bulkhead__Store__Disk disk = BULKHEAD__STORE__DISK__INIT, *disks = &disk;
	char netns[NAME], address[32], *addresses[] = {address};
	uint8_t body[BODY];
	metadata.name = t->pod_name;
	metadata.namespace_ = (char *)"production";
	metadata.uid = t->uid;
	linux.cgroup_parent = (char *)"/kubepods/burstable/pod8f4d7c1e";
	config.metadata = &metadata;
	config.hostname = t->pod_name;
	config.log_directory = (char *)"/var/log/pods/production_service";
	config.labels = (Runtime__V1__PodSandboxConfig__LabelsEntry **)t->label_list;
	config.annotations = (Runtime__V1__PodSandboxConfig__AnnotationsEntry **)t->annotation_list;
	config.n_labels = config.n_annotations = ENTRIES;
	config.linux = &linux;
	snprintf(netns, sizeof(netns), "/run/bulkhead/netns/%s", t->pod_id);
	snprintf(address, sizeof(address), "10.%u.%u.%u", t->number >> 16, t->number >> 8 & 255,
		t->number & 255);
	disk.layer = t->layer;
	record.config = pack(&config.base, body);
	record.state = BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_NOTREADY;
	record.created_ns = BEGAN + t->number * SECOND;
	record.netns = netns;
	record.ips = addresses;
	record.n_ips = ARRAY_SIZE(addresses);
	record.event_sequence = 4;
	record.network_released = true;
	record.disks = &disks;
	record.n_disks = 1;
	return store_put(store, STORE_SANDBOX, t->pod_id, &record.base, err);
}

/* As the agent was asked for it. */
static ProtobufCBinaryData pack_process(char *const *env, uint8_t *body)
{
	Bulkhead__Agent__Process process = BULKHEAD__AGENT__PROCESS__INIT;
	char *args[] = {(char *)"/usr/bin/service", (char *)"--config=/etc/service/config.yaml"};
	process.args = args;
	process.n_args = ARRAY_SIZE(args);
	process.env = (char **)env;
	process.n_env = ENVS;
	process.cwd = (char *)"/";
	return pack(&process.base, body);
}

static ProtobufCBinaryData pack_config(struct texts *t, uint8_t *body)
{
	static uint8_t address[] = "tcp://10.96.0.1:443";
	Runtime__V1__ContainerConfig config = RUNTIME__V1__CONTAINER_CONFIG__INIT;
	Runtime__V1__ContainerMetadata metadata = RUNTIME__V1__CONTAINER_METADATA__INIT;
	Runtime__V1__ImageSpec image = RUNTIME__V1__IMAGE_SPEC__INIT;
	Runtime__V1__KeyValue env = RUNTIME__V1__KEY_VALUE__INIT, *envs[ENVS];
	Runtime__V1__Mount mount = RUNTIME__V1__MOUNT__INIT, *mounts[MOUNTS];
	char *command[] = {(char *)"/usr/bin/service"};
	metadata.name = (char *)"service";
	image.image = t->image_id;
	image.user_specified_image = t->image;
	env.key = (char *)"KUBERNETES_SERVICE_PORT_HTTPS";
	env.value = (ProtobufCBinaryData){sizeof(address) - 1, address};
	mount.container_path = (char *)"/var/run/secrets/kubernetes.io/serviceaccount";
	mount.host_path = (char *)"/var/lib/kubelet/pods/8f4d7c1e/volumes/"
				  "kubernetes.io~projected/kube-api-access";
	for (size_t i = 0; i < ENVS; i++)
		envs[i] = &env;
	for (size_t i = 0; i < MOUNTS; i++)
		mounts[i] = &mount;
	config.metadata = &metadata;
	config.image = &image;
	config.command = command;
	config.n_command = ARRAY_SIZE(command);
	config.envs = envs;
	config.n_envs = ENVS;
	config.mounts = mounts;
	config.n_mounts = MOUNTS;
	config.labels = t->label_list;
	config.annotations = (Runtime__V1__ContainerConfig__AnnotationsEntry **)t->annotation_list;
	config.n_labels = config.n_annotations = ENTRIES;
	config.log_path = (char *)"service/0.log";
	return pack(&config.base, body);
}

static int add_container(struct store *store, struct texts *t, struct err *err)
{
	static char variable[] = "KUBERNETES_SERVICE_PORT_HTTPS=tcp://10.96.0.1:443";
	Bulkhead__Store__Container record = BULKHEAD__STORE__CONTAINER__INIT;
	char *env[ENVS], *layers[] = {t->layer};
	uint8_t config[BODY], process[BODY];
	for (size_t i = 0; i < ENVS; i++)
		env[i] = variable;
	record.sandbox_id = t->pod_id;
	record.config = pack_config(t, config);
	record.process = pack_process(env, process);
	record.state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED;
	record.created_ns = BEGAN + t->number * SECOND;
	record.started_ns = record.created_ns + SECOND;
	record.finished_ns = record.started_ns + SECOND;
	record.reason = (char *)"Completed";
	record.image_id = record.image_ref = t->image_id;
	record.image_name = t->image;
	record.layers = layers;
	record.n_layers = ARRAY_SIZE(layers);
	record.log_path = (char *)"/var/log/pods/production_service/service/0.log";
	return store_put(store, STORE_CONTAINER, t->id, &record.base, err);
}

static int fill(const char *dir, unsigned count, struct err *err)
{
	_cleanup_free_ char *database = str_printf("%s/state.db", dir);
	struct store *store = NULL;
	if (!database)
		return err_nomem(err);
	int r = store_open(database, &store, err);
	if (r == 0)
		r = store_begin(store, err);
	for (unsigned i = 0; i < count && r == 0; i++) {
		struct texts texts;
		make_texts(&texts, i);
		r = add_pod(store, &texts, err);
		if (r == 0)
			r = add_container(store, &texts, err);
	}
	if (r == 0)
		r = store_commit(store, err);
	if (store)
		store_rollback(store);
	store_close(store);
	return r;
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;
	if (argc != 3) {
		fprintf(stderr, "usage: fill_pods STATE_DIR COUNT\n");
		return 2;
	}
	if (fill(argv[1], (unsigned)strtoul(argv[2], NULL, 10), &err) < 0) {
		fprintf(stderr, "fill_pods: %s\n", err.msg);
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}
