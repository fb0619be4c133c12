#include "tests/bench/disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "tests/bench/cri.h"

#define PROGRAM "/volume/disk_load"

/* Lines "ROW MILLISECONDS", each row's name behind the prefix. */
static int add_lines(const char *prefix, char *lines, struct results *results, struct err *err)
{
	char *rest = NULL;
	for (char *line = strtok_r(lines, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char name[RESULTS_NAME_MAX];
		char *value = strchr(line, ' ');
		if (!value)
			return err_set(err, -EBADMSG, "disk_load said: %.64s", line);
		*value++ = '\0';
		snprintf(name, sizeof(name), "%s%s", prefix, line);
		int r = results_add(results, name, strtod(value, NULL), err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int run_load(struct rpc_client *client, const char *container, const char *load,
	const char *prefix, struct results *results, struct err *err)
{
	_cleanup_free_ char *lines = NULL;
	const char *const command[] = {PROGRAM, load, NULL};
	int r = cri_exec(client, container, command, &lines, err);
	return r < 0 ? err_wrap(err, "%s", load) : add_lines(prefix, lines, results, err);
}

static int measure(const struct disk_bench *bench, const struct bench_peer *peer, const char *pod,
	struct results *results, struct err *err)
{
	bool ours = peer == &bench->ours;
	/* Its own machine's caches it may drop; the host's stay as they are. */
	static const char *const command[] = {"sleep", "86400", NULL};
	const struct cri_container spec = {.image = peer->image,
		.command = command,
		.volume = bench->volume,
		.privileged = ours};
	const char *prefix = ours ? "" : "containerd.";
	_cleanup_free_ char *container = NULL;
	int r = cri_create_container(peer->client, pod, &spec, &container, err);
	if (r == 0)
		r = cri_start_container(peer->client, container, err);
	if (r == 0 && ours)
		r = run_load(peer->client, container, "image_read", prefix, results, err);
	if (r == 0 && ours)
		r = run_load(peer->client, container, "scratch_write", prefix, results, err);
	if (r == 0)
		r = run_load(peer->client, container, "volume_read", prefix, results, err);
	if (r == 0)
		r = run_load(peer->client, container, "small_files", prefix, results, err);
	return r;
}

static int measure_in_pod(const struct disk_bench *bench, const struct bench_peer *peer,
	struct results *results, struct err *err)
{
	_cleanup_free_ char *pod = NULL;
	struct err ignored = ERR_INIT;
	int r = cri_run_pod(peer->client, "bench-disk", bench->dir, &pod, err);
	if (r < 0)
		return r;
	r = measure(bench, peer, pod, results, err);
	cri_remove_pod(peer->client, pod, &ignored);
	return r;
}

int disk_measure(const struct disk_bench *bench, struct results *results, struct err *err)
{
	int r = measure_in_pod(bench, &bench->baseline, results, err);
	return r < 0 ? r : measure_in_pod(bench, &bench->ours, results, err);
}
