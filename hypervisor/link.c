/*
 * The carrier of a machine's NIC, as the guest sees it.
 */
#include <stdlib.h>

#include "common/fd.h"
#include "hypervisor/domain_xml.h"
#include "hypervisor/internal.h"

int hv_vm_set_link(struct hv_vm *vm, const char *mac, bool up, struct err *err)
{
	_cleanup_monitor_ int monitor = hv_monitor_begin(vm);
	_cleanup_free_ char *domain = virDomainGetXMLDesc(vm->domain, 0), *interface = NULL;
	int r;

	if (!domain)
		return hv_fail(err, "Ask libvirt for the machine's XML");
	r = domain_xml_link(domain, mac, up, &interface, err);
	if (r != 0)
		return r < 0 ? r : 0;
	if (virDomainUpdateDeviceFlags(vm->domain, interface, VIR_DOMAIN_AFFECT_LIVE) < 0)
		return hv_fail(err, "Set the link of machine %s's NIC %s %s", vm->id, mac,
			up ? "up" : "down");
	return 0;
}
