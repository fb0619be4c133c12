/* CreateContainer in steps, each undone where a later one fails. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "common/fd.h"
#include "cri-server/runtime/events.h"
#include "cri-server/runtime/internal.h"

#define CREATE_MS        60000 /* the guest waits for disks and mounts layers */
#define ROOM_LEAST_BYTES (1u << 20)

struct creation {
	struct rpc_call *call;
	struct sandbox *sandbox;
	struct container *container;
	struct machine *machine;
	struct img_image *image;
	Bulkhead__Agent__CreateContainerRequest *request;
};

/* A whole name of the image's for people to read: the one that was asked for, where it is one. */
static int record_image_name(struct creation *cr, struct err *err)
{
	const Runtime__V1__ImageSpec *spec = cr->container->config->image;
	const Bulkhead__Store__Image *image = cr->image->record;
	const char *const asked[] = {spec->user_specified_image, spec->image};
	for (size_t i = 0; i < ARRAY_SIZE(asked); i++) {
		const char *name = img_image_name(cr->image, asked[i]);
		if (name)
			return message_set_string(&cr->container->record->image_name, name, err);
	}
	return message_set_string(&cr->container->record->image_name,
		image->n_tags ? image->tags[0] : spec->image, err);
}

int container_add_layers(struct container *c, const Bulkhead__Store__Image *image, struct err *err)
{
	Bulkhead__Store__Container *record = c->record;
	char **layers =
		realloc(record->layers, (record->n_layers + image->n_layers + 1) * sizeof(*layers));
	if (!layers)
		return err_nomem(err);
	record->layers = layers;
	for (size_t i = 0; i < image->n_layers; i++) {
		layers[record->n_layers] = strdup(image->layers[i]);
		if (!layers[record->n_layers])
			return err_nomem(err);
		record->n_layers++;
	}
	return 0;
}

static int record_image(struct creation *cr, struct err *err)
{
	Bulkhead__Store__Container *record = cr->container->record;
	const Bulkhead__Store__Image *image = cr->image->record;
	int r = message_set_string(&record->image_id, cr->image->id, err);
	if (r == 0)
		r = message_set_string(&record->image_ref,
			image->n_digests ? image->digests[0] : cr->image->id, err);
	if (r == 0)
		r = record_image_name(cr, err);
	if (r == 0)
		r = message_set_string(&record->stop_signal, image->config->stop_signal, err);
	if (r < 0)
		return r;
	return container_add_layers(cr->container, image, err);
}

static int pack_into(ProtobufCBinaryData *to, const ProtobufCMessage *message, struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	to->data = malloc(len ? len : 1);
	if (!to->data)
		return err_nomem(err);
	to->len = protobuf_c_message_pack(message, to->data);
	return 0;
}

/* Whether one of the path's components is "..". */
static bool climbs(const char *path)
{
	for (const char *at = path; *at; at += strcspn(at, "/")) {
		at += strspn(at, "/");
		if (strncmp(at, "..", 2) == 0 && (!at[2] || at[2] == '/'))
			return true;
	}
	return false;
}

static int record_log_path(struct container *c, struct err *err)
{
	const char *directory = c->sandbox->config->log_directory;
	const char *path = c->config->log_path;
	if (!directory[0] || !path[0])
		return 0;
	if (directory[0] != '/' || climbs(directory) || climbs(path))
		return err_set(
			err, -EINVAL, "log path '%s' under '%s' is not usable", path, directory);
	_cleanup_free_ char *full = str_printf("%s/%s", directory, path);
	return full ? message_set_string(&c->record->log_path, full, err) : err_nomem(err);
}

/* The target of a PID namespace: a running container of the same pod. */
static int find_target(Bulkhead__Agent__CreateContainerRequest *request,
	const struct sandbox *sandbox, struct err *err)
{
	const char *id = request->target_container_id;
	struct runtime *rt = sandbox->runtime;
	struct container *target = id[0] ? container_find(rt, id, NULL) : NULL;
	bool usable = false;
	if (target) {
		pthread_mutex_lock(&rt->lock);
		usable = target->sandbox == sandbox && container_runs(target);
		pthread_mutex_unlock(&rt->lock);
	}
	int r = usable ? message_set_string(&request->target_container_id, target->id, err)
		       : err_set(err, -EINVAL,
				 "PID namespace of target container '%.64s': the pod has no such "
				 "running container",
				 id);
	if (target)
		container_unref(target);
	return r;
}

/* The pod's disk is a sparse file: its guest would only learn of an error of the disk. */
static int check_room(const char *state_dir, struct err *err)
{
	struct statvfs fs;
	if (statvfs(state_dir, &fs) < 0)
		return err_errno(err, "examine the file system of %s", state_dir);
	bool full = fs.f_blocks && (uint64_t)fs.f_bavail * fs.f_frsize < ROOM_LEAST_BYTES;
	return full ? err_set(err, -ENOSPC,
			      "the file system of %s is full, and the pod's disk cannot grow: make "
			      "room there",
			      state_dir)
		    : 0;
}

static int record_run(void *subject, struct err *err)
{
	struct creation *cr = subject;
	struct container *c = cr->container;
	const Runtime__V1__ContainerConfig *config = c->config;

	int r = check_room(c->runtime->config->state_dir, err);
	if (r == 0)
		r = process_for_container(
			cr->sandbox, config, cr->image->record->config, &cr->request, err);
	if (r == 0 &&
		cr->request->pid_namespace == BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_TARGET)
		r = find_target(cr->request, cr->sandbox, err);
	if (r == 0)
		r = message_set_string(&c->record->sandbox_id, cr->sandbox->id, err);
	if (r == 0)
		r = record_image(cr, err);
	if (r == 0 && config->stop_signal != RUNTIME__V1__SIGNAL__RUNTIME_DEFAULT) {
		const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(
			&runtime__v1__signal__descriptor, (int)config->stop_signal);
		r = value ? message_set_string(&c->record->stop_signal, value->name, err)
			  : err_set(err, -EINVAL, "unknown stop signal %d", config->stop_signal);
	}
	if (r == 0)
		r = record_log_path(c, err);
	if (r == 0)
		r = volumes_note_images(c, err);
	if (r == 0)
		r = pack_into(&c->record->config, &config->base, err);
	if (r == 0)
		r = pack_into(&c->record->process, &cr->request->process->base, err);
	if (r < 0)
		return r;
	c->record->created_ns = realtime_ns();
	pthread_mutex_lock(&c->runtime->lock);
	r = container_save_locked(c, err);
	pthread_mutex_unlock(&c->runtime->lock);
	return r;
}

static void record_undo(void *subject)
{
	struct creation *cr = subject;
	store_delete(cr->sandbox->runtime->store, STORE_CONTAINER, cr->container->id, NULL);
}

static int machine_run(void *subject, struct err *err)
{
	struct creation *cr = subject;
	const Runtime__V1__LinuxContainerConfig *linux = cr->container->config->linux;
	const Runtime__V1__LinuxContainerResources *resources = linux ? linux->resources : NULL;
	int r = grow_for_container(cr->machine, cr->container, resources, err);
	return r < 0 ? r : pin_for_container(cr->machine, cr->container, resources, err);
}

/* What it has grown by stays with the pod. */
static void machine_undo(void *subject)
{
	struct creation *cr = subject;
	pin_without(cr->machine, cr->container);
}

static int layers_run(void *subject, struct err *err)
{
	struct creation *cr = subject;
	const Bulkhead__Store__Container *record = cr->container->record;
	int r = img_hold(cr->sandbox->runtime->images, cr->container->id, record->layers,
		record->n_layers, err);
	if (r < 0)
		return r;
	cr->request->layer_targets = calloc(record->n_layers + 1, sizeof(uint32_t));
	if (!cr->request->layer_targets)
		return err_nomem(err);
	/* Those after the root's are of image volumes, which find them attached. */
	cr->request->n_layer_targets = cr->image->record->n_layers;
	r = disks_attach(cr->sandbox, cr->machine, record->layers, record->n_layers,
		cr->request->layer_targets, err);
	return r < 0 ? r : devices_attach(cr->container, cr->machine, cr->request, err);
}

static void layers_undo(void *subject)
{
	struct creation *cr = subject;
	disks_release(cr->sandbox, cr->machine, cr->container);
	img_release(cr->sandbox->runtime->images, cr->container->id);
}

static int volumes_run(void *subject, struct err *err)
{
	struct creation *cr = subject;
	return volumes_attach(cr->container, cr->machine, cr->request, cr->call, err);
}

static void volumes_undo(void *subject)
{
	struct creation *cr = subject;
	volumes_release(cr->sandbox, cr->machine, cr->container);
}

static int agent_run(void *subject, struct err *err)
{
	struct creation *cr = subject;
	ProtobufCMessage *answer = NULL;
	int r = message_set_string(&cr->request->container_id, cr->container->id, err);
	if (r == 0)
		r = agent_call(cr->machine->agent, "CreateContainer", &cr->request->base, CREATE_MS,
			&answer, err);
	if (r < 0)
		return container_image_error(r, err);
	r = security_record_user(cr->container->record,
		(const Bulkhead__Agent__CreateContainerResponse *)answer, err);
	protobuf_c_message_free_unpacked(answer, NULL);
	return r;
}

int container_remove_in_guest(struct machine *machine, const char *id, struct err *err)
{
	Bulkhead__Agent__RemoveContainerRequest request =
		BULKHEAD__AGENT__REMOVE_CONTAINER_REQUEST__INIT;
	request.container_id = (char *)id;
	return agent_call(machine->agent, "RemoveContainer", &request.base, CREATE_MS, NULL, err);
}

static void agent_undo(void *subject)
{
	struct creation *cr = subject;
	struct err err = ERR_INIT;
	if (container_remove_in_guest(cr->machine, cr->container->id, &err) < 0)
		log_event(cr->sandbox->runtime->log, LOG_LEVEL_WARNING,
			"container not removed in the guest", "container", cr->container->id, "err",
			err.msg, NULL);
}

static int created_run(void *subject, struct err *err)
{
	struct creation *cr = subject;
	int r = container_set_state(
		cr->container, BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATED, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&cr->container->runtime->lock);
	events_tell_container(
		cr->container, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_CREATED_EVENT);
	pthread_mutex_unlock(&cr->container->runtime->lock);
	return 0;
}

/* Half-made again: a start that finds it so goes on undoing. */
static void created_undo(void *subject)
{
	struct creation *cr = subject;
	container_set_state(
		cr->container, BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATING, NULL);
}

static const struct step create_steps[] = {
	{"record", record_run, record_undo},
	{"machine", machine_run, machine_undo},
	{"layers", layers_run, layers_undo},
	{"volumes", volumes_run, volumes_undo},
	{"guest", agent_run, agent_undo},
	{"created", created_run, created_undo},
};
STEP_TABLE(create_table, "CreateContainer", create_steps);

static int reserve(struct runtime *rt, struct container *container, struct err *err)
{
	const Runtime__V1__ContainerMetadata *wanted = container->config->metadata;
	struct container *other;
	int r = 0;
	pthread_mutex_lock(&rt->lock);
	TAILQ_FOREACH(other, &rt->containers, link) {
		const Runtime__V1__ContainerMetadata *has = other->config->metadata;
		if (other->sandbox != container->sandbox || has->attempt != wanted->attempt ||
			strcmp(has->name, wanted->name) != 0)
			continue;
		r = err_set(err, -EEXIST,
			"the pod has a container '%s', attempt %u, already: %s; remove it first",
			has->name, has->attempt, other->id);
		break;
	}
	if (r == 0)
		TAILQ_INSERT_TAIL(&rt->containers, container, link);
	pthread_mutex_unlock(&rt->lock);
	return r;
}

static bool caller_gone(void *subject)
{
	struct creation *cr = subject;
	return rpc_call_cancelled(cr->call);
}

static int run_creation(struct creation *cr, struct err *err)
{
	const char *reference = cr->container->config->image->image;
	int r = img_find(cr->sandbox->runtime->images, reference, &cr->image, err);
	if (r < 0)
		return r;
	if (r > 0)
		return err_set(
			err, -ENOENT, "image '%s' is not on this node; pull it first", reference);
	cr->machine = sandbox_machine(cr->sandbox, err);
	if (!cr->machine)
		return err->code = -ENOENT; /* as containerd, which finds no task */
	return steps_run(&create_table, cr, caller_gone, NULL, err);
}

int container_create(struct rpc_call *call, struct sandbox *sandbox,
	const Runtime__V1__ContainerConfig *config, char ret_id[ID_LEN + 1], struct err *err)
{
	char id[ID_LEN + 1];
	make_id(id);
	struct creation cr = {.call = call, .sandbox = sandbox};
	cr.container = container_new(sandbox, id, config, err);
	if (!cr.container)
		return -ENOMEM;
	int r = reserve(sandbox->runtime, cr.container, err);
	if (r < 0) {
		container_unref(cr.container);
		return r;
	}
	r = run_creation(&cr, err);
	machine_unref(cr.machine);
	img_image_unref(cr.image);
	if (cr.request)
		bulkhead__agent__create_container_request__free_unpacked(cr.request, NULL);
	if (r < 0) {
		container_forget(cr.container);
		return err_wrap(err, "create container '%s'", config->metadata->name);
	}
	memcpy(ret_id, id, sizeof(id));
	return 0;
}
