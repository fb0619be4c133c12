/* The kubelet's other way to know states: GetContainerEvents ("evented PLEG"). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "tests/kubelet/scenarios.h"

#define CHURNERS 3
#define ROUNDS   2
#define LIST_MAX 16
#define WAIT_MS  60000

/* What the last event said of the pod's containers. */
struct told {
	char id[POD_ID_MAX];
	int state;
};

struct listener {
	struct node *node;
	const char *pod_id;
	pthread_t thread;
	int interrupt;        /* an eventfd */
	pthread_mutex_t lock; /* protects what follows */
	struct told told[LIST_MAX];
	size_t n;
	unsigned events;
	int64_t last_ns;
	int result;
	struct err err;
};

static int on_event(void *userdata, const ProtobufCMessage *message)
{
	struct listener *l = userdata;
	const Runtime__V1__ContainerEventResponse *event = (const void *)message;
	if (!event->pod_sandbox_status || strcmp(event->pod_sandbox_status->id, l->pod_id) != 0)
		return 0;
	pthread_mutex_lock(&l->lock);
	if (event->created_at < l->last_ns)
		l->result = err_set(&l->err, -EBADMSG, "an event is older than the one before");
	if (event->n_containers_statuses > LIST_MAX)
		l->result = err_set(&l->err, -EBADMSG, "an event has too many containers");
	l->last_ns = event->created_at;
	l->events++;
	l->n = 0;
	for (size_t i = 0; i < event->n_containers_statuses && i < LIST_MAX; i++) {
		const Runtime__V1__ContainerStatus *status = event->containers_statuses[i];
		struct told *told = &l->told[l->n++];
		told->state = (int)status->state;
		snprintf(told->id, sizeof(told->id), "%s", status->id);
	}
	pthread_mutex_unlock(&l->lock);
	return 0;
}

static void *listen_main(void *arg)
{
	struct listener *l = arg;
	Runtime__V1__GetEventsRequest request = RUNTIME__V1__GET_EVENTS_REQUEST__INIT;
	struct rpc_client_sink sink = {on_event, l};
	struct rpc_client *client = NULL;
	struct err own = ERR_INIT;
	int r = rpc_client_new(l->node->socket, &client, &own);
	if (r == 0) {
		rpc_client_set_interrupt(client, l->interrupt);
		r = rpc_client_stream(client, &runtime__v1__runtime_service__descriptor,
			"GetContainerEvents", &request.base, 0, &sink, &own);
	}
	rpc_client_free(client);
	pthread_mutex_lock(&l->lock);
	if (r != -ECANCELED && l->result == 0)
		l->result = err_set(&l->err, r < 0 ? r : -EPIPE, "the stream ended: %s", own.msg);
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

static int listener_start(struct listener *l, struct err *err)
{
	l->interrupt = eventfd(0, EFD_CLOEXEC);
	if (l->interrupt < 0)
		return err_errno(err, "eventfd");
	int r = pthread_create(&l->thread, NULL, listen_main, l);
	return r == 0 ? 0 : err_set(err, -r, "a thread");
}

static int listener_stop(struct listener *l, struct err *err)
{
	uint64_t one = 1;
	if (write(l->interrupt, &one, sizeof(one)) < 0)
		return err_errno(err, "write to an eventfd");
	pthread_join(l->thread, NULL);
	l->interrupt = fd_close(l->interrupt);
	return l->result < 0 ? err_set(err, l->result, "events: %s", l->err.msg) : 0;
}

/* ---- what there is to tell ---- */

struct churner {
	struct kubelet *k;
	const struct pod *pod;
	char name[16];
	pthread_t thread;
	struct container last;
	int result;
	struct err err;
};

static void *churn_main(void *arg)
{
	struct churner *c = arg;
	int code, r = 0;
	for (unsigned i = 0; i < ROUNDS && r == 0; i++) {
		c->last = (struct container){
			.pod = c->pod, .name = c->name, .script = "exit 4", .attempt = i};
		r = run_to_end(c->k, &c->last, &code, &c->err);
		if (r == 0 && i + 1 < ROUNDS)
			r = container_remove(c->k->node, c->last.id, &c->err);
	}
	c->result = r;
	return NULL;
}

/* Many containers of one pod at the same time; the last of each churner is left. */
static int churn(struct kubelet *k, const struct pod *pod, const char *prefix, struct err *err)
{
	struct churner churners[CHURNERS];
	int r = 0, n = 0;
	for (; n < CHURNERS && r == 0; n++) {
		churners[n] = (struct churner){.k = k, .pod = pod};
		snprintf(churners[n].name, sizeof(churners[n].name), "%s%d", prefix, n);
		if (pthread_create(&churners[n].thread, NULL, churn_main, &churners[n]) != 0) {
			r = err_set(err, -EAGAIN, "a thread");
			break;
		}
	}
	while (n--) {
		pthread_join(churners[n].thread, NULL);
		if (churners[n].result < 0 && r == 0)
			r = err_set(err, churners[n].result, "%s", churners[n].err.msg);
	}
	return r;
}

/* The last event and a list say the same. */
static bool agrees(struct listener *l, const Runtime__V1__ListContainersResponse *list)
{
	bool same = true;
	pthread_mutex_lock(&l->lock);
	if (l->n != list->n_containers)
		same = false;
	for (size_t i = 0; i < list->n_containers && same; i++) {
		same = false;
		for (size_t j = 0; j < l->n; j++)
			if (strcmp(l->told[j].id, list->containers[i]->id) == 0)
				same = l->told[j].state == (int)list->containers[i]->state;
	}
	pthread_mutex_unlock(&l->lock);
	return same;
}

static int wait_agreement(struct kubelet *k, struct listener *l, struct err *err)
{
	_cleanup_message_ Runtime__V1__ListContainersResponse *list = NULL;
	int r = pod_containers(k->node, l->pod_id, &list, err);
	for (uint64_t end = now_ms() + WAIT_MS; r == 0 && !agrees(l, list); sleep_ms(20))
		if (now_ms() > end)
			r = err_set(err, -EBADMSG, "events do not say what the list says");
	return r;
}

/* Until the stream is known to be open: an event comes. */
static int wait_open(struct kubelet *k, struct listener *l, const struct pod *pod, struct err *err)
{
	bool open = false;
	int code, r = 0;
	for (unsigned i = 0; r == 0 && !open; i++) {
		struct container c = {.pod = pod, .name = "knock", .script = "true", .attempt = i};
		r = run_to_end(k, &c, &code, err);
		if (r == 0)
			r = container_remove(k->node, c.id, err);
		pthread_mutex_lock(&l->lock);
		open = l->events > 0;
		if (r == 0 && l->result < 0)
			r = err_set(err, l->result, "%s", l->err.msg);
		pthread_mutex_unlock(&l->lock);
	}
	return r;
}

int scenario_events(struct kubelet *k, struct err *err)
{
	struct pod pod = pod_named("events");
	struct listener first = {.node = k->node, .pod_id = pod.id, .interrupt = -EBADF},
			second = first;
	pthread_mutex_init(&first.lock, NULL);
	pthread_mutex_init(&second.lock, NULL);
	int r = pod_run(k->node, &pod, err);
	if (r == 0)
		r = listener_start(&first, err);
	if (r == 0)
		r = wait_open(k, &first, &pod, err);
	if (r == 0)
		r = churn(k, &pod, "a", err);
	if (r == 0)
		r = wait_agreement(k, &first, err);
	/* The stream breaks; what happens meanwhile is in the first event of the next one. */
	if (r == 0)
		r = listener_stop(&first, err);
	if (r == 0)
		r = churn(k, &pod, "b", err);
	if (r == 0)
		r = listener_start(&second, err);
	if (r == 0)
		r = wait_open(k, &second, &pod, err);
	if (r == 0)
		r = wait_agreement(k, &second, err);
	if (r == 0)
		r = listener_stop(&second, err);
	return r < 0 ? r : pod_delete(k->node, pod.id, err);
}
