#include "common/ttrpc_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"

#define WAIT_MS 30000 /* for what comes at once where nothing else runs */

/* A service of KeyValue → KeyValue methods, as protoc-c would describe it. */
enum { ECHO, FAIL, HOLD, RELEASE, BIG, LEAVE, MISSING, N_METHODS };
static const ProtobufCMethodDescriptor method_descriptors[N_METHODS] = {
	[ECHO] = WORLD_METHOD("Echo"),
	[FAIL] = WORLD_METHOD("Fail"),
	[HOLD] = WORLD_METHOD("Hold"),
	[RELEASE] = WORLD_METHOD("Release"),
	[BIG] = WORLD_METHOD("Big"),
	[LEAVE] = WORLD_METHOD("Leave"),
	[MISSING] = WORLD_METHOD("Missing"),
};
static const unsigned by_name[N_METHODS] = {BIG, ECHO, FAIL, HOLD, LEAVE, MISSING, RELEASE};
const ProtobufCServiceDescriptor world_service = {
	.magic = PROTOBUF_C__SERVICE_DESCRIPTOR_MAGIC,
	.name = "test.Service",
	.short_name = "Service",
	.c_name = "Test__Service",
	.package = "test",
	.n_methods = N_METHODS,
	.methods = method_descriptors,
	.method_indices_by_name = by_name,
};

static void reply(struct ttrpc_call *call, char *key, char *value)
{
	KeyValue answer = BULKHEAD__TTRPC__KEY_VALUE__INIT;
	answer.key = key;
	answer.value = value;
	ttrpc_reply(call, &answer.base);
}

static void handle_echo(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	(void)userdata;
	ttrpc_reply(call, message);
}

static void handle_fail(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	(void)userdata;
	struct err err = ERR_INIT;
	err_set(&err, -atoi(((const KeyValue *)message)->key), "%s",
		((const KeyValue *)message)->value);
	ttrpc_fail(call, &err);
}

static void handle_hold(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	struct world *world = userdata;
	(void)message;
	assert_true(world->n_held < ARRAY_SIZE(world->held));
	world->held[world->n_held++] = call;
}

static void release_held(struct world *world)
{
	for (size_t i = world->n_held; i-- > 0;) /* not in the order of asking */
		reply(world->held[i], "held", "");
	world->n_held = 0;
}

static void handle_release(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	release_held(userdata);
	ttrpc_reply(call, message);
}

static void handle_big(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	(void)userdata;
	size_t size = strtoul(((const KeyValue *)message)->key, NULL, 10);
	_cleanup_free_ char *value = malloc(size + 1);
	assert_non_null(value);
	memset(value, 'v', size);
	value[size] = '\0';
	reply(call, "", value);
}

static void handle_leave(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *message)
{
	struct world *world = userdata;
	world->conn = ttrpc_conn_free(world->conn);
	ttrpc_reply(call, message);
}

static const struct ttrpc_method methods[] = {
	{"Echo", handle_echo},
	{"Fail", handle_fail},
	{"Hold", handle_hold},
	{"Release", handle_release},
	{"Big", handle_big},
	{"Leave", handle_leave},
};

static void server_closed(void *userdata, struct ttrpc_conn *conn)
{
	struct world *world = userdata;
	assert_ptr_equal(conn, world->conn);
	world->conn = NULL;
	world->server_closes++;
}

static void client_closed(void *userdata)
{
	struct world *world = userdata;
	world->client_closes++;
}

static void *run_loop(void *userdata)
{
	struct world *world = userdata;
	ev_loop_run(world->loop, NULL);
	return NULL;
}

static size_t open_descriptors(void)
{
	size_t n = 0;
	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static int setup(void **state, bool server, bool client)
{
	struct world *world = calloc(1, sizeof(*world));
	int pair[2];
	assert_non_null(world);
	world->descriptors = open_descriptors();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(ev_loop_new(&world->loop, NULL), 0);
	world->raw = -EBADF;
	world->service = (struct ttrpc_service){
		.descriptor = &world_service,
		.methods = methods,
		.n_methods = ARRAY_SIZE(methods),
		.userdata = world,
		.on_close = server_closed,
	};
	if (server)
		assert_int_equal(
			ttrpc_conn_new(world->loop, pair[0], &world->service, &world->conn, NULL),
			0);
	else
		world->raw = pair[0];
	if (client)
		assert_int_equal(ttrpc_client_new(world->loop, pair[1], client_closed, world,
					 &world->client, NULL),
			0);
	else
		world->raw = pair[1];
	assert_int_equal(pthread_create(&world->thread, NULL, run_loop, world), 0);
	while (!ev_loop_is_running(world->loop))
		sched_yield();
	world->running = true;
	*state = world;
	return 0;
}

int world_setup_both(void **state)
{
	return setup(state, true, true);
}

int world_setup_server(void **state)
{
	return setup(state, true, false);
}

int world_setup_client(void **state)
{
	return setup(state, false, true);
}

void world_stop_loop(struct world *world)
{
	if (!world->running)
		return;
	ev_loop_stop(world->loop);
	pthread_join(world->thread, NULL);
	world->running = false;
}

int world_teardown(void **state)
{
	struct world *world = *state;
	world->client = ttrpc_client_close(world->client);
	world_stop_loop(world);
	world->conn = ttrpc_conn_free(world->conn);
	release_held(world);
	ev_loop_free(world->loop);
	fd_close(world->raw);
	assert_int_equal(open_descriptors(), world->descriptors);
	free(world);
	return 0;
}

int world_call(struct world *world, const char *method, const char *key, const char *value,
	uint64_t timeout_ms, KeyValue **ret, struct err *err)
{
	KeyValue request = BULKHEAD__TTRPC__KEY_VALUE__INIT;
	request.key = (char *)key;
	request.value = (char *)value;
	ProtobufCMessage *response = NULL;
	int r = ttrpc_client_call(world->client, &world_service, method, &request.base, timeout_ms,
		ret ? &response : NULL, err);
	if (ret)
		*ret = (KeyValue *)response;
	return r;
}

void world_check_echo(struct world *world)
{
	struct err err = ERR_INIT;
	KeyValue *answer = NULL;
	assert_int_equal(world_call(world, "Echo", "k", "v", 20000, &answer, &err), 0);
	assert_string_equal(answer->key, "k");
	assert_string_equal(answer->value, "v");
	protobuf_c_message_free_unpacked(&answer->base, NULL);
}

void world_wait(const atomic_int *count, int value)
{
	for (uint64_t until = ev_now_ms() + WAIT_MS;
		atomic_load(count) != value && ev_now_ms() < until;)
		usleep(1000);
	assert_int_equal(atomic_load(count), value);
}

static void *call_often(void *userdata)
{
	struct caller *caller = userdata;
	struct err err = ERR_INIT;
	char key[32];
	char value[3000];
	snprintf(key, sizeof(key), "%p", (void *)caller);
	memset(value, 'v', sizeof(value));
	value[sizeof(value) - 1] = '\0';
	for (int i = 0; i < caller->rounds && caller->result == 0; i++) {
		KeyValue *answer = NULL;
		caller->result = world_call(caller->world, caller->method, key, value,
			caller->timeout_ms, &answer, &err);
		if (caller->result == 0 && strcmp(caller->method, "Echo") == 0 &&
			strcmp(answer->key, key) != 0)
			caller->result = -EBADMSG;
		if (answer)
			protobuf_c_message_free_unpacked(&answer->base, NULL);
	}
	return NULL;
}

void caller_start(struct caller *caller)
{
	assert_int_equal(pthread_create(&caller->thread, NULL, call_often, caller), 0);
}

void world_wait_held(struct world *world, size_t n)
{
	for (uint64_t until = ev_now_ms() + WAIT_MS; world->n_held < n && ev_now_ms() < until;)
		usleep(1000);
	assert_int_equal(world->n_held, n);
}
