/*
 * Hostile bytes into ttrpc: the frame decoder, a server's connection and a client's. The first byte
 * says how the rest is cut into writes.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/ttrpc.h"
#include "common/ttrpc.pb-c.h"

#define KEY_VALUE (&bulkhead__ttrpc__key_value__descriptor)

static const ProtobufCMethodDescriptor method_descriptors[] = {
	{.name = "Echo", .input = KEY_VALUE, .output = KEY_VALUE},
	{.name = "Hold", .input = KEY_VALUE, .output = KEY_VALUE},
};
static const unsigned by_name[] = {0, 1};
static const ProtobufCServiceDescriptor service_descriptor = {
	.magic = PROTOBUF_C__SERVICE_DESCRIPTOR_MAGIC,
	.name = "test.Service",
	.n_methods = ARRAY_SIZE(method_descriptors),
	.methods = method_descriptors,
	.method_indices_by_name = by_name,
};

struct target {
	struct ev_loop *loop;
	struct ttrpc_conn *conn;
	struct ttrpc_call *held;
	int fd; /* our end */
	const uint8_t *data;
	size_t len;
	size_t step;
};

static void handle_echo(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	(void)userdata;
	ttrpc_reply(call, request);
}

/* Answers the call before: out of order, and once after the connection's end. */
static void handle_hold(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *request)
{
	struct target *target = userdata;
	if (target->held)
		ttrpc_reply(target->held, request);
	target->held = call;
}

static void on_close(void *userdata, struct ttrpc_conn *conn)
{
	struct target *target = userdata;
	(void)conn;
	target->conn = NULL;
	ev_loop_stop(target->loop);
}

static void on_client_close(void *userdata)
{
	struct target *target = userdata;
	ev_loop_stop(target->loop);
}

/* Writes the next piece, reads what came back, and hangs up at the end. */
static void feed(void *userdata, uint32_t events)
{
	struct target *target = userdata;
	char answers[4096];
	if (events & EPOLLIN && recv(target->fd, answers, sizeof(answers), MSG_DONTWAIT) > 0)
		return;
	if (!target->len) {
		shutdown(target->fd, SHUT_WR);
		return;
	}
	size_t len = target->len < target->step ? target->len : target->step;
	ssize_t n = send(target->fd, target->data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n > 0) {
		target->data += n;
		target->len -= (size_t)n;
	}
}

static void run(struct target *target, int fd)
{
	struct ev_source *source;
	if (ev_io_new(target->loop, target->fd, EPOLLIN | EPOLLOUT, feed, target, &source, NULL) <
		0)
		abort();
	ev_loop_run(target->loop, NULL);
	ev_source_free(source);
	fd_close(fd);
}

static void fuzz_server(struct target *target)
{
	static const struct ttrpc_method methods[] = {{"Echo", handle_echo}, {"Hold", handle_hold}};
	const struct ttrpc_service service = {
		.descriptor = &service_descriptor,
		.methods = methods,
		.n_methods = ARRAY_SIZE(methods),
		.userdata = target,
		.on_close = on_close,
	};
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
		ttrpc_conn_new(target->loop, pair[0], &service, &target->conn, NULL) < 0)
		abort();
	target->fd = pair[1];
	run(target, pair[1]);
	if (target->conn)
		abort(); /* its peer is gone: it must have ended */
	if (target->held) {
		const struct err err = {.code = -1, .msg = "late"};
		ttrpc_fail(target->held, &err);
	}
}

static void fuzz_client(struct target *target)
{
	int pair[2];
	struct ttrpc_client *client;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
		ttrpc_client_new(target->loop, pair[0], on_client_close, target, &client, NULL) < 0)
		abort();
	target->fd = pair[1];
	run(target, pair[1]);
	ttrpc_client_close(client);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	size_t step = data[0] ? data[0] : SIZE_MAX;
	data++;
	size--;

	struct ttrpc_frame frame;
	ssize_t n = ttrpc_decode(data, size, &frame, NULL);
	if (n > (ssize_t)size || (n > 0 && frame.payload + frame.payload_len != data + n))
		abort();

	struct ev_loop *loop;
	if (ev_loop_new(&loop, NULL) < 0)
		abort();
	struct target server = {.loop = loop, .data = data, .len = size, .step = step};
	fuzz_server(&server);
	struct target client = {.loop = loop, .data = data, .len = size, .step = step};
	fuzz_client(&client);
	ev_loop_free(loop);
	return 0;
}
