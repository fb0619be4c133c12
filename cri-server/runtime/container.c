/*
 * A container as an object: look-up, references, record.
 *
 * States, as recorded: CREATING → CREATED → RUNNING → EXITED → (record gone), with REMOVING while
 * it goes. RUNNING is recorded before the agent is asked to start it, so that an exit can never
 * arrive for a container that does not run yet; a start that fails ends in EXITED with reason
 * StartError, as in containerd. container_create.c makes one, container_run.c takes it from its
 * start to its removal.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"

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
	ev_cond_init(&c->changed);
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
	rpc_answer_done(&c->listed);
	rpc_answer_done(&c->attributes);
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

bool container_runs(const struct container *c)
{
	return c->record->state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING;
}

Bulkhead__Store__ContainerState container_state(struct container *c)
{
	pthread_mutex_lock(&c->runtime->lock);
	Bulkhead__Store__ContainerState state = c->record->state;
	pthread_mutex_unlock(&c->runtime->lock);
	return state;
}

bool container_may_run(struct container *c)
{
	Bulkhead__Store__ContainerState state = container_state(c);
	return state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATED ||
	       state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING;
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
	c->unsaved = r < 0;
	return r < 0 ? err_wrap(err, "record container %s", c->id) : 0;
}

int container_set_state(struct container *c, Bulkhead__Store__ContainerState state, struct err *err)
{
	pthread_mutex_lock(&c->runtime->lock);
	c->record->state = state;
	int r = container_save_locked(c, err);
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->runtime->lock);
	return r;
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

int container_image_error(int r, struct err *err)
{
	if (r == -ENOENT || r == -EACCES || r == -EPERM)
		r = err->code = -EIO;
	return r;
}
