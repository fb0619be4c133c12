/*
 * The calls Stats and UpdateResources: what containers use, and may use.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "agent/cgroup.h"
#include "agent/methods.h"
#include "common/fd.h"

/* As many as a machine has network devices for, and those that containers may make. */
#define INTERFACES_MAX 32

struct stats {
	struct usage pod;
	struct usage containers[CONTAINERS_MAX];
	Bulkhead__Agent__Usage *container_pointers[CONTAINERS_MAX];
	struct usage_interface interfaces[INTERFACES_MAX];
	Bulkhead__Agent__InterfaceUsage *interface_pointers[INTERFACES_MAX];
};

static void fill_containers(const struct registry *registry, struct stats *stats,
	Bulkhead__Agent__StatsResponse *response)
{
	response->containers = stats->container_pointers;
	for (struct process *p = registry->processes; p; p = p->next) {
		if (p->process_id[0] || !p->container || p->removing || p->ended ||
			response->n_containers == CONTAINERS_MAX)
			continue;
		struct usage *usage = &stats->containers[response->n_containers];
		container_usage(p->container, usage);
		usage->message.container_id = p->container_id;
		stats->container_pointers[response->n_containers++] = &usage->message;
	}
}

void method_stats(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server_state *state = userdata;
	(void)msg;
	_cleanup_free_ struct stats *stats = calloc(1, sizeof(*stats));
	if (!stats) {
		struct err err = ERR_INIT;
		err_nomem(&err);
		ttrpc_fail(call, &err);
		return;
	}
	Bulkhead__Agent__StatsResponse response = BULKHEAD__AGENT__STATS_RESPONSE__INIT;
	if (state->host) {
		container_host_usage(state->host, &stats->pod);
		response.pod = &stats->pod.message;
		fill_containers(&state->registry, stats, &response);
	}
	response.n_interfaces = usage_read_interfaces(stats->interfaces, INTERFACES_MAX);
	response.interfaces = stats->interface_pointers;
	for (size_t i = 0; i < response.n_interfaces; i++)
		stats->interface_pointers[i] = &stats->interfaces[i].message;
	usage_read_machine(&response.memory_total_bytes, &response.swap_total_bytes);
	struct statvfs disk;
	if (state->host && statvfs(CONTAINER_SCRATCH, &disk) == 0) {
		response.scratch_bytes = disk.f_blocks * disk.f_frsize;
		response.scratch_inodes = disk.f_files;
		response.scratch_free_inodes = disk.f_ffree;
	}
	response.realtime_ns = realtime_ns();
	ttrpc_reply(call, &response.base);
}

static int limit_job(void *arg, struct err *err)
{
	const Bulkhead__Agent__UpdateResourcesRequest *request = arg;
	_cleanup_close_ int cgroup = -EBADF;
	int r = cgroup_open(request->container_id, &cgroup, err);
	/* One that ended or goes has nothing to limit. */
	if (r == -ENOENT)
		return 0;
	return r < 0 ? r : cgroup_limit(cgroup, request->resources, err);
}

static void on_limited(void *userdata, const struct err *err)
{
	struct server_state *state = userdata;
	struct ttrpc_call *call = TAKE_PTR(state->limiting);
	Bulkhead__Agent__UpdateResourcesResponse response =
		BULKHEAD__AGENT__UPDATE_RESOURCES_RESPONSE__INIT;
	if (err->code < 0)
		ttrpc_fail(call, err);
	else
		ttrpc_reply(call, &response.base);
}

/* One after the other, as the host asks; what it did not wait for is not to have the last word. */
void method_update_resources(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server_state *state = userdata;
	const Bulkhead__Agent__UpdateResourcesRequest *request = (const void *)msg;
	struct err err = ERR_INIT;
	struct process *init;
	int r = 0;
	if (state->limiting)
		r = err_set(&err, -EAGAIN, "earlier limits of the pod are still being set");
	else if (request->container_id[0])
		r = registry_find(&state->registry, request->container_id, "", &init, &err);
	else if (!state->host) /* makes the cgroup of all */
		r = container_host_new(state->loop, state->reaper, &state->ids, &state->host, &err);
	if (r == 0)
		r = job_start(state->reaper, "set limits", limit_job, (void *)request, on_limited,
			state, &err);
	if (r < 0)
		ttrpc_fail(call, &err);
	else
		state->limiting = call;
}
