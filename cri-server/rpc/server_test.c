/*
 * Server and client together over a real socket. Run with `--hang SOCKET`, the test is a client
 * whose call never ends, for the test that kills it.
 */
#include "cri-server/rpc/server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "common/loop.h"
#include "cri-server/proto/cri.pb-c.h"
#include "cri-server/rpc/client.h"

#define SERVICE (&runtime__v1__runtime_service__descriptor)
/* For what comes at once where nothing else runs. */
#define SOON_MS 30000
#define WORKERS 8

struct fixture {
	char dir[32];
	char path[64];
	struct log log;
	struct rpc_server *server;
	int running;   /* eventfd, written when a hanging handler begins */
	int cancelled; /* eventfd, written when it saw its cancellation */
	int release;   /* eventfd that ends handlers which ignore cancellation */
	struct rpc_call *stream;
};

/* Echoes the version. */
static int on_version(struct rpc_call *call, const ProtobufCMessage *request,
	struct rpc_answer *ret_response, struct err *err)
{
	const Runtime__V1__VersionRequest *r = (const Runtime__V1__VersionRequest *)request;
	(void)call;
	Runtime__V1__VersionResponse response = RUNTIME__V1__VERSION_RESPONSE__INIT;
	response.version = r->version;
	return respond(&response.base, ret_response, err);
}

/* Fails with the errno in container_id. */
static int on_stop(struct rpc_call *call, const ProtobufCMessage *request,
	struct rpc_answer *ret_response, struct err *err)
{
	const Runtime__V1__StopContainerRequest *r =
		(const Runtime__V1__StopContainerRequest *)request;
	(void)call, (void)ret_response;
	return err_set(
		err, -atoi(r->container_id), "container '%s': 100 %% \xc3\xa4", r->container_id);
}

static int exec_response(size_t len, struct rpc_answer *ret_response, struct err *err)
{
	Runtime__V1__ExecSyncResponse response = RUNTIME__V1__EXEC_SYNC_RESPONSE__INIT;
	_cleanup_free_ uint8_t *output = malloc(len ? len : 1);
	if (!output)
		return err_nomem(err);
	memset(output, 'o', len);
	response.stdout = (ProtobufCBinaryData){.data = output, .len = len};
	return respond(&response.base, ret_response, err);
}

/* "hang": until cancelled; "ignore": until released; else as many bytes as timeout says. */
static int on_exec(struct rpc_call *call, const ProtobufCMessage *request,
	struct rpc_answer *ret_response, struct err *err)
{
	const Runtime__V1__ExecSyncRequest *r = (const Runtime__V1__ExecSyncRequest *)request;
	struct fixture *f = rpc_call_userdata(call);
	bool ignore = strcmp(r->container_id, "ignore") == 0;

	if (!ignore && strcmp(r->container_id, "hang") != 0)
		return exec_response((size_t)r->timeout, ret_response, err);
	struct pollfd fd = {.fd = ignore ? f->release : rpc_call_cancel_fd(call), .events = POLLIN};
	eventfd_write(f->running, 1);
	if (poll(&fd, 1, SOON_MS) != 1)
		return err_set(err, -EIO, "never cancelled");
	if (ignore)
		return exec_response(1, ret_response, err);
	if (!rpc_call_cancelled(call))
		return err_set(err, -EIO, "readable but not cancelled");
	eventfd_write(f->cancelled, 1);
	return err_set(err, -ECANCELED, "cancelled");
}

static int on_status(struct rpc_call *call, const ProtobufCMessage *request,
	struct rpc_answer *ret_response, struct err *err)
{
	(void)request, (void)ret_response;
	uint64_t left = rpc_call_time_left_ms(call); /* gRPC rounds long times up */
	return err_set(err, -EBADFD, "%s",
		left == UINT64_MAX              ? "none"
		: left > 50000 && left < 110000 ? "about 100 s"
						: "wrong");
}

#define LISTED 5000

/* Containers of a kilobyte each: more than one part. */
static int on_list(struct rpc_call *call, const ProtobufCMessage *request,
	struct rpc_answer *ret_response, struct err *err)
{
	(void)call, (void)request;
	_cleanup_free_ Runtime__V1__Container *containers = calloc(LISTED, sizeof(*containers));
	_cleanup_free_ Runtime__V1__Container **pointers = calloc(LISTED, sizeof(*pointers));
	_cleanup_free_ char *ids = malloc((size_t)LISTED * 1001);
	Runtime__V1__ListContainersResponse response = RUNTIME__V1__LIST_CONTAINERS_RESPONSE__INIT;
	assert_true(containers && pointers && ids);
	for (int i = 0; i < LISTED; i++) {
		runtime__v1__container__init(&containers[i]);
		containers[i].id = ids + (size_t)i * 1001;
		snprintf(containers[i].id, 1001, "%01000d", i);
		pointers[i] = &containers[i];
	}
	response.containers = pointers;
	response.n_containers = LISTED;
	return respond(&response.base, ret_response, err);
}

/* Sends as many events as container ids fit: the handler leaves the call to the test. */
static int on_events(struct rpc_call *call, const ProtobufCMessage *request, struct err *err)
{
	struct fixture *f = rpc_call_userdata(call);
	(void)request, (void)err;
	f->stream = rpc_call_ref(call);
	eventfd_write(f->running, 1);
	return 0;
}

static int on_stream_containers(
	struct rpc_call *call, const ProtobufCMessage *request, struct err *err)
{
	return rpc_stream_list(call, request, on_list, err);
}

static int on_stream_images(struct rpc_call *call, const ProtobufCMessage *request, struct err *err)
{
	(void)call, (void)request;
	return err_set(err, -ENOENT, "no such thing");
}

/* Keeps its worker until the test lets it go. */
static int on_hold(struct rpc_call *call, const ProtobufCMessage *request, struct err *err)
{
	struct fixture *f = rpc_call_userdata(call);
	struct pollfd fd = {.fd = f->release, .events = POLLIN};
	(void)request;
	eventfd_write(f->running, 1);
	poll(&fd, 1, SOON_MS);
	return err_set(err, -EAGAIN, "released");
}

static const struct rpc_method methods[] = {
	{"Version", on_version},
	{"StopContainer", on_stop},
	{"ExecSync", on_exec},
	{"Status", on_status},
};
static const struct rpc_stream_method streams[] = {
	{"GetContainerEvents", on_events},
	{"StreamContainers", on_stream_containers},
	{"StreamPodSandboxes", on_stream_images},
	{"StreamPodSandboxStats", on_hold},
};
static const char *const quick[] = {"Version", NULL};
static const struct rpc_service services[] = {
	{SERVICE, methods, ARRAY_SIZE(methods), quick, streams, ARRAY_SIZE(streams)},
	{.descriptor = &runtime__v1__image_service__descriptor},
};

static int serve(struct fixture *f, struct rpc_server **ret, struct err *err)
{
	const struct rpc_server_config config = {
		.socket_path = f->path, .workers = WORKERS, .log = &f->log, .userdata = f};
	return rpc_server_start(&config, services, ARRAY_SIZE(services), ret, err);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->dir, "/tmp/rpc-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/s.sock", f->dir);
	f->log = (struct log){.fd = open("/dev/null", O_WRONLY), .level = LOG_LEVEL_DEBUG};
	f->running = eventfd(0, EFD_CLOEXEC);
	f->cancelled = eventfd(0, EFD_CLOEXEC);
	f->release = eventfd(0, EFD_CLOEXEC);
	struct err err = ERR_INIT;
	if (serve(f, &f->server, &err) < 0)
		fail_msg("%s", err.msg);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	rpc_server_stop(f->server, 1000);
	rmdir(f->dir);
	close(f->log.fd);
	close(f->running);
	close(f->cancelled);
	close(f->release);
	free(f);
	return 0;
}

static struct rpc_client *dial(const struct fixture *f)
{
	struct rpc_client *client = NULL;
	struct err err = ERR_INIT;
	if (rpc_client_new(f->path, &client, &err) < 0)
		fail_msg("%s", err.msg);
	return client;
}

static bool wait_event_count(int fd, int timeout_ms, eventfd_t *ret)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	return poll(&p, 1, timeout_ms) == 1 && eventfd_read(fd, ret) == 0;
}

static bool wait_event(int fd, int timeout_ms)
{
	eventfd_t value;
	return wait_event_count(fd, timeout_ms, &value);
}

/* Until so many handlers have told that they run. */
static void await_running(const struct fixture *f, eventfd_t wanted)
{
	for (eventfd_t running = 0, more; running < wanted; running += more) {
		struct pollfd p = {.fd = f->running, .events = POLLIN};
		assert_int_equal(poll(&p, 1, SOON_MS), 1);
		eventfd_read(f->running, &more);
	}
}

static int call_version(struct rpc_client *client, char *version, struct err *err)
{
	Runtime__V1__VersionRequest request = RUNTIME__V1__VERSION_REQUEST__INIT;
	request.version = version;
	ProtobufCMessage *response = NULL;
	int r = rpc_client_call(client, SERVICE, "Version", &request.base, 0, &response, err);
	if (r == 0) {
		assert_string_equal(((Runtime__V1__VersionResponse *)response)->version, version);
		protobuf_c_message_free_unpacked(response, NULL);
	}
	return r;
}

static int call_exec(struct rpc_client *client, const char *id, int64_t bytes, uint64_t timeout_ms,
	struct err *err)
{
	Runtime__V1__ExecSyncRequest request = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
	request.container_id = (char *)id;
	request.timeout = bytes;
	ProtobufCMessage *response = NULL;
	int r = rpc_client_call(
		client, SERVICE, "ExecSync", &request.base, timeout_ms, &response, err);
	if (r == 0) {
		size_t len = ((Runtime__V1__ExecSyncResponse *)response)->stdout.len;
		if (bytes > 0)
			assert_int_equal(len, bytes);
		protobuf_c_message_free_unpacked(response, NULL);
	}
	return r;
}

static void test_unary(void **state)
{
	struct rpc_client *client = dial(*state);
	struct err err = ERR_INIT;
	assert_int_equal(call_version(client, (char *)"v1", &err), 0);
	assert_int_equal(call_version(client, (char *)"", &err), 0);

	Runtime__V1__ListImagesRequest request = RUNTIME__V1__LIST_IMAGES_REQUEST__INIT;
	ProtobufCMessage *response = NULL;
	assert_int_equal(rpc_client_call(client, &runtime__v1__image_service__descriptor,
				 "ListImages", &request.base, 0, &response, &err),
		-EOPNOTSUPP);
	assert_non_null(strstr(err.msg, "ListImages"));
	Runtime__V1__ListMetricDescriptorsRequest events =
		RUNTIME__V1__LIST_METRIC_DESCRIPTORS_REQUEST__INIT;
	assert_int_equal(rpc_client_call(client, SERVICE, "ListMetricDescriptors", &events.base, 0,
				 &response, &err),
		-EOPNOTSUPP);
	assert_non_null(strstr(err.msg, "ListMetricDescriptors"));
	rpc_client_free(client);
}

static void test_unknown_service(void **state)
{
	struct rpc_client *client = dial(*state);
	ProtobufCServiceDescriptor other = runtime__v1__runtime_service__descriptor;
	other.name = "runtime.v1alpha2.RuntimeService";
	Runtime__V1__VersionRequest request = RUNTIME__V1__VERSION_REQUEST__INIT;
	ProtobufCMessage *response = NULL;
	struct err err = ERR_INIT;
	assert_int_equal(
		rpc_client_call(client, &other, "Version", &request.base, 0, &response, &err),
		-EOPNOTSUPP);
	assert_string_equal(err.msg, "unknown service runtime.v1alpha2.RuntimeService");
	rpc_client_free(client);
}

static void test_errors(void **state)
{
	struct rpc_client *client = dial(*state);
	const int codes[] = {ENOENT, EOPNOTSUPP, ENOBUFS, ETIMEDOUT, EIO};
	for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
		char id[16];
		snprintf(id, sizeof(id), "%d", codes[i]);
		Runtime__V1__StopContainerRequest request =
			RUNTIME__V1__STOP_CONTAINER_REQUEST__INIT;
		request.container_id = id;
		ProtobufCMessage *response = NULL;
		struct err err = ERR_INIT;
		assert_int_equal(rpc_client_call(client, SERVICE, "StopContainer", &request.base, 0,
					 &response, &err),
			-codes[i]);
		char expected[64];
		snprintf(expected, sizeof(expected), "container '%s': 100 %% \xc3\xa4", id);
		assert_string_equal(err.msg, expected);
	}
	struct err err = ERR_INIT;
	assert_int_equal(call_version(client, (char *)"\xff", &err), -EIO);
	assert_non_null(strstr(err.msg, "invalid UTF-8"));
	/* More exact than the errno. */
	assert_int_equal(rpc_client_status(client), GRPC_STATUS_INTERNAL);
	rpc_client_free(client);
}

static void test_large_messages(void **state)
{
	struct rpc_client *client = dial(*state);
	struct err err = ERR_INIT;
	const size_t most = RPC_MESSAGE_MAX - 16;
	char *version = malloc(RPC_MESSAGE_MAX + (1 << 20) + 1);
	memset(version, 'v', RPC_MESSAGE_MAX + (1 << 20));

	version[most] = '\0';
	if (call_version(client, version, &err) < 0)
		fail_msg("%s", err.msg);
	version[most] = 'v';
	version[RPC_MESSAGE_MAX + (1 << 20)] = '\0';
	assert_int_not_equal(call_version(client, version, &err), 0);
	assert_int_equal(rpc_client_status(client), GRPC_STATUS_RESOURCE_EXHAUSTED);
	assert_int_equal(call_exec(client, "x", (int64_t)most, 0, &err), 0);
	assert_int_equal(call_exec(client, "x", RPC_MESSAGE_MAX, 0, &err), -ENOBUFS);
	assert_non_null(strstr(err.msg, "ExecSync"));
	assert_int_equal(call_version(client, (char *)"still there", &err), 0);
	free(version);
	rpc_client_free(client);
}

static void test_deadline(void **state)
{
	struct fixture *f = *state;
	struct rpc_client *client = dial(f);
	struct err err = ERR_INIT;
	/* One whose time is over before its handler begins does not get one. */
	for (uint64_t ms = 300; !wait_event(f->running, 0); ms *= 2)
		assert_int_equal(call_exec(client, "hang", 0, ms, &err), -ETIMEDOUT);
	assert_true(wait_event(f->cancelled, SOON_MS));

	Runtime__V1__StatusRequest request = RUNTIME__V1__STATUS_REQUEST__INIT;
	ProtobufCMessage *response = NULL;
	assert_int_equal(
		rpc_client_call(client, SERVICE, "Status", &request.base, 100000, &response, &err),
		-EIO);
	assert_string_equal(err.msg, "about 100 s");
	assert_int_equal(
		rpc_client_call(client, SERVICE, "Status", &request.base, 0, &response, &err),
		-EIO);
	assert_string_equal(err.msg, "none");
	rpc_client_free(client);
}

static void test_interrupt(void **state)
{
	struct fixture *f = *state;
	struct rpc_client *client = dial(f);
	struct err err = ERR_INIT;
	int fd = eventfd(0, EFD_CLOEXEC);
	rpc_client_set_interrupt(client, fd);
	assert_int_equal(call_version(client, (char *)"v", &err), 0);
	eventfd_write(fd, 1);
	assert_int_equal(call_exec(client, "hang", 0, 0, &err), -ECANCELED);
	rpc_client_set_interrupt(client, -EBADF);
	assert_int_equal(call_version(client, (char *)"v", &err), 0);
	close(fd);
	rpc_client_free(client);
}

static void test_client_vanishes(void **state)
{
	struct fixture *f = *state;
	char *argv[] = {(char *)"server_test", (char *)"--hang", f->path, NULL};
	pid_t pid;
	assert_int_equal(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ), 0);
	assert_true(wait_event(f->running, SOON_MS));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_true(wait_event(f->cancelled, SOON_MS));
}

static void *parallel_caller(void *arg)
{
	struct rpc_client *client = dial(arg);
	struct err err = ERR_INIT;
	char version[32];
	snprintf(version, sizeof(version), "%p", (void *)client);
	int r = call_version(client, version, &err);
	if (r == 0)
		r = call_exec(client, "x", 10000, 0, &err);
	rpc_client_free(client);
	return r == 0 ? arg : NULL;
}

static void test_parallel(void **state)
{
	pthread_t threads[200];
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, parallel_caller, *state), 0);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		void *ok = NULL;
		pthread_join(threads[i], &ok);
		assert_non_null(ok);
	}
}

struct background {
	struct fixture *fixture;
	const char *id;
	int result;
};

static void *background_call(void *arg)
{
	struct background *b = arg;
	struct rpc_client *client = dial(b->fixture);
	struct err err = ERR_INIT;
	b->result = call_exec(client, b->id, 0, 0, &err);
	rpc_client_free(client);
	return NULL;
}

static void *release_soon(void *arg)
{
	struct fixture *f = arg;
	usleep(200 * 1000);
	eventfd_write(f->release, 1);
	return NULL;
}

/* A running call ends within the grace period and its answer arrives. */
static void test_stop_grace(void **state)
{
	struct fixture *f = *state;
	struct background b = {.fixture = f, .id = "ignore"};
	struct rpc_client *idle = dial(f);
	pthread_t caller, releaser;
	pthread_create(&caller, NULL, background_call, &b);
	assert_true(wait_event(f->running, SOON_MS));
	pthread_create(&releaser, NULL, release_soon, f);
	uint64_t begin = ev_now_ms();
	f->server = rpc_server_stop(f->server, 2 * SOON_MS);
	assert_null(f->server);
	assert_true(ev_now_ms() - begin < SOON_MS);
	pthread_join(caller, NULL);
	pthread_join(releaser, NULL);
	assert_int_equal(b.result, 0);
	assert_int_equal(access(f->path, F_OK), -1);
	rpc_client_free(idle);
}

/* One that does not end is cancelled when the grace period is over. */
static void test_stop_cancels(void **state)
{
	struct fixture *f = *state;
	struct background b = {.fixture = f, .id = "hang"};
	pthread_t caller;
	pthread_create(&caller, NULL, background_call, &b);
	assert_true(wait_event(f->running, SOON_MS));
	_cleanup_close_ int silent = -EBADF; /* a connection on which nobody ever speaks */
	assert_int_equal(fd_unix_connect(f->path, &silent, NULL), 0);
	uint64_t begin = ev_now_ms();
	f->server = rpc_server_stop(f->server, 200);
	uint64_t ms = ev_now_ms() - begin;
	assert_true(ms >= 200 && ms < SOON_MS);
	assert_true(wait_event(f->cancelled, 0));
	pthread_join(caller, NULL);
	assert_true(b.result < 0);
}

static void test_quick_beside_waiting(void **state)
{
	struct fixture *f = *state;
	enum { CALLS = 20 }; /* of 8 workers */
	struct background b[CALLS];
	pthread_t callers[CALLS];
	for (size_t i = 0; i < CALLS; i++) {
		b[i] = (struct background){.fixture = f, .id = "ignore"};
		pthread_create(&callers[i], NULL, background_call, &b[i]);
	}
	await_running(f, WORKERS / 2);
	struct rpc_client *client = dial(f);
	struct err err = ERR_INIT;
	assert_int_equal(call_version(client, (char *)"quick", &err), 0);
	eventfd_write(f->release, 1);
	for (size_t i = 0; i < CALLS; i++)
		pthread_join(callers[i], NULL);
	rpc_client_free(client);
}

static void test_sockets(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	struct stat st;
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);

	struct rpc_server *second = NULL;
	assert_int_equal(serve(f, &second, &err), -EADDRINUSE);
	assert_non_null(strstr(err.msg, f->path));
	struct rpc_client *client = dial(f);
	assert_int_equal(call_version(client, (char *)"first", &err), 0);
	rpc_client_free(client);

	/* A socket file that a dead server left is replaced, and not ours to remove later. */
	f->server = rpc_server_stop(f->server, 0);
	int stale = -EBADF;
	assert_int_equal(fd_unix_listen(f->path, 0600, &stale, &err), 0);
	close(stale);
	struct rpc_client *none = NULL;
	assert_int_equal(rpc_client_new(f->path, &none, &err), -ECONNREFUSED);
	assert_int_equal(serve(f, &f->server, &err), 0);
	client = dial(f);
	assert_int_equal(call_version(client, (char *)"second", &err), 0);
	rpc_client_free(client);
	unlink(f->path);
	assert_int_equal(fd_unix_listen(f->path, 0600, &stale, &err), 0);
	f->server = rpc_server_stop(f->server, 0);
	assert_int_equal(access(f->path, F_OK), 0);
	close(stale);
	unlink(f->path);
}

static void test_bad_paths(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	struct rpc_server *server = NULL;
	char path[200];
	memset(path, 'p', sizeof(path));
	path[0] = '/';
	path[108] = '\0';
	struct rpc_server_config config = {.socket_path = path, .workers = 1, .log = &f->log};
	assert_int_equal(rpc_server_start(&config, services, 1, &server, &err), -ENAMETOOLONG);
	config.socket_path = "/nonexistent/s.sock";
	assert_int_equal(rpc_server_start(&config, services, 1, &server, &err), -ENOENT);
	assert_null(server);
	assert_null(rpc_server_stop(NULL, 0));
}

struct stream_client {
	const struct fixture *f;
	unsigned stop_after; /* messages; 0: none */
	int stall_fd;        /* not read from until this is readable; 0: none */
	unsigned messages, containers;
	int result;
	struct err err;
};

static int on_message(void *userdata, const ProtobufCMessage *message)
{
	struct stream_client *c = userdata;
	if (message->descriptor == &runtime__v1__stream_containers_response__descriptor) {
		const Runtime__V1__StreamContainersResponse *part = (const void *)message;
		for (size_t i = 0; i < part->n_containers; i++)
			assert_int_equal(atoi(part->containers[i]->id), c->containers++);
	} else {
		const Runtime__V1__ContainerEventResponse *event = (const void *)message;
		assert_int_equal(event->created_at, c->messages);
	}
	if (c->stall_fd)
		assert_true(wait_event(c->stall_fd, -1));
	c->stall_fd = 0;
	return ++c->messages == c->stop_after;
}

static void *stream_events(void *arg)
{
	struct stream_client *c = arg;
	struct rpc_client *client = dial(c->f);
	Runtime__V1__GetEventsRequest request = RUNTIME__V1__GET_EVENTS_REQUEST__INIT;
	c->result = rpc_client_stream(client, SERVICE, "GetContainerEvents", &request.base, 0,
		&(struct rpc_client_sink){on_message, c}, &c->err);
	rpc_client_free(client);
	return NULL;
}

static int send_event(struct rpc_call *call, int64_t number, char *id)
{
	Runtime__V1__ContainerEventResponse event = RUNTIME__V1__CONTAINER_EVENT_RESPONSE__INIT;
	event.created_at = number;
	if (id)
		event.container_id = id;
	struct rpc_answer answer;
	int r = respond(&event.base, &answer, NULL);
	if (r == 0) {
		r = rpc_call_send(call, &answer, NULL);
		rpc_answer_done(&answer);
	}
	return r;
}

static void test_stream(void **state)
{
	struct fixture *f = *state;
	struct stream_client c = {.f = f};
	pthread_t thread;
	pthread_create(&thread, NULL, stream_events, &c);
	assert_true(wait_event(f->running, SOON_MS));
	for (int i = 0; i < 500; i++)
		assert_int_equal(send_event(f->stream, i, NULL), 0);
	rpc_call_end(f->stream, NULL);
	assert_int_equal(send_event(f->stream, 500, NULL), -EPIPE);
	rpc_call_unref(f->stream);
	pthread_join(thread, NULL);
	assert_int_equal(c.result, 0);
	assert_int_equal(c.messages, 500);
}

static void test_stream_error(void **state)
{
	struct fixture *f = *state;
	struct stream_client c = {.f = f};
	pthread_t thread;
	pthread_create(&thread, NULL, stream_events, &c);
	assert_true(wait_event(f->running, SOON_MS));
	struct err err = ERR_INIT;
	err_set(&err, -EAGAIN, "later");
	assert_int_equal(send_event(f->stream, 0, NULL), 0);
	rpc_call_end(f->stream, &err);
	rpc_call_unref(f->stream);
	pthread_join(thread, NULL);
	assert_true(c.result < 0);
	assert_string_equal(c.err.msg, "later");
	assert_int_equal(c.messages, 1);

	struct rpc_client *client = dial(f);
	Runtime__V1__StreamPodSandboxesRequest request =
		RUNTIME__V1__STREAM_POD_SANDBOXES_REQUEST__INIT;
	assert_int_equal(rpc_client_stream(client, SERVICE, "StreamPodSandboxes", &request.base, 0,
				 &(struct rpc_client_sink){on_message, &c}, &err),
		-ENOENT);
	assert_string_equal(err.msg, "no such thing");
	rpc_client_free(client);
}

/* The client cancels; whoever sends finds out and nothing is left. */
static void test_stream_cancelled(void **state)
{
	struct fixture *f = *state;
	struct stream_client c = {.f = f, .stop_after = 2};
	pthread_t thread;
	pthread_create(&thread, NULL, stream_events, &c);
	assert_true(wait_event(f->running, SOON_MS));
	int r = 0;
	for (int i = 0; i < SOON_MS / 50 && r == 0; i++) {
		r = send_event(f->stream, i, NULL);
		poll(NULL, 0, 50);
	}
	assert_int_equal(r, -EPIPE);
	/* What was sent may be reported as lost before the call is as ended. */
	struct pollfd cancelled = {.fd = rpc_call_cancel_fd(f->stream), .events = POLLIN};
	assert_int_equal(poll(&cancelled, 1, SOON_MS), 1);
	assert_true(rpc_call_cancelled(f->stream));
	rpc_call_unref(f->stream);
	pthread_join(thread, NULL);
	assert_int_equal(c.result, 0);
	assert_int_equal(c.messages, 2);
}

/* A client that does not read is dropped with an error; whoever sends never waits, which would be
 * for ever: the client reads on when all is sent. */
static void test_stream_slow(void **state)
{
	struct fixture *f = *state;
	struct stream_client c = {.f = f, .stall_fd = f->release};
	_cleanup_free_ char *id = calloc(1, 100001);
	memset(id, 0x61, 100000);
	pthread_t thread;
	pthread_create(&thread, NULL, stream_events, &c);
	assert_true(wait_event(f->running, SOON_MS));
	int r = 0;
	int i;
	for (i = 0; i < 5000 && r == 0; i++)
		r = send_event(f->stream, i, id);
	assert_int_equal(r, -EPIPE);
	assert_in_range(i, 500, 4000);
	rpc_call_unref(f->stream);
	eventfd_write(f->release, 1000000);
	pthread_join(thread, NULL);
	assert_true(c.result < 0);
	assert_non_null(strstr(c.err.msg, "not read fast enough"));
}

static void *hold_worker(void *arg)
{
	struct rpc_client *client = dial(arg);
	Runtime__V1__StreamPodSandboxStatsRequest request =
		RUNTIME__V1__STREAM_POD_SANDBOX_STATS_REQUEST__INIT;
	rpc_client_stream(client, SERVICE, "StreamPodSandboxStats", &request.base, 0,
		&(struct rpc_client_sink){on_message, NULL}, NULL);
	rpc_client_free(client);
	return NULL;
}

/* Clients that go away while their calls wait for a worker, which takes them afterwards. */
static void test_stream_cancelled_waiting(void **state)
{
	struct fixture *f = *state;
	struct stream_client c = {.f = f};
	struct rpc_client *client = dial(f);
	Runtime__V1__StreamContainersRequest request = RUNTIME__V1__STREAM_CONTAINERS_REQUEST__INIT;
	struct err err = ERR_INIT;
	pthread_t holders[WORKERS];
	for (size_t i = 0; i < WORKERS; i++)
		pthread_create(&holders[i], NULL, hold_worker, f);
	await_running(f, WORKERS / 2);
	for (int i = 0; i < 20; i++)
		assert_int_equal(
			rpc_client_stream(client, SERVICE, "StreamContainers", &request.base, 50,
				&(struct rpc_client_sink){on_message, &c}, &err),
			-ETIMEDOUT);
	eventfd_write(f->release, 1);
	for (size_t i = 0; i < WORKERS; i++)
		pthread_join(holders[i], NULL);
	assert_int_equal(call_version(client, (char *)"still there", &err), 0);
	assert_int_equal(c.messages, 0);
	rpc_client_free(client);
}

/* What is not named quick is not, with a stream or without. */
static void test_quick_beside_streams(void **state)
{
	struct fixture *f = *state;
	struct rpc_client *client = dial(f);
	pthread_t holders[2 * WORKERS];
	eventfd_t running = 0, more;
	struct err err = ERR_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(holders); i++)
		pthread_create(&holders[i], NULL, hold_worker, f);
	while (running < WORKERS / 2 && wait_event_count(f->running, SOON_MS, &more))
		running += more;
	for (int i = 0; i < 20; i++)
		assert_int_equal(call_version(client, (char *)"quick", &err), 0);
	while (wait_event_count(f->running, 200, &more))
		running += more;
	eventfd_write(f->release, 1);
	for (size_t i = 0; i < ARRAY_SIZE(holders); i++)
		pthread_join(holders[i], NULL);
	assert_int_equal(running, WORKERS / 2);
	rpc_client_free(client);
}

static void test_stream_list(void **state)
{
	struct fixture *f = *state;
	struct stream_client c = {.f = f};
	struct rpc_client *client = dial(f);
	Runtime__V1__StreamContainersRequest request = RUNTIME__V1__STREAM_CONTAINERS_REQUEST__INIT;
	assert_int_equal(rpc_client_stream(client, SERVICE, "StreamContainers", &request.base, 0,
				 &(struct rpc_client_sink){on_message, &c}, NULL),
		0);
	rpc_client_free(client);
	assert_int_equal(c.containers, LISTED);
	assert_in_range(c.messages, 5, 10);
}

static int hang(const char *path)
{
	struct rpc_client *client = NULL;
	struct err err = ERR_INIT;
	if (rpc_client_new(path, &client, &err) < 0)
		return 1;
	return call_exec(client, "hang", 0, 0, &err) == 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "--hang") == 0)
		return hang(argv[2]);
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_unary),
		TEST(test_unknown_service),
		TEST(test_errors),
		TEST(test_large_messages),
		TEST(test_deadline),
		TEST(test_interrupt),
		TEST(test_client_vanishes),
		TEST(test_parallel),
		TEST(test_stop_grace),
		TEST(test_stop_cancels),
		TEST(test_quick_beside_waiting),
		TEST(test_quick_beside_streams),
		TEST(test_stream),
		TEST(test_stream_error),
		TEST(test_stream_cancelled),
		TEST(test_stream_slow),
		TEST(test_stream_cancelled_waiting),
		TEST(test_stream_list),
		TEST(test_sockets),
		TEST(test_bad_paths),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
