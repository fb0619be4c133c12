/*
 * fsck's questions to a guest: an agent's end of the connection that answers as each test wants,
 * and a process in QEMU's place.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/proto/agent.pb-c.h"
#include "agent/proto/ports.h"
#include "common/fd.h"
#include "common/ttrpc.h"
#include "cri-server/fsck/fsck.h"
#include "cri-server/store/records.pb-c.h"
#include "cri-server/store/store.h"

#define POD       "11111111111111111111111111111111"
#define CONTAINER "22222222222222222222222222222222"
#define OTHER     "33333333333333333333333333333333"
#define NONE      (-1)
#define KEY       "what only the record knows......"
#define ANSWER_MS 10000
#define SHORT_MS  500

struct room {
	char state[64], run[80], uri[128];
	struct config config;
	struct store *store;
	struct fsck_guests *guests;
	pid_t qemu;
	int qemu_input;

	int listener;
	struct ev_loop *loop;
	pthread_t thread;
	struct ttrpc_service service;
	struct ttrpc_conn *conns[8]; /* the loop's, as what follows */
	struct ttrpc_call *unanswered;
	bool admitted;

	pthread_mutex_t lock; /* protects what follows */
	unsigned n_conns, n_calls;
	const char *container; /* that the guest says it has; NULL: none */
	int process_state;
	bool silent;
};

static void list_containers(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct room *room = userdata;
	Bulkhead__Agent__ListContainersResponse response =
		BULKHEAD__AGENT__LIST_CONTAINERS_RESPONSE__INIT;
	Bulkhead__Agent__ProcessInfo infos[2] = {
		BULKHEAD__AGENT__PROCESS_INFO__INIT, BULKHEAD__AGENT__PROCESS_INFO__INIT};
	Bulkhead__Agent__ProcessInfo *pointers[] = {&infos[0], &infos[1]};
	(void)msg;
	pthread_mutex_lock(&room->lock);
	room->n_calls++;
	bool silent = room->silent;
	infos[0].container_id = infos[1].container_id = (char *)room->container;
	infos[0].process_id = (char *)"a-command";
	infos[1].state = (Bulkhead__Agent__ProcessState)room->process_state;
	response.n_processes = room->container ? 2 : 0;
	pthread_mutex_unlock(&room->lock);
	response.processes = pointers;
	if (silent)
		room->unanswered = call;
	else
		ttrpc_reply(call, &response.base);
}

static void hello(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const Bulkhead__Agent__HelloRequest *request = (const void *)msg;
	Bulkhead__Agent__HelloResponse response = BULKHEAD__AGENT__HELLO_RESPONSE__INIT;
	struct room *room = userdata;
	room->admitted = request->key.len == AGENT_KEY_BYTES && !request->realtime_ns &&
			 memcmp(request->key.data, KEY, AGENT_KEY_BYTES) == 0;
	ttrpc_reply(call, &response.base);
}

static int admit(void *userdata, const struct ttrpc_conn *conn, const char *method, struct err *err)
{
	const struct room *room = userdata;
	(void)conn;
	return room->admitted || strcmp(method, "Hello") == 0
		       ? 0
		       : err_set(err, -EACCES, "without its key");
}

static const struct ttrpc_method methods[] = {
	{"Hello", hello},
	{"ListContainers", list_containers},
};

/* As bulkhead-vsock: a line, and its answer. */
static void on_connection(void *userdata, uint32_t events)
{
	struct room *room = userdata;
	char line[32] = "";
	(void)events;
	int fd = accept(room->listener, NULL, NULL);
	if (fd < 0)
		return;
	for (size_t i = 0; i < sizeof(line) - 1 && read(fd, line + i, 1) == 1 && line[i] != '\n';)
		i++;
	bool asked = strcmp(line, "CONNECT 1024\n") == 0 && write(fd, "OK 1024\n", 8) == 8;
	pthread_mutex_lock(&room->lock);
	unsigned n = room->n_conns++;
	pthread_mutex_unlock(&room->lock);
	if (!asked || n >= ARRAY_SIZE(room->conns) ||
		ttrpc_conn_new(room->loop, fd, &room->service, &room->conns[n], NULL) < 0)
		abort();
}

static void on_close(void *userdata, struct ttrpc_conn *conn)
{
	struct room *room = userdata;
	for (size_t i = 0; i < ARRAY_SIZE(room->conns); i++)
		if (room->conns[i] == conn)
			room->conns[i] = NULL;
}

static void *run(void *loop)
{
	ev_loop_run(loop, NULL);
	return NULL;
}

static void listen_as_helper(struct room *room)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct ev_source *source;
	_cleanup_free_ char *dir = str_printf("%s/vm/" POD, room->run);
	assert_int_equal(fd_mkdir_all(dir, 0755, NULL), 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/vsock.sock", dir);
	room->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(room->listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(room->listener, 4), 0);
	assert_int_equal(ev_loop_new(&room->loop, NULL), 0);
	room->service = (struct ttrpc_service){.descriptor = &bulkhead__agent__agent__descriptor,
		.methods = methods,
		.n_methods = ARRAY_SIZE(methods),
		.userdata = room,
		.admit = admit,
		.on_close = on_close};
	assert_int_equal(
		ev_io_new(room->loop, room->listener, EPOLLIN, on_connection, room, &source, NULL),
		0);
	assert_int_equal(pthread_create(&room->thread, NULL, run, room->loop), 0);
}

/* By its name and what it was told; it ends with its input. */
static void start_qemu(struct room *room)
{
	char link[96], dir[160];
	int pipes[2];
	snprintf(link, sizeof(link), "%s/qemu-system-x86_64", room->state);
	snprintf(dir, sizeof(dir), "%s/vm/" POD "/x", room->run);
	assert_int_equal(symlink("/bin/sh", link), 0);
	assert_int_equal(pipe(pipes), 0);
	room->qemu = fork();
	assert_true(room->qemu >= 0);
	if (room->qemu == 0) {
		dup2(pipes[0], 0);
		close(pipes[1]);
		execl(link, link, "-c", "read x", dir, NULL);
		_exit(127);
	}
	close(pipes[0]);
	room->qemu_input = pipes[1];
}

static int set_up(void **state)
{
	struct room *room = calloc(1, sizeof(*room));
	if (!room)
		return -1;
	snprintf(room->state, sizeof(room->state), "/tmp/fsck-guests-XXXXXX");
	if (!mkdtemp(room->state))
		return -1;
	snprintf(room->run, sizeof(room->run), "%s/run", room->state);
	snprintf(room->uri, sizeof(room->uri), "qemu:///embed?root=%s/libvirt", room->state);
	room->config = (struct config){.state_dir = room->state,
		.run_dir = room->run,
		.hypervisor.libvirt_uri = room->uri};
	pthread_mutex_init(&room->lock, NULL);
	*state = room;
	/* Whoever has the records under this name serves them. */
	prctl(PR_SET_NAME, "bulkheadd");
	_cleanup_free_ char *path = str_printf("%s/state.db", room->state);
	Bulkhead__Store__Sandbox pod = BULKHEAD__STORE__SANDBOX__INIT;
	pod.state = BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY;
	pod.agent_key = (ProtobufCBinaryData){AGENT_KEY_BYTES, (uint8_t *)KEY};
	if (!path || store_open(path, &room->store, NULL) < 0 ||
		store_put(room->store, STORE_SANDBOX, POD, &pod.base, NULL) < 0)
		return -1;
	start_qemu(room);
	listen_as_helper(room);
	return fsck_guests_new(ANSWER_MS, &room->guests, NULL);
}

static int tear_down(void **state)
{
	struct room *room = *state;
	fsck_guests_free(room->guests);
	ev_loop_stop(room->loop);
	pthread_join(room->thread, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(room->conns); i++)
		if (room->conns[i])
			ttrpc_conn_free(room->conns[i]);
	if (room->unanswered) /* nobody hears it */
		ttrpc_fail(room->unanswered, &(struct err){.code = -EIO});
	ev_loop_free(room->loop);
	close(room->listener);
	close(room->qemu_input);
	waitpid(room->qemu, NULL, 0);
	store_close(room->store);
	int r = fd_remove_tree(room->state, NULL);
	pthread_mutex_destroy(&room->lock);
	free(room);
	return r;
}

static struct fsck_report *look(const struct room *room)
{
	struct fsck_report *report = NULL;
	struct err err = ERR_INIT;
	if (fsck_look(&room->config, room->guests, &report, &err) < 0)
		fail_msg("%s", err.msg);
	return report;
}

/* Whether it says that of the guest; what else the pod lacks here is not this test's. */
static const char *finding(const struct fsck_report *report, const char *id)
{
	for (size_t i = 0; i < report->n_findings; i++)
		if (strcmp(report->findings[i].id, id) == 0 &&
			strstr(report->findings[i].problem, "guest"))
			return report->findings[i].problem;
	return NULL;
}

static bool says(const struct room *room, const char *id, const char *problem)
{
	struct fsck_report *report = look(room);
	const char *found = finding(report, id);
	bool same = problem ? found && strstr(found, problem) : !found;
	if (!same)
		print_message("not '%s' but '%s'\n", problem ? problem : "nothing",
			found ? found : "nothing");
	fsck_report_free(report);
	return same;
}

/* The process may not have been executed yet. */
static void await_qemu(struct room *room)
{
	bool asked = false;
	for (int i = 0; i < 3000 && !asked; i++) {
		fsck_report_free(look(room));
		pthread_mutex_lock(&room->lock);
		asked = room->n_calls > 0;
		pthread_mutex_unlock(&room->lock);
		if (!asked)
			usleep(10000);
	}
	assert_true(asked);
}

static void guest_has(struct room *room, const char *container, int process_state)
{
	pthread_mutex_lock(&room->lock);
	room->container = process_state == NONE ? NULL : container;
	room->process_state = process_state;
	pthread_mutex_unlock(&room->lock);
}

static void record(struct room *room, const char *id, Bulkhead__Store__ContainerState state)
{
	Bulkhead__Store__Container c = BULKHEAD__STORE__CONTAINER__INIT;
	c.sandbox_id = (char *)POD;
	c.state = state;
	assert_int_equal(store_put(room->store, STORE_CONTAINER, id, &c.base, NULL), 0);
}

static void records_and_guest_are_compared(void **state)
{
	struct room *room = *state;
	enum {
		MADE = BULKHEAD__AGENT__PROCESS_STATE__PROCESS_CREATED,
		RUNS = BULKHEAD__AGENT__PROCESS_STATE__PROCESS_RUNNING,
		ENDED = BULKHEAD__AGENT__PROCESS_STATE__PROCESS_EXITED
	};
	static const struct {
		int recorded, guest;
		const char *problem, *alone; /* with a bulkheadd, and without */
	} cases[] = {
#define RECORDED(state) BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_##state
		{RECORDED(CREATED), MADE, NULL, NULL},
		{RECORDED(CREATED), NONE, "does not have it", "does not have it"},
		{RECORDED(CREATED), RUNS, "has started it", "has started it"},
		{RECORDED(CREATED), ENDED, "has started it", "has started it"},
		{RECORDED(RUNNING), RUNS, NULL, NULL},
		{RECORDED(RUNNING), NONE, "does not have it", NULL},
		{RECORDED(RUNNING), MADE, "has not started it", NULL},
		{RECORDED(RUNNING), ENDED, "has ended in its guest", NULL},
		{RECORDED(EXITED), ENDED, NULL, NULL},
		{RECORDED(EXITED), NONE, NULL, NULL},
		{RECORDED(EXITED), RUNS, "runs in its guest", "runs in its guest"},
		{RECORDED(CREATING), NONE, NULL, NULL},
		{RECORDED(REMOVING), RUNS, NULL, NULL},
	};
	await_qemu(room);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		record(room, CONTAINER, (Bulkhead__Store__ContainerState)cases[i].recorded);
		guest_has(room, CONTAINER, cases[i].guest);
		assert_true(says(room, CONTAINER, cases[i].problem));
		prctl(PR_SET_NAME, "another");
		assert_true(says(room, CONTAINER, cases[i].alone));
		prctl(PR_SET_NAME, "bulkheadd");
	}
	/* All by one connection. */
	assert_int_equal(room->n_conns, 1);
}

static void what_a_guest_has_without_a_record_is_found(void **state)
{
	struct room *room = *state;
	await_qemu(room);
	record(room, CONTAINER, BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED);
	guest_has(room, OTHER, BULKHEAD__AGENT__PROCESS_STATE__PROCESS_RUNNING);
	assert_true(says(room, POD, "has the container '" OTHER "', which has no record"));
	/* A record's id must be all of it. */
	guest_has(room, "2222", BULKHEAD__AGENT__PROCESS_STATE__PROCESS_RUNNING);
	assert_true(says(room, POD, "has the container '2222', which has no record"));
	guest_has(room, CONTAINER, BULKHEAD__AGENT__PROCESS_STATE__PROCESS_EXITED);
	assert_true(says(room, POD, NULL));
}

static void a_guest_that_sends_no_text_is_not_believed(void **state)
{
	struct room *room = *state;
	await_qemu(room);
	guest_has(room, "a\033[31mred", BULKHEAD__AGENT__PROCESS_STATE__PROCESS_RUNNING);
	assert_true(says(room, POD, "does not answer"));
}

static void a_guest_that_hangs_is_asked_once(void **state)
{
	struct room *room = *state;
	await_qemu(room);
	fsck_guests_free(room->guests);
	assert_int_equal(fsck_guests_new(SHORT_MS, &room->guests, NULL), 0);
	pthread_mutex_lock(&room->lock);
	unsigned before = room->n_calls;
	room->silent = true;
	pthread_mutex_unlock(&room->lock);
	assert_true(says(room, POD, "does not answer"));
	assert_true(says(room, POD, "does not answer"));
	pthread_mutex_lock(&room->lock);
	/* On a busy host the time may be over before the first question is there. */
	assert_in_range(room->n_calls, before, before + 1);
	pthread_mutex_unlock(&room->lock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(records_and_guest_are_compared),
		TEST(what_a_guest_has_without_a_record_is_found),
		TEST(a_guest_that_sends_no_text_is_not_believed),
		TEST(a_guest_that_hangs_is_asked_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
