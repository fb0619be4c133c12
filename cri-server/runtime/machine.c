/*
 * A pod's machine and its agent, as one thing with a reference count.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cri-server/runtime/internal.h"

/* The most that a guest may be asked to have; beyond is a mistake in a manifest. */
#define VCPUS_MAX      64
#define MEMORY_MIB_MAX (4u << 20)
/* The smallest machine that boots and runs a container. */
#define MEMORY_MIB_MIN 64

void machine_tap_name(const char *sandbox_id, size_t n, char name[16])
{
	snprintf(name, 16, "bh%.10s%zx", sandbox_id, n % 16);
}

/* A locally administered address from the id: stable, and apart from every other pod's. */
void machine_nic_mac(const char *sandbox_id, size_t n, char mac[18])
{
	snprintf(mac, 18, "02:%.2s:%.2s:%.2s:%.2s:%02zx", sandbox_id, sandbox_id + 2,
		sandbox_id + 4, sandbox_id + 6, n & 0xff);
}

static unsigned vcpus_wanted(const struct machine_spec *spec)
{
	const Runtime__V1__LinuxPodSandboxConfig *linux = spec->config->linux;
	int64_t quota = 0, period = 0;
	if (linux && linux->resources) {
		quota = linux->resources->cpu_quota;
		period = linux->resources->cpu_period;
	}
	if (quota <= 0 || period <= 0)
		return spec->handler->vcpus;
	int64_t cpus = quota / period + (quota % period != 0);
	return cpus > VCPUS_MAX ? VCPUS_MAX : (unsigned)cpus;
}

/* The pod's limit plus its overhead; the handler's size where the pod has no limit. */
static unsigned memory_mib_wanted(const struct machine_spec *spec)
{
	const Runtime__V1__LinuxPodSandboxConfig *linux = spec->config->linux;
	uint64_t bytes = 0;
	if (linux && linux->resources && linux->resources->memory_limit_in_bytes > 0) {
		bytes = (uint64_t)linux->resources->memory_limit_in_bytes;
		if (linux->overhead && linux->overhead->memory_limit_in_bytes > 0)
			bytes += (uint64_t)linux->overhead->memory_limit_in_bytes;
	}
	if (!bytes)
		return spec->handler->memory_mib;
	uint64_t mib = (bytes >> 20) + (bytes % (1u << 20) != 0);
	if (mib > MEMORY_MIB_MAX)
		return MEMORY_MIB_MAX;
	return mib < MEMORY_MIB_MIN ? MEMORY_MIB_MIN : (unsigned)mib;
}

unsigned machine_memory_mib(const struct sandbox *sandbox)
{
	const struct config *config = sandbox->runtime->config;
	const struct config_handler *handler =
		config_handler(config, sandbox->record->runtime_handler);
	/* Its handler is gone from the configuration: the default one is as good a guess. */
	if (!handler)
		handler = config_handler(config, "");
	const struct machine_spec spec = {.config = sandbox->config, .handler = handler};
	return handler ? memory_mib_wanted(&spec) : MEMORY_MIB_MAX;
}

static int machine_new(
	struct runtime *rt, const char *sandbox_id, struct machine **ret, struct err *err)
{
	struct machine *machine = calloc(1, sizeof(*machine));
	if (!machine)
		return err_nomem(err);
	machine->runtime = rt;
	atomic_init(&machine->refs, 1);
	memcpy(machine->sandbox_id, sandbox_id, sizeof(machine->sandbox_id));
	*ret = machine;
	return 0;
}

int machine_create(struct runtime *rt, const char *sandbox_id, const struct machine_spec *spec,
	struct machine **ret, struct err *err)
{
	struct hv_nic nics[NET_INTERFACES_MAX];
	char taps[NET_INTERFACES_MAX][16], macs[NET_INTERFACES_MAX][18];
	for (size_t i = 0; i < spec->n_nics; i++) {
		machine_tap_name(sandbox_id, i, taps[i]);
		machine_nic_mac(sandbox_id, i, macs[i]);
		nics[i] = (struct hv_nic){.tap = taps[i], .mac = macs[i]};
	}
	const struct hv_vm_spec vm = {
		.id = sandbox_id,
		.vcpus = vcpus_wanted(spec),
		.memory_mib = memory_mib_wanted(spec),
		.nics = nics,
		.n_nics = spec->n_nics,
		.scratch = spec->scratch,
		.share = true,
	};
	struct machine *machine = NULL;
	int r = machine_new(rt, sandbox_id, &machine, err);
	if (r < 0)
		return r;
	r = hv_vm_create(rt->hv, &vm, &machine->vm, err);
	if (r < 0) {
		machine_unref(machine);
		return r;
	}
	*ret = machine;
	return 0;
}

int machine_resume(struct machine *machine, struct err *err)
{
	return hv_vm_resume(machine->vm, err);
}

int machine_find(struct runtime *rt, const char *sandbox_id, struct machine **ret, struct err *err)
{
	struct machine *machine = NULL;
	int r = machine_new(rt, sandbox_id, &machine, err);
	if (r < 0)
		return r;
	r = hv_vm_open(rt->hv, sandbox_id, &machine->vm, err);
	if (r != 0) {
		machine_unref(machine);
		return r;
	}
	*ret = machine;
	return 0;
}

static int connect_guest(
	void *userdata, uint32_t port, uint64_t timeout_ms, int *ret_fd, struct err *err)
{
	struct machine *machine = userdata;
	return hv_vm_connect(machine->vm, port, timeout_ms, ret_fd, err);
}

static int on_event(void *userdata, const Bulkhead__Agent__Event *event)
{
	struct sandbox *sandbox = userdata;
	pthread_mutex_lock(&sandbox->runtime->lock);
	bool settled = sandbox->settled;
	pthread_mutex_unlock(&sandbox->runtime->lock);
	if (!settled)
		return -EAGAIN; /* it comes again, when whose exit it tells of has its log */
	if (event->exit && !event->process_id[0])
		return container_exited(sandbox, event);
	if (event->exit && exec_exited(sandbox, event))
		return sandbox_record_event(sandbox, event->sequence);
	return sandbox_record_stray(sandbox, event->sequence);
}

static void on_lost(void *userdata, const char *reason)
{
	struct sandbox *sandbox = userdata;
	sandbox_report_death(sandbox->runtime, sandbox->id, reason);
}

int machine_connect(struct machine *machine, struct sandbox *sandbox, uint64_t after,
	uint64_t timeout_ms, struct err *err)
{
	const struct agent_transport transport = {.connect = connect_guest, .userdata = machine};
	/* The sandbox lets go of its machine before it is freed itself. */
	const struct agent_callbacks callbacks = {
		.on_event = on_event,
		.on_lost = on_lost,
		.userdata = sandbox,
	};
	return agent_open(machine->runtime->io.loop, &transport, &callbacks, after, timeout_ms,
		&machine->agent, err);
}

struct machine *machine_ref(struct machine *machine)
{
	atomic_fetch_add(&machine->refs, 1);
	return machine;
}

struct machine *machine_unref(struct machine *machine)
{
	if (!machine || atomic_fetch_sub(&machine->refs, 1) > 1)
		return NULL;
	agent_close(machine->agent);
	hv_vm_unref(machine->vm);
	free(machine);
	return NULL;
}
