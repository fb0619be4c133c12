/*
 * A machine that becomes larger while it runs.
 *
 * Memory comes from a virtio-mem device that is there from the start and gives nothing: the guest
 * needs no PCI hotplug, and devices in other processes (vhost-user) know all of its region from the
 * start, so no table of theirs changes. A region costs the host what of it is in use.
 */
#include <errno.h>

#include "common/fd.h"
#include "hypervisor/domain_xml.h"
#include "hypervisor/internal.h"

/* The guest plugs in such pieces. */
#define PIECE_MIB 4

const struct hv_size *hv_vm_size(const struct hv_vm *vm)
{
	return &vm->size;
}

static int grow_memory(struct hv_vm *vm, unsigned memory_mib, struct err *err)
{
	/* The device must be the one that is there but for what is asked of it. */
	const struct hv_vm_spec spec = {
		.memory_mib = vm->boot_memory_mib, .memory_max_mib = vm->size.memory_max_mib};
	_cleanup_free_ char *xml = NULL;
	unsigned more = memory_mib - spec.memory_mib;
	int r;

	more = (more + PIECE_MIB - 1) / PIECE_MIB * PIECE_MIB;
	r = domain_xml_write_memory(&spec, spec.memory_mib + more, &xml, err);
	if (r < 0)
		return r;
	if (virDomainUpdateDeviceFlags(vm->domain, xml, VIR_DOMAIN_AFFECT_LIVE) < 0)
		return hv_fail(err, "Give machine %s %u MiB", vm->id, memory_mib);
	vm->size.memory_mib = spec.memory_mib + more;
	return 0;
}

int hv_vm_grow(struct hv_vm *vm, unsigned vcpus, unsigned memory_mib, struct err *err)
{
	_cleanup_monitor_ int monitor = hv_monitor_begin(vm);
	struct hv_size *size = &vm->size;
	int r;

	if ((vcpus > size->vcpus && vcpus > size->vcpus_max) ||
		(memory_mib > size->memory_mib && memory_mib > size->memory_max_mib))
		return err_set(err, -ERANGE,
			"Machine %s may have at most %u CPUs and %u MiB, not %u and %u", vm->id,
			size->vcpus_max, size->memory_max_mib, vcpus, memory_mib);
	if (memory_mib > size->memory_mib) {
		r = grow_memory(vm, memory_mib, err);
		if (r < 0)
			return r;
	}
	if (vcpus > size->vcpus) {
		if (virDomainSetVcpusFlags(vm->domain, vcpus, VIR_DOMAIN_AFFECT_LIVE) < 0)
			return hv_fail(err, "Give machine %s %u CPUs", vm->id, vcpus);
		size->vcpus = vcpus;
	}
	return 0;
}
