/* Many containers in some pods, or many pods: all at the same time. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kubelet/scenarios.h"

#define LISTS   3 /* that must show all of them */
#define RETRIES 2

struct filler {
	struct kubelet *k;
	pthread_t thread;
	struct pod pod;
	size_t n;
	char (*ids)[POD_ID_MAX];
	bool begun;
	int result;
	struct err err;
};

/* As a kubelet: what could not be started, on a host that is too busy, say, is tried anew. */
static int start_one(struct node *node, struct container *c, struct err *err)
{
	int r = container_run(node, c, err);
	while (r < 0 && c->attempt < RETRIES) {
		printf("%s %s: %s\n", c->pod->name, c->name, err->msg);
		r = c->id[0] ? container_remove(node, c->id, err) : 0;
		c->id[0] = '\0';
		c->attempt++;
		if (r == 0)
			r = container_run(node, c, err);
	}
	return r;
}

static void *fill_main(void *arg)
{
	struct filler *f = arg;
	int r = pod_run(f->k->node, &f->pod, &f->err);
	for (size_t i = 0; i < f->n && r == 0; i++) {
		char name[32];
		snprintf(name, sizeof(name), "c%zu", i);
		struct container c = {.pod = &f->pod, .name = name, .script = "exec sleep 1000000"};
		r = start_one(f->k->node, &c, &f->err);
		memcpy(f->ids[i], c.id, sizeof(c.id));
	}
	f->result = r;
	return NULL;
}

static void *empty_main(void *arg)
{
	struct filler *f = arg;
	f->result = pod_delete(f->k->node, f->pod.id, &f->err);
	return NULL;
}

static int all_at_once(
	struct filler *fillers, size_t n, const char *what, void *(*run)(void *), struct err *err)
{
	uint64_t begin = now_ms();
	int r = 0;
	for (size_t i = 0; i < n; i++)
		fillers[i].begun = pthread_create(&fillers[i].thread, NULL, run, &fillers[i]) == 0;
	for (size_t i = 0; i < n; i++) {
		if (fillers[i].begun)
			pthread_join(fillers[i].thread, NULL);
		if (r == 0 && (!fillers[i].begun || fillers[i].result < 0))
			r = err_set(err, fillers[i].begun ? fillers[i].result : -EAGAIN, "%s: %s",
				fillers[i].pod.name, fillers[i].err.msg);
	}
	printf("%zu pods %s in %lu ms\n", n, what, (unsigned long)(now_ms() - begin));
	return r;
}

static int check_lists(struct kubelet *k, const struct filler *fillers, struct err *err)
{
	int r = pleg_wait_list(k->pleg, err);
	for (size_t i = 0; i < k->node->pods && r == 0; i++)
		for (size_t j = 0; j < fillers[i].n && r == 0; j++)
			if (pleg_state(k->pleg, fillers[i].ids[j]) != CONTAINER_RUNNING)
				r = err_set(err, -EBADMSG, "%s is not listed as running",
					fillers[i].ids[j]);
	return r;
}

static int check_statistics(struct kubelet *k, struct err *err)
{
	Runtime__V1__ListContainerStatsRequest request =
		RUNTIME__V1__LIST_CONTAINER_STATS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ListContainerStatsResponse *stats = NULL;
	uint64_t begin = now_ms();
	int r = node_call(k->node, "ListContainerStats", &request.base, NODE_CALL_MS, &stats, err);
	if (r == 0 && stats->n_stats != k->node->count)
		r = err_set(err, -EBADMSG, "statistics of %zu containers", stats->n_stats);
	printf("statistics in %lu ms\n", (unsigned long)(now_ms() - begin));
	return r;
}

int scenario_many(struct kubelet *k, struct err *err)
{
	size_t pods = k->node->pods, n = pods ? k->node->count / pods : 0;
	_cleanup_free_ struct filler *fillers = calloc(pods + 1, sizeof(*fillers));
	_cleanup_free_ char(*ids)[POD_ID_MAX] = calloc(pods * n + 1, sizeof(*ids));
	if (!fillers || !ids)
		return err_nomem(err);
	if (n == 0 || k->node->count != pods * n)
		return err_set(err, -EINVAL, "--count must be a multiple of --pods");
	for (size_t i = 0; i < pods; i++) {
		char name[32];
		snprintf(name, sizeof(name), "many-%zu", i);
		fillers[i] =
			(struct filler){.k = k, .pod = pod_named(name), .n = n, .ids = ids + i * n};
	}
	int r = all_at_once(fillers, pods, "and their containers run", fill_main, err);
	for (unsigned i = 0; i < LISTS && r == 0; i++)
		r = check_lists(k, fillers, err);
	if (r == 0)
		r = check_statistics(k, err);
	return r < 0 ? r : all_at_once(fillers, pods, "are removed", empty_main, err);
}
