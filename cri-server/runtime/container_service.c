/*
 * The container methods of CRI: what a client may ask is checked here, and answers are composed
 * here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/fault.h"
#include "common/fd.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/signals.h"

#define CONFIG_MAX (1u << 20)
/* A grace period of more is a mistake, or means "as long as it takes". */
#define GRACE_S_MAX 31536000

static int check_config(const Runtime__V1__ContainerConfig *config, struct err *err)
{
	if (!config || !config->metadata || !config->metadata->name[0])
		return err_set(err, -EINVAL, "container config must include metadata with a name");
	if (!config->image || !config->image->image[0])
		return err_set(err, -EINVAL, "container config must include an image");
	if (protobuf_c_message_get_packed_size(&config->base) > CONFIG_MAX)
		return err_set(
			err, -EINVAL, "container config is larger than %u bytes", CONFIG_MAX);
	return labels_check("labels", config->n_labels, LABELS_MAX, err);
}

METHOD(container_service_create)
{
	const Runtime__V1__CreateContainerRequest *req =
		(const Runtime__V1__CreateContainerRequest *)request;
	int r = check_config(req->config, err);
	if (r < 0)
		return r;
	struct sandbox *sandbox = sandbox_find(call_runtime(call), req->pod_sandbox_id, err);
	if (!sandbox)
		return err->code;
	char id[ID_LEN + 1];
	r = sandbox_lock(sandbox, call, err);
	if (r == 0) {
		r = sandbox_check_found(sandbox, err);
		if (r == 0)
			r = container_create(call, sandbox, req->config, id, err);
		pthread_mutex_unlock(&sandbox->op);
	}
	sandbox_unref(sandbox);
	if (r < 0)
		return r;
	Runtime__V1__CreateContainerResponse response =
		RUNTIME__V1__CREATE_CONTAINER_RESPONSE__INIT;
	response.container_id = id;
	return respond(&response.base, ret_response, err);
}

/* It may have been removed while this waited for `op`. */
static int check_found(struct container *c, struct err *err)
{
	pthread_mutex_lock(&c->runtime->lock);
	bool gone = c->gone;
	pthread_mutex_unlock(&c->runtime->lock);
	return gone ? err_set(err, -ENOENT, "container '%s' not found", c->id) : 0;
}

METHOD(container_service_start)
{
	const Runtime__V1__StartContainerRequest *req =
		(const Runtime__V1__StartContainerRequest *)request;
	struct container *c = container_find(call_runtime(call), req->container_id, err);
	if (!c)
		return err->code;
	int r = sandbox_lock(c->sandbox, call, err);
	if (r == 0) {
		r = check_found(c, err);
		if (r == 0)
			r = container_start(c, err);
		pthread_mutex_unlock(&c->sandbox->op);
	}
	container_unref(c);
	if (r < 0)
		return r;
	Runtime__V1__StartContainerResponse response = RUNTIME__V1__START_CONTAINER_RESPONSE__INIT;
	return respond(&response.base, ret_response, err);
}

METHOD(container_service_stop)
{
	const Runtime__V1__StopContainerRequest *req =
		(const Runtime__V1__StopContainerRequest *)request;
	struct container *c = container_find(call_runtime(call), req->container_id, err);
	if (c) {
		sandbox_await_recovery(c->sandbox);
		int64_t grace_s = req->timeout < GRACE_S_MAX ? req->timeout : GRACE_S_MAX;
		uint64_t grace_ms = grace_s > 0 ? (uint64_t)grace_s * 1000 : 0;
		int r = container_stop(c, grace_ms, call, err);
		container_unref(c);
		if (r < 0)
			return r;
	} else if (err->code != -ENOENT) {
		return err->code; /* one that is gone is stopped */
	}
	Runtime__V1__StopContainerResponse response = RUNTIME__V1__STOP_CONTAINER_RESPONSE__INIT;
	return respond(&response.base, ret_response, err);
}

METHOD(container_service_remove)
{
	const Runtime__V1__RemoveContainerRequest *req =
		(const Runtime__V1__RemoveContainerRequest *)request;
	struct container *c = container_find(call_runtime(call), req->container_id, err);
	if (c) {
		int r = sandbox_lock(c->sandbox, call, err);
		if (r == 0) {
			r = check_found(c, NULL) < 0 ? 0 : container_remove(c, err);
			pthread_mutex_unlock(&c->sandbox->op);
		}
		container_unref(c);
		if (r < 0)
			return r;
	} else if (err->code != -ENOENT) {
		return err->code;
	}
	Runtime__V1__RemoveContainerResponse response =
		RUNTIME__V1__REMOVE_CONTAINER_RESPONSE__INIT;
	return respond(&response.base, ret_response, err);
}

/* Opens the log anew, or where start-up could not resume it, at last. `op` is held. */
static int reopen_log(struct container *c, struct err *err)
{
	pthread_mutex_lock(&c->runtime->lock);
	bool runs = container_runs(c);
	/* A reference: its end may let go of it meanwhile. */
	struct log_writer *writer = runs && c->log ? log_writer_ref(c->log) : NULL;
	pthread_mutex_unlock(&c->runtime->lock);
	if (!runs)
		return err_set(err, -EBADFD, "container %s does not run", c->id);
	if (writer) {
		FAULT_POINT("ReopenContainerLog", "open");
		int r = log_writer_reopen(writer, err);
		log_writer_unref(writer);
		FAULT_POINT("ReopenContainerLog", "done");
		return r;
	}
	struct machine *machine = sandbox_machine(c->sandbox, err);
	if (!machine)
		return -EBADFD;
	int r = container_open_log(c, machine, err);
	machine_unref(machine);
	return r;
}

METHOD(container_service_reopen_log)
{
	const Runtime__V1__ReopenContainerLogRequest *req =
		(const Runtime__V1__ReopenContainerLogRequest *)request;
	struct container *c = container_find(call_runtime(call), req->container_id, err);
	if (!c)
		return err->code;
	int r = sandbox_lock(c->sandbox, call, err);
	if (r == 0) {
		r = reopen_log(c, err);
		pthread_mutex_unlock(&c->sandbox->op);
	}
	container_unref(c);
	if (r < 0)
		return r;
	Runtime__V1__ReopenContainerLogResponse response =
		RUNTIME__V1__REOPEN_CONTAINER_LOG_RESPONSE__INIT;
	return respond(&response.base, ret_response, err);
}

/* ---- status and list: under runtime->lock, from the records ---- */

/* One whose removal did not finish is shown as ended: whoever asked for it asks again. */
bool container_visible(const struct container *c)
{
	return c->record->state != BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATING;
}

static Runtime__V1__ContainerState cri_state(const struct container *c)
{
	switch (c->record->state) {
	case BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATED:
		return RUNTIME__V1__CONTAINER_STATE__CONTAINER_CREATED;
	case BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING:
		return RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING;
	case BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED:
	case BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_REMOVING:
		return RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED;
	default:
		return RUNTIME__V1__CONTAINER_STATE__CONTAINER_UNKNOWN;
	}
}

static char *verbose_info(const struct container *c)
{
	const Runtime__V1__LinuxContainerSecurityContext *sc =
		c->config->linux ? c->config->linux->security_context : NULL;
	/* What a manifest may ask for and does not get. */
	const char *selinux = sc && sc->selinux_options ? "no effect: the guest has none" : NULL;
	const char *apparmor = sc && sc->apparmor ? "no effect: the guest has none" : NULL;
	json_t *info = json_pack("{s:s, s:s, s:s, s:s*, s:s*}", "sandboxID", c->sandbox->id,
		"imageID", c->record->image_id, "stopSignal", c->record->stop_signal, "selinux",
		selinux, "apparmor", apparmor);
	char *text = info ? json_dumps(info, JSON_COMPACT) : NULL;
	json_decref(info);
	return text;
}

/* "SIGTERM", "15" … → CRI's value; TERM, which is what is sent, where nothing was asked. */
static Runtime__V1__Signal cri_signal(const char *name)
{
	const ProtobufCEnumDescriptor *signals = &runtime__v1__signal__descriptor;
	int signo = signal_from_name(name[0] ? name : "SIGTERM");
	for (unsigned i = 0; i < signals->n_values; i++)
		if (signals->values[i].value != RUNTIME__V1__SIGNAL__RUNTIME_DEFAULT &&
			signal_from_name(signals->values[i].name) == signo)
			return (Runtime__V1__Signal)signals->values[i].value;
	return RUNTIME__V1__SIGNAL__RUNTIME_DEFAULT;
}

/* As the client asked for it, but under a name that a person knows. */
static void fill_image_spec(Runtime__V1__ImageSpec *spec, const struct container *c)
{
	*spec = *c->config->image;
	if (c->record->image_name[0])
		spec->image = c->record->image_name;
}

static void fill_status(Runtime__V1__ContainerStatus *status, Runtime__V1__ImageSpec *image,
	const struct container *c)
{
	const Runtime__V1__ContainerConfig *config = c->config;
	runtime__v1__container_status__init(status);
	status->id = (char *)c->id;
	status->metadata = config->metadata;
	status->state = cri_state(c);
	status->created_at = c->record->created_ns;
	status->started_at = c->record->started_ns;
	status->finished_at = c->record->finished_ns;
	status->exit_code = c->record->exit_code;
	fill_image_spec(image, c);
	status->image = image;
	status->image_ref = c->record->image_ref;
	status->image_id = c->record->image_id;
	status->reason = c->record->reason;
	status->message = c->record->message;
	/* A map's entries are of one form, whichever message they are declared in. */
	status->labels = (Runtime__V1__ContainerStatus__LabelsEntry **)config->labels;
	status->n_labels = config->n_labels;
	status->annotations =
		(Runtime__V1__ContainerStatus__AnnotationsEntry **)config->annotations;
	status->n_annotations = config->n_annotations;
	status->mounts = config->mounts;
	status->n_mounts = config->n_mounts;
	status->log_path = c->record->log_path;

	status->stop_signal = cri_signal(c->record->stop_signal);
}

/* Lives as long as the answer is put together. */
struct status_user {
	Runtime__V1__ContainerUser user;
	Runtime__V1__LinuxContainerUser linux;
	int64_t *groups;
};

static void status_user_done(struct status_user *user)
{
	free(user->groups);
}

static int fill_user(struct status_user *to, const Bulkhead__Store__User *from, struct err *err)
{
	runtime__v1__container_user__init(&to->user);
	runtime__v1__linux_container_user__init(&to->linux);
	to->groups = calloc(from->n_groups + 1, sizeof(int64_t));
	if (!to->groups)
		return err_nomem(err);
	for (size_t i = 0; i < from->n_groups; i++)
		to->groups[i] = from->groups[i];
	to->linux.uid = from->uid;
	to->linux.gid = from->gid;
	to->linux.supplemental_groups = to->groups;
	to->linux.n_supplemental_groups = from->n_groups;
	to->user.linux = &to->linux;
	return 0;
}

static int answer_status(
	const struct container *c, bool verbose, struct rpc_answer *ret_response, struct err *err)
{
	Runtime__V1__ContainerStatus status;
	Runtime__V1__ImageSpec image;
	Runtime__V1__ContainerResources resources = RUNTIME__V1__CONTAINER_RESOURCES__INIT;
	Runtime__V1__ContainerStatusResponse response =
		RUNTIME__V1__CONTAINER_STATUS_RESPONSE__INIT;
	Runtime__V1__ContainerStatusResponse__InfoEntry entry =
		RUNTIME__V1__CONTAINER_STATUS_RESPONSE__INFO_ENTRY__INIT;
	Runtime__V1__ContainerStatusResponse__InfoEntry *entries[] = {&entry};
	_cleanup_free_ char *info = NULL;
	_cleanup_(status_user_done) struct status_user user = {0};

	fill_status(&status, &image, c);
	if (c->record->user) {
		if (fill_user(&user, c->record->user, err) < 0)
			return err->code;
		status.user = &user.user;
	}
	if (container_resources(c)) {
		resources.linux = (Runtime__V1__LinuxContainerResources *)container_resources(c);
		status.resources = &resources;
	}
	response.status = &status;
	if (verbose) {
		info = verbose_info(c);
		if (!info)
			return err_nomem(err);
		entry.key = (char *)"info";
		entry.value = info;
		response.info = entries;
		response.n_info = 1;
	}
	return respond(&response.base, ret_response, err);
}

int container_status_response(const struct container *c, struct rpc_answer *ret, struct err *err)
{
	return answer_status(c, false, ret, err);
}

METHOD(container_service_status)
{
	struct runtime *rt = call_runtime(call);
	const Runtime__V1__ContainerStatusRequest *req =
		(const Runtime__V1__ContainerStatusRequest *)request;
	struct container *c = container_find(rt, req->container_id, err);
	if (!c)
		return err->code;
	pthread_mutex_lock(&rt->lock);
	int r = container_visible(c) ? answer_status(c, req->verbose, ret_response, err)
				     : err_set(err, -ENOENT, "container '%s' not found", c->id);
	pthread_mutex_unlock(&rt->lock);
	container_unref(c);
	return r;
}

static bool wanted(const struct container *c, const Runtime__V1__ContainerFilter *filter)
{
	if (!container_visible(c))
		return false;
	if (!filter)
		return true;
	if (filter->id[0] && strncmp(c->id, filter->id, strlen(filter->id)) != 0)
		return false;
	if (filter->pod_sandbox_id[0] && strncmp(c->sandbox->id, filter->pod_sandbox_id,
						 strlen(filter->pod_sandbox_id)) != 0)
		return false;
	if (filter->state && filter->state->state != cri_state(c))
		return false;
	return labels_match((void *)filter->label_selector, filter->n_label_selector,
		(void *)c->config->labels, c->config->n_labels);
}

static void fill_item(
	Runtime__V1__Container *item, Runtime__V1__ImageSpec *image, struct container *c)
{
	runtime__v1__container__init(item);
	item->id = c->id;
	item->pod_sandbox_id = c->sandbox->id;
	item->metadata = c->config->metadata;
	fill_image_spec(image, c);
	item->image = image;
	/* As containerd: kubelets before 1.30 know by it which images are in use. */
	item->image_ref = c->record->image_id;
	item->image_id = c->record->image_id;
	item->state = cri_state(c);
	item->created_at = c->record->created_ns;
	item->labels = (Runtime__V1__Container__LabelsEntry **)c->config->labels;
	item->n_labels = c->config->n_labels;
	item->annotations = (Runtime__V1__Container__AnnotationsEntry **)c->config->annotations;
	item->n_annotations = c->config->n_annotations;
}

/* The list as it would be of this one alone. Its state is all that changes of it. */
static int list_one(struct container *c, const struct rpc_answer **ret, struct err *err)
{
	int r = 0;
	if (!c->listed.data || c->listed_state != cri_state(c)) {
		Runtime__V1__Container item, *items[] = {&item};
		Runtime__V1__ImageSpec image;
		Runtime__V1__ListContainersResponse response =
			RUNTIME__V1__LIST_CONTAINERS_RESPONSE__INIT;
		fill_item(&item, &image, c);
		response.containers = items;
		response.n_containers = ARRAY_SIZE(items);
		rpc_answer_done(&c->listed);
		c->listed_state = item.state;
		r = respond(&response.base, &c->listed, err);
	}
	*ret = &c->listed;
	return r;
}

static int answer_list(struct runtime *rt, const Runtime__V1__ContainerFilter *filter,
	struct rpc_answer *ret_response, struct err *err)
{
	struct container *c;
	size_t n = 0;
	int r = 0;
	TAILQ_FOREACH(c, &rt->containers, link)
		n++;
	_cleanup_free_ const struct rpc_answer **parts = calloc(n + 1, sizeof(*parts));
	if (!parts)
		return err_nomem(err);
	n = 0;
	TAILQ_FOREACH(c, &rt->containers, link)
		if (r == 0 && wanted(c, filter))
			r = list_one(c, &parts[n++], err);
	return r < 0 ? r
		     : respond_joined(&runtime__v1__list_containers_response__descriptor, parts, n,
			       ret_response, err);
}

METHOD(container_service_list)
{
	struct runtime *rt = call_runtime(call);
	const Runtime__V1__ListContainersRequest *req =
		(const Runtime__V1__ListContainersRequest *)request;
	size_t n = req->filter ? req->filter->n_label_selector : 0;
	int r = labels_check("label selectors", n, SELECTORS_MAX, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&rt->lock);
	r = answer_list(rt, req->filter, ret_response, err);
	pthread_mutex_unlock(&rt->lock);
	return r;
}

/* EOPNOTSUPP is UNIMPLEMENTED: a kubelet tells its caller so. */
METHOD(container_service_checkpoint)
{
	const Runtime__V1__CheckpointContainerRequest *req =
		(const Runtime__V1__CheckpointContainerRequest *)request;
	struct container *c = container_find(call_runtime(call), req->container_id, err);
	(void)ret_response;
	if (!c)
		return err->code;
	container_unref(c);
	return err_set(err, -EOPNOTSUPP,
		"CheckpointContainer: a container's processes live in their pod's virtual machine, "
		"whose kernel has no CRIU; the archive that a kubelet expects cannot be made");
}
