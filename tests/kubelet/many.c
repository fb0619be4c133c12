/* Many containers in some pods, or many pods: all at the same time. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/process.h"
#include "tests/kubelet/scenarios.h"

#define LISTS    3 /* that must show all of them */
#define RETRIES  2
#define PROBE_MS 1000

struct probe;

struct filler {
	struct kubelet *k;
	struct probe *probe;
	pthread_t thread;
	struct pod pod;
	size_t n;
	char (*ids)[POD_ID_MAX];
	bool begun;
	unsigned retries;  /* of the pod and its containers */
	uint64_t ready_ms; /* the pod was */
	int result;
	struct err err;
};

/* Each second, in the first container that runs, while others come up. */
struct probe {
	struct node *node;
	pthread_mutex_t lock; /* protects what follows */
	char id[POD_ID_MAX];  /* empty: none runs yet */
};

/* As a kubelet: what could not be started, on a host that is too busy, say, is tried anew. */
static int start_pod(struct filler *f)
{
	int r = pod_run(f->k->node, &f->pod, &f->err);
	while (r < 0 && f->pod.attempt < RETRIES) {
		printf("%s: %s\n", f->pod.name, f->err.msg);
		f->pod.attempt++;
		f->retries++;
		r = pod_run(f->k->node, &f->pod, &f->err);
	}
	f->ready_ms = now_ms();
	return r;
}

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

static void offer(struct probe *probe, const char *id)
{
	pthread_mutex_lock(&probe->lock);
	if (!probe->id[0])
		snprintf(probe->id, sizeof(probe->id), "%s", id);
	pthread_mutex_unlock(&probe->lock);
}

static int probe_turn(void *userdata, struct err *err)
{
	struct probe *probe = userdata;
	char id[POD_ID_MAX];
	pthread_mutex_lock(&probe->lock);
	memcpy(id, probe->id, sizeof(id));
	pthread_mutex_unlock(&probe->lock);
	return id[0] ? container_probe(probe->node, id, "true", 60, NULL, err) : 0;
}

static void *fill_main(void *arg)
{
	struct filler *f = arg;
	int r = start_pod(f);
	for (size_t i = 0; i < f->n && r == 0; i++) {
		char name[32];
		snprintf(name, sizeof(name), "c%zu", i);
		struct container c = {.pod = &f->pod, .name = name, .script = "exec sleep 1000000"};
		r = start_one(f->k->node, &c, &f->err);
		memcpy(f->ids[i], c.id, sizeof(c.id));
		f->retries += c.attempt;
		if (r == 0)
			offer(f->probe, c.id);
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

/* How long others waited meanwhile too: lists, statuses, execs. */
static void print_times(struct node *node)
{
	printf("%-26s %8s %10s %10s %10s\n", "", "calls", "p50 ms", "p99 ms", "longest");
	pthread_mutex_lock(&node->lock);
	for (size_t i = 0; i < NODE_METHODS_MAX && node->times[i].method; i++) {
		const struct method_times *t = &node->times[i];
		printf("%-26s %8zu %10.1f %10.1f %10.1f\n", t->method, t->n,
			(double)node_percentile(t->ms, t->n, 50),
			(double)node_percentile(t->ms, t->n, 99),
			(double)node_percentile(t->ms, t->n, 100));
	}
	pthread_mutex_unlock(&node->lock);
}

/* What a pod's processes on the host hold. */
static int print_memory(const struct filler *fillers, size_t pods, struct err *err)
{
	double sum = 0;
	for (size_t i = 0; i < pods; i++) {
		pid_t pids[PROCESSES_MAX];
		int n = process_find(fillers[i].pod.id, pids, err);
		for (int j = 0; j < n; j++) {
			double mib = 0;
			int r = process_memory_mib(pids[j], "Pss", &mib, err);
			if (r < 0)
				return r;
			sum += mib;
		}
		if (n <= 0)
			return n < 0 ? n
				     : err_set(err, -ESRCH, "%s has no process",
					       fillers[i].pod.name);
	}
	printf("%.1f MiB of memory per pod\n", sum / (double)pods);
	return 0;
}

/* All at once; each pod's container is there when its pod has come up. */
static int fill(struct kubelet *k, struct filler *fillers, size_t pods, struct err *err)
{
	struct probe probe = {.node = k->node, .lock = PTHREAD_MUTEX_INITIALIZER};
	struct worker worker = {
		.what = "exec", .period_ms = PROBE_MS, .turn = probe_turn, .userdata = &probe};
	struct err own = ERR_INIT;
	uint64_t begin = now_ms(), ready_ms = begin;
	unsigned retries = 0;
	int r = worker_start(&worker, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < pods; i++)
		fillers[i].probe = &probe;
	r = all_at_once(fillers, pods, "and their containers run", fill_main, err);
	if (worker_stop(&worker, &own) < 0 && r == 0)
		r = err_set(err, own.code, "%s", own.msg);
	pthread_mutex_destroy(&probe.lock);
	for (size_t i = 0; i < pods; i++) {
		ready_ms = fillers[i].ready_ms > ready_ms ? fillers[i].ready_ms : ready_ms;
		retries += fillers[i].retries;
	}
	printf("all pods ready after %lu ms; %u pods or containers were tried anew\n",
		(unsigned long)(ready_ms - begin), retries);
	print_times(k->node);
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
	int r = fill(k, fillers, pods, err);
	for (unsigned i = 0; i < LISTS && r == 0; i++)
		r = check_lists(k, fillers, err);
	if (r == 0)
		r = check_statistics(k, err);
	if (r == 0)
		r = print_memory(fillers, pods, err);
	return r < 0 ? r : all_at_once(fillers, pods, "are removed", empty_main, err);
}
