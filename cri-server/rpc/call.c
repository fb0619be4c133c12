#include "cri-server/rpc/call.h"

#include <assert.h>
#include <errno.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/support/alloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"
#include "cri-server/rpc/status.h"

static void call_free(struct rpc_call *call)
{
	struct rpc_transport *transport = call->transport;

	if (call->call)
		grpc_call_unref(call->call);
	grpc_call_details_destroy(&call->details);
	grpc_metadata_array_destroy(&call->metadata);
	grpc_byte_buffer_destroy(call->payload);
	rpc_stream_done(call);
	fd_close(call->cancel_fd);
	pthread_mutex_destroy(&call->lock);
	gpr_free(call);

	pthread_mutex_lock(&transport->lock);
	if (--transport->n_calls == 0)
		pthread_cond_broadcast(&transport->changed);
	pthread_mutex_unlock(&transport->lock);
}

void rpc_call_done(struct rpc_call *call)
{
	pthread_mutex_lock(&call->lock);
	bool last = --call->pending == 0;
	pthread_mutex_unlock(&call->lock);
	if (last)
		call_free(call);
}

void rpc_call_start(struct rpc_call *call, const grpc_op *ops, size_t n_ops, struct rpc_tag *tag)
{
	grpc_call *grpc = call->call; /* afterwards the call may be gone */
	atomic_store_explicit(&tag->given, true, memory_order_release);
	/* It fails on misuse only, such as an operation started twice. */
	grpc_call_error e = grpc_call_start_batch(grpc, ops, n_ops, tag, NULL);
	assert(e == GRPC_CALL_OK);
	(void)e;
}

void rpc_call_log(const struct rpc_call *call, const struct rpc_reply *reply)
{
	char ms[24];
	snprintf(ms, sizeof(ms), "%llu", (unsigned long long)(ev_now_ms() - call->arrived_ms));
	bool ok = reply->status == GRPC_STATUS_OK;
	log_event(call->transport->log, ok ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, "rpc", "method",
		call->path, "status", rpc_status_name(reply->status), "ms", ms, "err",
		ok ? NULL : reply->err.msg, NULL);
}

/* Sends the reply, whose answer it takes. The call may be gone when it returns. */
static void answer(struct rpc_call *call, struct rpc_reply *reply)
{
	rpc_call_log(call, reply);
	pthread_mutex_lock(&call->lock);
	call->stream.ending = call->stream.ended = true; /* a method with a stream too */
	pthread_mutex_unlock(&call->lock);

	grpc_op ops[3] = {{.op = GRPC_OP_SEND_INITIAL_METADATA}};
	size_t n = 1;
	grpc_byte_buffer *message = NULL;
	grpc_slice text = grpc_slice_from_copied_string(reply->err.msg);

	if (reply->status == GRPC_STATUS_OK) {
		grpc_slice slice = grpc_slice_new_with_user_data(reply->answer.data,
			reply->answer.len, rpc_answer_unref_data, reply->answer.data);
		message = grpc_raw_byte_buffer_create(&slice, 1);
		grpc_slice_unref(slice);
		ops[n++] = (grpc_op){
			.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = message};
	}
	ops[n++] = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
		.data.send_status_from_server = {
			.status = reply->status,
			.status_details = reply->status == GRPC_STATUS_OK ? NULL : &text,
		}};
	rpc_call_start(call, ops, n, &call->answered);
	grpc_byte_buffer_destroy(message);
	grpc_slice_unref(text);
}

static void on_answered(struct rpc_tag *tag, bool ok)
{
	(void)ok; /* the client may have gone; nothing is left to do about it */
	rpc_call_done(tag->owner);
}

static void on_ended(struct rpc_tag *tag, bool ok)
{
	struct rpc_call *call = tag->owner;
	pthread_mutex_lock(&call->lock);
	if (!ok || call->ended_cancelled) {
		call->cancelled = true;
		if (call->cancel_fd >= 0)
			eventfd_write(call->cancel_fd, 1);
	}
	pthread_mutex_unlock(&call->lock);
	if (call->route && call->route->stream)
		rpc_stream_abandon(call);
	rpc_call_done(call);
}

static void on_received(struct rpc_tag *tag, bool ok)
{
	struct rpc_call *call = tag->owner;
	struct rpc_reply reply = {.status = GRPC_STATUS_OK};

	if (!ok || !call->payload) {
		rpc_reply_fail(&reply, GRPC_STATUS_INTERNAL, "no request was received");
		answer(call, &reply);
		return;
	}
	call->job.bytes = grpc_byte_buffer_length(call->payload);
	/* One without a handler is answered as soon. */
	call->job.quick = call->route->quick || (!call->route->handle && !call->route->stream);
	if (rpc_pool_push(call->transport->pool, &call->job) != 0) {
		rpc_reply_fail(&reply, GRPC_STATUS_RESOURCE_EXHAUSTED,
			"too many calls are waiting already; try again later");
		answer(call, &reply);
	}
}

static void on_arrived(struct rpc_tag *tag, bool ok)
{
	struct rpc_call *call = tag->owner;
	if (!ok) { /* the server shuts down */
		call_free(call);
		return;
	}
	rpc_call_wait(call->transport);

	call->arrived_ms = ev_now_ms();
	size_t len = GRPC_SLICE_LENGTH(call->details.method);
	if (len < sizeof(call->path))
		memcpy(call->path, GRPC_SLICE_START_PTR(call->details.method), len);

	call->pending = 2;
	grpc_op end = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER,
		.data.recv_close_on_server.cancelled = &call->ended_cancelled};
	rpc_call_start(call, &end, 1, &call->ended);

	struct rpc_reply reply = {.status = GRPC_STATUS_OK};
	call->route = rpc_dispatch_find(call->transport->dispatch, call->path, &reply);
	if (!call->route) {
		answer(call, &reply);
		return;
	}
	grpc_op receive = {
		.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->payload};
	rpc_call_start(call, &receive, 1, &call->received);
}

void rpc_call_wait(struct rpc_transport *transport)
{
	/* gRPC ends the process when memory is out; so does this: a server must go on listening. */
	struct rpc_call *call = gpr_zalloc(sizeof(*call));
	call->transport = transport;
	call->cancel_fd = -EBADF;
	grpc_call_details_init(&call->details);
	grpc_metadata_array_init(&call->metadata);
	pthread_mutex_init(&call->lock, NULL);
	call->arrived = (struct rpc_tag){.fn = on_arrived, .owner = call};
	call->received = (struct rpc_tag){.fn = on_received, .owner = call};
	call->ended = (struct rpc_tag){.fn = on_ended, .owner = call};
	call->answered = (struct rpc_tag){.fn = on_answered, .owner = call};
	rpc_stream_init(call);

	pthread_mutex_lock(&transport->lock);
	transport->n_calls++;
	pthread_mutex_unlock(&transport->lock);

	atomic_store_explicit(&call->arrived.given, true, memory_order_release);
	grpc_call_error e = grpc_server_request_call(transport->server, &call->call, &call->details,
		&call->metadata, transport->queue, transport->queue, &call->arrived);
	if (e != GRPC_CALL_OK) /* shut down in between */
		call_free(call);
}

/* Unpacks the request and frees its bytes, so that a handler holds it once. */
static ProtobufCMessage *unpack(struct rpc_call *call, struct rpc_reply *reply)
{
	grpc_byte_buffer_reader reader;
	if (!grpc_byte_buffer_reader_init(&reader, call->payload)) {
		rpc_reply_fail(reply, GRPC_STATUS_INTERNAL, "cannot decompress the request");
		return NULL;
	}
	grpc_slice data = grpc_byte_buffer_reader_readall(&reader);
	grpc_byte_buffer_reader_destroy(&reader);
	grpc_byte_buffer_destroy(call->payload);
	call->payload = NULL;

	ProtobufCMessage *request = rpc_route_unpack(
		call->route, GRPC_SLICE_START_PTR(data), GRPC_SLICE_LENGTH(data), reply);
	grpc_slice_unref(data);
	return request;
}

/* The handler may leave the call open: its reference, or that of whom it gave one, holds it. */
static void run_stream(struct rpc_call *call)
{
	struct rpc_reply reply = {.status = GRPC_STATUS_OK};
	rpc_call_ref(call);
	if (!rpc_stream_begin(call)) {
		rpc_call_unref(call);
		return;
	}
	ProtobufCMessage *request = unpack(call, &reply);
	if (request) {
		struct err err = ERR_INIT;
		if (call->route->stream(call, request, &err) < 0)
			rpc_call_end(call, &err);
		protobuf_c_message_free_unpacked(request, NULL);
	} else {
		rpc_stream_end(call, &reply);
	}
	rpc_call_unref(call);
}

void rpc_call_run(struct rpc_job *job)
{
	struct rpc_call *call = (struct rpc_call *)job; /* its first member */
	struct rpc_reply reply = {.status = GRPC_STATUS_OK};

	if (call->route->stream) {
		run_stream(call);
		return;
	}
	if (rpc_call_cancelled(call)) {
		rpc_reply_fail(&reply, GRPC_STATUS_CANCELLED, "cancelled before it began");
	} else {
		ProtobufCMessage *request = unpack(call, &reply);
		if (request) {
			rpc_route_run(call->route, call, request, &reply);
			protobuf_c_message_free_unpacked(request, NULL);
		}
	}
	/* Its deadline is how this caller went away: it may still hear that. */
	if (reply.status == GRPC_STATUS_CANCELLED && rpc_call_time_left_ms(call) == 0)
		reply.status = GRPC_STATUS_DEADLINE_EXCEEDED;
	answer(call, &reply);
}

void *rpc_call_userdata(const struct rpc_call *call)
{
	return call->transport->userdata;
}

uint64_t rpc_call_time_left_ms(const struct rpc_call *call)
{
	gpr_timespec deadline = call->details.deadline;
	if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0)
		return UINT64_MAX;
	gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
	if (gpr_time_cmp(left, gpr_time_0(GPR_TIMESPAN)) <= 0)
		return 0;
	return (uint64_t)left.tv_sec * 1000 + (uint64_t)left.tv_nsec / 1000000;
}

int rpc_call_cancel_fd(struct rpc_call *call)
{
	pthread_mutex_lock(&call->lock);
	if (call->cancel_fd < 0) {
		int fd = eventfd(call->cancelled ? 1 : 0, EFD_CLOEXEC | EFD_NONBLOCK);
		call->cancel_fd = fd < 0 ? -errno : fd;
	}
	int ret = call->cancel_fd;
	pthread_mutex_unlock(&call->lock);
	return ret;
}

bool rpc_call_cancelled(struct rpc_call *call)
{
	pthread_mutex_lock(&call->lock);
	bool cancelled = call->cancelled;
	pthread_mutex_unlock(&call->lock);
	return cancelled || rpc_call_time_left_ms(call) == 0;
}
