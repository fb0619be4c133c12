/*
 * Soak: one pod after the other, each with what a kubelet does to it, while lists and statistics
 * come as in a day that passes quickly. In the end the server must be as it was: memory,
 * descriptors, threads, and the times of its answers.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/process.h"
#include "tests/bench/results.h"
#include "tests/kubelet/scenarios.h"

#define AT_ONCE  2
#define SETTLE_S 120
#define RESTARTS 2
#define PROBES   10
/* Of a method whose p99 is judged: ten calls of a tenth took longer. */
#define CALLS_LEAST 10000

struct sample {
	double memory_kib;
	size_t fds, threads;
};

struct cycle {
	struct kubelet *k;
	unsigned number;
	pthread_t thread;
	int result;
	struct err err;
};

/* ---- a pod's life ---- */

static int rotate(struct kubelet *k, const struct container *c, struct err *err)
{
	_cleanup_free_ char *log = container_log(k->node, c);
	_cleanup_free_ char *rotated = log ? str_printf("%s.1", log) : NULL;
	if (!rotated)
		return err_nomem(err);
	if (rename(log, rotated) < 0)
		return err_errno(err, "rename %s", log);
	return container_reopen_log(k->node, c->id, err);
}

/* What a kubelet asks when it syncs a pod. */
static int sync_pod(struct kubelet *k, const struct container *app, struct err *err)
{
	_cleanup_message_ Runtime__V1__ContainerStatusResponse *answer = NULL;
	bool ready = false;
	int r = pod_is_ready(k->node, app->pod->id, &ready, err);
	if (r == 0)
		r = container_status(k->node, app->id, &answer, err);
	if (r == 0 && (!ready || answer->status->state != CONTAINER_RUNNING))
		r = err_set(err, -EBADMSG, "pod %s does not run", app->pod->name);
	return r;
}

static int use(struct kubelet *k, struct container *app, struct err *err)
{
	int code, r = 0;
	for (unsigned i = 0; i < PROBES && r == 0; i++) {
		r = container_probe(k->node, app->id, "true", 60, NULL, err);
		if (r == 0)
			r = sync_pod(k, app, err);
	}
	for (unsigned i = 0; i < RESTARTS && r == 0; i++) {
		struct container job = {
			.pod = app->pod, .name = "job", .script = "exit 1", .attempt = i};
		r = run_to_end(k, &job, &code, err);
		if (r == 0)
			r = prune(k, app->pod, err);
	}
	if (r == 0)
		r = rotate(k, app, err);
	return r == 0 ? container_resize(k->node, app, 48u << 20, err) : r;
}

static int live(struct kubelet *k, unsigned number, struct err *err)
{
	char name[32];
	snprintf(name, sizeof(name), "soak-%u", number);
	struct pod pod = pod_named(name);
	struct container app = {.pod = &pod,
		.name = "app",
		.memory_bytes = 32u << 20,
		.script = "while :; do date; sleep 0.1; done"};
	_cleanup_free_ char *logs = pod_log_directory(k->node, &pod);
	int r = logs ? pod_run(k->node, &pod, err) : err_nomem(err);
	if (r == 0)
		r = container_run(k->node, &app, err);
	if (r == 0)
		r = use(k, &app, err);
	if (r == 0)
		r = pod_delete(k->node, pod.id, err);
	return r < 0 ? r : fd_remove_tree(logs, err);
}

static void *cycle_main(void *arg)
{
	struct cycle *cycle = arg;
	cycle->result = live(cycle->k, cycle->number, &cycle->err);
	return NULL;
}

static int live_at_once(struct kubelet *k, unsigned first, struct err *err)
{
	struct cycle cycles[AT_ONCE];
	int n = 0, r = 0;
	for (; n < AT_ONCE; n++) {
		cycles[n] = (struct cycle){.k = k, .number = first + (unsigned)n};
		r = -pthread_create(&cycles[n].thread, NULL, cycle_main, &cycles[n]);
		if (r < 0) {
			err_set(err, r, "a thread");
			break;
		}
	}
	while (n--) {
		pthread_join(cycles[n].thread, NULL);
		if (cycles[n].result < 0)
			r = err_set(err, cycles[n].result, "cycle %u: %s", cycles[n].number,
				cycles[n].err.msg);
	}
	return r;
}

/* ---- the server between two of them ---- */

static size_t entries_of(pid_t pid, const char *what)
{
	char path[48];
	size_t n = 0;
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, what);
	DIR *dir = opendir(path);
	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

static int take_sample(const struct node *node, struct sample *ret, struct err *err)
{
	pid_t pid = (pid_t)node->server_pid;
	double mib = 0;
	int r = process_memory_mib(pid, "Anonymous", &mib, err);
	*ret = (struct sample){mib * 1024, entries_of(pid, "fd"), entries_of(pid, "task")};
	return r;
}

/* Of the line through the second half, when all that is kept is there: KiB from cycle to cycle. */
static double memory_slope(const struct sample *samples, size_t n)
{
	double sx = 0, sy = 0, sxx = 0, sxy = 0;
	size_t from = n / 2;
	double m = (double)(n - from);
	for (size_t i = from; i < n; i++) {
		double x = (double)i * AT_ONCE, y = samples[i].memory_kib;
		sx += x;
		sy += y;
		sxx += x * x;
		sxy += x * y;
	}
	double spread = m * sxx - sx * sx;
	return spread > 0 ? (m * sxy - sx * sy) / spread : 0;
}

/*
 * Connections and threads come and go with calls: the most of the first tenth is not to be exceeded
 * for long when the last pod is gone.
 */
static int check_growth(
	const struct node *node, const struct sample *samples, size_t n, struct err *err)
{
	struct sample most = samples[0], now;
	int r = 0;
	for (size_t i = 1; i < (n + 9) / 10; i++) {
		most.fds = samples[i].fds > most.fds ? samples[i].fds : most.fds;
		most.threads =
			samples[i].threads > most.threads ? samples[i].threads : most.threads;
	}
	for (int i = 0; i < SETTLE_S; i++) {
		r = take_sample(node, &now, err);
		if (r < 0 || (now.fds <= most.fds && now.threads <= most.threads))
			break;
		sleep(1);
	}
	if (r < 0)
		return r;
	printf("descriptors %zu, then %zu; threads %zu, then %zu; memory %.0f KiB, then %.0f KiB\n",
		most.fds, now.fds, most.threads, now.threads, samples[0].memory_kib,
		samples[n - 1].memory_kib);
	if (now.fds > most.fds || now.threads > most.threads)
		return err_set(err, -EBADMSG, "more descriptors or threads than at the start");
	return 0;
}

/* ---- the times of its answers ---- */

static float in_tenth(const struct method_times *t, bool last, unsigned percent)
{
	size_t tenth = t->n / 10;
	return node_percentile(t->ms + (last ? t->n - tenth : 0), tenth, percent);
}

/* Of the last tenth by that of the first. */
static double drift_of(const struct method_times *t, unsigned percent)
{
	float first = in_tenth(t, false, percent);
	return first > 0 ? (double)in_tenth(t, true, percent) / (double)first : 0;
}

/*
 * The worst p99 of the methods that were called often enough; a tenth of the others' calls is too
 * few for a p99, there the medians tell.
 */
static double print_times(struct node *node)
{
	double worst = 0;
	size_t lists = 0;
	printf("%-26s %8s %9s %7s %9s %12s %12s %7s\n", "", "calls", "p50 ms", "drift", "p99 ms",
		"first tenth", "last tenth", "drift");
	pthread_mutex_lock(&node->lock);
	for (size_t i = 0; i < NODE_METHODS_MAX && node->times[i].method; i++) {
		const struct method_times *t = &node->times[i];
		double drift = drift_of(t, 99);
		bool counts = t->n >= CALLS_LEAST;
		printf("%-26s %8zu %9.1f %7.2f %9.1f %12.1f %12.1f %7.2f%s\n", t->method, t->n,
			(double)node_percentile(t->ms, t->n, 50), drift_of(t, 50),
			(double)node_percentile(t->ms, t->n, 99), (double)in_tenth(t, false, 99),
			(double)in_tenth(t, true, 99), drift, counts ? "" : "  too few");
		if (counts && drift > worst)
			worst = drift;
		if (strcmp(t->method, "ListPodSandbox") == 0)
			lists = t->n;
	}
	pthread_mutex_unlock(&node->lock);
	/* A list is a second of a kubelet's. */
	printf("lists as in %.1f hours\n", (double)lists / 3600);
	return worst;
}

static int report(struct node *node, const struct sample *samples, size_t n, struct err *err)
{
	struct results results = {.n = 0};
	int r = check_growth(node, samples, n, err);
	if (r == 0)
		r = results_add(&results, "soak.memory_slope", memory_slope(samples, n), err);
	double drift = print_times(node);
	if (r == 0 && drift > 0)
		r = results_add(&results, "soak.p99_drift", drift, err);
	if (r < 0)
		return r;
	results_print(&results, stdout);
	return node->output ? results_write(&results, node->output, err) : 0;
}

int scenario_soak(struct kubelet *k, struct err *err)
{
	size_t n = (k->node->count + AT_ONCE - 1) / AT_ONCE;
	_cleanup_free_ struct sample *samples = calloc(n + 1, sizeof(*samples));
	int r = samples ? 0 : err_nomem(err);
	if (r == 0 && !k->node->server_pid)
		r = err_set(err, -EINVAL, "it takes --server-pid");
	for (size_t i = 0; i < n && r == 0; i++) {
		r = live_at_once(k, (unsigned)i * AT_ONCE, err);
		if (r == 0)
			r = take_sample(k->node, &samples[i], err);
		if (r == 0 && i % 10 == 9) {
			printf("%zu cycles: %.0f KiB, %zu descriptors, %zu threads\n",
				(i + 1) * AT_ONCE, samples[i].memory_kib, samples[i].fds,
				samples[i].threads);
			fflush(stdout);
		}
	}
	return r < 0 || n == 0 ? r : report(k->node, samples, n, err);
}
