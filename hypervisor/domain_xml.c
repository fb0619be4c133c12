#include "hypervisor/domain_xml.h"

#include <errno.h>
#include <libxml/xmlwriter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"

#define QEMU_NAMESPACE "http://libvirt.org/schemas/domain/qemu/1.0"

/*
 * Slots on the root bus. Every device stands directly on pcie.0: root ports are what the guest's
 * PCI scan spends its time on, and nothing but SCSI disks is plugged later. All devices have their
 * slot from here, so libvirt assigns none, and VSOCK, which libvirt does not know of, cannot clash.
 */
enum slot {
	SLOT_SCSI = 0x02,
	SLOT_BALLOON = 0x03,
	SLOT_RNG = 0x04,
	SLOT_SHARE = 0x05,
	SLOT_VSOCK = 0x06,
	SLOT_MEMORY = 0x07,
	SLOT_NIC = 0x08, /* and those above it */
	SLOT_NIC_END = 0x1e,
};

/* Linux takes memory in blocks of this size: a part of one would never be used. */
#define MEMORY_BLOCK_MIB 128
/* The modern form only: no I/O ports to assign, no legacy registers to emulate. */
#define VIRTIO_MODEL "virtio-non-transitional"

/* More do not help one pod, and each has its memory and interrupts. */
#define NIC_QUEUES_MAX 8

/* Writes into memory; the first failure sticks, so that callers check once, at the end. */
struct writer {
	xmlTextWriter *xml;
	xmlBuffer *buffer;
	bool failed;
};

static void writer_done(struct writer *writer)
{
	if (writer->xml)
		xmlFreeTextWriter(writer->xml);
	if (writer->buffer)
		xmlBufferFree(writer->buffer);
}

static void note(struct writer *writer, int result)
{
	if (result < 0)
		writer->failed = true;
}

/* XML 1.0 has no way to write most control characters, and libxml2 writes what is not UTF-8
 * wrongly. */
static bool is_writable(const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p; p++)
		if (*p < 0x20 || *p == 0x7f)
			return false;
	return xmlCheckUTF8((const xmlChar *)text);
}

static int writer_init(struct writer *writer)
{
	writer->buffer = xmlBufferCreate();
	if (!writer->buffer)
		return -ENOMEM;
	writer->xml = xmlNewTextWriterMemory(writer->buffer, 0);
	return writer->xml ? 0 : -ENOMEM;
}

static void open_element(struct writer *writer, const char *name)
{
	note(writer, xmlTextWriterStartElement(writer->xml, BAD_CAST name));
}

static void close_element(struct writer *writer)
{
	note(writer, xmlTextWriterEndElement(writer->xml));
}

static void attribute(struct writer *writer, const char *name, const char *value)
{
	if (!is_writable(value)) {
		writer->failed = true;
		return;
	}
	note(writer, xmlTextWriterWriteAttribute(writer->xml, BAD_CAST name, BAD_CAST value));
}

static void attribute_number(struct writer *writer, const char *name, unsigned value)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", value);
	attribute(writer, name, text);
}

static void text_element(struct writer *writer, const char *name, const char *text)
{
	if (!is_writable(text)) {
		writer->failed = true;
		return;
	}
	note(writer, xmlTextWriterWriteElement(writer->xml, BAD_CAST name, BAD_CAST text));
}

/* An element that has only attributes: name, then pairs, ended by NULL. */
static void __attribute__((sentinel)) leaf(struct writer *writer, const char *name, ...)
{
	va_list ap;
	const char *key;

	open_element(writer, name);
	va_start(ap, name);
	while ((key = va_arg(ap, const char *)))
		attribute(writer, key, va_arg(ap, const char *));
	va_end(ap);
	close_element(writer);
}

static void pci_address(struct writer *writer, unsigned slot)
{
	char text[8];

	snprintf(text, sizeof(text), "0x%02x", slot);
	leaf(writer, "address", "type", "pci", "domain", "0x0000", "bus", "0x00", "slot", text,
		"function", "0x0", NULL);
}

static void write_metadata(struct writer *writer, const char *run_dir)
{
	open_element(writer, "metadata");
	leaf(writer, "bulkhead:machine", "xmlns:bulkhead", DOMAIN_XML_NAMESPACE, "run-dir", run_dir,
		NULL);
	close_element(writer);
}

/*
 * Room to grow: memory that the machine does not have until it is asked to take it. libvirt wants
 * the memory that it begins with as a node then, and the device to belong to one.
 */
static unsigned memory_room_mib(const struct hv_vm_spec *spec)
{
	if (spec->memory_max_mib <= spec->memory_mib)
		return 0;
	return (spec->memory_max_mib - spec->memory_mib) / MEMORY_BLOCK_MIB * MEMORY_BLOCK_MIB;
}

static void mib_element(struct writer *writer, const char *name, unsigned mib)
{
	open_element(writer, name);
	attribute(writer, "unit", "MiB");
	note(writer, xmlTextWriterWriteFormatString(writer->xml, "%u", mib));
	close_element(writer);
}

static void write_room(struct writer *writer, const struct hv_vm_spec *spec)
{
	if (!memory_room_mib(spec))
		return;
	open_element(writer, "maxMemory");
	attribute(writer, "slots", "1");
	attribute(writer, "unit", "MiB");
	note(writer, xmlTextWriterWriteFormatString(
			     writer->xml, "%u", spec->memory_mib + memory_room_mib(spec)));
	close_element(writer);
}

/*
 * QEMU that emulates CPUs dies when one is added while its cache of translations is full ("TCG:
 * region allocation", mended in no release that we know). So all are there from the start then, and
 * the kernel is told to begin with as many as are wanted.
 */
static void write_vcpus(struct writer *writer, const struct domain_xml *domain)
{
	const struct hv_vm_spec *spec = domain->spec;

	open_element(writer, "vcpu");
	attribute_number(writer, "current", domain->kvm ? spec->vcpus : domain_vcpus_max(spec));
	note(writer, xmlTextWriterWriteFormatString(writer->xml, "%u", domain_vcpus_max(spec)));
	close_element(writer);
}

static void write_cpu(struct writer *writer, const struct domain_xml *domain)
{
	const struct hv_vm_spec *spec = domain->spec;
	char cpus[16];

	open_element(writer, "cpu");
	attribute(writer, "mode", domain->kvm ? "host-passthrough" : "maximum");
	if (domain->kvm)
		attribute(writer, "migratable", "off");
	if (memory_room_mib(spec)) {
		snprintf(cpus, sizeof(cpus), "0-%u", domain_vcpus_max(spec) - 1);
		open_element(writer, "numa");
		open_element(writer, "cell");
		attribute(writer, "id", "0");
		attribute(writer, "cpus", cpus);
		attribute_number(writer, "memory", spec->memory_mib);
		attribute(writer, "unit", "MiB");
		close_element(writer);
		close_element(writer);
	}
	close_element(writer);
}

static void write_platform(struct writer *writer, const struct domain_xml *domain)
{
	mib_element(writer, "memory", domain->spec->memory_mib);
	write_room(writer, domain->spec);
	/* memfd, because a host's /dev/shm may be small; shared, because vhost-user devices map it.
	 */
	open_element(writer, "memoryBacking");
	leaf(writer, "source", "type", "memfd", NULL);
	leaf(writer, "access", "mode", "shared", NULL);
	close_element(writer);
	write_vcpus(writer, domain);

	open_element(writer, "os");
	open_element(writer, "type");
	attribute(writer, "arch", "x86_64");
	attribute(writer, "machine", "q35");
	note(writer, xmlTextWriterWriteString(writer->xml, BAD_CAST "hvm"));
	close_element(writer);
	text_element(writer, "kernel", domain->kernel);
	text_element(writer, "initrd", domain->initramfs);
	text_element(writer, "cmdline", domain->arguments);
	close_element(writer);

	open_element(writer, "features");
	leaf(writer, "acpi", NULL);
	leaf(writer, "apic", NULL);
	leaf(writer, "smm", "state", "off", NULL);
	leaf(writer, "vmport", "state", "off", NULL);
	if (!domain->kvm) {
		/* QEMU's default, a quarter of the host's memory at most 1 GiB, is filled in time.
		 */
		open_element(writer, "tcg");
		open_element(writer, "tb-cache");
		attribute(writer, "unit", "MiB");
		note(writer, xmlTextWriterWriteString(writer->xml, BAD_CAST "32"));
		close_element(writer);
		close_element(writer);
	}
	close_element(writer);
	write_cpu(writer, domain);
	open_element(writer, "clock");
	attribute(writer, "offset", "utc");
	leaf(writer, "timer", "name", "hpet", "present", "no", NULL);
	close_element(writer);
	/* A machine that ends stays ended: a reboot would be a new pod under an old name. */
	text_element(writer, "on_poweroff", "destroy");
	text_element(writer, "on_reboot", "destroy");
	text_element(writer, "on_crash", "destroy");
}

static const char *target_name(unsigned target, char name[8])
{
	char *p = name + 7;

	*p = '\0';
	for (unsigned n = target + 1; n > 0; n = (n - 1) / 26)
		*--p = (char)('a' + (n - 1) % 26);
	*--p = 'd';
	*--p = 's';
	return p;
}

static void disk_place(struct writer *writer, unsigned target)
{
	char name[8];

	leaf(writer, "target", "dev", target_name(target, name), "bus", "scsi", NULL);
	open_element(writer, "address");
	attribute(writer, "type", "drive");
	attribute(writer, "controller", "0");
	attribute(writer, "bus", "0");
	attribute_number(writer, "target", target);
	attribute(writer, "unit", "0");
	close_element(writer);
}

/*
 * The pod's own disk. No host page cache: what the pod writes counts against the pod's memory only,
 * and what its file system flushed is on the disk.
 * Errors are the guest's to see, ENOSPC where the host's disk is full: by default QEMU stops the
 * machine then, with all that it runs.
 */
static void write_scratch(struct writer *writer, const char *path)
{
	open_element(writer, "disk");
	attribute(writer, "type", "file");
	attribute(writer, "device", "disk");
	leaf(writer, "driver", "name", "qemu", "type", "raw", "cache", "none", "io", "native",
		"discard", "unmap", "detect_zeroes", "off", "error_policy", "report", NULL);
	leaf(writer, "source", "file", path, NULL);
	disk_place(writer, 0);
	close_element(writer);
}

/*
 * A layer: many machines read one file at the same time, through the host's page cache, so it is
 * not locked.
 */
static void write_layer(struct writer *writer, unsigned target, const char *path)
{
	open_element(writer, "disk");
	attribute(writer, "type", "file");
	attribute(writer, "device", "disk");
	leaf(writer, "driver", "name", "qemu", "type", "raw", "cache", "writeback", NULL);
	if (path)
		leaf(writer, "source", "file", path, NULL);
	disk_place(writer, target);
	leaf(writer, "readonly", NULL);
	close_element(writer);
}

/* A block device of the host, by a node that the machine may open. */
static void write_device(struct writer *writer, unsigned target, const char *node, bool read_only)
{
	open_element(writer, "disk");
	attribute(writer, "type", "block");
	attribute(writer, "device", "disk");
	leaf(writer, "driver", "name", "qemu", "type", "raw", "cache", "none", "io", "native",
		"discard", "unmap", "error_policy", "report", NULL);
	leaf(writer, "source", "dev", node, NULL);
	disk_place(writer, target);
	if (read_only)
		leaf(writer, "readonly", NULL);
	close_element(writer);
}

/*
 * A queue for each CPU, so that none waits for another's frames. What offloads QEMU and the tap
 * know are on unless they are named here. The kernel's vhost is named or denied: left to itself,
 * libvirt takes any /dev/vhost-net that opens, and a machine on one that does not work does not
 * start.
 */
static void write_nic_driver(struct writer *writer, const struct domain_xml *domain)
{
	unsigned vcpus = domain->spec->vcpus;

	open_element(writer, "driver");
	attribute(writer, "name", domain->vhost_net ? "vhost" : "qemu");
	if (vcpus > 1)
		attribute_number(writer, "queues", vcpus < NIC_QUEUES_MAX ? vcpus : NIC_QUEUES_MAX);
	close_element(writer);
}

static void write_nic(struct writer *writer, const struct domain_xml *domain,
	const struct hv_nic *nic, unsigned slot)
{
	open_element(writer, "interface");
	attribute(writer, "type", "ethernet");
	leaf(writer, "mac", "address", nic->mac, NULL);
	leaf(writer, "target", "dev", nic->tap, nic->made ? "managed" : NULL, "no", NULL);
	leaf(writer, "model", "type", VIRTIO_MODEL, NULL);
	write_nic_driver(writer, domain);
	/* No boot ROM: it would be loaded and scanned for a machine that never boots from the net.
	 */
	leaf(writer, "rom", "enabled", "no", NULL);
	pci_address(writer, slot);
	close_element(writer);
}

/* virtiofsd is started by us (share.h): QEMU connects to it. */
static void write_share(struct writer *writer, const char *socket)
{
	open_element(writer, "filesystem");
	attribute(writer, "type", "mount");
	leaf(writer, "driver", "type", "virtiofs", "queue", "1024", NULL);
	leaf(writer, "source", "socket", socket, NULL);
	leaf(writer, "target", "dir", HV_SHARE_TAG, NULL);
	pci_address(writer, SLOT_SHARE);
	close_element(writer);
}

static void write_memory(struct writer *writer, const struct hv_vm_spec *spec, unsigned memory_mib)
{
	open_element(writer, "memory");
	attribute(writer, "model", "virtio-mem");
	open_element(writer, "target");
	mib_element(writer, "size", memory_room_mib(spec));
	text_element(writer, "node", "0");
	mib_element(writer, "block", 2);
	mib_element(writer, "requested", memory_mib - spec->memory_mib);
	close_element(writer);
	/* An update must name the device, in a form that libvirt leaves to its users. */
	leaf(writer, "alias", "name", "ua-memory", NULL);
	pci_address(writer, SLOT_MEMORY);
	close_element(writer);
}

static void write_devices(struct writer *writer, const struct domain_xml *domain)
{
	const struct hv_vm_spec *spec = domain->spec;

	open_element(writer, "devices");
	leaf(writer, "controller", "type", "usb", "model", "none", NULL);
	open_element(writer, "controller");
	attribute(writer, "type", "scsi");
	attribute(writer, "index", "0");
	attribute(writer, "model", VIRTIO_MODEL);
	pci_address(writer, SLOT_SCSI);
	close_element(writer);
	if (spec->scratch)
		write_scratch(writer, spec->scratch);
	for (size_t i = 0; i < spec->n_nics; i++)
		write_nic(writer, domain, &spec->nics[i], SLOT_NIC + (unsigned)i);
	if (domain->share_socket)
		write_share(writer, domain->share_socket);

	open_element(writer, "serial");
	attribute(writer, "type", "unix");
	leaf(writer, "source", "mode", "connect", "path", domain->console_socket, NULL);
	close_element(writer);

	open_element(writer, "memballoon");
	attribute(writer, "model", VIRTIO_MODEL);
	attribute(writer, "freePageReporting", "on");
	pci_address(writer, SLOT_BALLOON);
	close_element(writer);
	open_element(writer, "rng");
	attribute(writer, "model", VIRTIO_MODEL);
	open_element(writer, "backend");
	attribute(writer, "model", "random");
	note(writer, xmlTextWriterWriteString(writer->xml, BAD_CAST "/dev/urandom"));
	close_element(writer);
	pci_address(writer, SLOT_RNG);
	close_element(writer);
	if (memory_room_mib(spec))
		write_memory(writer, spec, spec->memory_mib);
	if (!domain->vhost_socket) {
		open_element(writer, "vsock");
		attribute(writer, "model", VIRTIO_MODEL);
		open_element(writer, "cid");
		attribute(writer, "auto", "no");
		attribute_number(writer, "address", domain->cid);
		close_element(writer);
		pci_address(writer, SLOT_VSOCK);
		close_element(writer);
	}
	close_element(writer);
}

/*
 * A libvirtd gives QEMU's user the files that a machine uses, now or later, unless it is told not
 * to. The kernel, the initramfs and layers are all machines': a QEMU that its guest has taken over
 * could change them for the others.
 */
static void write_user(struct writer *writer, const struct domain_xml *domain)
{
	char label[32];

	if (!domain->uid) {
		if (domain->libvirtd)
			leaf(writer, "seclabel", "type", "none", "model", "dac", NULL);
		return;
	}
	snprintf(label, sizeof(label), "+%u:+%u", domain->uid, domain->gid);
	open_element(writer, "seclabel");
	attribute(writer, "type", "static");
	attribute(writer, "model", "dac");
	attribute(writer, "relabel", "no");
	text_element(writer, "label", label);
	close_element(writer);
}

/*
 * What libvirt is to take QEMU for incapable of. Where QEMU can name the features that it denied a
 * CPU, libvirt asks for each of its properties, 400 questions, to describe a CPU that nobody asks
 * it about; else it reads all in two. A version of libvirt that does not know the name refuses it.
 */
static void write_capabilities(struct writer *writer)
{
	open_element(writer, "qemu:capabilities");
	leaf(writer, "qemu:del", "capability", "cpu-unavailable-features", NULL);
	close_element(writer);
}

/* QEMU ends an option's value at a comma unless it is doubled. */
static char *escape_commas(const char *value)
{
	char *escaped = malloc(2 * strlen(value) + 1);
	char *out = escaped;

	if (!escaped)
		return NULL;
	for (; *value; value++) {
		if (*value == ',')
			*out++ = ',';
		*out++ = *value;
	}
	*out = '\0';
	return escaped;
}

/* libvirt 9 has no element for vhost-user-vsock. */
static void write_vhost_vsock(struct writer *writer, const char *socket)
{
	_cleanup_free_ char *path = escape_commas(socket);
	_cleanup_free_ char *chardev = path ? str_printf("socket,id=vsock,path=%s", path) : NULL;
	_cleanup_free_ char *device = str_printf(
		"vhost-user-vsock-pci-non-transitional,chardev=vsock,bus=pcie.0,addr=0x%x",
		SLOT_VSOCK);
	const char *arguments[] = {"-chardev", chardev, "-device", device};

	open_element(writer, "qemu:commandline");
	for (size_t i = 0; i < ARRAY_SIZE(arguments); i++) {
		if (!arguments[i]) {
			writer->failed = true;
			break;
		}
		leaf(writer, "qemu:arg", "value", arguments[i], NULL);
	}
	close_element(writer);
}

static int take_text(struct writer *writer, char **ret, struct err *err)
{
	char *text;

	if (xmlTextWriterEndDocument(writer->xml) < 0 || xmlTextWriterFlush(writer->xml) < 0)
		writer->failed = true;
	if (writer->failed)
		return err_set(err, -EINVAL,
			"Write the machine's XML: a path or name has a control character or is not "
			"UTF-8");
	text = strdup((const char *)xmlBufferContent(writer->buffer));
	if (!text)
		return err_nomem(err);
	*ret = text;
	return 0;
}

int domain_xml_write(const struct domain_xml *domain, char **ret, struct err *err)
{
	_cleanup_(writer_done) struct writer writer = {0};
	_cleanup_free_ char *name = str_printf("bh-%s", domain->spec->id);

	if (!name || writer_init(&writer) < 0)
		return err_nomem(err);
	if (domain->spec->n_nics > SLOT_NIC_END - SLOT_NIC)
		return err_set(err, -EINVAL, "A machine has at most %d network interfaces",
			SLOT_NIC_END - SLOT_NIC);
	open_element(&writer, "domain");
	attribute(&writer, "type", domain->kvm ? "kvm" : "qemu");
	attribute(&writer, "xmlns:qemu", QEMU_NAMESPACE);
	text_element(&writer, "name", name);
	write_metadata(&writer, domain->run_dir);
	write_platform(&writer, domain);
	write_devices(&writer, domain);
	write_user(&writer, domain);
	write_capabilities(&writer);
	if (domain->vhost_socket)
		write_vhost_vsock(&writer, domain->vhost_socket);
	close_element(&writer);
	return take_text(&writer, ret, err);
}

int domain_xml_write_disk(unsigned target, const char *path, char **ret, struct err *err)
{
	_cleanup_(writer_done) struct writer writer = {0};

	if (writer_init(&writer) < 0)
		return err_nomem(err);
	write_layer(&writer, target, path);
	return take_text(&writer, ret, err);
}

int domain_xml_write_device(
	unsigned target, const char *node, bool read_only, char **ret, struct err *err)
{
	_cleanup_(writer_done) struct writer writer = {0};

	if (writer_init(&writer) < 0)
		return err_nomem(err);
	write_device(&writer, target, node, read_only);
	return take_text(&writer, ret, err);
}

int domain_xml_write_memory(
	const struct hv_vm_spec *spec, unsigned memory_mib, char **ret, struct err *err)
{
	_cleanup_(writer_done) struct writer writer = {0};

	if (writer_init(&writer) < 0)
		return err_nomem(err);
	write_memory(&writer, spec, memory_mib);
	return take_text(&writer, ret, err);
}
