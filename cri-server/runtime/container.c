/*
 * One container: create, start, stop, remove, and its end.
 *
 * States, as recorded: CREATING → CREATED → RUNNING → EXITED → (record gone), with REMOVING while
 * it goes. RUNNING is recorded before the agent is asked to start it, so that an exit can never
 * arrive for a container that does not run yet; a start that fails ends in EXITED with reason
 * StartError, as in containerd.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/runtime/events.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/signals.h"

#define CALL_MS      10000
#define CREATE_MS    60000 /* the guest waits for disks and mounts layers */
#define KILLED_MS    10000 /* from SIGKILL to the exit's record */
#define LOG_DRAIN_MS 5000  /* from the exit to its output's last byte */
#define START_FAILED 128   /* exit code of what never ran, as containerd has it */
#define DIED_EXIT    137

static bool running(const struct container *c)
{
	return c->record->state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING;
}

struct container *container_new(struct sandbox *sandbox, const char *id,
	const Runtime__V1__ContainerConfig *config, struct err *err)
{
	struct container *c = calloc(1, sizeof(*c));
	if (!c) {
		err_nomem(err);
		return NULL;
	}
	c->runtime = sandbox->runtime;
	c->refs = 1;
	snprintf(c->id, sizeof(c->id), "%s", id);
	if (cond_init(&c->changed, err) < 0) {
		free(c);
		return NULL;
	}
	pthread_mutex_lock(&c->runtime->lock);
	sandbox->refs++;
	pthread_mutex_unlock(&c->runtime->lock);
	c->sandbox = sandbox;
	c->config = (Runtime__V1__ContainerConfig *)message_copy(&config->base);
	c->record = calloc(1, sizeof(*c->record));
	if (c->record)
		bulkhead__store__container__init(c->record);
	if (!c->config || !c->record || fanout_new(&c->fanout, NULL) < 0) {
		container_unref(c);
		err_nomem(err);
		return NULL;
	}
	return c;
}

void container_unref(struct container *c)
{
	struct runtime *rt = c->runtime;
	pthread_mutex_lock(&rt->lock);
	bool last = --c->refs == 0;
	pthread_mutex_unlock(&rt->lock);
	if (!last)
		return;
	log_writer_unref(c->log);
	fanout_free(c->fanout);
	if (c->config)
		runtime__v1__container_config__free_unpacked(c->config, NULL);
	if (c->resources)
		runtime__v1__linux_container_resources__free_unpacked(c->resources, NULL);
	if (c->record)
		bulkhead__store__container__free_unpacked(c->record, NULL);
	pthread_cond_destroy(&c->changed);
	sandbox_unref(c->sandbox);
	free(c);
}

struct container *container_find(struct runtime *rt, const char *id, struct err *err)
{
	struct id_search search = {.id = id};
	struct container *c;

	pthread_mutex_lock(&rt->lock);
	TAILQ_FOREACH(c, &rt->containers, link)
		id_search_offer(&search, c->id, c);
	struct container *found = id_search_end(&search, "container", err);
	if (found)
		found->refs++;
	pthread_mutex_unlock(&rt->lock);
	return found;
}

const Runtime__V1__LinuxContainerResources *container_resources(const struct container *c)
{
	if (c->resources)
		return c->resources;
	return c->config->linux ? c->config->linux->resources : NULL;
}

int container_save_locked(struct container *c, struct err *err)
{
	int r = store_put(c->runtime->store, STORE_CONTAINER, c->id, &c->record->base, err);
	return r < 0 ? err_wrap(err, "record container %s", c->id) : 0;
}

void container_forget(struct container *c)
{
	struct runtime *rt = c->runtime;
	pthread_mutex_lock(&rt->lock);
	TAILQ_REMOVE(&rt->containers, c, link);
	c->gone = true;
	pthread_mutex_unlock(&rt->lock);
	container_unref(c);
}

int containers_each(struct sandbox *sandbox, int (*fn)(struct container *, void *, struct err *),
	void *userdata, struct err *err)
{
	struct runtime *rt = sandbox->runtime;
	struct container *c;
	size_t n = 0, i = 0;
	int r = 0;

	pthread_mutex_lock(&rt->lock);
	TAILQ_FOREACH(c, &rt->containers, link)
		n += c->sandbox == sandbox;
	_cleanup_free_ struct container **all = calloc(n + 1, sizeof(struct container *));
	TAILQ_FOREACH(c, &rt->containers, link)
		if (all && c->sandbox == sandbox) {
			c->refs++;
			all[i++] = c;
		}
	pthread_mutex_unlock(&rt->lock);
	if (!all)
		return err_nomem(err);
	for (i = 0; i < n; i++) {
		if (r == 0)
			r = fn(all[i], userdata, err);
		container_unref(all[i]);
	}
	return r;
}

/* ---- create ---- */

struct creation {
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
		usable = target->sandbox == sandbox &&
			 target->record->state ==
				 BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING;
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

static int record_run(void *subject, struct err *err)
{
	struct creation *cr = subject;
	struct container *c = cr->container;
	const Runtime__V1__ContainerConfig *config = c->config;

	int r = process_for_container(
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
	return volumes_attach(cr->container, cr->machine, cr->request, err);
}

static void volumes_undo(void *subject)
{
	struct creation *cr = subject;
	volumes_release(cr->sandbox, cr->machine, cr->container);
}

int container_image_error(int r, struct err *err)
{
	if (r == -ENOENT || r == -EACCES || r == -EPERM)
		r = err->code = -EIO;
	return r;
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

static int agent_remove(struct machine *machine, const char *id, struct err *err)
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
	if (agent_remove(cr->machine, cr->container->id, &err) < 0)
		log_event(cr->sandbox->runtime->log, LOG_LEVEL_WARNING,
			"container not removed in the guest", "container", cr->container->id, "err",
			err.msg, NULL);
}

static int set_state(struct container *c, Bulkhead__Store__ContainerState state, struct err *err)
{
	pthread_mutex_lock(&c->runtime->lock);
	c->record->state = state;
	int r = container_save_locked(c, err);
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->runtime->lock);
	return r;
}

static int created_run(void *subject, struct err *err)
{
	struct creation *cr = subject;
	int r = set_state(cr->container, BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATED, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&cr->container->runtime->lock);
	events_tell_container(
		cr->container, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_CREATED_EVENT);
	pthread_mutex_unlock(&cr->container->runtime->lock);
	return 0;
}

static const struct step create_steps[] = {
	{"record", record_run, record_undo},
	{"layers", layers_run, layers_undo},
	{"volumes", volumes_run, volumes_undo},
	{"guest", agent_run, agent_undo},
	{"created", created_run, NULL},
};

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
	struct step_times times;
	return steps_run(create_steps, ARRAY_SIZE(create_steps), cr, NULL, &times, err);
}

int container_create(struct sandbox *sandbox, const Runtime__V1__ContainerConfig *config,
	char ret_id[ID_LEN + 1], struct err *err)
{
	char id[ID_LEN + 1];
	make_id(id);
	struct creation cr = {.sandbox = sandbox};
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

/* ---- start ---- */

static char *log_state_path(const struct container *c)
{
	return str_printf("%s/logs/%s", c->runtime->config->state_dir, c->id);
}

static int follow_stream(struct container *c, struct machine *machine, struct log_writer *writer,
	Bulkhead__Agent__Stream stream, struct err *err)
{
	Bulkhead__Agent__StreamOpen open = BULKHEAD__AGENT__STREAM_OPEN__INIT;
	open.container_id = c->id;
	open.stream = stream;
	open.offset = log_writer_offset(writer, stream);
	int fd;
	uint64_t offset; /* later than asked where nothing was kept: a container without a log */
	int r = agent_stream_open(machine->agent, &open, CALL_MS, &fd, &offset, err);
	return r < 0 ? r : log_writer_follow(writer, stream, fd, offset, err);
}

static void tee(void *userdata, Bulkhead__Agent__Stream stream, const void *data, size_t len)
{
	fanout_write(userdata, stream, data, len);
}

int container_open_log(struct container *c, struct machine *machine, struct err *err)
{
	_cleanup_free_ char *state_path = log_state_path(c);
	if (!state_path)
		return err_nomem(err);
	struct log_writer *writer;
	int r = log_writer_new(c->runtime->logs, c->record->log_path, state_path, &writer, err);
	if (r < 0)
		return r;
	log_writer_tee(writer, tee, c->fanout);
	r = follow_stream(c, machine, writer, BULKHEAD__AGENT__STREAM__STDOUT, err);
	if (r == 0 && !c->config->tty)
		r = follow_stream(c, machine, writer, BULKHEAD__AGENT__STREAM__STDERR, err);
	if (r < 0) {
		log_writer_unref(writer);
		return r;
	}
	pthread_mutex_lock(&c->runtime->lock);
	c->log = writer;
	pthread_mutex_unlock(&c->runtime->lock);
	return 0;
}

static void close_log(struct container *c)
{
	pthread_mutex_lock(&c->runtime->lock);
	struct log_writer *writer = TAKE_PTR(c->log);
	pthread_mutex_unlock(&c->runtime->lock);
	log_writer_unref(writer);
}

/* Records the end of a container, unless it is recorded. With the lock held. */
static int finish_locked(struct container *c, int32_t exit_code, const char *reason,
	const char *message, struct err *err)
{
	if (!running(c))
		return 0;
	c->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED;
	c->record->exit_code = exit_code;
	if (!c->record->finished_ns)
		c->record->finished_ns = realtime_ns();
	int r = message_set_string(&c->record->reason, reason, err);
	if (r == 0)
		r = message_set_string(&c->record->message, message, err);
	if (r == 0)
		r = container_save_locked(c, err);
	pthread_cond_broadcast(&c->changed);
	return r;
}

/* Unless the start is not told of yet: then both are, in order. With the lock held. */
static void tell_end_locked(struct container *c)
{
	if (!c->start_untold)
		events_tell_container(
			c, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STOPPED_EVENT);
}

static int signal_container(
	struct container *c, struct machine *machine, int signo, bool all, struct err *err)
{
	Bulkhead__Agent__SignalProcessRequest request =
		BULKHEAD__AGENT__SIGNAL_PROCESS_REQUEST__INIT;
	request.container_id = c->id;
	request.signal = (uint32_t)signo;
	request.all = all;
	int r = agent_call(machine->agent, "SignalProcess", &request.base, CALL_MS, NULL, err);
	/* It ended by itself a moment ago: that is what was wanted. */
	return r == -ESRCH || r == -ENOENT ? 0 : r;
}

static int start_in_guest(struct container *c, struct machine *machine, struct err *err)
{
	int r = container_open_log(c, machine, err);
	if (r < 0)
		return r;
	Bulkhead__Agent__StartContainerRequest request =
		BULKHEAD__AGENT__START_CONTAINER_REQUEST__INIT;
	request.container_id = c->id;
	r = agent_call(machine->agent, "StartContainer", &request.base, CREATE_MS, NULL, err);
	r = container_image_error(r, err);
	if (r < 0) {
		/* An answer that did not come says nothing of what runs. */
		signal_container(c, machine, SIGKILL, true, NULL);
		close_log(c);
	}
	return r;
}

/* Of a start that began: also of the end that came before its answer. */
static void tell_start(struct container *c, bool started)
{
	pthread_mutex_lock(&c->runtime->lock);
	c->start_untold = false;
	if (started)
		events_tell_container(
			c, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STARTED_EVENT);
	if (!running(c))
		tell_end_locked(c);
	pthread_mutex_unlock(&c->runtime->lock);
}

int container_start(struct container *c, struct err *err)
{
	if (c->record->state != BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATED)
		return err_set(err, -EBADFD, "container %s was started before, or is being removed",
			c->id);
	struct machine *machine = sandbox_machine(c->sandbox, err);
	if (!machine)
		return err_wrap(err, "start container %s", c->id);
	pthread_mutex_lock(&c->runtime->lock);
	c->record->started_ns = realtime_ns();
	c->start_untold = true;
	pthread_mutex_unlock(&c->runtime->lock);
	int r = set_state(c, BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING, err);
	if (r == 0)
		r = start_in_guest(c, machine, err);
	machine_unref(machine);
	if (r < 0) {
		pthread_mutex_lock(&c->runtime->lock);
		/* The guest may have told of the end of what never began before it answered. */
		if (c->record->state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED)
			c->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING;
		finish_locked(c, START_FAILED, "StartError", err->msg, NULL);
		pthread_mutex_unlock(&c->runtime->lock);
	}
	tell_start(c, r == 0);
	return r < 0 ? err_wrap(err, "start container %s", c->id) : 0;
}

/* ---- the end ---- */

static const char *exit_reason(const Bulkhead__Agent__Exit *exit)
{
	if (exit->oom_killed)
		return "OOMKilled";
	return exit->code == 0 ? "Completed" : "Error";
}

/* Waits for the end of its streams in its log; false when that took too long. */
static bool drain_log(struct container *c)
{
	pthread_mutex_lock(&c->runtime->lock);
	struct log_writer *writer = c->log ? log_writer_ref(c->log) : NULL;
	pthread_mutex_unlock(&c->runtime->lock);
	bool drained = !writer || log_writer_wait(writer, LOG_DRAIN_MS);
	log_writer_unref(writer);
	return drained;
}

/* The guest's clock is the guest's word: it cannot have ended before it began, or later than now.
 */
static int64_t believable_end(const struct container *c, int64_t finished_ns)
{
	int64_t now = realtime_ns();
	return finished_ns >= c->record->started_ns && finished_ns <= now ? finished_ns : now;
}

/* The container of that id, if it is the sandbox's: a guest may speak of its own containers only.
 */
static struct container *own_container(struct sandbox *sandbox, const char *id)
{
	struct container *c =
		strlen(id) == ID_LEN ? container_find(sandbox->runtime, id, NULL) : NULL;
	if (c && c->sandbox != sandbox) {
		container_unref(c);
		return NULL;
	}
	return c;
}

/* The exit and the event's number in one transaction; where it fails, the event comes again. */
static int record_exit(struct container *c, const Bulkhead__Agent__Event *event, struct err *err)
{
	struct runtime *rt = c->runtime;
	Bulkhead__Store__Sandbox *record = c->sandbox->record;
	int r = store_begin(rt->store, err);
	if (r < 0)
		return r;
	c->record->finished_ns = believable_end(c, event->exit->finished_ns);
	r = finish_locked(c, event->exit->code, exit_reason(event->exit), "", err);
	record->event_sequence = event->sequence;
	if (r == 0)
		r = sandbox_save_locked(c->sandbox, err);
	if (r == 0)
		r = store_commit(rt->store, err);
	if (r < 0) {
		store_rollback(rt->store);
		c->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING;
		c->record->finished_ns = 0;
	} else {
		tell_end_locked(c);
	}
	return r;
}

int container_exited(struct sandbox *sandbox, const Bulkhead__Agent__Event *event)
{
	struct runtime *rt = sandbox->runtime;
	struct container *c = own_container(sandbox, event->container_id);
	if (!c) /* removed meanwhile */
		return sandbox_record_stray(sandbox, event->sequence);
	struct err err = ERR_INIT;

	/* All that it wrote is in its log before its exit is known to anybody. */
	bool drained = drain_log(c);
	if (!drained)
		log_event(rt->log, LOG_LEVEL_WARNING, "log not complete at exit", "container",
			c->id, NULL);

	pthread_mutex_lock(&rt->lock);
	bool ran = running(c);
	int r = ran ? record_exit(c, event, &err) : 0;
	pthread_mutex_unlock(&rt->lock);
	if (!ran)
		r = sandbox_record_stray(sandbox, event->sequence);
	else if (r < 0)
		log_event(rt->log, LOG_LEVEL_ERROR, "exit not recorded", "container", c->id, "err",
			err.msg, NULL);
	else if (drained)
		close_log(c);
	container_unref(c);
	return r;
}

static int lose(struct container *c, void *userdata, struct err *err)
{
	drain_log(c);
	pthread_mutex_lock(&c->runtime->lock);
	bool ran = running(c);
	finish_locked(c, DIED_EXIT, "Error", userdata, err);
	if (ran)
		tell_end_locked(c);
	pthread_mutex_unlock(&c->runtime->lock);
	return 0;
}

void containers_lost(struct sandbox *sandbox, const char *reason)
{
	containers_each(sandbox, lose, (void *)reason, NULL);
}

/* ---- stop and remove ---- */

/* True when the container has ended, false when the time or the caller's patience has. */
static bool wait_exit(struct container *c, uint64_t timeout_ms, struct rpc_call *call)
{
	uint64_t deadline = ev_now_ms() + timeout_ms;
	pthread_mutex_lock(&c->runtime->lock);
	while (running(c) && ev_now_ms() < deadline && !(call && rpc_call_cancelled(call))) {
		uint64_t slice = ev_now_ms() + 200; /* to see a caller that goes away */
		wait_until(c->runtime, &c->changed, slice < deadline ? slice : deadline);
	}
	bool ended = !running(c);
	pthread_mutex_unlock(&c->runtime->lock);
	return ended;
}

int container_stop(struct container *c, uint64_t grace_ms, struct rpc_call *call, struct err *err)
{
	pthread_mutex_lock(&c->runtime->lock);
	bool runs = running(c);
	int signo = signal_from_name(c->record->stop_signal);
	pthread_mutex_unlock(&c->runtime->lock);
	if (!runs)
		return 0;
	struct machine *machine = sandbox_machine(c->sandbox, err);
	if (!machine)
		return wait_exit(c, KILLED_MS, call) ? 0 : -EBADFD; /* its end is being recorded */
	int r = 0;
	bool ended = false;
	if (grace_ms) {
		r = signal_container(c, machine, signo ? signo : SIGTERM, false, err);
		ended = r == 0 && wait_exit(c, grace_ms, call);
	}
	if (!ended && call && rpc_call_cancelled(call))
		r = err_set(err, -ECANCELED, "the caller went away before the grace period ended");
	else if (!ended)
		r = signal_container(c, machine, SIGKILL, true, err);
	if (r == 0 && !ended && !wait_exit(c, KILLED_MS, NULL))
		r = err_set(err, -ETIMEDOUT, "it still runs %d s after SIGKILL", KILLED_MS / 1000);
	machine_unref(machine);
	return r < 0 ? err_wrap(err, "stop container %s", c->id) : 0;
}

static int remove_from_guest(struct container *c, struct err *err)
{
	struct machine *machine = sandbox_machine(c->sandbox, NULL);
	if (!machine)
		return 0; /* all of it went with the machine */
	int r = agent_remove(machine, c->id, err);
	if (r == 0) {
		volumes_release(c->sandbox, machine, c);
		disks_release(c->sandbox, machine, c);
	}

	machine_unref(machine);
	return r;
}

int container_remove(struct container *c, struct err *err)
{
	int r = container_stop(c, 0, NULL, err);
	if (r == 0)
		r = set_state(c, BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_REMOVING, err);
	if (r == 0)
		r = remove_from_guest(c, err);
	if (r < 0)
		return err_wrap(err, "remove container %s", c->id);
	close_log(c);
	_cleanup_free_ char *state_path = log_state_path(c);
	if (state_path)
		unlink(state_path);
	img_release(c->runtime->images, c->id);
	r = store_delete(c->runtime->store, STORE_CONTAINER, c->id, err);
	if (r < 0)
		return r;
	container_forget(c); /* the caller has a reference of its own */
	pthread_mutex_lock(&c->runtime->lock);
	events_tell_container(c, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_DELETED_EVENT);
	pthread_mutex_unlock(&c->runtime->lock);
	return 0;
}
