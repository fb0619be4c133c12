/*
 * ListMetricDescriptors and ListPodSandboxMetrics: the names of cAdvisor, which dashboards and
 * alerts know, and those of the machine that every pod pays for.
 *
 * One row per metric; a metric with several rows (kinds of page faults) has them next to each
 * other. Values are whole numbers, as CRI has it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/runtime/stats.h"

/* What is no field of the guest's answer as it is. */
struct derived {
	uint64_t working_set;
	uint64_t now_s;
	uint64_t start_s;
	uint64_t cpu_period;
	uint64_t cpu_quota;
	uint64_t cpu_shares;
	uint64_t reservation;
	uint64_t fs_bytes;
	uint64_t fs_inodes;
	uint64_t fs_free_inodes;
	uint64_t stalls[3][2]; /* CPU, memory, I/O: some, full; µs */
};

enum source {
	OF_USAGE, /* Bulkhead__Agent__Usage, of a container */
	OF_DERIVED,
	OF_INTERFACE, /* Bulkhead__Agent__InterfaceUsage, of a pod; label "interface" */
	OF_MACHINE,   /* struct hv_cost, of a pod */
};

#define BASE_LABELS  6
#define EXTRA_LABELS 2

struct row {
	const char *name;
	const char *help;
	enum source source;
	bool counter;
	size_t offset;
	uint64_t divisor;
	const char *keys[EXTRA_LABELS];
	const char *values[EXTRA_LABELS];
};

#define USAGE(f)     OF_USAGE, false, offsetof(Bulkhead__Agent__Usage, f)
#define COUNTER(f)   OF_USAGE, true, offsetof(Bulkhead__Agent__Usage, f)
#define DERIVED(f)   OF_DERIVED, false, offsetof(struct derived, f)
#define STALL(f)     OF_DERIVED, true, offsetof(struct derived, f)
#define INTERFACE(f) OF_INTERFACE, true, offsetof(Bulkhead__Agent__InterfaceUsage, f)
#define NS           1000000000
#define US           1000000
#define DEVICE       .keys = {"device"}, .values = {"scratch"}
#define NO_LABEL                                                                                   \
	{NULL},                                                                                    \
	{                                                                                          \
		NULL                                                                               \
	}
#define BY_INTERFACE                                                                               \
	{"interface"},                                                                             \
	{                                                                                          \
		NULL                                                                               \
	}

static const char *const base_labels[BASE_LABELS] = {
	"container", "id", "image", "name", "namespace", "pod"};

static const struct row rows[] = {
	{"container_blkio_device_usage_total", "Bytes of block devices read or written.",
		COUNTER(read_bytes), 1, {"device", "operation"}, {"all", "Read"}},
	{"container_blkio_device_usage_total", "", COUNTER(written_bytes), 1,
		{"device", "operation"}, {"all", "Write"}},
	{"container_cpu_cfs_periods_total", "Elapsed enforcement periods.", COUNTER(cpu_periods), 1,
		NO_LABEL},
	{"container_cpu_cfs_throttled_periods_total", "Throttled enforcement periods.",
		COUNTER(cpu_throttled_periods), 1, NO_LABEL},
	{"container_cpu_cfs_throttled_seconds_total", "Time throttled, in seconds.",
		COUNTER(cpu_throttled_ns), NS, NO_LABEL},
	{"container_cpu_system_seconds_total", "System CPU time, in seconds.",
		COUNTER(cpu_system_ns), NS, NO_LABEL},
	{"container_cpu_usage_seconds_total", "CPU time, in seconds.", COUNTER(cpu_ns), NS, {"cpu"},
		{"total"}},
	{"container_cpu_user_seconds_total", "User CPU time, in seconds.", COUNTER(cpu_user_ns), NS,
		NO_LABEL},
	{"container_file_descriptors", "Open file descriptors.", USAGE(file_descriptors), 1,
		NO_LABEL},
	{"container_fs_inodes_free", "Inodes left on the pod's writable disk.",
		DERIVED(fs_free_inodes), 1, DEVICE},
	{"container_fs_inodes_total", "Inodes of the pod's writable disk.", DERIVED(fs_inodes), 1,
		DEVICE},
	{"container_fs_limit_bytes", "Size of the pod's writable disk.", DERIVED(fs_bytes), 1,
		DEVICE},
	{"container_fs_reads_bytes_total", "Bytes read from block devices.", COUNTER(read_bytes), 1,
		DEVICE},
	{"container_fs_reads_total", "Reads from block devices.", COUNTER(reads), 1, DEVICE},
	{"container_fs_usage_bytes", "Bytes of the container's writable layer.", USAGE(layer_bytes),
		1, DEVICE},
	{"container_fs_writes_bytes_total", "Bytes written to block devices.",
		COUNTER(written_bytes), 1, DEVICE},
	{"container_fs_writes_total", "Writes to block devices.", COUNTER(writes), 1, DEVICE},
	{"container_hugetlb_usage_bytes", "Huge pages in use.", USAGE(hugepage_bytes), 1,
		{"pagesize"}, {"2MB"}},
	{"container_last_seen", "When this was read, seconds since the epoch.", DERIVED(now_s), 1,
		NO_LABEL},
	{"container_memory_cache", "Bytes of page cache.", USAGE(file_bytes), 1, NO_LABEL},
	{"container_memory_failcnt", "Times that the memory limit was hit.",
		COUNTER(memory_limit_hits), 1, NO_LABEL},
	{"container_memory_failures_total", "Page faults.", COUNTER(page_faults), 1,
		{"failure_type", "scope"}, {"pgfault", "container"}},
	{"container_memory_failures_total", "", COUNTER(major_page_faults), 1,
		{"failure_type", "scope"}, {"pgmajfault", "container"}},
	{"container_memory_kernel_usage", "Bytes of kernel memory.", USAGE(kernel_bytes), 1,
		NO_LABEL},
	{"container_memory_mapped_file", "Bytes of mapped files.", USAGE(file_mapped_bytes), 1,
		NO_LABEL},
	{"container_memory_max_usage_bytes", "Most memory ever in use.", USAGE(memory_peak), 1,
		NO_LABEL},
	{"container_memory_rss", "Bytes of anonymous memory.", USAGE(anon_bytes), 1, NO_LABEL},
	{"container_memory_swap", "Bytes of swap in use.", USAGE(swap_bytes), 1, NO_LABEL},
	{"container_memory_usage_bytes", "Memory in use, page cache included.", USAGE(memory_bytes),
		1, NO_LABEL},
	{"container_memory_working_set_bytes", "Memory in use without inactive page cache.",
		DERIVED(working_set), 1, NO_LABEL},
	{"container_network_receive_bytes_total", "Bytes received.", INTERFACE(rx_bytes), 1,
		BY_INTERFACE},
	{"container_network_receive_errors_total", "Errors while receiving.", INTERFACE(rx_errors),
		1, BY_INTERFACE},
	{"container_network_receive_packets_dropped_total", "Received packets dropped.",
		INTERFACE(rx_dropped), 1, BY_INTERFACE},
	{"container_network_receive_packets_total", "Packets received.", INTERFACE(rx_packets), 1,
		BY_INTERFACE},
	{"container_network_transmit_bytes_total", "Bytes sent.", INTERFACE(tx_bytes), 1,
		BY_INTERFACE},
	{"container_network_transmit_errors_total", "Errors while sending.", INTERFACE(tx_errors),
		1, BY_INTERFACE},
	{"container_network_transmit_packets_dropped_total", "Packets dropped while sending.",
		INTERFACE(tx_dropped), 1, BY_INTERFACE},
	{"container_network_transmit_packets_total", "Packets sent.", INTERFACE(tx_packets), 1,
		BY_INTERFACE},
	{"container_oom_events_total", "Processes that the OOM killer took.", COUNTER(oom_kills), 1,
		NO_LABEL},
	{"container_pressure_cpu_stalled_seconds_total", "Time all tasks waited for a CPU.",
		STALL(stalls[0][1]), US, NO_LABEL},
	{"container_pressure_cpu_waiting_seconds_total", "Time some task waited for a CPU.",
		STALL(stalls[0][0]), US, NO_LABEL},
	{"container_pressure_io_stalled_seconds_total", "Time all tasks waited for I/O.",
		STALL(stalls[2][1]), US, NO_LABEL},
	{"container_pressure_io_waiting_seconds_total", "Time some task waited for I/O.",
		STALL(stalls[2][0]), US, NO_LABEL},
	{"container_pressure_memory_stalled_seconds_total", "Time all tasks waited for memory.",
		STALL(stalls[1][1]), US, NO_LABEL},
	{"container_pressure_memory_waiting_seconds_total", "Time some task waited for memory.",
		STALL(stalls[1][0]), US, NO_LABEL},
	{"container_processes", "Processes.", USAGE(processes), 1, NO_LABEL},
	{"container_sockets", "Open sockets.", USAGE(sockets), 1, NO_LABEL},
	{"container_spec_cpu_period", "CPU period, microseconds.", DERIVED(cpu_period), 1,
		NO_LABEL},
	{"container_spec_cpu_quota", "CPU quota, microseconds per period.", DERIVED(cpu_quota), 1,
		NO_LABEL},
	{"container_spec_cpu_shares", "CPU shares.", DERIVED(cpu_shares), 1, NO_LABEL},
	{"container_spec_memory_limit_bytes", "Memory limit, 0 without one.", USAGE(memory_limit),
		1, NO_LABEL},
	{"container_spec_memory_reservation_limit_bytes", "Memory reservation, 0 without one.",
		DERIVED(reservation), 1, NO_LABEL},
	{"container_spec_memory_swap_limit_bytes", "Swap limit, 0 without one.", USAGE(swap_limit),
		1, NO_LABEL},
	{"container_start_time_seconds", "When it started, seconds since the epoch.",
		DERIVED(start_s), 1, NO_LABEL},
	{"container_threads", "Threads.", USAGE(tasks), 1, NO_LABEL},
	{"container_threads_max", "Most threads allowed, 0 without a limit.", USAGE(tasks_limit), 1,
		NO_LABEL},
	{"bulkhead_machine_cpu_seconds_total", "The host's CPU time for the pod's machine.",
		OF_MACHINE, true, offsetof(struct hv_cost, cpu_ns), NS, NO_LABEL},
	{"bulkhead_machine_memory_pss_bytes", "The host's memory for the pod's machine.",
		OF_MACHINE, false, offsetof(struct hv_cost, pss_bytes), 1, NO_LABEL},
};

static size_t n_extra(const struct row *row)
{
	size_t n = 0;
	while (n < EXTRA_LABELS && row->keys[n])
		n++;
	return n;
}

METHOD(metrics_service_descriptors)
{
	(void)call;
	(void)request;
	Runtime__V1__MetricDescriptor items[ARRAY_SIZE(rows)], *pointers[ARRAY_SIZE(rows)];
	char *labels[ARRAY_SIZE(rows)][BASE_LABELS + EXTRA_LABELS];
	Runtime__V1__ListMetricDescriptorsResponse response =
		RUNTIME__V1__LIST_METRIC_DESCRIPTORS_RESPONSE__INIT;
	response.descriptors = pointers;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		if (i && strcmp(rows[i].name, rows[i - 1].name) == 0)
			continue;
		Runtime__V1__MetricDescriptor *to = &items[i];
		runtime__v1__metric_descriptor__init(to);
		to->name = (char *)rows[i].name;
		to->help = (char *)rows[i].help;
		memcpy(labels[i], base_labels, sizeof(base_labels));
		memcpy(labels[i] + BASE_LABELS, rows[i].keys, sizeof(rows[i].keys));
		to->label_keys = labels[i];
		to->n_label_keys = BASE_LABELS + n_extra(&rows[i]);
		pointers[response.n_descriptors++] = to;
	}
	return respond(&response.base, ret_response, err);
}

struct metric {
	Runtime__V1__Metric message;
	Runtime__V1__UInt64Value value;
	char *labels[BASE_LABELS + EXTRA_LABELS];
};

/* The metrics of one pod or one container, as they are put together. */
struct metrics {
	struct metric *items;
	Runtime__V1__Metric **pointers;
	size_t n;
	int64_t at;
	const char *base[BASE_LABELS];
};

static int metrics_init(struct metrics *m, size_t max, struct err *err)
{
	m->n = 0;
	m->items = calloc(max + 1, sizeof(*m->items));
	m->pointers = calloc(max + 1, sizeof(*m->pointers));
	return m->items && m->pointers ? 0 : err_nomem(err);
}

static void metrics_done(struct metrics *m)
{
	free(m->items);
	free(m->pointers);
}

/* interface: the value of that label, else NULL. */
static void add(
	struct metrics *m, const struct row *row, const void *figures, const char *interface)
{
	uint64_t value = *(const uint64_t *)((const char *)figures + row->offset);
	struct metric *to = &m->items[m->n];
	m->pointers[m->n++] = &to->message;
	runtime__v1__metric__init(&to->message);
	runtime__v1__uint64_value__init(&to->value);
	/* A limit that is not there. */
	to->value.value = value == UINT64_MAX ? 0 : value / row->divisor;
	to->message.name = (char *)row->name;
	to->message.timestamp = m->at;
	to->message.metric_type =
		row->counter ? RUNTIME__V1__METRIC_TYPE__COUNTER : RUNTIME__V1__METRIC_TYPE__GAUGE;
	to->message.value = &to->value;
	memcpy(to->labels, m->base, sizeof(m->base));
	memcpy(to->labels + BASE_LABELS, row->values, sizeof(row->values));
	if (interface)
		to->labels[BASE_LABELS] = (char *)interface;
	to->message.label_values = to->labels;
	to->message.n_label_values = BASE_LABELS + n_extra(row);
}

static void set_stalls(uint64_t to[2], const Bulkhead__Agent__Pressure *pressure)
{
	if (pressure && pressure->some && pressure->full) {
		to[0] = pressure->some->total_us;
		to[1] = pressure->full->total_us;
	}
}

static void derive(
	const struct container *c, const Bulkhead__Agent__Usage *usage, struct derived *ret)
{
	const Bulkhead__Agent__StatsResponse *sample = c->sandbox->usage;
	const Runtime__V1__LinuxContainerResources *resources = container_resources(c);
	*ret = (struct derived){
		.working_set = stats_working_set(usage),
		.now_s = (uint64_t)sample->realtime_ns / NS,
		.start_s = (uint64_t)c->record->started_ns / NS,
		.fs_bytes = sample->scratch_bytes,
		.fs_inodes = sample->scratch_inodes,
		.fs_free_inodes = sample->scratch_free_inodes,
	};
	if (resources) {
		ret->cpu_period = (uint64_t)resources->cpu_period;
		ret->cpu_quota = resources->cpu_quota > 0 ? (uint64_t)resources->cpu_quota : 0;
		ret->cpu_shares = (uint64_t)resources->cpu_shares;
	}
	set_stalls(ret->stalls[0], usage->cpu_pressure);
	set_stalls(ret->stalls[1], usage->memory_pressure);
	set_stalls(ret->stalls[2], usage->io_pressure);
}

static int fill_container(struct metrics *m, const struct container *c,
	const Bulkhead__Agent__Usage *usage, struct err *err)
{
	const Runtime__V1__PodSandboxMetadata *pod = c->sandbox->config->metadata;
	struct derived derived;
	if (metrics_init(m, ARRAY_SIZE(rows), err) < 0)
		return err->code;
	derive(c, usage, &derived);
	m->at = c->sandbox->usage->realtime_ns;
	const char *base[BASE_LABELS] = {c->config->metadata->name, c->id, c->config->image->image,
		c->id, pod->namespace_, pod->name};
	memcpy(m->base, base, sizeof(base));
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		if (rows[i].source == OF_USAGE)
			add(m, &rows[i], usage, NULL);
		else if (rows[i].source == OF_DERIVED)
			add(m, &rows[i], &derived, NULL);
	}
	return 0;
}

static int fill_pod(struct metrics *m, const struct sandbox *sandbox, const struct hv_cost *cost,
	struct err *err)
{
	const Bulkhead__Agent__StatsResponse *sample = sandbox->usage;
	const Runtime__V1__PodSandboxMetadata *pod = sandbox->config->metadata;
	if (metrics_init(m, ARRAY_SIZE(rows) * (sample->n_interfaces + 1), err) < 0)
		return err->code;
	m->at = sample->realtime_ns;
	const char *base[BASE_LABELS] = {"", sandbox->id, "", "", pod->namespace_, pod->name};
	memcpy(m->base, base, sizeof(base));
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		if (rows[i].source == OF_MACHINE)
			add(m, &rows[i], cost, NULL);
		for (size_t k = 0; rows[i].source == OF_INTERFACE && k < sample->n_interfaces; k++)
			add(m, &rows[i], sample->interfaces[k], sample->interfaces[k]->name);
	}
	return 0;
}

/* One pod of the answer. */
struct pod_metrics {
	Runtime__V1__PodSandboxMetrics message;
	struct metrics pod;
	struct metrics *containers;
	size_t n_containers;
	Runtime__V1__ContainerMetrics *items;
	Runtime__V1__ContainerMetrics **pointers;
};

static void pod_metrics_done(struct pod_metrics *p)
{
	metrics_done(&p->pod);
	for (size_t i = 0; i < p->n_containers; i++)
		metrics_done(&p->containers[i]);
	free(p->containers);
	free(p->items);
	free(p->pointers);
}

static int add_container(struct pod_metrics *p, const struct container *c, struct err *err)
{
	const Bulkhead__Agent__Usage *usage = usage_of(c);
	if (!usage)
		return 0;
	struct metrics *m = &p->containers[p->n_containers];
	Runtime__V1__ContainerMetrics *to = &p->items[p->n_containers];
	p->pointers[p->n_containers++] = to;
	int r = fill_container(m, c, usage, err);
	runtime__v1__container_metrics__init(to);
	to->container_id = (char *)c->id;
	to->metrics = m->pointers;
	to->n_metrics = m->n;
	return r;
}

/* runtime->lock is held. */
static int fill_pod_metrics(struct pod_metrics *p, const struct sandbox *sandbox,
	const struct hv_cost *cost, struct err *err)
{
	const struct container *c;
	size_t n = 0;
	int r = fill_pod(&p->pod, sandbox, cost, err);
	TAILQ_FOREACH(c, &sandbox->runtime->containers, link)
		n += c->sandbox == sandbox;
	p->containers = calloc(n + 1, sizeof(*p->containers));
	p->items = calloc(n + 1, sizeof(*p->items));
	p->pointers = calloc(n + 1, sizeof(*p->pointers));
	if (!p->containers || !p->items || !p->pointers)
		return err_nomem(err);
	TAILQ_FOREACH(c, &sandbox->runtime->containers, link)
		if (r == 0 && c->sandbox == sandbox)
			r = add_container(p, c, err);
	runtime__v1__pod_sandbox_metrics__init(&p->message);
	p->message.pod_sandbox_id = (char *)sandbox->id;
	p->message.metrics = p->pod.pointers;
	p->message.n_metrics = p->pod.n;
	p->message.container_metrics = p->pointers;
	p->message.n_container_metrics = p->n_containers;
	return r;
}

static int answer(struct sandbox **sandboxes, const struct hv_cost *costs, size_t n,
	struct rpc_answer *ret_response, struct err *err)
{
	_cleanup_free_ struct pod_metrics *pods = calloc(n + 1, sizeof(*pods));
	_cleanup_free_ Runtime__V1__PodSandboxMetrics **pointers = calloc(n + 1, sizeof(*pointers));
	if (!pods || !pointers)
		return err_nomem(err);
	Runtime__V1__ListPodSandboxMetricsResponse response =
		RUNTIME__V1__LIST_POD_SANDBOX_METRICS_RESPONSE__INIT;
	response.pod_metrics = pointers;
	int r = 0;
	for (size_t i = 0; i < n && r == 0; i++) {
		if (sandboxes[i]->gone || !sandboxes[i]->usage)
			continue;
		r = fill_pod_metrics(&pods[i], sandboxes[i], &costs[i], err);
		pointers[response.n_pod_metrics++] = &pods[i].message;
	}
	if (r == 0)
		r = respond(&response.base, ret_response, err);
	for (size_t i = 0; i < n; i++)
		pod_metrics_done(&pods[i]);
	return r;
}

static bool is_ready(const struct sandbox *sandbox, const void *userdata)
{
	(void)userdata;
	return sandbox->record->state == BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY;
}

METHOD(metrics_service_list)
{
	struct runtime *rt = call_runtime(call);
	struct sandbox **sandboxes = NULL;
	size_t n = 0;
	(void)request;
	int r = usage_sandboxes(rt, is_ready, NULL, &sandboxes, &n, err);
	if (r < 0)
		return r;
	usage_refresh(sandboxes, n);
	_cleanup_free_ struct hv_cost *costs = calloc(n + 1, sizeof(*costs));
	for (size_t i = 0; costs && i < n; i++)
		hv_vm_cost(rt->hv, sandboxes[i]->id, &costs[i], NULL);
	pthread_mutex_lock(&rt->lock);
	r = costs ? answer(sandboxes, costs, n, ret_response, err) : err_nomem(err);
	pthread_mutex_unlock(&rt->lock);
	usage_sandboxes_free(sandboxes, n);
	return r;
}
