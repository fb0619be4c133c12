/*
 * The connection is made here and then given to gRPC, so that a missing server is a plain errno
 * instead of gRPC's retries. The thread that calls also polls the completion queue.
 */
#include "cri-server/rpc/client.h"

#include <assert.h>
#include <errno.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>

#include "common/buf.h"
#include "common/fd.h"
#include "cri-server/rpc/message.h"
#include "cri-server/rpc/server.h"
#include "cri-server/rpc/status.h"

/* How often an interrupt is looked for. */
#define INTERRUPT_POLL_MS 50

struct rpc_client {
	grpc_channel *channel;
	grpc_completion_queue *queue;
	int interrupt_fd;
	grpc_status_code status; /* of the last call */
};

/* What gRPC fills in during a call. */
struct answer {
	grpc_metadata_array initial, trailing;
	grpc_byte_buffer *payload;
	grpc_status_code status;
	grpc_slice details;
};

int rpc_client_new(const char *socket_path, struct rpc_client **ret, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	int r = fd_unix_connect(socket_path, &fd, err);
	if (r < 0)
		return r;
	r = fd_set_nonblock(fd, err);
	if (r < 0)
		return r;
	struct rpc_client *client = calloc(1, sizeof(*client));
	if (!client)
		return err_nomem(err);

	grpc_arg args[] = {
		{.type = GRPC_ARG_INTEGER,
			.key = (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
			.value.integer = RPC_MESSAGE_MAX},
		/* The connection is this one; there is nothing to retry on. */
		{.type = GRPC_ARG_INTEGER,
			.key = (char *)GRPC_ARG_ENABLE_RETRIES,
			.value.integer = 0},
	};
	grpc_channel_args channel_args = {.num_args = ARRAY_SIZE(args), .args = args};
	grpc_init();
	grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
	client->interrupt_fd = -EBADF;
	client->queue = grpc_completion_queue_create_for_next(NULL);
	client->channel =
		grpc_channel_create_from_fd(socket_path, TAKE_FD(fd), credentials, &channel_args);
	grpc_channel_credentials_release(credentials);
	*ret = client;
	return 0;
}

struct rpc_client *rpc_client_free(struct rpc_client *client)
{
	if (!client)
		return NULL;
	grpc_channel_destroy(client->channel);
	grpc_completion_queue_shutdown(client->queue);
	grpc_completion_queue_next(client->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
	grpc_completion_queue_destroy(client->queue);
	grpc_shutdown();
	free(client);
	return NULL;
}

void rpc_client_set_interrupt(struct rpc_client *client, int fd)
{
	client->interrupt_fd = fd;
}

grpc_status_code rpc_client_status(const struct rpc_client *client)
{
	return client->status;
}

static int pack(const ProtobufCMessage *request, grpc_byte_buffer **ret, struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(request);
	uint8_t *data = malloc(len ? len : 1);
	if (!data)
		return err_nomem(err);
	protobuf_c_message_pack(request, data);
	grpc_slice slice = grpc_slice_new(data, len, free);
	*ret = grpc_raw_byte_buffer_create(&slice, 1);
	grpc_slice_unref(slice);
	return 0;
}

static int read_payload(grpc_byte_buffer *payload, struct buf *ret, struct err *err)
{
	grpc_byte_buffer_reader reader;
	grpc_slice slice;
	int r = 0;
	if (!payload || !grpc_byte_buffer_reader_init(&reader, payload))
		return err_set(err, -EBADMSG, "the server sent no response");
	*ret = buf_init(RPC_MESSAGE_MAX);
	size_t len = grpc_byte_buffer_length(reader.buffer_out);
	if (len && !buf_reserve(ret, len))
		r = -ENOMEM;
	while (r == 0 && grpc_byte_buffer_reader_next(&reader, &slice)) {
		r = buf_append(ret, GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice));
		grpc_slice_unref(slice);
	}
	grpc_byte_buffer_reader_destroy(&reader);
	if (r < 0)
		buf_done(ret);
	return r < 0 ? err_nomem(err) : 0;
}

static int unpack(const ProtobufCMessageDescriptor *type, grpc_byte_buffer *payload,
	ProtobufCMessage **ret, struct err *err)
{
	struct buf bytes;
	int r = read_payload(payload, &bytes, err);
	if (r < 0)
		return r;
	const uint8_t *data = (const uint8_t *)(bytes.len ? bytes.data : "");
	r = rpc_message_check(type, data, bytes.len, err);
	if (r == 0) {
		*ret = protobuf_c_message_unpack(type, NULL, bytes.len, data);
		if (!*ret)
			r = err_set(err, -EBADMSG, "cannot parse %s", type->short_name);
	}
	buf_done(&bytes);
	return r;
}

/* Polls until the batch is done; true if it was interrupted on the way. */
static bool wait_batch(struct rpc_client *client, grpc_call *call)
{
	bool interrupted = false;
	for (;;) {
		gpr_timespec until = gpr_inf_future(GPR_CLOCK_MONOTONIC);
		if (client->interrupt_fd >= 0 && !interrupted)
			until = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
				gpr_time_from_millis(INTERRUPT_POLL_MS, GPR_TIMESPAN));
		grpc_event event = grpc_completion_queue_next(client->queue, until, NULL);
		if (event.type == GRPC_OP_COMPLETE)
			return interrupted;

		struct pollfd fd = {.fd = client->interrupt_fd, .events = POLLIN};
		if (poll(&fd, 1, 0) > 0) {
			interrupted = true;
			grpc_call_cancel(call, NULL);
		}
	}
}

static bool run_call(struct rpc_client *client, grpc_call *call, grpc_byte_buffer *message,
	struct answer *answer)
{
	const grpc_op ops[] = {
		{.op = GRPC_OP_SEND_INITIAL_METADATA},
		{.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = message},
		{.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
		{.op = GRPC_OP_RECV_INITIAL_METADATA,
			.data.recv_initial_metadata.recv_initial_metadata = &answer->initial},
		{.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &answer->payload},
		{.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
			.data.recv_status_on_client =
				{
					.trailing_metadata = &answer->trailing,
					.status = &answer->status,
					.status_details = &answer->details,
				}},
	};
	grpc_call_error e = grpc_call_start_batch(call, ops, ARRAY_SIZE(ops), call, NULL);
	assert(e == GRPC_CALL_OK);
	(void)e;
	return wait_batch(client, call);
}

static int settle(
	const struct answer *answer, bool interrupted, const char *method, struct err *err)
{
	if (answer->status == GRPC_STATUS_OK)
		return 0;
	if (interrupted)
		return err_set(err, -ECANCELED, "%s: interrupted", method);
	size_t len = GRPC_SLICE_LENGTH(answer->details);
	if (len == 0)
		return err_set(err, rpc_status_to_errno(answer->status), "%s: %s", method,
			rpc_status_name(answer->status));
	return err_set(err, rpc_status_to_errno(answer->status), "%.*s",
		(int)(len < sizeof(err->msg) ? len : sizeof(err->msg)),
		(const char *)GRPC_SLICE_START_PTR(answer->details));
}

/* One call from its creation to its end. */
struct exchange {
	grpc_call *call;
	grpc_byte_buffer *message;
	const ProtobufCMethodDescriptor *method;
	struct answer answer;
};

static void exchange_done(struct exchange *e)
{
	grpc_byte_buffer_destroy(e->message);
	grpc_byte_buffer_destroy(e->answer.payload);
	grpc_metadata_array_destroy(&e->answer.initial);
	grpc_metadata_array_destroy(&e->answer.trailing);
	grpc_slice_unref(e->answer.details);
	if (e->call)
		grpc_call_unref(e->call);
}

static int exchange_begin(struct exchange *e, struct rpc_client *client,
	const ProtobufCServiceDescriptor *service, const ProtobufCMessage *request,
	uint64_t timeout_ms, struct err *err)
{
	assert(e->method && request->descriptor == e->method->input);
	e->answer.details = grpc_empty_slice();
	grpc_metadata_array_init(&e->answer.initial);
	grpc_metadata_array_init(&e->answer.trailing);
	_cleanup_free_ char *path = str_printf("/%s/%s", service->name, e->method->name);
	if (!path)
		return err_nomem(err);
	int r = pack(request, &e->message, err);
	if (r < 0)
		return r;
	gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
	if (timeout_ms)
		deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
			gpr_time_from_millis((int64_t)timeout_ms, GPR_TIMESPAN));
	/* The authority that clients of Unix sockets send. */
	grpc_slice host = grpc_slice_from_static_string("localhost");
	grpc_slice method_path = grpc_slice_from_copied_string(path);
	e->call = grpc_channel_create_call(client->channel, NULL, GRPC_PROPAGATE_DEFAULTS,
		client->queue, method_path, &host, deadline, NULL);
	grpc_slice_unref(method_path);
	return 0;
}

static int call(struct rpc_client *client, struct exchange *e,
	const ProtobufCServiceDescriptor *service, const ProtobufCMessage *request,
	uint64_t timeout_ms, struct err *err)
{
	int r = exchange_begin(e, client, service, request, timeout_ms, err);
	if (r < 0)
		return r;
	bool interrupted = run_call(client, e->call, e->message, &e->answer);
	client->status = e->answer.status;
	return settle(&e->answer, interrupted, e->method->name, err);
}

int rpc_client_call(struct rpc_client *client, const ProtobufCServiceDescriptor *service,
	const char *method, const ProtobufCMessage *request, uint64_t timeout_ms,
	ProtobufCMessage **ret_response, struct err *err)
{
	_cleanup_(exchange_done) struct exchange e = {
		.method = protobuf_c_service_descriptor_get_method_by_name(service, method)};
	int r = call(client, &e, service, request, timeout_ms, err);
	if (r < 0)
		return r;
	r = unpack(e.method->output, e.answer.payload, ret_response, err);
	return r < 0 ? err_wrap(err, "%s", method) : 0;
}

int rpc_client_call_packed(struct rpc_client *client, const ProtobufCServiceDescriptor *service,
	const char *method, const ProtobufCMessage *request, uint64_t timeout_ms, struct buf *ret,
	struct err *err)
{
	_cleanup_(exchange_done) struct exchange e = {
		.method = protobuf_c_service_descriptor_get_method_by_name(service, method)};
	int r = call(client, &e, service, request, timeout_ms, err);
	if (r < 0)
		return r;
	r = read_payload(e.answer.payload, ret, err);
	return r < 0 ? err_wrap(err, "%s", method) : 0;
}

static bool run_batch(struct rpc_client *client, grpc_call *call, const grpc_op *ops, size_t n)
{
	grpc_call_error e = grpc_call_start_batch(call, ops, n, call, NULL);
	assert(e == GRPC_CALL_OK);
	(void)e;
	return wait_batch(client, call);
}

/* Positive 1: the stream has ended. */
static int next_message(struct rpc_client *client, struct exchange *e, bool *interrupted,
	ProtobufCMessage **ret, struct err *err)
{
	const grpc_op receive = {
		.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &e->answer.payload};
	*interrupted = run_batch(client, e->call, &receive, 1) || *interrupted;
	if (!e->answer.payload)
		return 1;
	int r = unpack(e->method->output, e->answer.payload, ret, err);
	grpc_byte_buffer_destroy(e->answer.payload);
	e->answer.payload = NULL;
	return r;
}

int rpc_client_stream(struct rpc_client *client, const ProtobufCServiceDescriptor *service,
	const char *method, const ProtobufCMessage *request, uint64_t timeout_ms,
	const struct rpc_client_sink *sink, struct err *err)
{
	_cleanup_(exchange_done) struct exchange e = {
		.method = protobuf_c_service_descriptor_get_method_by_name(service, method)};
	int r = exchange_begin(&e, client, service, request, timeout_ms, err);
	if (r < 0)
		return r;
	const grpc_op begin[] = {
		{.op = GRPC_OP_SEND_INITIAL_METADATA},
		{.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = e.message},
		{.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
		{.op = GRPC_OP_RECV_INITIAL_METADATA,
			.data.recv_initial_metadata.recv_initial_metadata = &e.answer.initial},
	};
	const grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
		.data.recv_status_on_client = {.trailing_metadata = &e.answer.trailing,
			.status = &e.answer.status,
			.status_details = &e.answer.details}};
	bool interrupted = run_batch(client, e.call, begin, ARRAY_SIZE(begin)), enough = false;
	while (r == 0 && !enough) {
		ProtobufCMessage *message = NULL;
		r = next_message(client, &e, &interrupted, &message, err);
		enough = r == 0 && sink->on_message(sink->userdata, message) != 0;
		if (message)
			protobuf_c_message_free_unpacked(message, NULL);
	}
	if (enough || r < 0)
		grpc_call_cancel(e.call, NULL);
	interrupted = run_batch(client, e.call, &status, 1) || interrupted;
	client->status = e.answer.status;
	if (enough || r < 0)
		return r;
	return settle(&e.answer, interrupted, method, err);
}
