#include "tests/bench/network.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/fd.h"
#include "common/spawn.h"
#include "tests/bench/cri.h"

#define PODS       2
#define PORT       "5001"
#define SEND_MS    "3000"
#define QUESTIONS  "2000"
#define UNWIRE_MS  20000
#define NAME_BYTES 32

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

/* One run of the client; its figure goes to the series unless that is NULL. */
static int run_client(const struct network_bench *bench, const struct pair *pair,
	const char *const what[2], const char *series, struct results *results, struct err *err)
{
	const char *const command[] = {"net_load", what[0], pair->address, PORT, what[1], NULL};
	_cleanup_free_ char *output = NULL;
	int r = cri_exec(bench->client, pair->containers[1], command, &output, err);
	if (r < 0)
		return r;
	double value = strtod(output, NULL);
	if (value <= 0)
		return err_set(err, -EBADMSG, "net_load %s answered '%.32s'", what[0], output);
	return series ? results_add(results, series, value, err) : 0;
}

static int measure_pair(const struct network_bench *bench, const struct pair *pair, const char *tcp,
	const char *rtt, struct results *results, struct err *err)
{
	static const char *const send[] = {"tcp", SEND_MS}, *const ask[] = {"rtt", QUESTIONS};
	int r = run_client(bench, pair, send, tcp, results, err);
	return r < 0 ? r : run_client(bench, pair, ask, rtt, results, err);
}

static int unwire(const struct network_bench *bench, const char *pod, struct err *err)
{
	json_auto_t *info = NULL;
	int r = cri_info(bench->client, pod, &info, err);
	if (r < 0)
		return r;
	const char *netns = json_string_value(json_object_get(info, "netns"));
	const char *const argv[] = {bench->unwire, netns ? netns : "", NULL};
	struct spawn_result result = SPAWN_RESULT_INIT(4096);
	const struct spawn_options options = {
		.argv = argv, .timeout_ms = UNWIRE_MS, .cancel_fd = -EBADF, .netns_fd = -EBADF};
	r = spawn_check(&options, &result, err);
	spawn_result_done(&result);
	return r;
}

/* What is not counted comes first: emulated machines are slower while their code is new. */
static int measure_round(const struct network_bench *bench, unsigned round, struct pair *pair,
	struct results *results, struct err *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < PODS; i++)
		r = start_pod(bench, round, i, pair, err);
	if (r == 0)
		r = cri_pod_address(bench->client, pair->pods[0], &pair->address, err);
	if (r == 0)
		r = measure_pair(bench, pair, NULL, NULL, results, err);
	if (r == 0)
		r = measure_pair(bench, pair, "net.tcp", "net.rtt", results, err);
	for (size_t i = 0; r == 0 && i < PODS; i++)
		r = unwire(bench, pair->pods[i], err);
	return r < 0 ? r : measure_pair(bench, pair, "bare.tcp", "bare.rtt", results, err);
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
