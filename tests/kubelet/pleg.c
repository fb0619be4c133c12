#include "tests/kubelet/pleg.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/kubelet/pod.h"

#define WAIT_S 60

struct entry {
	char id[POD_ID_MAX], pod_id[POD_ID_MAX]; /* pod_id is empty for a pod */
	int state;
	bool listed, changed;
};

struct pleg {
	struct node *node;
	struct worker worker;
	pthread_mutex_t lock; /* protects what follows */
	pthread_cond_t relisted;
	struct entry *entries;
	size_t n, size;
	unsigned begun, ended; /* lists */
	bool failed;
};

static struct entry *find(struct pleg *pleg, const char *id)
{
	for (size_t i = 0; i < pleg->n; i++)
		if (strcmp(pleg->entries[i].id, id) == 0)
			return &pleg->entries[i];
	return NULL;
}

static struct entry *find_or_add(struct pleg *pleg, const char *id, const char *pod_id)
{
	struct entry *entry = find(pleg, id);
	if (entry)
		return entry;
	if (pleg->n == pleg->size) {
		size_t size = pleg->size ? 2 * pleg->size : 64;
		struct entry *more = reallocarray(pleg->entries, size, sizeof(*more));
		if (!more)
			return NULL;
		pleg->entries = more;
		pleg->size = size;
	}
	entry = &pleg->entries[pleg->n++];
	*entry = (struct entry){.state = -2};
	snprintf(entry->id, sizeof(entry->id), "%s", id);
	snprintf(entry->pod_id, sizeof(entry->pod_id), "%s", pod_id);
	return entry;
}

static int see(struct pleg *pleg, const char *id, const char *pod_id, int state, struct err *err)
{
	struct entry *entry = find_or_add(pleg, id, pod_id);
	if (!entry)
		return err_nomem(err);
	if (entry->listed)
		return err_set(err, -EBADMSG, "a list has %s twice", id);
	if (entry->state == PLEG_GONE)
		return err_set(err, -EBADMSG, "%s was gone, and is there again", id);
	if (state < entry->state)
		return err_set(err, -EBADMSG, "%s was in state %d and is in state %d", id,
			entry->state, state);
	entry->listed = true;
	entry->changed = entry->state != state;
	entry->state = state;
	return 0;
}

/* Takes over both lists. */
static int compare(struct pleg *pleg, const Runtime__V1__ListPodSandboxResponse *pods,
	const Runtime__V1__ListContainersResponse *containers, struct err *err)
{
	int r = 0;
	for (size_t i = 0; i < pleg->n; i++)
		pleg->entries[i].listed = pleg->entries[i].changed = false;
	for (size_t i = 0; i < pods->n_items && r == 0; i++)
		r = see(pleg, pods->items[i]->id, "", (int)pods->items[i]->state, err);
	for (size_t i = 0; i < containers->n_containers && r == 0; i++) {
		const Runtime__V1__Container *c = containers->containers[i];
		r = see(pleg, c->id, c->pod_sandbox_id, (int)c->state, err);
	}
	for (size_t i = 0; i < pleg->n; i++)
		if (!pleg->entries[i].listed)
			pleg->entries[i].state = PLEG_GONE;
	return r;
}

/* Gone meanwhile is no failure. */
static int inspect(struct pleg *pleg, const struct entry *entry, struct err *err)
{
	_cleanup_message_ Runtime__V1__ContainerStatusResponse *answer = NULL;
	bool ready = false;
	int r;
	if (entry->pod_id[0])
		r = container_status(pleg->node, entry->id, &answer, err);
	else
		r = pod_is_ready(pleg->node, entry->id, &ready, err);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	int state = answer ? (int)answer->status->state : !ready;
	if (state < entry->state)
		return err_set(err, -EBADMSG, "%s is listed in state %d, and its status has %d",
			entry->id, entry->state, state);
	return 0;
}

/* Only this thread changes entries, so it may read them without the lock. */
static int list(struct pleg *pleg, struct err *err)
{
	Runtime__V1__ListPodSandboxRequest pods_request =
		RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
	Runtime__V1__ListContainersRequest request = RUNTIME__V1__LIST_CONTAINERS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ListPodSandboxResponse *pods = NULL;
	_cleanup_message_ Runtime__V1__ListContainersResponse *containers = NULL;
	pthread_mutex_lock(&pleg->lock);
	pleg->begun++;
	pthread_mutex_unlock(&pleg->lock);
	int r = node_call(
		pleg->node, "ListPodSandbox", &pods_request.base, NODE_CALL_MS, &pods, err);
	if (r == 0)
		r = node_call(pleg->node, "ListContainers", &request.base, NODE_CALL_MS,
			&containers, err);
	pthread_mutex_lock(&pleg->lock);
	if (r == 0)
		r = compare(pleg, pods, containers, err);
	pleg->ended++;
	pthread_cond_broadcast(&pleg->relisted);
	pthread_mutex_unlock(&pleg->lock);
	for (size_t i = 0; i < pleg->n && r == 0; i++)
		if (pleg->entries[i].changed)
			r = inspect(pleg, &pleg->entries[i], err);
	return r;
}

static int relist(void *userdata, struct err *err)
{
	struct pleg *pleg = userdata;
	int r = list(pleg, err);
	if (r < 0) {
		pthread_mutex_lock(&pleg->lock);
		pleg->failed = true;
		pthread_cond_broadcast(&pleg->relisted);
		pthread_mutex_unlock(&pleg->lock);
	}
	return r;
}

int pleg_start(struct node *node, struct pleg **ret, struct err *err)
{
	struct pleg *pleg = calloc(1, sizeof(*pleg));
	if (!pleg)
		return err_nomem(err);
	pleg->node = node;
	pleg->worker = (struct worker){
		.what = "relist", .period_ms = node->relist_ms, .turn = relist, .userdata = pleg};
	pthread_mutex_init(&pleg->lock, NULL);
	pthread_cond_init(&pleg->relisted, NULL);
	*ret = pleg;
	return worker_start(&pleg->worker, err);
}

int pleg_stop(struct pleg *pleg, struct err *err)
{
	int r = worker_stop(&pleg->worker, err);
	printf("%u lists, the longest in %lu ms\n", pleg->worker.turns,
		(unsigned long)pleg->worker.longest_ms);
	pthread_cond_destroy(&pleg->relisted);
	pthread_mutex_destroy(&pleg->lock);
	free(pleg->entries);
	free(pleg);
	return r;
}

int pleg_state(struct pleg *pleg, const char *id)
{
	pthread_mutex_lock(&pleg->lock);
	const struct entry *entry = find(pleg, id);
	int state = entry ? entry->state : PLEG_GONE;
	pthread_mutex_unlock(&pleg->lock);
	return state;
}

/* With the lock. */
static bool reached(struct pleg *pleg, const char *id, int state, unsigned since)
{
	const struct entry *entry = find(pleg, id);
	if (state == PLEG_GONE)
		return pleg->ended > since && (!entry || entry->state == PLEG_GONE);
	return entry && entry->state >= state;
}

int pleg_wait(struct pleg *pleg, const char *id, int state, struct err *err)
{
	struct timespec at;
	int r = 0;
	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += WAIT_S;
	pthread_mutex_lock(&pleg->lock);
	unsigned since = pleg->begun;
	while (r == 0 && !pleg->failed && !reached(pleg, id, state, since))
		r = pthread_cond_clockwait(&pleg->relisted, &pleg->lock, CLOCK_MONOTONIC, &at);
	bool failed = pleg->failed;
	const struct entry *entry = find(pleg, id);
	int last = entry ? entry->state : PLEG_GONE;
	pthread_mutex_unlock(&pleg->lock);
	if (r || failed)
		return err_set(err, -ETIME, "%s: not listed in state %d, but %d%s", id, state, last,
			failed ? ", and no list comes any more" : "");
	return 0;
}

int pleg_wait_list(struct pleg *pleg, struct err *err)
{
	return pleg_wait(pleg, "", PLEG_GONE, err);
}
