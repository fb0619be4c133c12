/*
 * The libvirt XML of our machines, written through libxml2's text writer: whatever comes from
 * outside is an attribute or a text node and is escaped there, never spliced.
 *
 * Pure functions of their arguments; any thread. All strings are borrowed for the call.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "hypervisor/vm.h"

/* The metadata element's namespace, by which our domains are told from others. */
#define DOMAIN_XML_NAMESPACE "urn:bulkhead:machine"

struct domain_xml {
	const struct hv_vm_spec *spec;
	const char *run_dir; /* whose machine it is; goes into the metadata */
	bool kvm;
	bool libvirtd; /* it is for one, not for the driver in this process */
	uid_t uid;     /* QEMU's; 0: as libvirt is configured */
	gid_t gid;
	bool vhost_net; /* the host's kernel moves the NICs' frames, not QEMU */
	const char *kernel;
	const char *initramfs;
	const char *arguments;
	const char *console_socket; /* QEMU connects to it */
	const char *vhost_socket;   /* vhost-user-vsock's; NULL: the kernel's vhost-vsock */
	uint32_t cid;               /* that one's */
	const char *share_socket;   /* virtiofsd's; NULL: no share */
};

/* As many CPUs as it ever has. */
static inline unsigned domain_vcpus_max(const struct hv_vm_spec *spec)
{
	return spec->vcpus_max > spec->vcpus ? spec->vcpus_max : spec->vcpus;
}

/* The domain; *ret is freed with free(). -ENOMEM, or -EINVAL for text that XML cannot hold. */
int domain_xml_write(const struct domain_xml *domain, char **ret, struct err *err);

/* A read-only layer's disk for attaching and detaching; path may be NULL for the latter. */
int domain_xml_write_disk(unsigned target, const char *path, char **ret, struct err *err);

/* A block device's disk, by the node that QEMU is to open. */
int domain_xml_write_device(
	unsigned target, const char *node, bool read_only, char **ret, struct err *err);

/*
 * The device through which a machine of that spec grows, as it is when its memory is to be
 * memory_mib.
 */
int domain_xml_write_memory(
	const struct hv_vm_spec *spec, unsigned memory_mib, char **ret, struct err *err);

/* Whether the metadata element of a domain names run_dir as its owner's. */
bool domain_xml_is_ours(const char *metadata, const char *run_dir);

/* What libvirt's XML says of a running domain; 0 where it says nothing. */
struct domain_live {
	uint32_t cid; /* vsock's */
	uid_t uid;    /* QEMU's */
	struct hv_size size;
	unsigned boot_memory_mib; /* without what came later */
};
void domain_xml_read(const char *xml, struct domain_live *ret);

/*
 * The element of the NIC with this MAC out of libvirt's XML of a running domain, with the link set
 * up or down; *ret is freed with free(). 1: it is so already; -ENODEV: it has no such NIC.
 */
int domain_xml_link(const char *xml, const char *mac, bool up, char **ret, struct err *err);

/*
 * Whether a machine in libvirt's own record ("<domstatus pid=…>", in the driver's state directory)
 * had no process yet.
 */
bool domain_xml_never_ran(const char *status);
