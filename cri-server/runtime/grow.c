/*
 * A pod's machine grows with the limits of its containers, and never shrinks: what the guest does
 * not use goes back to the host by the balloon's reports of free pages, and its CPUs are threads
 * that sleep.
 */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/sizing.h"

#define CALL_MS  10000
#define TAKEN_MS 20000

struct sum_of_others {
	struct sizing_sum sum;
	const struct container *except;
};

static int add_container(struct container *c, void *userdata, struct err *err)
{
	struct sum_of_others *others = userdata;
	(void)err;
	if (c != others->except && container_may_run(c))
		sizing_add(&others->sum, container_resources(c));
	return 0;
}

/* What the guest has now, with so many CPUs if the machine has them. */
static int ask_guest(struct machine *machine, unsigned vcpus,
	Bulkhead__Agent__GrowMachineResponse *ret, struct err *err)
{
	Bulkhead__Agent__GrowMachineRequest request = BULKHEAD__AGENT__GROW_MACHINE_REQUEST__INIT;
	request.vcpus = vcpus;
	ProtobufCMessage *answer = NULL;
	int r = agent_call(machine->agent, "GrowMachine", &request.base, CALL_MS, &answer, err);
	if (r < 0)
		return r;
	const Bulkhead__Agent__GrowMachineResponse *has = (const void *)answer;
	machine->vcpus = ret->vcpus = has->vcpus;
	ret->memory_bytes = has->memory_bytes;
	protobuf_c_message_free_unpacked(answer, NULL);
	return 0;
}

static int wait_taken(
	struct machine *machine, unsigned vcpus, uint64_t memory_bytes, struct err *err)
{
	Bulkhead__Agent__GrowMachineResponse has = BULKHEAD__AGENT__GROW_MACHINE_RESPONSE__INIT;
	for (uint64_t end = ev_now_ms() + TAKEN_MS;;) {
		int r = ask_guest(machine, vcpus, &has, err);
		if (r < 0 || (has.vcpus >= vcpus && has.memory_bytes >= memory_bytes))
			return r;
		if (ev_now_ms() > end)
			return err_set(err, -ENOBUFS,
				"the guest has %u CPUs and %llu MiB %d s after it was given %u and "
				"%llu",
				has.vcpus, (unsigned long long)has.memory_bytes >> 20,
				TAKEN_MS / 1000, vcpus, (unsigned long long)memory_bytes >> 20);
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
}

/* The host's limit goes before what it is to hold. */
static int grow(struct machine *machine, const struct sandbox *sandbox, unsigned vcpus,
	unsigned memory_mib, struct err *err)
{
	Bulkhead__Agent__GrowMachineResponse before = BULKHEAD__AGENT__GROW_MACHINE_RESPONSE__INIT;
	unsigned had_mib = hv_vm_size(machine->vm)->memory_mib;
	int r = ask_guest(machine, 0, &before, err);
	if (r == 0 && memory_mib > had_mib) {
		const struct hv_limits limits = sizing_limits(sandbox_limits(sandbox), memory_mib);
		r = hv_vm_limit(machine->vm, &limits, err);
	}
	if (r == 0)
		r = hv_vm_grow(machine->vm, vcpus, memory_mib, err);
	if (r == 0) {
		const struct hv_size *size = hv_vm_size(machine->vm);
		uint64_t more = (uint64_t)(size->memory_mib - had_mib) << 20;
		r = wait_taken(machine, vcpus, before.memory_bytes + more, err);
	}
	return r < 0 ? err_wrap(err, "enlarge the pod's machine") : 0;
}

static int fit(struct machine *machine, const struct sandbox *sandbox, const struct sizing_sum *sum,
	struct err *err)
{
	const struct hv_size *size = hv_vm_size(machine->vm);
	const struct sizing needed = sizing_needed(sum, sandbox_limits(sandbox));
	if (needed.vcpus <= machine->vcpus && needed.memory_mib <= size->memory_mib)
		return 0;
	unsigned vcpus = needed.vcpus > size->vcpus_max ? size->vcpus_max : needed.vcpus;
	unsigned mib =
		needed.memory_mib > size->memory_max_mib ? size->memory_max_mib : needed.memory_mib;
	if (vcpus < needed.vcpus || mib < needed.memory_mib) {
		char text[128];
		snprintf(text, sizeof(text), "%u CPUs, %u MiB; at most %u and %u", needed.vcpus,
			needed.memory_mib, size->vcpus_max, size->memory_max_mib);
		log_event(sandbox->runtime->log, LOG_LEVEL_WARNING,
			"limits are more than the machine may have", "pod", sandbox->id, "needed",
			text, NULL);
	}
	if (vcpus <= machine->vcpus && mib <= size->memory_mib)
		return 0;
	return grow(machine, sandbox, vcpus, mib, err);
}

int grow_check(const struct machine *machine, const struct sandbox *sandbox,
	const Runtime__V1__LinuxContainerResources *resources, struct err *err)
{
	const struct hv_size *size = hv_vm_size(machine->vm);
	struct sizing_sum sum = {0};
	sizing_add(&sum, resources);
	unsigned needed = sizing_needed(&sum, sandbox_limits(sandbox)).memory_mib;
	if (needed <= size->memory_max_mib)
		return 0;
	return err_set(err, -ENOBUFS,
		"a memory limit of %llu MiB needs a machine of %u MiB; the pod's can have %u MiB "
		"at "
		"most (memory_max_mib of its runtime handler)",
		(unsigned long long)sum.memory_mib, needed, size->memory_max_mib);
}

int grow_for_container(struct machine *machine, struct container *with,
	const Runtime__V1__LinuxContainerResources *resources, struct err *err)
{
	struct sum_of_others others = {.except = with};
	if (!resources)
		return 0;
	sizing_add(&others.sum, resources);
	containers_each(with->sandbox, add_container, &others, NULL);
	return fit(machine, with->sandbox, &others.sum, err);
}

int grow_for_pod(struct machine *machine, struct sandbox *sandbox,
	const Runtime__V1__LinuxContainerResources *resources, struct err *err)
{
	struct sizing_sum sum = {0};
	sizing_add(&sum, resources);
	return fit(machine, sandbox, &sum, err);
}
