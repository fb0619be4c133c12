#include "cri-server/runtime/usage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"

#define SAMPLE_MS      1000
#define SLOW_SAMPLE_MS 100
/* A sample waits, and does not compute: many more than there are CPUs. */
#define THREADS_MAX 32
/* A guest's clock is its own word; further off than this it is not believed. */
#define CLOCK_SLACK_NS INT64_C(2000000000)

static int64_t believable_time(int64_t guest_ns)
{
	int64_t now = realtime_ns();
	return guest_ns <= now && guest_ns > now - CLOCK_SLACK_NS ? guest_ns : now;
}

static void keep_sample(struct sandbox *sandbox, int r, Bulkhead__Agent__StatsResponse *sample)
{
	struct runtime *rt = sandbox->runtime;
	pthread_mutex_lock(&rt->lock);
	sandbox->usage_slow = r == -ETIMEDOUT;
	if (sample) {
		Bulkhead__Agent__StatsResponse *old = sandbox->usage;
		sample->realtime_ns = believable_time(sample->realtime_ns);
		sandbox->usage = sample;
		sample = old;
	}
	pthread_mutex_unlock(&rt->lock);
	if (sample)
		bulkhead__agent__stats_response__free_unpacked(sample, NULL);
}

static void refresh_one(struct sandbox *sandbox)
{
	struct runtime *rt = sandbox->runtime;
	pthread_mutex_lock(&rt->lock);
	bool ready = sandbox->record->state == BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY;
	bool slow = sandbox->usage_slow;
	pthread_mutex_unlock(&rt->lock);
	struct machine *machine = ready ? sandbox_machine(sandbox, NULL) : NULL;
	if (!machine)
		return;
	Bulkhead__Agent__StatsRequest request = BULKHEAD__AGENT__STATS_REQUEST__INIT;
	ProtobufCMessage *response = NULL;
	int r = agent_call(machine->agent, "Stats", &request.base,
		slow ? SLOW_SAMPLE_MS : SAMPLE_MS, &response, NULL);
	machine_unref(machine);
	keep_sample(sandbox, r, (Bulkhead__Agent__StatsResponse *)response);
}

struct refresh {
	struct sandbox *const *sandboxes;
	size_t n;
	atomic_size_t next;
};

static void *refresh_main(void *arg)
{
	struct refresh *refresh = arg;
	size_t i;
	while ((i = atomic_fetch_add(&refresh->next, 1)) < refresh->n)
		refresh_one(refresh->sandboxes[i]);
	return NULL;
}

static size_t count_ready(struct sandbox *const *sandboxes, size_t n)
{
	size_t ready = 0;
	if (n)
		pthread_mutex_lock(&sandboxes[0]->runtime->lock);
	for (size_t i = 0; i < n; i++)
		ready += sandboxes[i]->record->state ==
			 BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY;
	if (n)
		pthread_mutex_unlock(&sandboxes[0]->runtime->lock);
	return ready;
}

void usage_refresh(struct sandbox *const *sandboxes, size_t n)
{
	struct refresh refresh = {.sandboxes = sandboxes, .n = n};
	pthread_t threads[THREADS_MAX];
	size_t n_threads = 0, ready = count_ready(sandboxes, n);
	/* This thread is one of them, and does all where there are no others. */
	while (n_threads < THREADS_MAX && n_threads + 1 < ready &&
		pthread_create(&threads[n_threads], NULL, refresh_main, &refresh) == 0)
		n_threads++;
	refresh_main(&refresh);
	for (size_t i = 0; i < n_threads; i++)
		pthread_join(threads[i], NULL);
}

const Bulkhead__Agent__Usage *usage_of(const struct container *c)
{
	const Bulkhead__Agent__StatsResponse *sample = c->sandbox->usage;
	if (!sample || !container_runs(c))
		return NULL;
	for (size_t i = 0; i < sample->n_containers; i++)
		if (strcmp(sample->containers[i]->container_id, c->id) == 0)
			return sample->containers[i];
	return NULL;
}

int usage_sandboxes(struct runtime *rt, bool (*want)(const struct sandbox *, const void *),
	const void *userdata, struct sandbox ***ret, size_t *ret_n, struct err *err)
{
	struct sandbox *sandbox;
	size_t n = 0, i = 0;
	pthread_mutex_lock(&rt->lock);
	TAILQ_FOREACH(sandbox, &rt->sandboxes, link)
		n++;
	struct sandbox **all = calloc(n + 1, sizeof(*all));
	TAILQ_FOREACH(sandbox, &rt->sandboxes, link)
		if (all && want(sandbox, userdata)) {
			sandbox->refs++;
			all[i++] = sandbox;
		}
	pthread_mutex_unlock(&rt->lock);
	if (!all)
		return err_nomem(err);
	*ret = all;
	*ret_n = i;
	return 0;
}

void usage_sandboxes_free(struct sandbox **sandboxes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sandbox_unref(sandboxes[i]);
	free(sandboxes);
}
