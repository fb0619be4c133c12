/*
 * The calls about volumes. Each is a job of its own, for a mount or a look at the share may wait
 * for the host; the call waits with it. Those about one volume come one after the other, as the
 * host sent them: what it repeats after a time-out, or takes back, meets the job that it did not
 * wait for, which is not to have the last word.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/methods.h"
#include "agent/volumes.h"
#include "common/fd.h"

struct volume_call {
	TAILQ_ENTRY(volume_call) link;
	struct server_state *state;
	struct ttrpc_call *call;
	job_fn fn;
	ProtobufCMessage *request; /* its own: it may wait, and is compared with those that come */
	char *const *names;        /* of the request's volumes */
	size_t n_names;
	const ProtobufCMessageDescriptor *response;
	bool running;
};

static bool share_a_name(const struct volume_call *a, const struct volume_call *b)
{
	for (size_t i = 0; i < a->n_names; i++)
		for (size_t k = 0; k < b->n_names; k++)
			if (strcmp(a->names[i], b->names[k]) == 0)
				return true;
	return false;
}

/* Whether an earlier one is about the same volume. */
static bool must_wait(const struct volume_call *volume)
{
	const struct volume_call *earlier;
	TAILQ_FOREACH(earlier, &volume->state->volume_calls, link) {
		if (earlier == volume)
			return false;
		if (share_a_name(earlier, volume))
			return true;
	}
	return false;
}

static void finish(struct volume_call *volume, const struct err *err)
{
	ProtobufCMessage response = {.descriptor = volume->response};
	TAILQ_REMOVE(&volume->state->volume_calls, volume, link);
	if (err->code < 0)
		ttrpc_fail(volume->call, err);
	else
		ttrpc_reply(volume->call, &response);
	protobuf_c_message_free_unpacked(volume->request, NULL);
	free(volume);
}

static void on_done(void *userdata, const struct err *err);

static void start(struct volume_call *volume)
{
	struct err err = ERR_INIT;
	volume->running = true;
	if (job_start(volume->state->reaper, "volume", volume->fn, volume, on_done, volume, &err) <
		0)
		finish(volume, &err);
}

static struct volume_call *next_to_start(struct server_state *state)
{
	struct volume_call *volume;
	TAILQ_FOREACH(volume, &state->volume_calls, link)
		if (!volume->running && !must_wait(volume))
			return volume;
	return NULL;
}

static void on_done(void *userdata, const struct err *err)
{
	struct volume_call *volume = userdata;
	struct server_state *state = volume->state;
	finish(volume, err);
	while ((volume = next_to_start(state)))
		start(volume);
}

/* Takes the request, NULL where there was no memory for it. Now, or when those before are done. */
static void run(struct server_state *state, struct ttrpc_call *call, job_fn fn,
	ProtobufCMessage *request, char *const *names, size_t n_names,
	const ProtobufCMessageDescriptor *response)
{
	struct volume_call *volume = request ? malloc(sizeof(*volume)) : NULL;
	if (!volume) {
		struct err err = ERR_INIT;
		err_nomem(&err);
		ttrpc_fail(call, &err);
		if (request)
			protobuf_c_message_free_unpacked(request, NULL);
		return;
	}
	*volume = (struct volume_call){.state = state,
		.call = call,
		.fn = fn,
		.request = request,
		.names = names,
		.n_names = n_names,
		.response = response};
	TAILQ_INSERT_TAIL(&state->volume_calls, volume, link);
	if (!must_wait(volume))
		start(volume);
}

static int make_job(void *arg, struct err *err)
{
	const struct volume_call *volume = arg;
	return volumes_make((const void *)volume->request, err);
}

void method_make_volume(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	Bulkhead__Agent__MakeVolumeRequest *request = (void *)message_copy(msg);
	run(userdata, call, make_job, (void *)request, request ? &request->name : NULL, 1,
		&bulkhead__agent__make_volume_response__descriptor);
}

static int write_job(void *arg, struct err *err)
{
	const struct volume_call *volume = arg;
	const Bulkhead__Agent__WriteVolumeRequest *request = (const void *)volume->request;
	_cleanup_close_ int fd = -EBADF;
	int r = volumes_open(request->name, &fd, err);
	return r < 0 ? r : volume_write(fd, request, err);
}

void method_write_volume(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	Bulkhead__Agent__WriteVolumeRequest *request = (void *)message_copy(msg);
	run(userdata, call, write_job, (void *)request, request ? &request->name : NULL, 1,
		&bulkhead__agent__write_volume_response__descriptor);
}

static int remove_job(void *arg, struct err *err)
{
	const struct volume_call *volume = arg;
	return volumes_remove((const void *)volume->request, err);
}

void method_remove_volumes(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	Bulkhead__Agent__RemoveVolumesRequest *request = (void *)message_copy(msg);
	run(userdata, call, remove_job, (void *)request, request ? request->names : NULL,
		request ? request->n_names : 0,
		&bulkhead__agent__remove_volumes_response__descriptor);
}
