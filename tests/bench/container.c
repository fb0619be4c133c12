#include "tests/bench/container.h"

#include "common/fd.h"
#include "tests/bench/clock.h"
#include "tests/bench/cri.h"

#define ROUNDS 20

static int measure_one(struct rpc_client *client, const char *pod, const char *image,
	const char *row, struct results *results, struct err *err)
{
	static const char *const command[] = {"sleep", "86400", NULL};
	const struct cri_container spec = {.image = image, .command = command};
	_cleanup_free_ char *id = NULL;
	uint64_t begin = clock_ns();
	int r = cri_create_container(client, pod, &spec, &id, err);
	if (r == 0)
		r = cri_start_container(client, id, err);
	if (r == 0 && row)
		r = results_add(results, row, clock_ms_since(begin), err);
	return r < 0 ? r : cri_remove_container(client, id, err);
}

static int measure(const struct bench_peer *ours, const char *our_pod,
	const struct bench_peer *baseline, const char *baseline_pod, struct results *results,
	struct err *err)
{
	int r = measure_one(ours->client, our_pod, ours->image, NULL, NULL, err);
	if (r == 0)
		r = measure_one(baseline->client, baseline_pod, baseline->image, NULL, NULL, err);
	for (unsigned i = 0; r == 0 && i < ROUNDS; i++) {
		r = measure_one(
			ours->client, our_pod, ours->image, "container.create_start", results, err);
		if (r == 0)
			r = measure_one(baseline->client, baseline_pod, baseline->image,
				"containerd.create_start", results, err);
	}
	return r;
}

int container_measure(const struct bench_peer *ours, const struct bench_peer *baseline,
	const char *dir, struct results *results, struct err *err)
{
	_cleanup_free_ char *our_pod = NULL, *baseline_pod = NULL;
	struct err ignored = ERR_INIT;
	int r = cri_run_pod(ours->client, "bench-create", dir, &our_pod, err);
	if (r == 0)
		r = cri_run_pod(baseline->client, "bench-create", dir, &baseline_pod, err);
	if (r == 0)
		r = measure(ours, our_pod, baseline, baseline_pod, results, err);
	if (our_pod)
		cri_remove_pod(ours->client, our_pod, &ignored);
	if (baseline_pod)
		cri_remove_pod(baseline->client, baseline_pod, &ignored);
	return r;
}
