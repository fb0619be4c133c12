#include "cri-server/runtime/network_job.h"

#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/network_spec.h"

static int set_up(struct network_job *job, struct err *err)
{
	_cleanup_(network_spec_done) struct network_spec spec = {0};
	int r = network_spec_fill(&spec, job->sandbox->id, job->sandbox->config, err);
	return r < 0 ? r : net_pod_setup(job->rt->net, &spec.pod, &job->info, err);
}

static void *plugins_main(void *arg)
{
	struct network_job *job = arg;
	uint64_t begin = ev_now_ns();
	job->result = set_up(job, &job->err);
	job->plugins_step_ns = ev_now_ns() - begin;
	return NULL;
}

static void *wire_main(void *arg)
{
	struct network_job *job = arg;
	const char *id = job->sandbox->id;
	job->result = 0;
	for (size_t i = 0; job->result == 0 && i < job->info->n_interfaces; i++)
		job->result = net_pod_attach_tap(job->rt->net, id, job->info, i, &job->err);
	return NULL;
}

static int start(struct network_job *job, void *(*main)(void *arg), struct err *err)
{
	int r = pthread_create(&job->thread, NULL, main, job);
	if (r)
		return err_set(err, -r, "start a thread: %s", strerror(r));
	job->runs = true;
	return 0;
}

int network_job_begin(struct network_job *job, struct err *err)
{
	return start(job, plugins_main, err);
}

int network_job_wire(struct network_job *job, struct err *err)
{
	return start(job, wire_main, err);
}

int network_job_wait(struct network_job *job, struct err *err)
{
	if (!job->runs)
		return 0;
	pthread_join(job->thread, NULL);
	job->runs = false;
	if (job->result < 0)
		*err = job->err;
	return job->result;
}

/* What a restarted process must know of the network, for status. */
static int record(struct sandbox *sandbox, const struct net_pod_info *info, struct err *err)
{
	Bulkhead__Store__Sandbox *record = sandbox->record;
	size_t n = 0;
	int r = message_set_string(&record->netns, info->netns, err);
	if (r < 0)
		return r;
	while (info->ips[n])
		n++;
	record->ips = calloc(n + 1, sizeof(char *));
	if (!record->ips)
		return err_nomem(err);
	for (; record->n_ips < n; record->n_ips++) {
		record->ips[record->n_ips] = strdup(info->ips[record->n_ips]);
		if (!record->ips[record->n_ips])
			return err_nomem(err);
	}
	return 0;
}

int network_job_join(struct network_job *job, struct err *err)
{
	if (job->joined)
		return 0;
	int r = network_job_wait(job, err);
	if (r < 0)
		return r;
	job->joined = true;
	job->sandbox->plugins_ns = job->info->plugins_ns;
	return record(job->sandbox, job->info, err);
}

void network_job_done(struct network_job *job)
{
	struct err ignored = ERR_INIT;
	network_job_wait(job, &ignored);
	job->info = net_pod_info_free(job->info);
}

int network_job_make_taps(struct network_job *job, struct err *err)
{
	int r = network_job_join(job, err);
	for (size_t i = 0; r == 0 && i < job->info->n_interfaces; i++)
		r = net_pod_make_tap(job->rt->net, job->sandbox->id, job->info, i, err);
	return r;
}
