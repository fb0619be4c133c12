#include "cri-server/runtime/stats.h"

#include <stdlib.h>

#include "common/fd.h"

/* Values of one interface. */
#define INTERFACE_VALUES 4

uint64_t stats_working_set(const Bulkhead__Agent__Usage *u)
{
	return u->memory_bytes > u->inactive_file_bytes ? u->memory_bytes - u->inactive_file_bytes
							: 0;
}

/* Left until the limit of the container or, without one, of the guest. */
static uint64_t available_bytes(const Bulkhead__Agent__Usage *u, uint64_t memory_total)
{
	uint64_t limit = u->memory_limit < memory_total ? u->memory_limit : memory_total;
	uint64_t used = stats_working_set(u);
	return limit > used ? limit - used : 0;
}

static void set_value(Runtime__V1__UInt64Value *to, uint64_t value)
{
	runtime__v1__uint64_value__init(to);
	to->value = value;
}

static Runtime__V1__UInt64Value *new_value(struct stats_storage *s, uint64_t value)
{
	Runtime__V1__UInt64Value *v = &s->values[s->n_values++];
	set_value(v, value);
	return v;
}

/* The averages are a guest's word: no more than all of the time. */
static double percent(uint32_t hundredths)
{
	return hundredths > 10000 ? 100.0 : hundredths / 100.0;
}

static Runtime__V1__PsiData *fill_stall(
	Runtime__V1__PsiData *to, const Bulkhead__Agent__Stall *stall)
{
	runtime__v1__psi_data__init(to);
	if (stall) {
		to->total = stall->total_us * 1000;
		to->avg10 = percent(stall->avg10);
		to->avg60 = percent(stall->avg60);
		to->avg300 = percent(stall->avg300);
	}
	return to;
}

static Runtime__V1__PsiStats *fill_psi(
	struct stats_storage *s, unsigned index, const Bulkhead__Agent__Pressure *pressure)
{
	if (!pressure)
		return NULL;
	Runtime__V1__PsiStats *psi = &s->psi[index];
	runtime__v1__psi_stats__init(psi);
	psi->some = fill_stall(&s->psi_data[2 * index], pressure->some);
	psi->full = fill_stall(&s->psi_data[2 * index + 1], pressure->full);
	return psi;
}

/* CPU, memory and I/O of a container or of a pod. */
static void fill_common(struct stats_storage *s, const Bulkhead__Agent__Usage *u,
	const Bulkhead__Agent__StatsResponse *sample)
{
	int64_t at = sample->realtime_ns;
	runtime__v1__cpu_usage__init(&s->cpu);
	s->cpu.timestamp = at;
	s->cpu.usage_core_nano_seconds = new_value(s, u->cpu_ns);
	s->cpu.usage_nano_cores = new_value(s, u->cpu_nano_cores);
	s->cpu.psi = fill_psi(s, 0, u->cpu_pressure);
	runtime__v1__memory_usage__init(&s->memory);
	s->memory.timestamp = at;
	s->memory.working_set_bytes = new_value(s, stats_working_set(u));
	s->memory.available_bytes = new_value(s, available_bytes(u, sample->memory_total_bytes));
	s->memory.usage_bytes = new_value(s, u->memory_bytes);
	s->memory.rss_bytes = new_value(s, u->anon_bytes);
	s->memory.page_faults = new_value(s, u->page_faults);
	s->memory.major_page_faults = new_value(s, u->major_page_faults);
	s->memory.psi = fill_psi(s, 1, u->memory_pressure);
	runtime__v1__io_usage__init(&s->io);
	s->io.timestamp = at;
	s->io.psi = fill_psi(s, 2, u->io_pressure);
}

static void fill_swap(struct stats_container *c, const Bulkhead__Agent__Usage *u,
	const Bulkhead__Agent__StatsResponse *sample)
{
	uint64_t limit =
		u->swap_limit < sample->swap_total_bytes ? u->swap_limit : sample->swap_total_bytes;
	runtime__v1__swap_usage__init(&c->swap);
	c->swap.timestamp = sample->realtime_ns;
	c->swap.swap_usage_bytes = new_value(&c->storage, u->swap_bytes);
	c->swap.swap_available_bytes =
		new_value(&c->storage, limit > u->swap_bytes ? limit - u->swap_bytes : 0);
	c->stats.swap = &c->swap;
}

static void fill_layer(struct stats_container *c, const Bulkhead__Agent__Usage *u, int64_t at,
	const char *scratch_dir)
{
	runtime__v1__filesystem_identifier__init(&c->layer_id);
	c->layer_id.mountpoint = (char *)scratch_dir;
	runtime__v1__filesystem_usage__init(&c->layer);
	c->layer.timestamp = at;
	c->layer.fs_id = &c->layer_id;
	c->layer.used_bytes = new_value(&c->storage, u->layer_bytes);
	c->layer.inodes_used = new_value(&c->storage, u->layer_inodes);
	c->stats.writable_layer = &c->layer;
}

/*
 * The attributes never change, and are the most of it: they are packed once, and go into the answer
 * as they are, as protobuf-c packs a field that it does not know.
 */
static int fill_attributes(struct stats_container *ret, struct container *c, struct err *err)
{
	const Runtime__V1__ContainerConfig *config = c->config;
	Runtime__V1__ContainerAttributes attributes = RUNTIME__V1__CONTAINER_ATTRIBUTES__INIT;
	Runtime__V1__ContainerStats stats = RUNTIME__V1__CONTAINER_STATS__INIT;
	attributes.id = c->id;
	attributes.metadata = config->metadata;
	attributes.labels = (Runtime__V1__ContainerAttributes__LabelsEntry **)config->labels;
	attributes.n_labels = config->n_labels;
	attributes.annotations =
		(Runtime__V1__ContainerAttributes__AnnotationsEntry **)config->annotations;
	attributes.n_annotations = config->n_annotations;
	stats.attributes = &attributes;
	int r = c->attributes.data ? 0 : respond(&stats.base, &c->attributes, err);
	if (r < 0)
		return r;
	/* Its tag is one byte; length and message follow. */
	ret->attributes = (ProtobufCMessageUnknownField){.tag = c->attributes.data[0] >> 3,
		.wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED,
		.len = c->attributes.len - 1,
		.data = c->attributes.data + 1};
	ret->stats.base.unknown_fields = &ret->attributes;
	ret->stats.base.n_unknown_fields = 1;
	return 0;
}

int stats_fill_container(
	struct stats_container *ret, struct container *c, const char *scratch_dir, struct err *err)
{
	const Bulkhead__Agent__Usage *usage = usage_of(c);
	const Bulkhead__Agent__StatsResponse *sample = c->sandbox->usage;
	ret->storage.n_values = 0;
	runtime__v1__container_stats__init(&ret->stats);
	if (fill_attributes(ret, c, err) < 0)
		return err->code;
	if (!usage)
		return 0;
	fill_common(&ret->storage, usage, sample);
	ret->stats.cpu = &ret->storage.cpu;
	ret->stats.memory = &ret->storage.memory;
	ret->stats.io = &ret->storage.io;
	fill_swap(ret, usage, sample);
	fill_layer(ret, usage, sample->realtime_ns, scratch_dir);
	return 0;
}

static void fill_interface(
	struct stats_sandbox *s, size_t i, const Bulkhead__Agent__InterfaceUsage *from)
{
	Runtime__V1__NetworkInterfaceUsage *to = &s->interfaces[i];
	Runtime__V1__UInt64Value *values = s->interface_values + i * INTERFACE_VALUES;
	const uint64_t figures[INTERFACE_VALUES] = {
		from->rx_bytes, from->rx_errors, from->tx_bytes, from->tx_errors};
	for (size_t k = 0; k < INTERFACE_VALUES; k++)
		set_value(&values[k], figures[k]);
	runtime__v1__network_interface_usage__init(to);
	to->name = from->name;
	to->rx_bytes = &values[0];
	to->rx_errors = &values[1];
	to->tx_bytes = &values[2];
	to->tx_errors = &values[3];
}

/* The first of CNI's interfaces is the default one, the others follow, as a kubelet expects. */
static int fill_network(
	struct stats_sandbox *s, const Bulkhead__Agent__StatsResponse *sample, struct err *err)
{
	size_t n = sample->n_interfaces;
	s->interfaces = calloc(n + 1, sizeof(*s->interfaces));
	s->interface_pointers = calloc(n + 1, sizeof(*s->interface_pointers));
	s->interface_values = calloc(n * INTERFACE_VALUES + 1, sizeof(*s->interface_values));
	if (!s->interfaces || !s->interface_pointers || !s->interface_values)
		return err_nomem(err);
	runtime__v1__network_usage__init(&s->network);
	s->network.timestamp = sample->realtime_ns;
	for (size_t i = 0; i < n; i++) {
		fill_interface(s, i, sample->interfaces[i]);
		if (i == 0)
			s->network.default_interface = &s->interfaces[i];
		else
			s->interface_pointers[s->network.n_interfaces++] = &s->interfaces[i];
	}
	s->network.interfaces = s->interface_pointers;
	s->linux.network = &s->network;
	return 0;
}

static int fill_containers(struct stats_sandbox *s, struct container *const *containers, size_t n,
	const char *scratch_dir, struct err *err)
{
	s->containers = calloc(n + 1, sizeof(*s->containers));
	s->container_pointers = calloc(n + 1, sizeof(*s->container_pointers));
	if (!s->containers || !s->container_pointers)
		return err_nomem(err);
	int r = 0;
	for (size_t i = 0; i < n && r == 0; i++) {
		r = stats_fill_container(&s->containers[i], containers[i], scratch_dir, err);
		s->container_pointers[i] = &s->containers[i].stats;
	}
	s->linux.containers = s->container_pointers;
	s->linux.n_containers = n;
	return r;
}

static void fill_process(struct stats_sandbox *s, const Bulkhead__Agent__StatsResponse *sample)
{
	runtime__v1__process_usage__init(&s->process);
	s->process.timestamp = sample->realtime_ns;
	s->process.process_count = new_value(&s->storage, sample->pod->tasks);
	s->linux.process = &s->process;
}

int stats_fill_sandbox(struct stats_sandbox *ret, const struct sandbox *sandbox,
	struct container *const *containers, size_t n, const char *scratch_dir, struct err *err)
{
	const Runtime__V1__PodSandboxConfig *config = sandbox->config;
	const Bulkhead__Agent__StatsResponse *sample = sandbox->usage;
	bool ready = sandbox->record->state == BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY;
	runtime__v1__pod_sandbox_stats__init(&ret->stats);
	runtime__v1__pod_sandbox_attributes__init(&ret->attributes);
	runtime__v1__linux_pod_sandbox_stats__init(&ret->linux);
	ret->attributes.id = (char *)sandbox->id;
	ret->attributes.metadata = config->metadata;
	ret->attributes.labels = (Runtime__V1__PodSandboxAttributes__LabelsEntry **)config->labels;
	ret->attributes.n_labels = config->n_labels;
	ret->attributes.annotations =
		(Runtime__V1__PodSandboxAttributes__AnnotationsEntry **)config->annotations;
	ret->attributes.n_annotations = config->n_annotations;
	ret->stats.attributes = &ret->attributes;
	ret->stats.linux = &ret->linux;
	int r = fill_containers(ret, containers, n, scratch_dir, err);
	if (r < 0 || !sample || !ready)
		return r;
	if (sample->pod) {
		fill_common(&ret->storage, sample->pod, sample);
		ret->linux.cpu = &ret->storage.cpu;
		ret->linux.memory = &ret->storage.memory;
		ret->linux.io = &ret->storage.io;
		fill_process(ret, sample);
	}
	return fill_network(ret, sample, err);
}

void stats_sandbox_done(struct stats_sandbox *s)
{
	free(s->interfaces);
	free(s->interface_pointers);
	free(s->interface_values);
	free(s->containers);
	free(s->container_pointers);
}
