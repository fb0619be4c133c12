#include "tests/bench/network.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/fd.h"
#include "tests/bench/cri.h"
#include "tests/bench/process.h"

#define PODS       2
#define PORT       "5001"
#define SEND_MS    "400"
#define QUESTIONS  "500"
#define WARM_UPS   6
#define QUARTETS   8
#define NAME_BYTES 32

/* Of one turn, or the sum of several. */
struct rates {
	double tcp; /* MiB/s */
	double rtt; /* us */
};

/* The first is the server. */
struct pair {
	char *pods[PODS];
	char *containers[PODS];
	char *address; /* the server's */
};

static void pair_done(struct pair *pair)
{
	for (size_t i = 0; i < PODS; i++) {
		free(pair->pods[i]);
		free(pair->containers[i]);
	}
	free(pair->address);
}

static int start_pod(const struct network_bench *bench, unsigned round, size_t i, struct pair *pair,
	struct err *err)
{
	static const char *const commands[PODS][4] = {
		{"net_load", "serve", PORT, NULL}, {"sleep", "86400", NULL}};
	char name[NAME_BYTES];
	snprintf(name, sizeof(name), "bench-net-%u-%zu", round, i);
	int r = cri_run_pod(bench->client, name, bench->dir, &pair->pods[i], err);
	if (r == 0)
		r = cri_create_container(bench->client, pair->pods[i],
			&(struct cri_container){.image = bench->image_ref, .command = commands[i]},
			&pair->containers[i], err);
	return r < 0 ? r : cri_start_container(bench->client, pair->containers[i], err);
}

/* One run of the client; its figure is added to sum. */
static int run_client(const struct network_bench *bench, const struct pair *pair,
	const char *const what[2], double *sum, struct err *err)
{
	const char *const command[] = {"net_load", what[0], pair->address, PORT, what[1], NULL};
	_cleanup_free_ char *output = NULL;
	int r = cri_exec(bench->client, pair->containers[1], command, &output, err);
	if (r < 0)
		return r;
	double value = strtod(output, NULL);
	if (value <= 0)
		return err_set(err, -EBADMSG, "net_load %s answered '%.32s'", what[0], output);
	*sum += value;
	return 0;
}

static int measure_pair(const struct network_bench *bench, const struct pair *pair,
	struct rates *sum, struct err *err)
{
	static const char *const send[] = {"tcp", SEND_MS}, *const ask[] = {"rtt", QUESTIONS};
	int r = run_client(bench, pair, send, &sum->tcp, err);
	return r < 0 ? r : run_client(bench, pair, ask, &sum->rtt, err);
}

static int set_wiring(
	const struct network_bench *bench, const struct pair *pair, bool wired, struct err *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < PODS; i++) {
		json_auto_t *info = NULL;
		r = cri_info(bench->client, pair->pods[i], &info, err);
		if (r < 0)
			return r;
		const char *netns = json_string_value(json_object_get(info, "netns"));
		if (!netns)
			return err_set(err, -EBADMSG, "pod %s tells no netns", pair->pods[i]);
		r = (wired ? wiring_restore : wiring_remove)(
			&bench->wiring, pair->pods[i], netns, err);
	}
	return r;
}

/*
 * One machine to each half of the CPUs: how the host's scheduler places the threads of both, which
 * differs from second to second, makes more of a difference than the wiring.
 */
static int pin_pod(const char *pod, size_t share, struct err *err)
{
	pid_t pids[PROCESSES_MAX];
	int n = process_find(pod, pids, err);
	int r = n < 0 ? n : 0;
	for (int i = 0; r == 0 && i < n; i++)
		r = process_pin(pids[i], share, PODS, err);
	return r;
}

static int start_pair(
	const struct network_bench *bench, unsigned round, struct pair *pair, struct err *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < PODS; i++)
		r = start_pod(bench, round, i, pair, err);
	for (size_t i = 0; r == 0 && i < PODS; i++)
		r = pin_pod(pair->pods[i], i, err);
	return r < 0 ? r : cri_pod_address(bench->client, pair->pods[0], &pair->address, err);
}

static int add_rates(struct results *results, const char *tcp, const char *rtt,
	const struct rates *sum, double n, struct err *err)
{
	int r = results_add(results, tcp, sum->tcp / n, err);
	return r < 0 ? r : results_add(results, rtt, sum->rtt / n, err);
}

/*
 * Emulated machines become faster while their code is new, and the host is faster and slower in
 * turns. So wired and bare are measured beside one another, each once before the other and once
 * behind it, and compared with one another alone.
 */
static int measure_quartet(const struct network_bench *bench, const struct pair *pair,
	struct results *results, struct err *err)
{
	static const bool turns[] = {true, false, false, true};
	static const double each = 2; /* of these */
	struct rates sums[2] = {{0}}; /* bare, wired */
	bool wired = true;
	int r = 0;
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(turns); i++) {
		if (turns[i] != wired)
			r = set_wiring(bench, pair, turns[i], err);
		wired = turns[i];
		if (r == 0)
			r = measure_pair(bench, pair, &sums[wired], err);
	}
	if (r == 0)
		r = add_rates(results, "net.tcp", "net.rtt", &sums[true], each, err);
	return r < 0 ? r : add_rates(results, "bare.tcp", "bare.rtt", &sums[false], each, err);
}

static int measure_round(const struct network_bench *bench, unsigned round, struct pair *pair,
	struct results *results, struct err *err)
{
	struct rates unused = {0};
	int r = start_pair(bench, round, pair, err);
	for (unsigned i = 0; r == 0 && i < WARM_UPS; i++)
		r = measure_pair(bench, pair, &unused, err);
	for (unsigned i = 0; r == 0 && i < QUARTETS; i++)
		r = measure_quartet(bench, pair, results, err);
	return r;
}

int network_measure(const struct network_bench *bench, struct results *results, struct err *err)
{
	int r = 0;
	for (unsigned round = 1; r == 0 && round <= bench->rounds; round++) {
		struct pair pair = {0};
		struct err ignored = ERR_INIT;
		r = measure_round(bench, round, &pair, results, err);
		for (size_t i = 0; i < PODS; i++)
			if (pair.pods[i]) {
				int gone = cri_remove_pod(
					bench->client, pair.pods[i], r < 0 ? &ignored : err);
				r = r < 0 ? r : gone;
			}
		pair_done(&pair);
	}
	return r;
}
