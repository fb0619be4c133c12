#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/fd.h"
#include "cri-server/daemon.h"
#include "cri-server/runtime/events.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/turns.h"

static const struct rpc_method methods[] = {
	{"Version", status_version},
	{"Status", status_status},
	{"RuntimeConfig", status_runtime_config},
	{"UpdateRuntimeConfig", status_update_runtime_config},
	{"RunPodSandbox", sandbox_service_run},
	{"StopPodSandbox", sandbox_service_stop},
	{"RemovePodSandbox", sandbox_service_remove},
	{"PodSandboxStatus", sandbox_service_status},
	{"ListPodSandbox", sandbox_service_list},
	{"CreateContainer", container_service_create},
	{"StartContainer", container_service_start},
	{"StopContainer", container_service_stop},
	{"RemoveContainer", container_service_remove},
	{"ContainerStatus", container_service_status},
	{"ListContainers", container_service_list},
	{"ReopenContainerLog", container_service_reopen_log},
	{"ExecSync", exec_service_sync},
	{"ContainerStats", stats_service_container},
	{"ListContainerStats", stats_service_list_containers},
	{"PodSandboxStats", stats_service_sandbox},
	{"ListPodSandboxStats", stats_service_list_sandboxes},
	{"ListMetricDescriptors", metrics_service_descriptors},
	{"ListPodSandboxMetrics", metrics_service_list},
	{"CheckpointContainer", container_service_checkpoint},
	{"Exec", streaming_service_exec},
	{"Attach", streaming_service_attach},
	{"PortForward", streaming_service_port_forward},
	{"UpdateContainerResources", resources_service_container},
	{"UpdatePodSandboxResources", resources_service_sandbox},
};

/* What lists answer, in parts. */
#define STREAM_LIST(name, list)                                                                    \
	static int name(struct rpc_call *call, const ProtobufCMessage *request, struct err *err)   \
	{                                                                                          \
		return rpc_stream_list(call, request, list, err);                                  \
	}

STREAM_LIST(stream_sandboxes, sandbox_service_list)
STREAM_LIST(stream_containers, container_service_list)
STREAM_LIST(stream_container_stats, stats_service_list_containers)
STREAM_LIST(stream_sandbox_stats, stats_service_list_sandboxes)
STREAM_LIST(stream_sandbox_metrics, metrics_service_list)

static const struct rpc_stream_method streams[] = {
	{"GetContainerEvents", events_service_get},
	{"StreamPodSandboxes", stream_sandboxes},
	{"StreamContainers", stream_containers},
	{"StreamContainerStats", stream_container_stats},
	{"StreamPodSandboxStats", stream_sandbox_stats},
	{"StreamPodSandboxMetrics", stream_sandbox_metrics},
};

static const char *const quick[] = {"Version", "Status", "RuntimeConfig", "UpdateRuntimeConfig",
	"PodSandboxStatus", "ListPodSandbox", "ContainerStatus", "ListContainers",
	"GetContainerEvents", "StreamPodSandboxes", "StreamContainers", NULL};

const struct rpc_service runtime_service = {
	.descriptor = &runtime__v1__runtime_service__descriptor,
	.methods = methods,
	.n_methods = ARRAY_SIZE(methods),
	.quick = quick,
	.streams = streams,
	.n_streams = ARRAY_SIZE(streams),
};

struct runtime *call_runtime(const struct rpc_call *call)
{
	return ((struct daemon *)rpc_call_userdata(call))->runtime;
}

void make_id(char id[ID_LEN + 1])
{
	uint8_t bytes[ID_LEN / 2];
	arc4random_buf(bytes, sizeof(bytes));
	str_hex(id, bytes, sizeof(bytes));
}

int64_t realtime_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

bool wait_until(struct runtime *rt, pthread_cond_t *cond, uint64_t deadline_ms)
{
	return ev_cond_wait(cond, &rt->lock, deadline_ms) != ETIMEDOUT;
}

void id_search_offer(struct id_search *search, const char *id, void *candidate)
{
	size_t len = strlen(search->id);
	if (!len || strncmp(id, search->id, len) != 0)
		return;
	search->ambiguous = search->found != NULL;
	search->found = candidate;
}

void *id_search_end(const struct id_search *search, const char *noun, struct err *err)
{
	if (!search->id[0]) {
		err_set(err, -EINVAL, "the %s id is empty", noun);
		return NULL;
	}
	if (search->ambiguous) {
		err_set(err, -EINVAL, "%s id '%.64s' is the beginning of several; give more of it",
			noun, search->id);
		return NULL;
	}
	if (!search->found)
		err_set(err, -ENOENT, "%s '%.64s' not found", noun, search->id);
	return search->found;
}

static void *worker_main(void *arg)
{
	struct worker_loop *worker = arg;
	ev_loop_run(worker->loop, NULL);
	return NULL;
}

static int worker_start(struct worker_loop *worker, struct err *err)
{
	int r = pthread_create(&worker->thread, NULL, worker_main, worker);
	worker->runs = r == 0;
	return r ? err_set(err, -r, "start a thread: %s", strerror(r)) : 0;
}

static void worker_stop(struct worker_loop *worker)
{
	if (!worker->runs)
		return;
	ev_loop_stop(worker->loop);
	pthread_join(worker->thread, NULL);
}

static void on_machine_died(void *userdata, const char *id, const char *reason)
{
	sandbox_report_death(userdata, id, reason);
}

static int open_hypervisor(struct runtime *rt, struct err *err)
{
	const struct config_hypervisor *c = &rt->config->hypervisor;
	enum hv_accelerator accelerator = strcmp(c->accelerator, "kvm") == 0 ? HV_ACCELERATOR_KVM
					  : strcmp(c->accelerator, "tcg") == 0
						  ? HV_ACCELERATOR_TCG
						  : HV_ACCELERATOR_AUTO;
	const struct hv_config config = {
		.libvirt_uri = c->libvirt_uri,
		.run_dir = rt->config->run_dir,
		.accelerator = accelerator,
		.kernel = c->kernel,
		.initramfs = c->initramfs,
		.kernel_arguments = c->kernel_arguments,
		.virtiofsd = c->virtiofsd,
		.vsock_helper = c->vsock_helper,
	};
	return hv_open(&config, rt->log, on_machine_died, rt, &rt->hv, err);
}

static int open_network(struct runtime *rt, struct err *err)
{
	_cleanup_free_ char *cache = str_printf("%s/cni", rt->config->state_dir);
	/* Not in /run/netns: what lies there may be another bulkheadd's, which start-up would take
	 * for lost. */
	_cleanup_free_ char *netns = str_printf("%s/netns", rt->config->run_dir);
	if (!cache || !netns)
		return err_nomem(err);
	const struct net_config config = {
		.conf_dir = rt->config->network.conf_dir,
		.bin_dirs = rt->config->network.bin_dirs,
		.cache_dir = cache,
		.netns_dir = netns,
		.plugin_timeout_ms = rt->config->network.plugin_timeout_ms,
		.redirect = strcmp(rt->config->network.redirect, "macvtap") == 0
				    ? NET_REDIRECT_MACVTAP
				    : NET_REDIRECT_TCFILTER,
		.antispoof = *rt->config->network.antispoof,
	};
	int r = net_open(&config, &rt->net, err);
	return r < 0 ? r : net_watcher_new(&rt->watcher, err);
}

static int make_directories(const struct config *config, struct err *err)
{
	static const char *const below_state[] = {"scratch", "logs"};
	for (size_t i = 0; i < ARRAY_SIZE(below_state); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", config->state_dir, below_state[i]);
		if (!path)
			return err_nomem(err);
		int r = fd_mkdir_all(path, 0711, err);
		if (r < 0)
			return r;
	}
	return fd_mkdir_all(config->run_dir, 0711, err);
}

int runtime_open(const struct config *config, const struct log *log, struct store *store,
	struct img *images, struct runtime **ret, struct err *err)
{
	struct runtime *rt = calloc(1, sizeof(*rt));
	if (!rt)
		return err_nomem(err);
	rt->config = config;
	rt->log = log;
	rt->store = store;
	rt->images = images;
	pthread_mutex_init(&rt->lock, NULL);
	TAILQ_INIT(&rt->sandboxes);
	TAILQ_INIT(&rt->containers);
	TAILQ_INIT(&rt->execs);

	ev_cond_init(&rt->recovered);
	int r = make_directories(config, err);
	if (r == 0)
		r = ev_loop_new(&rt->io.loop, err);
	if (r == 0)
		r = dir_watcher_new(rt->io.loop, &rt->volume_watcher, err);
	if (r == 0)
		r = worker_start(&rt->io, err);
	if (r == 0)
		r = ev_loop_new(&rt->keeper.loop, err);
	if (r == 0)
		r = events_open(&rt->events, err);
	if (r == 0)
		r = filter_cache_new(&rt->filters, err);
	if (r == 0)
		r = turns_new(config->hypervisor.boots_max, &rt->starts, err);
	if (r == 0)
		r = logs_open(log, &rt->logs, err);
	if (r == 0)
		r = open_network(rt, err);
	if (r == 0)
		r = open_hypervisor(rt, err);
	if (r == 0)
		r = runtime_load(rt, err);
	/* Deaths that are reported from here on, or were, are of pods that are known. */
	if (r == 0)
		r = worker_start(&rt->keeper, err);
	if (r == 0)
		r = runtime_recover(rt, err);
	if (r < 0) {
		runtime_close(rt);
		return r;
	}
	*ret = rt;
	return 0;
}

void runtime_stop_waiting(struct runtime *rt)
{
	turns_close(rt->starts);
	events_stop(rt->events);
}

struct runtime *runtime_close(struct runtime *rt)
{
	if (!rt)
		return NULL;
	runtime_end_recovery(rt);
	/* Deaths that are reported from here on are handled when the loop is freed: of nobody
	 * known. */
	worker_stop(&rt->keeper);
	struct sandbox *sandbox;
	while ((sandbox = TAILQ_FIRST(&rt->sandboxes))) {
		sandbox_drop_machine(sandbox);
		struct container *c, *next;
		for (c = TAILQ_FIRST(&rt->containers); c; c = next) {
			next = TAILQ_NEXT(c, link);
			if (c->sandbox == sandbox)
				container_forget(c);
		}
		sandbox_leave_index(sandbox);
		sandbox_unref(sandbox);
	}
	net_watcher_free(rt->watcher);
	hv_close(rt->hv);
	worker_stop(&rt->io);
	dir_watcher_free(rt->volume_watcher);
	ev_loop_free(rt->io.loop);
	ev_loop_free(rt->keeper.loop);
	logs_close(rt->logs);
	events_close(rt->events);
	filter_cache_free(rt->filters);
	turns_free(rt->starts);
	net_close(rt->net);
	pthread_cond_destroy(&rt->recovered);
	pthread_mutex_destroy(&rt->lock);
	free(rt);
	return NULL;
}
