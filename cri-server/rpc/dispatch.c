#include "cri-server/rpc/dispatch.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/rpc/message.h"
#include "cri-server/rpc/status.h"

struct rpc_dispatch {
	struct rpc_route *routes;
	size_t n_routes;
};

struct rpc_dispatch *rpc_dispatch_free(struct rpc_dispatch *dispatch)
{
	if (dispatch)
		free(dispatch->routes);
	free(dispatch);
	return NULL;
}

static void rpc_dispatch_freep(struct rpc_dispatch **dispatch)
{
	rpc_dispatch_free(*dispatch);
}

static struct rpc_route *find_route(struct rpc_route *routes, const struct rpc_service *service,
	const char *name, struct err *err)
{
	for (unsigned i = 0; i < service->descriptor->n_methods; i++)
		if (strcmp(routes[i].method->name, name) == 0)
			return &routes[i];
	err_set(err, -EINVAL, "service %s has no method %s", service->descriptor->name, name);
	return NULL;
}

static int set_handlers(
	struct rpc_route *routes, const struct rpc_service *service, struct err *err)
{
	for (size_t i = 0; i < service->n_methods + service->n_streams; i++) {
		bool unary = i < service->n_methods;
		const struct rpc_stream_method *stream =
			unary ? NULL : &service->streams[i - service->n_methods];
		const char *name = unary ? service->methods[i].name : stream->name;
		struct rpc_route *route = find_route(routes, service, name, err);
		if (!route)
			return -EINVAL;
		if (route->handle || route->stream)
			return err_set(err, -EINVAL, "service %s: two handlers for %s",
				service->descriptor->name, name);
		if (unary)
			route->handle = service->methods[i].handle;
		else
			route->stream = stream->handle;
	}
	return 0;
}

int rpc_dispatch_new(const struct rpc_service *services, size_t n_services,
	struct rpc_dispatch **ret, struct err *err)
{
	_cleanup_(rpc_dispatch_freep) struct rpc_dispatch *d = calloc(1, sizeof(*d));
	if (!d)
		return err_nomem(err);
	size_t n = 0;
	for (size_t s = 0; s < n_services; s++)
		n += services[s].descriptor->n_methods;
	d->routes = calloc(n ? n : 1, sizeof(*d->routes));
	if (!d->routes)
		return err_nomem(err);

	for (size_t s = 0; s < n_services; s++) {
		const ProtobufCServiceDescriptor *descriptor = services[s].descriptor;
		struct rpc_route *routes = d->routes + d->n_routes;
		for (unsigned i = 0; i < descriptor->n_methods; i++)
			d->routes[d->n_routes++] = (struct rpc_route){
				.service = descriptor, .method = &descriptor->methods[i]};
		int r = set_handlers(routes, &services[s], err);
		if (r < 0)
			return r;
		for (const char *const *name = services[s].quick; name && *name; name++) {
			struct rpc_route *route = find_route(routes, &services[s], *name, err);
			if (!route)
				return -EINVAL;
			route->quick = true;
		}
	}
	*ret = TAKE_PTR(d);
	return 0;
}

void rpc_reply_fail(struct rpc_reply *reply, grpc_status_code status, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	reply->status = status;
	vsnprintf(reply->err.msg, sizeof(reply->err.msg), fmt, ap);
	va_end(ap);
}

/* The messages are those of grpc-go, which clients' authors know. */
const struct rpc_route *rpc_dispatch_find(
	const struct rpc_dispatch *dispatch, const char *path, struct rpc_reply *reply)
{
	const char *method = strrchr(path, '/');
	if (path[0] != '/' || method == path) {
		rpc_reply_fail(
			reply, GRPC_STATUS_UNIMPLEMENTED, "malformed method name: \"%s\"", path);
		return NULL;
	}
	const char *service = path + 1;
	size_t service_len = (size_t)(method++ - service);

	bool known = false;
	for (size_t i = 0; i < dispatch->n_routes; i++) {
		const struct rpc_route *route = &dispatch->routes[i];
		if (strlen(route->service->name) != service_len ||
			memcmp(route->service->name, service, service_len) != 0)
			continue;
		known = true;
		if (strcmp(route->method->name, method) == 0)
			return route;
	}
	if (known)
		rpc_reply_fail(reply, GRPC_STATUS_UNIMPLEMENTED,
			"unknown method %s for service %.*s", method, (int)service_len, service);
	else
		rpc_reply_fail(reply, GRPC_STATUS_UNIMPLEMENTED, "unknown service %.*s",
			(int)service_len, service);
	return NULL;
}

ProtobufCMessage *rpc_route_unpack(
	const struct rpc_route *route, const uint8_t *data, size_t len, struct rpc_reply *reply)
{
	struct err err = ERR_INIT;
	int r = rpc_message_check(route->method->input, data, len, &err);
	ProtobufCMessage *request = NULL;
	if (r == 0) {
		request = protobuf_c_message_unpack(route->method->input, NULL, len, data);
		if (!request)
			r = err_set(&err, -EBADMSG, "cannot parse %s",
				route->method->input->short_name);
	}
	/* INTERNAL is what grpc-go answers, odd as it is for a client's mistake. */
	if (r < 0)
		rpc_reply_fail(reply,
			r == -ENOBUFS ? GRPC_STATUS_RESOURCE_EXHAUSTED : GRPC_STATUS_INTERNAL,
			"grpc: error unmarshalling request: %s", err.msg);
	return request;
}

int rpc_route_check(const struct rpc_route *route, const struct rpc_answer *answer, struct err *err)
{
	assert(answer->type == route->method->output);
	if (answer->len <= RPC_MESSAGE_MAX)
		return 0;
	return err_set(err, -ENOBUFS,
		"%s: the response has %zu bytes, more than %u; narrow the request",
		route->method->name, answer->len, RPC_MESSAGE_MAX);
}

void rpc_route_run(const struct rpc_route *route, struct rpc_call *call,
	const ProtobufCMessage *request, struct rpc_reply *reply)
{
	if (!route->handle) {
		rpc_reply_fail(reply, GRPC_STATUS_UNIMPLEMENTED, "method %s of %s not implemented",
			route->method->name, route->service->name);
		return;
	}
	struct rpc_answer answer = {0};
	struct err err = ERR_INIT;
	int r = route->handle(call, request, &answer, &err);
	if (r >= 0)
		r = rpc_route_check(route, &answer, &err);
	if (r < 0) {
		rpc_answer_done(&answer);
		rpc_reply_fail(
			reply, rpc_status_from_errno(r), "%s", err.msg[0] ? err.msg : strerror(-r));
		return;
	}
	reply->status = GRPC_STATUS_OK;
	reply->answer = answer;
}
