/*
 * A pod's machine and its agent, as one thing with a reference count.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/runtime/cgroup_parent.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/sizing.h"

/* Each CPU that may come takes 150 KiB of the guest from the start. */
#define VCPUS_MAX_DEFAULT 8

/* A locally administered address from the id: stable, and apart from every other pod's. */
void machine_nic_mac(const char *sandbox_id, size_t n, char mac[18])
{
	snprintf(mac, 18, "02:%.2s:%.2s:%.2s:%.2s:%02zx", sandbox_id, sandbox_id + 2,
		sandbox_id + 4, sandbox_id + 6, n & 0xff);
}

static int machine_new(
	struct runtime *rt, const char *sandbox_id, struct machine **ret, struct err *err)
{
	struct machine *machine = calloc(1, sizeof(*machine));
	if (!machine)
		return err_nomem(err);
	ev_cond_init(&machine->fewer_starts);
	pthread_mutex_init(&machine->debug_console, NULL);
	machine->runtime = rt;
	atomic_init(&machine->refs, 1);
	memcpy(machine->sandbox_id, sandbox_id, sizeof(machine->sandbox_id));
	*ret = machine;
	return 0;
}

/*
 * Unless the handler says: what the host has, where a CPU that does not come hardly costs anything.
 * An emulated one costs the boot five per cent.
 */
static unsigned vcpus_max(const struct runtime *rt, const struct config_handler *handler)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	if (handler->vcpus_max)
		return handler->vcpus_max;
	if (strcmp(hv_accelerator_name(rt->hv), "tcg") == 0 || cpus < 1)
		return handler->vcpus;
	return cpus > VCPUS_MAX_DEFAULT ? VCPUS_MAX_DEFAULT : (unsigned)cpus;
}

int machine_create(struct runtime *rt, const char *sandbox_id, const struct machine_spec *spec,
	struct machine **ret, struct err *err)
{
	struct hv_nic nics[NET_INTERFACES_MAX];
	char taps[NET_INTERFACES_MAX][NET_TAP_NAME_SIZE], macs[NET_INTERFACES_MAX][18];
	for (size_t i = 0; i < spec->n_nics; i++) {
		net_tap_name(sandbox_id, i, taps[i]);
		machine_nic_mac(sandbox_id, i, macs[i]);
		nics[i] = (struct hv_nic){
			.tap = taps[i], .made = net_makes_taps(rt->net), .mac = macs[i]};
	}
	_cleanup_free_ char *cgroup = NULL;
	const Runtime__V1__LinuxPodSandboxConfig *linux = spec->config->linux;
	int r = cgroup_path(linux ? linux->cgroup_parent : "", sandbox_id, &cgroup, err);
	if (r < 0)
		return r;
	const struct sizing size = sizing_at_start(spec->handler, spec->config->linux);
	struct hv_limits limits = sizing_limits(linux, size.memory_mib);
	/* A guest that boots as slowly as it may run would not be there in time. */
	limits.cpu_quota_us = 0;
	const struct hv_vm_spec vm = {
		.id = sandbox_id,
		.vcpus = size.vcpus,
		.vcpus_max = vcpus_max(rt, spec->handler),
		.memory_mib = size.memory_mib,
		.memory_max_mib = spec->handler->memory_max_mib,
		.nics = nics,
		.n_nics = spec->n_nics,
		.scratch = spec->scratch,
		.share = true,
		.cgroup = cgroup,
		.limits = limits,
	};
	struct machine *machine = NULL;
	r = machine_new(rt, sandbox_id, &machine, err);
	if (r < 0)
		return r;
	r = hv_vm_create(rt->hv, &vm, &machine->vm, err);
	if (r < 0) {
		machine_unref(machine);
		return r;
	}
	machine->vcpus = size.vcpus;
	*ret = machine;
	return 0;
}

int machine_limit(struct machine *machine, const struct sandbox *sandbox, struct err *err)
{
	const struct hv_limits limits =
		sizing_limits(sandbox_limits(sandbox), hv_vm_size(machine->vm)->memory_mib);
	return hv_vm_limit(machine->vm, &limits, err);
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
	machine->pinned = true; /* nobody knows */
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
	struct agent_transport transport = {.connect = connect_guest, .userdata = machine};
	const ProtobufCBinaryData *key = &sandbox->record->agent_key;
	if (key->len == sizeof(transport.key))
		memcpy(transport.key, key->data, sizeof(transport.key));
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
	pthread_cond_destroy(&machine->fewer_starts);
	pthread_mutex_destroy(&machine->debug_console);
	free(machine);
	return NULL;
}
