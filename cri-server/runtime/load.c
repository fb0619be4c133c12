/* Start-up, first: what is recorded, into memory. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"

void start_complain(
	const struct runtime *rt, const char *what, const char *id, const struct err *err)
{
	log_event(rt->log, LOG_LEVEL_ERROR, what, "id", id, "err", err->msg, NULL);
}

static int load_sandbox(void *userdata, const char *id, const ProtobufCMessage *message)
{
	struct runtime *rt = userdata;
	const Bulkhead__Store__Sandbox *record = (const Bulkhead__Store__Sandbox *)message;
	Runtime__V1__PodSandboxConfig *config = runtime__v1__pod_sandbox_config__unpack(
		NULL, record->config.len, record->config.data);
	bool usable = config && strlen(id) == ID_LEN;
	struct sandbox *sandbox = usable ? sandbox_new(rt, id, config, NULL) : NULL;
	if (config)
		runtime__v1__pod_sandbox_config__free_unpacked(config, NULL);
	if (!sandbox)
		return usable ? -ENOMEM : -EBADMSG;
	bulkhead__store__sandbox__free_unpacked(sandbox->record, NULL);
	sandbox->record = (Bulkhead__Store__Sandbox *)message_copy(message);
	if (record->limits.len)
		sandbox->limits = runtime__v1__linux_pod_sandbox_config__unpack(
			NULL, record->limits.len, record->limits.data);
	if (!sandbox->record) {
		sandbox_unref(sandbox);
		return -ENOMEM;
	}
	sandbox->recovering = true;
	TAILQ_INSERT_TAIL(&rt->sandboxes, sandbox, link);
	return 0;
}

struct loading {
	struct runtime *rt;
	char (*lost)[ID_LEN + 1]; /* containers whose pod has no record */
	size_t n_lost;
};

static int note_lost(struct loading *loading, const char *id)
{
	void *longer = reallocarray(loading->lost, loading->n_lost + 1, sizeof(*loading->lost));
	if (!longer)
		return -ENOMEM;
	loading->lost = longer;
	snprintf(loading->lost[loading->n_lost++], sizeof(*loading->lost), "%s", id);
	return 0;
}

static int load_container(void *userdata, const char *id, const ProtobufCMessage *message)
{
	struct loading *loading = userdata;
	struct runtime *rt = loading->rt;
	const Bulkhead__Store__Container *record = (const Bulkhead__Store__Container *)message;
	struct sandbox *sandbox = sandbox_find(rt, record->sandbox_id, NULL);
	if (!sandbox)
		return note_lost(loading, id);
	Runtime__V1__ContainerConfig *config = runtime__v1__container_config__unpack(
		NULL, record->config.len, record->config.data);
	struct container *c = NULL;
	int r = -EBADMSG;
	if (config && strlen(id) == ID_LEN) {
		c = container_new(sandbox, id, config, NULL);
		r = c ? 0 : -ENOMEM;
	}
	if (c) {
		bulkhead__store__container__free_unpacked(c->record, NULL);
		c->record = (Bulkhead__Store__Container *)message_copy(message);
		if (record->resources.len)
			c->resources = runtime__v1__linux_container_resources__unpack(
				NULL, record->resources.len, record->resources.data);
		if (c->record) {
			TAILQ_INSERT_TAIL(&rt->containers, c, link);
		} else {
			container_unref(c);
			r = -ENOMEM;
		}
	}
	if (config)
		runtime__v1__container_config__free_unpacked(config, NULL);
	sandbox_unref(sandbox);
	return r;
}

/* Of a container that went with its pod the record may be left, as when it could not be written. */
static int load_containers(struct runtime *rt, struct err *err)
{
	struct loading loading = {.rt = rt};
	int r = store_each(rt->store, STORE_CONTAINER, load_container, &loading, err);
	for (size_t i = 0; i < loading.n_lost && r == 0; i++) {
		struct err failure = ERR_INIT;
		if (store_delete(rt->store, STORE_CONTAINER, loading.lost[i], &failure) < 0)
			start_complain(rt, "record of a container without a pod not removed",
				loading.lost[i], &failure);
		else
			log_event(rt->log, LOG_LEVEL_WARNING,
				"record of a container without a pod removed", "container",
				loading.lost[i], NULL);
	}
	free(loading.lost);
	return r < 0 ? err_wrap(err, "read the records of containers") : 0;
}

/* Before anything runs beside us. */
static void hold_layers(struct runtime *rt)
{
	struct container *c;
	TAILQ_FOREACH(c, &rt->containers, link) {
		struct err err = ERR_INIT;
		if (img_hold(rt->images, c->id, c->record->layers, c->record->n_layers, &err) < 0)
			start_complain(rt, "layers not held", c->id, &err);
	}
}

int runtime_load(struct runtime *rt, struct err *err)
{
	int r = store_each(rt->store, STORE_SANDBOX, load_sandbox, rt, err);
	if (r < 0)
		return err_wrap(err, "read the records of sandboxes");
	/* Loading looks sandboxes up, in memory only. */
	r = load_containers(rt, err);
	if (r < 0)
		return r;
	hold_layers(rt);
	return 0;
}
