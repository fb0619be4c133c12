#include "tests/bench/pull.h"

#include <errno.h>
#include <fts.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "tests/bench/clock.h"
#include "tests/bench/cri.h"
#include "tests/bench/process.h"

#define SAMPLE_MS 20
#define MIB       1048576.0

/* ---- the disk ---- */

static double directory_mib(const char *path)
{
	char *const paths[] = {(char *)path, NULL};
	uint64_t bytes = 0;
	sync(); /* else what is not written yet has no blocks */
	FTS *tree = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	if (!tree)
		return 0;
	for (FTSENT *entry; (entry = fts_read(tree));)
		if (entry->fts_info != FTS_DP)
			bytes += (uint64_t)entry->fts_statp->st_blocks * 512;
	fts_close(tree);
	return (double)bytes / MIB;
}

/* ---- memory ---- */

struct sampler {
	pid_t root;
	atomic_bool stop;
	double most; /* MiB */
	pthread_t thread;
};

static void *sample(void *userdata)
{
	struct sampler *s = userdata;
	while (!atomic_load(&s->stop)) {
		double mib = process_tree_memory_mib(s->root);
		if (mib > s->most)
			s->most = mib;
		nanosleep(&(struct timespec){.tv_nsec = SAMPLE_MS * 1000000L}, NULL);
	}
	return NULL;
}

/* ---- pulls ---- */

static int timed_pull(struct rpc_client *client, const char *image, const char *row,
	struct results *results, struct err *err)
{
	_cleanup_free_ char *ref = NULL;
	sync(); /* what was written before is not this pull's affair */
	uint64_t begin = clock_ns();
	int r = cri_pull(client, image, &ref, err);
	if (r < 0 || !row)
		return r;
	return results_add(results, row, clock_ms_since(begin), err);
}

static int remove_images(struct rpc_client *client, const struct pull_bench *bench, struct err *err)
{
	int r = cri_remove_image(client, bench->first, err);
	return r < 0 ? r : cri_remove_image(client, bench->shared, err);
}

static int pull_both(struct rpc_client *client, const struct pull_bench *bench,
	const struct pull_server *server, struct results *results, struct err *err)
{
	bool ours = server == &bench->ours;
	int r = timed_pull(client, bench->first, ours ? "image.pull.cold" : "containerd.pull.cold",
		results, err);
	if (r == 0)
		r = timed_pull(client, bench->shared,
			ours ? "image.pull.shared" : "containerd.pull.shared", results, err);
	if (r == 0)
		r = results_add(results, ours ? "image.disk" : "containerd.disk",
			directory_mib(server->directory), err);
	return r < 0 ? r : remove_images(client, bench, err);
}

static int measure_memory(struct rpc_client *client, const struct pull_bench *bench,
	struct results *results, struct err *err)
{
	struct sampler s = {.root = bench->server_pid};
	if (pthread_create(&s.thread, NULL, sample, &s) != 0)
		return err_set(err, -EAGAIN, "start a thread");
	int r = timed_pull(client, bench->first, NULL, results, err);
	atomic_store(&s.stop, true);
	pthread_join(s.thread, NULL);
	if (r == 0)
		r = results_add(results, "image.pull.memory", s.most, err);
	return r < 0 ? r : cri_remove_image(client, bench->first, err);
}

static int measure(struct rpc_client *ours, struct rpc_client *baseline,
	const struct pull_bench *bench, struct results *results, struct err *err)
{
	/* Once without counting: the registry's files come into the page cache. */
	int r = timed_pull(ours, bench->first, NULL, results, err);
	if (r == 0)
		r = remove_images(ours, bench, err);
	for (unsigned i = 0; r == 0 && i < bench->rounds; i++) {
		bool first = i % 2;
		r = pull_both(first ? ours : baseline, bench,
			first ? &bench->ours : &bench->baseline, results, err);
		if (r == 0)
			r = pull_both(first ? baseline : ours, bench,
				first ? &bench->baseline : &bench->ours, results, err);
	}
	return r < 0 ? r : measure_memory(ours, bench, results, err);
}

int pull_measure(const struct pull_bench *bench, struct results *results, struct err *err)
{
	struct rpc_client *ours = NULL, *baseline = NULL;
	int r = rpc_client_new(bench->ours.socket, &ours, err);
	if (r == 0)
		r = rpc_client_new(bench->baseline.socket, &baseline, err);
	if (r == 0)
		r = measure(ours, baseline, bench, results, err);
	rpc_client_free(ours);
	rpc_client_free(baseline);
	return r;
}
