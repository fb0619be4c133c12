/*
 * The server's end of ttrpc. A connection is touched on its loop's thread alone. It is freed in one
 * place only, io(), or where nobody is inside io(): handlers and on_close may free it under its
 * feet
 * (`busy`). An error found outside io(), while answering, shuts the socket down, and the loop then
 * calls io(), which ends the connection.
 */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/fd.h"
#include "common/ttrpc.pb-c.h"
#include "common/ttrpc_internal.h"

struct ttrpc_call {
	struct ttrpc_conn *conn; /* NULL when it is gone */
	struct ttrpc_call *prev;
	struct ttrpc_call *next;
	uint32_t stream_id;
};

struct ttrpc_conn {
	const struct ttrpc_service *service;
	int fd;
	struct ev_source *source;
	struct buf in;
	struct buf out;
	struct ttrpc_call *calls;
	size_t n_calls;
	uint32_t last_stream_id;
	bool busy;   /* inside io() */
	bool broken; /* to be ended by io() */
	bool freed;  /* by the owner, while busy */
};

static void release(struct ttrpc_conn *conn)
{
	conn->source = ev_source_free(conn->source);
	conn->fd = fd_close(conn->fd);
	while (conn->calls) {
		struct ttrpc_call *call = conn->calls;
		conn->calls = call->next;
		call->conn = NULL;
	}
	buf_done(&conn->in);
	buf_done(&conn->out);
	free(conn);
}

struct ttrpc_conn *ttrpc_conn_free(struct ttrpc_conn *conn)
{
	if (!conn)
		return NULL;
	if (conn->busy)
		conn->freed = true;
	else
		release(conn);
	return NULL;
}

void ttrpc_conn_bound(struct ttrpc_conn *conn, size_t payload_max)
{
	conn->in.max = TTRPC_HEADER_SIZE + payload_max;
}

static void break_off(struct ttrpc_conn *conn)
{
	conn->broken = true;
	shutdown(conn->fd, SHUT_RDWR);
}

static void call_done(struct ttrpc_call *call)
{
	struct ttrpc_conn *conn = call->conn;
	if (conn) {
		if (call->prev)
			call->prev->next = call->next;
		else
			conn->calls = call->next;
		if (call->next)
			call->next->prev = call->prev;
		conn->n_calls--;
	}
	free(call);
}

static int queue_response(struct ttrpc_call *call, const ProtobufCMessage *response,
	Bulkhead__Ttrpc__Status *status, struct err *err)
{
	Bulkhead__Ttrpc__Response envelope = BULKHEAD__TTRPC__RESPONSE__INIT;
	ProtobufCBinaryData payload = {0};
	if (response) {
		int r = ttrpc_pack(response, &payload, err);
		if (r < 0)
			return r;
	}
	envelope.status = status;
	envelope.payload = payload;
	int r = ttrpc_encode_message(
		&call->conn->out, call->stream_id, TTRPC_RESPONSE, &envelope.base);
	free(payload.data);
	return r < 0 ? err_set(err, r, "encode the answer") : 0;
}

static void send_out(struct ttrpc_conn *conn)
{
	if (ttrpc_flush(conn->fd, &conn->out) < 0)
		break_off(conn);
	else
		ev_io_set(conn->source, conn->out.len ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

void ttrpc_fail(struct ttrpc_call *call, const struct err *err)
{
	struct ttrpc_conn *conn = call->conn;
	if (conn && !conn->broken && !conn->freed) {
		char message[sizeof(err->msg)];
		memcpy(message, err->msg, sizeof(message));
		Bulkhead__Ttrpc__Status status = BULKHEAD__TTRPC__STATUS__INIT;
		status.code = err->code < 0 ? -err->code : EIO;
		status.message = message;
		if (queue_response(call, NULL, &status, NULL) < 0)
			break_off(conn);
		else
			send_out(conn);
	}
	call_done(call);
}

void ttrpc_reply(struct ttrpc_call *call, const ProtobufCMessage *response)
{
	struct ttrpc_conn *conn = call->conn;
	if (conn && !conn->broken && !conn->freed) {
		struct err err = ERR_INIT;
		int r = queue_response(call, response, NULL, &err);
		if (r == -EMSGSIZE) {
			ttrpc_fail(call, &err);
			return;
		}
		if (r < 0)
			break_off(conn);
		else
			send_out(conn);
	}
	call_done(call);
}

struct ttrpc_conn *ttrpc_call_conn(const struct ttrpc_call *call)
{
	return call->conn;
}

static const struct ttrpc_method *find_method(const struct ttrpc_service *service, const char *name)
{
	for (size_t i = 0; i < service->n_methods; i++)
		if (strcmp(service->methods[i].name, name) == 0)
			return &service->methods[i];
	return NULL;
}

static void dispatch(struct ttrpc_call *call, const Bulkhead__Ttrpc__Request *request)
{
	const struct ttrpc_service *service = call->conn->service;
	struct err err = ERR_INIT;
	const ProtobufCMethodDescriptor *described = NULL;
	const struct ttrpc_method *method = NULL;
	if (strcmp(request->service, service->descriptor->name) == 0) {
		described = protobuf_c_service_descriptor_get_method_by_name(
			service->descriptor, request->method);
		method = described ? find_method(service, request->method) : NULL;
	}
	if (!method) {
		err_set(&err, -EOPNOTSUPP, "method %s.%s is not built", request->service,
			request->method);
		ttrpc_fail(call, &err);
		return;
	}
	if (service->admit &&
		service->admit(service->userdata, call->conn, method->name, &err) < 0) {
		ttrpc_fail(call, &err);
		return;
	}
	ProtobufCMessage *message = ttrpc_unpack(
		described->input, request->payload.data, request->payload.len, TTRPC_UNPACKED_MAX);
	if (!message) {
		err_set(&err, -EINVAL, "the request of %s does not parse", method->name);
		ttrpc_fail(call, &err);
		return;
	}
	method->handle(service->userdata, call, message);
	protobuf_c_message_free_unpacked(message, NULL);
}

static int take_frame(struct ttrpc_conn *conn, const struct ttrpc_frame *frame)
{
	if (frame->type != TTRPC_REQUEST || frame->stream_id <= conn->last_stream_id ||
		conn->n_calls == TTRPC_CALLS_MAX)
		return -EPROTO;
	conn->last_stream_id = frame->stream_id;
	Bulkhead__Ttrpc__Request *request = (Bulkhead__Ttrpc__Request *)ttrpc_unpack_envelope(
		&bulkhead__ttrpc__request__descriptor, frame);
	if (!request)
		return -EPROTO;
	struct ttrpc_call *call = calloc(1, sizeof(*call));
	if (!call) {
		bulkhead__ttrpc__request__free_unpacked(request, NULL);
		return -ENOMEM;
	}
	call->conn = conn;
	call->stream_id = frame->stream_id;
	call->next = conn->calls;
	if (call->next)
		call->next->prev = call;
	conn->calls = call;
	conn->n_calls++;
	dispatch(call, request);
	bulkhead__ttrpc__request__free_unpacked(request, NULL);
	return 0;
}

static int take_frames(struct ttrpc_conn *conn)
{
	size_t used = 0;
	while (!conn->broken && !conn->freed) {
		struct ttrpc_frame frame;
		ssize_t n = ttrpc_decode(conn->in.data + used, conn->in.len - used, &frame, NULL);
		if (n < 0)
			return (int)n;
		if (n == 0)
			break;
		int r = take_frame(conn, &frame);
		if (r < 0)
			return r;
		used += (size_t)n;
	}
	buf_consume(&conn->in, used);
	ttrpc_shrink(&conn->in);
	return 0;
}

/* False when the connection has ended. */
static bool serve(struct ttrpc_conn *conn, uint32_t events)
{
	if (events & EPOLLOUT)
		send_out(conn);
	if (conn->broken)
		return false;
	if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return true;
	ssize_t n = ttrpc_fill(conn->fd, &conn->in);
	if (n == -EAGAIN)
		return true;
	/* A peer that has shut its side down has nobody left who waits for answers. */
	return n > 0 && take_frames(conn) == 0 && !conn->broken;
}

static void io(void *userdata, uint32_t events)
{
	struct ttrpc_conn *conn = userdata;
	conn->busy = true;
	if (!serve(conn, events) && !conn->freed) {
		conn->broken = true;
		if (conn->service->on_close)
			conn->service->on_close(conn->service->userdata, conn);
		conn->freed = true;
	}
	if (conn->freed)
		release(conn);
	else
		conn->busy = false;
}

int ttrpc_conn_new(struct ev_loop *loop, int fd, const struct ttrpc_service *service,
	struct ttrpc_conn **ret, struct err *err)
{
	struct ttrpc_conn *conn = calloc(1, sizeof(*conn));
	if (!conn) {
		fd_close(fd);
		return err_nomem(err);
	}
	conn->service = service;
	conn->fd = fd;
	ttrpc_conn_bound(conn, TTRPC_PAYLOAD_MAX);
	conn->out = buf_init(TTRPC_OUTPUT_MAX);
	int r = ev_io_new(loop, fd, EPOLLIN, io, conn, &conn->source, err);
	if (r < 0) {
		release(conn);
		return r;
	}
	*ret = conn;
	return 0;
}
