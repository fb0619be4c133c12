/*
 * The calls about volumes. Each is a job of its own, for a mount or a look at the share may wait
 * for the host; the call waits with it.
 */
#include <errno.h>
#include <stdlib.h>

#include "agent/methods.h"
#include "agent/volumes.h"
#include "common/fd.h"

struct volume_call {
	struct ttrpc_call *call;
	const ProtobufCMessage *request; /* the job's copy of it lives as long as the job */
	const ProtobufCMessageDescriptor *response;
};

static void on_done(void *userdata, const struct err *err)
{
	struct volume_call *volume = userdata;
	ProtobufCMessage response = {.descriptor = volume->response};
	if (err->code < 0)
		ttrpc_fail(volume->call, err);
	else
		ttrpc_reply(volume->call, &response);
	free(volume);
}

static void run(struct server_state *state, struct ttrpc_call *call, job_fn fn,
	const ProtobufCMessage *request, const ProtobufCMessageDescriptor *response)
{
	struct err err = ERR_INIT;
	struct volume_call *volume = calloc(1, sizeof(*volume));
	int r = volume ? 0 : err_nomem(&err);
	if (r == 0) {
		*volume = (struct volume_call){call, request, response};
		r = job_start(state->reaper, "volume", fn, volume, on_done, volume, &err);
	}
	if (r < 0) {
		free(volume);
		ttrpc_fail(call, &err);
	}
}

static int make_job(void *arg, struct err *err)
{
	const struct volume_call *volume = arg;
	return volumes_make((const void *)volume->request, err);
}

void method_make_volume(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	run(userdata, call, make_job, msg, &bulkhead__agent__make_volume_response__descriptor);
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
	run(userdata, call, write_job, msg, &bulkhead__agent__write_volume_response__descriptor);
}

static int remove_job(void *arg, struct err *err)
{
	const struct volume_call *volume = arg;
	return volumes_remove((const void *)volume->request, err);
}

void method_remove_volumes(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	run(userdata, call, remove_job, msg, &bulkhead__agent__remove_volumes_response__descriptor);
}
