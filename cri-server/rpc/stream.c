/*
 * Calls that answer with a stream of messages.
 *
 * gRPC takes one message at a time: it is given the next when it has reported the one before. What
 * waits meanwhile is a list with a bound, so that whoever sends never waits for a client. The
 * status is the last batch; with it the call has the two reports that its freeing waits for.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/rpc/call.h"
#include "cri-server/rpc/message.h"
#include "cri-server/rpc/status.h"

/* Parts of a list: well below what a client takes for one message. */
#define PART_BYTES (1u << 20)

struct rpc_outgoing {
	struct rpc_outgoing *next;
	grpc_byte_buffer *buffer;
	size_t len;
};

static void drop_waiting(struct rpc_stream *s)
{
	struct rpc_outgoing *out;
	while ((out = s->first)) {
		s->first = out->next;
		grpc_byte_buffer_destroy(out->buffer);
		free(out);
	}
	s->last = &s->first;
	s->n_messages = s->n_bytes = 0;
}

static void send_status(struct rpc_call *call)
{
	struct rpc_stream *s = &call->stream;
	grpc_op ops[2];
	size_t n = 0;
	grpc_slice text = grpc_slice_from_copied_string(s->err.msg);
	if (!s->begun)
		ops[n++] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
	ops[n++] = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
		.data.send_status_from_server = {
			.status = s->status,
			.status_details = s->status == GRPC_STATUS_OK ? NULL : &text,
		}};
	s->begun = s->ended = true;
	rpc_call_start(call, ops, n, &call->answered);
	grpc_slice_unref(text);
}

/* Gives gRPC what is next. The lock is held, and something of `pending` with it. */
static void advance(struct rpc_call *call)
{
	struct rpc_stream *s = &call->stream;
	if (s->sending || s->ended)
		return;
	struct rpc_outgoing *out = s->first;
	if (!out) {
		if (s->ending)
			send_status(call);
		return;
	}
	s->first = out->next;
	if (!s->first)
		s->last = &s->first;
	s->n_messages--;
	s->n_bytes -= out->len;
	grpc_op ops[2] = {{.op = GRPC_OP_SEND_INITIAL_METADATA}};
	ops[!s->begun] = (grpc_op){
		.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = out->buffer};
	size_t n = s->begun ? 1 : 2;
	s->begun = s->sending = true;
	rpc_call_start(call, ops, n, &s->sent);
	grpc_byte_buffer_destroy(out->buffer);
	free(out);
}

static void on_sent(struct rpc_tag *tag, bool ok)
{
	struct rpc_call *call = tag->owner;
	pthread_mutex_lock(&call->lock);
	call->stream.sending = false;
	if (!ok) {
		call->stream.ending = true;
		drop_waiting(&call->stream);
	}
	advance(call);
	pthread_mutex_unlock(&call->lock);
}

void rpc_stream_init(struct rpc_call *call)
{
	call->stream.last = &call->stream.first;
	call->stream.sent = (struct rpc_tag){.fn = on_sent, .owner = call};
}

void rpc_stream_done(struct rpc_call *call)
{
	drop_waiting(&call->stream);
}

static void end_locked(struct rpc_call *call, grpc_status_code status, const char *message)
{
	struct rpc_stream *s = &call->stream;
	if (s->ending)
		return;
	s->ending = true;
	s->status = status;
	snprintf(s->err.msg, sizeof(s->err.msg), "%s", message);
	const struct rpc_reply reply = {.status = status, .err = s->err};
	rpc_call_log(call, &reply);
}

void rpc_stream_abandon(struct rpc_call *call)
{
	pthread_mutex_lock(&call->lock);
	if (call->cancelled && call->stream.handled) {
		end_locked(call, GRPC_STATUS_CANCELLED, "the client went away");
		drop_waiting(&call->stream);
		advance(call);
	}
	pthread_mutex_unlock(&call->lock);
}

bool rpc_stream_begin(struct rpc_call *call)
{
	pthread_mutex_lock(&call->lock);
	call->stream.handled = true;
	bool gone = call->cancelled;
	pthread_mutex_unlock(&call->lock);
	if (gone)
		rpc_stream_abandon(call);
	return !gone;
}

void rpc_stream_end(struct rpc_call *call, const struct rpc_reply *reply)
{
	pthread_mutex_lock(&call->lock);
	end_locked(call, reply->status, reply->err.msg);
	advance(call);
	pthread_mutex_unlock(&call->lock);
}

void rpc_call_end(struct rpc_call *call, const struct err *error)
{
	struct rpc_reply reply = {.status = GRPC_STATUS_OK};
	if (error)
		rpc_reply_fail(&reply, rpc_status_from_errno(error->code), "%s", error->msg);
	rpc_stream_end(call, &reply);
}

/* The lock is held. gRPC's own cancellation, for the message under way may never leave. */
static void end_slow(struct rpc_call *call)
{
	static const char *const why = "messages were not read fast enough";
	end_locked(call, GRPC_STATUS_RESOURCE_EXHAUSTED, why);
	drop_waiting(&call->stream);
	grpc_call_cancel_with_status(call->call, GRPC_STATUS_RESOURCE_EXHAUSTED, why, NULL);
}

static int queue(struct rpc_call *call, struct rpc_outgoing *out)
{
	struct rpc_stream *s = &call->stream;
	if (s->ending)
		return -EPIPE;
	if (s->n_messages >= RPC_STREAM_MESSAGES || s->n_bytes + out->len > RPC_STREAM_BYTES) {
		end_slow(call);
		return -EPIPE;
	}
	*s->last = out;
	s->last = &out->next;
	s->n_messages++;
	s->n_bytes += out->len;
	advance(call);
	return 0;
}

int rpc_call_send(struct rpc_call *call, const struct rpc_answer *message, struct err *err)
{
	int r = rpc_route_check(call->route, message, err);
	if (r < 0)
		return r;
	struct rpc_outgoing *out = calloc(1, sizeof(*out));
	if (!out)
		return err_nomem(err);
	grpc_slice slice = grpc_slice_from_copied_buffer((const char *)message->data, message->len);
	out->buffer = grpc_raw_byte_buffer_create(&slice, 1);
	out->len = message->len;
	grpc_slice_unref(slice);
	pthread_mutex_lock(&call->lock);
	r = queue(call, out);
	pthread_mutex_unlock(&call->lock);
	if (r < 0) {
		grpc_byte_buffer_destroy(out->buffer);
		free(out);
		return err_set(err, r, "the call has ended");
	}
	return 0;
}

struct rpc_call *rpc_call_ref(struct rpc_call *call)
{
	pthread_mutex_lock(&call->lock);
	call->pending++;
	pthread_mutex_unlock(&call->lock);
	return call;
}

struct rpc_call *rpc_call_unref(struct rpc_call *call)
{
	if (call)
		rpc_call_done(call);
	return NULL;
}

/* An item is a field of the answer, its tag included, and one of the stream's message as it is. */
static int send_parts(struct rpc_call *call, const struct rpc_answer *answer, struct err *err)
{
	const ProtobufCMessageDescriptor *type = call->route->method->output;
	assert(type->n_fields == 1 && answer->type->n_fields == 1 &&
		type->fields[0].id == answer->type->fields[0].id &&
		type->fields[0].descriptor == answer->type->fields[0].descriptor);
	struct rpc_answer part = {.type = type, .data = answer->data};
	for (size_t left = answer->len; left > 0;) {
		size_t item = rpc_message_first_field(part.data + part.len, left);
		part.len += item;
		left -= item;
		if (part.len < PART_BYTES && left > 0)
			continue;
		int r = rpc_call_send(call, &part, err);
		if (r < 0)
			return r;
		part.data += part.len;
		part.len = 0;
	}
	return 0;
}

int rpc_stream_list(
	struct rpc_call *call, const ProtobufCMessage *request, rpc_handler list, struct err *err)
{
	struct rpc_answer answer = {0};
	int r = list(call, request, &answer, err);
	if (r == 0)
		r = send_parts(call, &answer, err);
	rpc_answer_done(&answer);
	if (r == 0)
		rpc_call_end(call, NULL);
	return r;
}
