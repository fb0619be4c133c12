/*
 * What guests have, as their agents say: the containers of a pod that runs, and their states.
 *
 * Each guest is asked by a connection of fsck's own beside bulkheadd's, one for all looks: an agent
 * takes few at once, and one that hangs must not find as many as there were looks. What it answers
 * is not trusted.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/client/check.h"
#include "agent/proto/agent.pb-c.h"
#include "agent/proto/ports.h"
#include "common/fd.h"
#include "common/ttrpc.h"
#include "cri-server/fsck/internal.h"
#include "hypervisor/transport.h"

#define RETRY_MS    100
#define UNKNOWN_MAX 16 /* containers of a guest that are told of */

struct guest {
	struct guest *next;
	char id[FSCK_ID_LEN + 1];
	uint64_t answer_ms;
	struct ev_loop *loop;
	struct ttrpc_client *client; /* NULL: not connected */
	pthread_t thread;
	struct err failure; /* code < 0: it has not answered, and is not asked again */
};

struct fsck_guests {
	uint64_t answer_ms;
	struct guest *first;
};

int fsck_guests_new(uint64_t answer_ms, struct fsck_guests **ret, struct err *err)
{
	struct fsck_guests *guests = calloc(1, sizeof(*guests));
	if (!guests)
		return err_nomem(err);
	guests->answer_ms = answer_ms;
	*ret = guests;
	return 0;
}

static void *run_loop(void *loop)
{
	ev_loop_run(loop, NULL);
	return NULL;
}

static void disconnect(struct guest *guest)
{
	if (!guest->client)
		return;
	ev_loop_stop(guest->loop);
	pthread_join(guest->thread, NULL);
	/* Not before: whether the loop runs decides who takes the client off it. */
	guest->client = ttrpc_client_close(guest->client);
	guest->loop = ev_loop_free(guest->loop);
}

struct fsck_guests *fsck_guests_free(struct fsck_guests *guests)
{
	while (guests && guests->first) {
		struct guest *guest = guests->first;
		guests->first = guest->next;
		disconnect(guest);
		free(guest);
	}
	free(guests);
	return NULL;
}

static struct guest *find_guest(struct fsck_guests *guests, const char *id)
{
	struct guest *guest = guests->first;
	while (guest && strcmp(guest->id, id) != 0)
		guest = guest->next;
	if (guest)
		return guest;
	guest = calloc(1, sizeof(*guest));
	if (!guest)
		return NULL;
	snprintf(guest->id, sizeof(guest->id), "%s", id);
	guest->answer_ms = guests->answer_ms;
	guest->next = guests->first;
	guests->first = guest;
	return guest;
}

/* ---- the connection ---- */

static int reach(const struct fsck *fsck, const struct fsck_record *pod, uint64_t timeout_ms,
	int *ret_fd, struct err *err)
{
	const struct timespec pause = {.tv_nsec = RETRY_MS * 1000000};
	_cleanup_free_ char *dir = str_printf("%s/vm/%s", fsck->config->run_dir, pod->id);
	if (!dir)
		return err_nomem(err);
	const struct transport_machine machine = {.dir = dir, .cid = pod->cid};
	const struct transport *transport = transport_of(pod->cid);
	uint64_t until = ev_now_ms() + timeout_ms, left = timeout_ms;
	int r;
	while ((r = transport->connect(&machine, AGENT_CONTROL_PORT, left, ret_fd, err)) > 0) {
		uint64_t now = ev_now_ms();
		if (now >= until)
			return err_set(err, -ETIMEDOUT, "nothing listens there");
		left = until - now;
		nanosleep(&pause, NULL);
	}
	return r;
}

/* Agents of a build before there were keys have none. */
static int say_key(const struct fsck_record *pod, struct guest *guest, struct err *err)
{
	Bulkhead__Agent__HelloRequest request = BULKHEAD__AGENT__HELLO_REQUEST__INIT;
	request.version = AGENT_PROTOCOL_VERSION;
	request.key = pod->pod->agent_key;
	return request.key.len
		       ? ttrpc_client_call(guest->client, &bulkhead__agent__agent__descriptor,
				 "Hello", &request.base, guest->answer_ms, NULL, err)
		       : 0;
}

static int connect_guest(const struct fsck *fsck, const struct fsck_record *pod,
	struct guest *guest, struct err *err)
{
	struct ttrpc_client *client = NULL;
	int fd = -EBADF;
	int r = reach(fsck, pod, guest->answer_ms, &fd, err);
	if (r < 0)
		return r;
	r = ev_loop_new(&guest->loop, err);
	if (r < 0) {
		fd_close(fd);
		return r;
	}
	r = ttrpc_client_new(guest->loop, fd, NULL, NULL, &client, err);
	if (r == 0 && pthread_create(&guest->thread, NULL, run_loop, guest->loop) != 0) {
		ttrpc_client_close(client);
		r = err_set(err, -EAGAIN, "no thread");
	}
	if (r < 0) {
		guest->loop = ev_loop_free(guest->loop);
		return r;
	}
	guest->client = client;
	return say_key(pod, guest, err);
}

static int ask(const struct fsck *fsck, const struct fsck_record *pod, struct guest *guest,
	Bulkhead__Agent__ListContainersResponse **ret, struct err *err)
{
	Bulkhead__Agent__ListContainersRequest request =
		BULKHEAD__AGENT__LIST_CONTAINERS_REQUEST__INIT;
	ProtobufCMessage *response = NULL;
	int r = guest->client ? 0 : connect_guest(fsck, pod, guest, err);
	if (r == 0)
		r = ttrpc_client_call(guest->client, &bulkhead__agent__agent__descriptor,
			"ListContainers", &request.base, guest->answer_ms, &response, err);
	if (r == 0)
		r = check_message(response, err);
	if (r == 0)
		*ret = (Bulkhead__Agent__ListContainersResponse *)response;
	else if (response)
		protobuf_c_message_free_unpacked(response, NULL);
	if (r < 0) {
		check_clean(err->msg);
		disconnect(guest);
	}
	return r;
}

/* ---- what it says ---- */

static const Bulkhead__Agent__ProcessInfo *find_process(
	const Bulkhead__Agent__ListContainersResponse *list, const char *id)
{
	for (size_t i = 0; i < list->n_processes; i++)
		if (!list->processes[i]->process_id[0] &&
			strcmp(list->processes[i]->container_id, id) == 0)
			return list->processes[i];
	return NULL;
}

/* Why record and guest contradict each other; NULL: they do not. Without a bulkheadd, what happens
 * in the guest goes on and is recorded when there is one again. */
static const char *contradiction(const struct fsck *fsck, Bulkhead__Store__ContainerState recorded,
	const Bulkhead__Agent__ProcessInfo *info)
{
	switch (recorded) {
	case BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATED:
		if (!info)
			return "its guest does not have it";
		return info->state == BULKHEAD__AGENT__PROCESS_STATE__PROCESS_CREATED
			       ? NULL
			       : "is recorded as not started, and its guest has started it";
	case BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING:
		if (!fsck->report->serving)
			return NULL;
		if (!info)
			return "is recorded as running, and its guest does not have it";
		if (info->state == BULKHEAD__AGENT__PROCESS_STATE__PROCESS_RUNNING)
			return NULL;
		return info->state == BULKHEAD__AGENT__PROCESS_STATE__PROCESS_EXITED
			       ? "is recorded as running, and has ended in its guest"
			       : "is recorded as running, and its guest has not started it";
	case BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED:
		return info && info->state == BULKHEAD__AGENT__PROCESS_STATE__PROCESS_RUNNING
			       ? "is recorded as ended, and runs in its guest"
			       : NULL;
	default:
		return NULL; /* half-made or half-removed: the guest may be ahead or behind */
	}
}

static void compare(struct fsck *fsck, const struct fsck_record *pod,
	const Bulkhead__Agent__ListContainersResponse *list)
{
	size_t unknown = 0;
	for (size_t i = 0; i < fsck->report->n[STORE_CONTAINER]; i++) {
		const struct fsck_record *c = &fsck->records[STORE_CONTAINER][i];
		if (strcmp(c->container->sandbox_id, pod->id) != 0)
			continue;
		const char *problem =
			contradiction(fsck, c->container->state, find_process(list, c->id));
		if (problem)
			fsck_find(fsck, STORE_CONTAINER, c->id, "%s", problem);
	}
	for (size_t i = 0; i < list->n_processes && unknown < UNKNOWN_MAX; i++) {
		const char *id = list->processes[i]->container_id;
		const struct fsck_record *c = fsck_record(fsck, STORE_CONTAINER, id);
		if (c && strcmp(c->id, id) == 0 && strcmp(c->container->sandbox_id, pod->id) == 0)
			continue;
		unknown++;
		fsck_find(fsck, STORE_SANDBOX, pod->id,
			"its guest has the container '%.64s', which has no record", id);
	}
}

static void look_at_guest(struct fsck *fsck, const struct fsck_record *pod, struct guest *guest)
{
	Bulkhead__Agent__ListContainersResponse *list = NULL;
	struct err err = ERR_INIT;
	int r = guest->failure.code < 0 ? 0 : ask(fsck, pod, guest, &list, &err);
	if (r < 0)
		guest->failure = err;
	if (guest->failure.code < 0) {
		fsck_find(fsck, STORE_SANDBOX, pod->id,
			"is recorded as running, and its guest does not answer: %s",
			guest->failure.msg);
	} else if (list) {
		compare(fsck, pod, list);
		protobuf_c_message_free_unpacked(&list->base, NULL);
	}
}

int fsck_look_into_guests(struct fsck *fsck, struct fsck_guests *guests, struct err *err)
{
	for (size_t i = 0; i < fsck->report->n[STORE_SANDBOX]; i++) {
		const struct fsck_record *pod = &fsck->records[STORE_SANDBOX][i];
		/* That it has no machine was found already. */
		if (!fsck_pod_runs(pod) || !pod->processes[FSCK_QEMU])
			continue;
		struct guest *guest = find_guest(guests, pod->id);
		if (!guest)
			return err_nomem(err);
		look_at_guest(fsck, pod, guest);
	}
	return 0;
}
