#include "cri-server/rpc/dispatch.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/proto/cri.pb-c.h"

static int version(struct rpc_call *call, const ProtobufCMessage *request,
	struct rpc_answer *ret_response, struct err *err)
{
	const Runtime__V1__VersionRequest *r = (const Runtime__V1__VersionRequest *)request;
	(void)call;
	if (strcmp(r->version, "fail") == 0)
		return err_set(err, -ENOENT, "no version '%s'", r->version);
	Runtime__V1__VersionResponse response = RUNTIME__V1__VERSION_RESPONSE__INIT;
	response.version = r->version[0] ? r->version : (char *)"caf\xe9";
	return respond(&response.base, ret_response, err);
}

static const struct rpc_method methods[] = {{"Version", version}};
static const struct rpc_service services[] = {
	{.descriptor = &runtime__v1__runtime_service__descriptor,
		.methods = methods,
		.n_methods = ARRAY_SIZE(methods)},
	{.descriptor = &runtime__v1__image_service__descriptor},
};

static struct rpc_dispatch *make(void)
{
	struct rpc_dispatch *d = NULL;
	assert_int_equal(rpc_dispatch_new(services, ARRAY_SIZE(services), &d, NULL), 0);
	return d;
}

static void test_unknown(void **state)
{
	(void)state;
	const struct {
		const char *path, *message;
	} cases[] = {
		{"/runtime.v1.RuntimeService/Nope",
			"unknown method Nope for service runtime.v1.RuntimeService"},
		{"/runtime.v1alpha2.RuntimeService/Version",
			"unknown service runtime.v1alpha2.RuntimeService"},
		{"/runtime.v1.Runtime/Version", "unknown service runtime.v1.Runtime"},
		{"", "malformed method name: \"\""},
		{"/x", "malformed method name: \"/x\""},
		{"Version", "malformed method name: \"Version\""},
	};
	struct rpc_dispatch *d = make();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct rpc_reply reply = {.status = GRPC_STATUS_OK};
		assert_null(rpc_dispatch_find(d, cases[i].path, &reply));
		assert_int_equal(reply.status, GRPC_STATUS_UNIMPLEMENTED);
		assert_string_equal(reply.err.msg, cases[i].message);
	}
	rpc_dispatch_free(d);
}

/* All 41 methods of the interface have a route; those without a handler say their name. */
static void test_every_method(void **state)
{
	(void)state;
	struct rpc_dispatch *d = make();
	unsigned n = 0;
	for (size_t s = 0; s < ARRAY_SIZE(services); s++) {
		const ProtobufCServiceDescriptor *service = services[s].descriptor;
		for (unsigned m = 0; m < service->n_methods; m++, n++) {
			struct rpc_reply reply = {.status = GRPC_STATUS_OK};
			_cleanup_free_ char *path =
				str_printf("/%s/%s", service->name, service->methods[m].name);
			const struct rpc_route *route = rpc_dispatch_find(d, path, &reply);
			assert_non_null(route);
			assert_string_equal(route->method->name, service->methods[m].name);
			if (route->handle)
				continue;
			rpc_route_run(route, NULL, NULL, &reply);
			assert_int_equal(reply.status, GRPC_STATUS_UNIMPLEMENTED);
			assert_non_null(strstr(reply.err.msg, service->methods[m].name));
		}
	}
	assert_int_equal(n, 41);
	rpc_dispatch_free(d);
}

static struct rpc_reply call(const char *bytes, size_t len)
{
	struct rpc_dispatch *d = make();
	struct rpc_reply reply = {.status = GRPC_STATUS_OK};
	const struct rpc_route *route =
		rpc_dispatch_find(d, "/runtime.v1.RuntimeService/Version", &reply);
	assert_non_null(route);
	ProtobufCMessage *request = rpc_route_unpack(route, (const uint8_t *)bytes, len, &reply);
	if (request) {
		rpc_route_run(route, NULL, request, &reply);
		protobuf_c_message_free_unpacked(request, NULL);
	}
	rpc_dispatch_free(d);
	return reply;
}

static void test_run(void **state)
{
	(void)state;
	struct rpc_reply reply = call("\x0a\x02v1", 4);
	assert_int_equal(reply.status, GRPC_STATUS_OK);
	assert_int_equal(reply.answer.len, 4);
	assert_memory_equal(reply.answer.data, "\x0a\x02v1", 4);
	rpc_answer_done(&reply.answer);

	reply = call("", 0); /* the handler answers Latin-1 */
	assert_int_equal(reply.answer.len, 6);
	assert_memory_equal(reply.answer.data,
		"\x0a\x04"
		"caf?",
		6);
	rpc_answer_done(&reply.answer);

	reply = call("\x0a\x04"
		     "fail",
		6);
	assert_int_equal(reply.status, GRPC_STATUS_NOT_FOUND);
	assert_string_equal(reply.err.msg, "no version 'fail'");

	reply = call("\x0a\x01\xff", 3);
	assert_int_equal(reply.status, GRPC_STATUS_INTERNAL);
	assert_non_null(strstr(reply.err.msg, "grpc: error unmarshalling request: "));
	assert_non_null(strstr(reply.err.msg, "VersionRequest.version"));
}

static void test_bad_tables(void **state)
{
	(void)state;
	const struct rpc_method unknown[] = {{"Versions", version}};
	const struct rpc_method twice[] = {{"Version", version}, {"Version", version}};
	const char *const no_method[] = {"Version", "Versions", NULL};
	const struct rpc_service bad[] = {
		{.descriptor = &runtime__v1__runtime_service__descriptor,
			.methods = unknown,
			.n_methods = ARRAY_SIZE(unknown)},
		{.descriptor = &runtime__v1__runtime_service__descriptor,
			.methods = twice,
			.n_methods = ARRAY_SIZE(twice)},
		{.descriptor = &runtime__v1__runtime_service__descriptor, .quick = no_method},
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct rpc_dispatch *d = NULL;
		struct err err = ERR_INIT;
		assert_int_equal(rpc_dispatch_new(&bad[i], 1, &d, &err), -EINVAL);
		assert_non_null(strstr(err.msg, "Version"));
		assert_null(d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unknown),
		cmocka_unit_test(test_every_method),
		cmocka_unit_test(test_run),
		cmocka_unit_test(test_bad_tables),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
