#include "tests/bench/exec.h"

#include <errno.h>
#include <stdlib.h>

#include "common/fd.h"
#include "common/spawn.h"
#include "tests/bench/clock.h"
#include "tests/bench/cri.h"

#define STREAM_ROUNDS     20
#define THROUGHPUT_ROUNDS 5
#define THROUGHPUT_MIB    64
#define CRICTL_MS         120000

struct side {
	const struct bench_peer *peer;
	const char *crictl;
	char *endpoint;
	char *pod, *container;
	const char *stream_row, *throughput_row;
};

static int begin(struct side *side, const char *dir, struct err *err)
{
	static const char *const command[] = {"sleep", "86400", NULL};
	const struct cri_container spec = {.image = side->peer->image, .command = command};
	int r = cri_run_pod(side->peer->client, "bench-exec", dir, &side->pod, err);
	if (r == 0)
		r = cri_create_container(
			side->peer->client, side->pod, &spec, &side->container, err);
	return r < 0 ? r : cri_start_container(side->peer->client, side->container, err);
}

static void end(struct side *side)
{
	struct err ignored = ERR_INIT;
	if (side->pod)
		cri_remove_pod(side->peer->client, side->pod, &ignored);
	free(side->pod);
	free(side->container);
	free(side->endpoint);
}

static int measure_stream(
	const struct side *side, const char *row, struct results *results, struct err *err)
{
	const char *const argv[] = {side->crictl, "--runtime-endpoint", side->endpoint, "exec",
		side->container, "true", NULL};
	const struct spawn_options options = {.argv = argv, .timeout_ms = CRICTL_MS};
	struct spawn_result result = SPAWN_RESULT_INIT(4096);
	uint64_t begin_ns = clock_ns();
	int r = spawn_check(&options, &result, err);
	if (r == 0 && row)
		r = results_add(results, row, clock_ms_since(begin_ns), err);
	spawn_result_done(&result);
	return r;
}

static int measure_throughput(
	const struct side *side, const char *data, struct results *results, struct err *err)
{
	const size_t len = (size_t)THROUGHPUT_MIB << 20;
	const char *const argv[] = {side->crictl, "--runtime-endpoint", side->endpoint, "exec",
		"-i", side->container, "cat", NULL};
	const struct spawn_options options = {
		.argv = argv, .stdin_data = data, .stdin_len = len, .timeout_ms = CRICTL_MS};
	struct spawn_result result = SPAWN_RESULT_INIT(len + 1);
	uint64_t begin_ns = clock_ns();
	int r = spawn_check(&options, &result, err);
	double ms = clock_ms_since(begin_ns);
	if (r == 0 && result.out.len != len)
		r = err_set(err, -EBADMSG, "%zu of %zu bytes came back", result.out.len, len);
	if (r == 0)
		r = results_add(results, side->throughput_row, THROUGHPUT_MIB * 1e3 / ms, err);
	spawn_result_done(&result);
	return r;
}

static int measure(
	const struct side sides[2], const char *data, struct results *results, struct err *err)
{
	int r = 0;
	for (unsigned i = 0; i < 2 && r == 0; i++)
		r = measure_stream(&sides[i], NULL, results, err);
	for (unsigned i = 0; i < 2 * STREAM_ROUNDS && r == 0; i++)
		r = measure_stream(&sides[i % 2], sides[i % 2].stream_row, results, err);
	for (unsigned i = 0; i < 2 * THROUGHPUT_ROUNDS && r == 0; i++)
		r = measure_throughput(&sides[i % 2], data, results, err);
	return r;
}

int exec_measure(const struct exec_bench *bench, struct results *results, struct err *err)
{
	struct side sides[] = {
		{.peer = &bench->ours,
			.crictl = bench->crictl,
			.endpoint = str_printf("unix://%s", bench->our_socket),
			.stream_row = "exec.stream",
			.throughput_row = "exec.throughput"},
		{.peer = &bench->baseline,
			.crictl = bench->crictl,
			.endpoint = str_printf("unix://%s", bench->baseline_socket),
			.stream_row = "containerd.exec.stream",
			.throughput_row = "containerd.exec.throughput"},
	};
	_cleanup_free_ char *data = calloc(THROUGHPUT_MIB, 1u << 20);
	int r = data && sides[0].endpoint && sides[1].endpoint ? 0 : err_nomem(err);
	for (unsigned i = 0; i < 2 && r == 0; i++)
		r = begin(&sides[i], bench->dir, err);
	if (r == 0)
		r = measure(sides, data, results, err);
	for (unsigned i = 0; i < 2; i++)
		end(&sides[i]);
	return r;
}
