#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <libxml/parser.h>
#include <libxml/xpath.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/spawn.h"
#include "hypervisor/domain_xml.h"

#define HOSTILE "/x/'\"></source><disk/>&amp;<!--,id=b"

static const struct hv_nic nics[] = {
	{.tap = "tap0", .mac = "52:54:00:00:00:01"},
	{.tap = "tap1", .mac = "52:54:00:00:00:02"},
};

static const struct hv_vm_spec plain_spec = {
	.id = "pod-1",
	.vcpus = 2,
	.memory_mib = 256,
	.nics = nics,
	.n_nics = 2,
	.scratch = "/var/lib/x/scratch",
	.share = true,
};

static const struct domain_xml plain = {
	.spec = &plain_spec,
	.run_dir = "/run/bulkhead",
	.kernel = "/k/vmlinux",
	.initramfs = "/k/initramfs",
	.arguments = "console=ttyS0",
	.console_socket = "/run/c.sock",
	.vhost_socket = "/run/v.sock",
	.share_socket = "/run/s.sock",
};

/* The string value of an XPath expression; the caller frees it. */
static char *evaluate(const char *xml, const char *expression)
{
	xmlDoc *document = xmlReadMemory(
		xml, (int)strlen(xml), NULL, NULL, XML_PARSE_NONET | XML_PARSE_NOERROR);
	xmlXPathContext *context;
	xmlXPathObject *found;
	xmlChar *text;
	char *copy;

	assert_non_null(document);
	context = xmlXPathNewContext(document);
	found = xmlXPathEvalExpression(BAD_CAST expression, context);
	assert_non_null(found);
	text = xmlXPathCastToString(found);
	copy = strdup((const char *)text);
	xmlFree(text);
	xmlXPathFreeObject(found);
	xmlXPathFreeContext(context);
	xmlFreeDoc(document);
	return copy;
}

static void assert_xpath(const char *xml, const char *expression, const char *expected)
{
	_cleanup_free_ char *value = evaluate(xml, expression);

	assert_string_equal(value, expected);
}

static char *write_domain(const struct domain_xml *domain)
{
	struct err err = ERR_INIT;
	char *xml = NULL;

	assert_int_equal(domain_xml_write(domain, &xml, &err), 0);
	return xml;
}

/* Without it libvirt asks QEMU 400 questions per machine, a third of a second. */
static void test_cpu_is_read_at_once(void **state)
{
	_cleanup_free_ char *xml = write_domain(&plain);

	(void)state;
	assert_xpath(xml,
		"/domain/*[local-name()='capabilities']/*[local-name()='del']/@capability",
		"cpu-unavailable-features");
}

static void test_user(void **state)
{
	struct domain_xml domain = plain;
	struct domain_live live;

	(void)state;
	domain.uid = 0x7ffdffff;
	domain.gid = 109;
	for (int libvirtd = 0; libvirtd < 2; libvirtd++) {
		_cleanup_free_ char *xml = NULL;

		domain.libvirtd = libvirtd;
		xml = write_domain(&domain);
		assert_xpath(xml, "count(/domain/seclabel)", "1");
		assert_xpath(xml,
			"/domain/seclabel[@type='static' and @model='dac' and @relabel='no']/label",
			"+2147352575:+109");
		domain_xml_read(xml, &live);
		assert_int_equal(live.uid, 0x7ffdffff);
	}
	/* As libvirt says of one that has the user of its configuration. */
	domain_xml_read("<domain><devices><disk><source><seclabel model='dac'><label>+7:+7</label>"
			"</seclabel></source></disk></devices><seclabel type='dynamic' model='dac' "
			"relabel='yes'><label>+64055:+109</label></seclabel></domain>",
		&live);
	assert_int_equal(live.uid, 64055);
	domain_xml_read("<domain><seclabel type='none' model='dac'/></domain>", &live);
	assert_int_equal(live.uid, 0);
}

/* A libvirtd would give all machines' kernel to QEMU's user, whatever became of that. */
static void test_no_file_is_given_to_qemu(void **state)
{
	_cleanup_free_ char *ours = write_domain(&plain), *foreign = NULL;
	struct domain_xml domain = plain;

	(void)state;
	domain.libvirtd = true;
	foreign = write_domain(&domain);
	assert_xpath(foreign, "count(/domain/seclabel[@model='dac' and @type='none'])", "1");
	/* Our own driver is told so by its configuration, and need not have the model. */
	assert_xpath(ours, "count(/domain/seclabel)", "0");
}

/* Many CPUs, many queues; one has the tap that it always had. */
static void test_nic_driver(void **state)
{
	struct hv_vm_spec spec = plain_spec;
	struct domain_xml domain = plain;
	static const struct {
		unsigned vcpus;
		bool vhost;
		const char *name, *queues;
	} cases[] = {{1, false, "qemu", ""}, {2, false, "qemu", "2"}, {1, true, "vhost", ""},
		{64, true, "vhost", "8"}};

	(void)state;
	domain.spec = &spec;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *xml = NULL;

		spec.vcpus = cases[i].vcpus;
		domain.vhost_net = cases[i].vhost;
		xml = write_domain(&domain);
		assert_xpath(xml, "/domain/devices/interface[2]/driver/@name", cases[i].name);
		assert_xpath(xml, "/domain/devices/interface[2]/driver/@queues", cases[i].queues);
	}
}

/* A tap that is there already is the caller's. */
static void test_tap_that_was_made(void **state)
{
	const struct hv_nic made = {.tap = "tap0", .made = true, .mac = "52:54:00:00:00:01"};
	struct hv_vm_spec spec = plain_spec;
	struct domain_xml domain = plain;
	_cleanup_free_ char *xml = NULL, *before = write_domain(&plain);

	(void)state;
	assert_xpath(before, "/domain/devices/interface[1]/target/@managed", "");
	domain.spec = &spec;
	spec.nics = &made;
	spec.n_nics = 1;
	xml = write_domain(&domain);
	assert_xpath(xml, "/domain/devices/interface/target/@managed", "no");
	assert_xpath(xml, "/domain/devices/interface/target/@dev", "tap0");
}

/* QEMU stops a machine whose disk has no room left on the host, unless told to report it. */
static void test_a_full_disk_is_the_guests_to_see(void **state)
{
	_cleanup_free_ char *xml = write_domain(&plain), *device = NULL;

	(void)state;
	assert_xpath(xml, "/domain/devices/disk[1]/driver/@error_policy", "report");
	assert_int_equal(domain_xml_write_device(3, "/dev/x", false, &device, NULL), 0);
	assert_xpath(device, "/disk/driver/@error_policy", "report");
}

/* What a guest writes to its disk is no QCOW2 image, with files of the host behind it. */
static void test_no_disk_is_probed(void **state)
{
	_cleanup_free_ char *xml = write_domain(&plain), *device = NULL, *layer = NULL;

	(void)state;
	assert_xpath(xml, "/domain/devices/disk[1]/driver/@type", "raw");
	assert_int_equal(domain_xml_write_device(3, "/dev/x", false, &device, NULL), 0);
	assert_xpath(device, "/disk/driver/@type", "raw");
	assert_int_equal(domain_xml_write_disk(27, "/x", &layer, NULL), 0);
	assert_xpath(layer, "/disk/driver/@type", "raw");
}

static void test_hostile_text_stays_text(void **state)
{
	struct hv_vm_spec spec = plain_spec;
	struct domain_xml domain = plain;
	_cleanup_free_ char *xml = NULL, *disk = NULL;
	struct err err = ERR_INIT;

	(void)state;
	spec.scratch = HOSTILE;
	domain.spec = &spec;
	domain.kernel = domain.arguments = domain.run_dir = domain.console_socket = HOSTILE;
	domain.vhost_socket = domain.share_socket = HOSTILE;
	xml = write_domain(&domain);
	assert_xpath(xml, "count(/domain/devices/disk)", "1");
	assert_xpath(xml, "/domain/devices/disk/source/@file", HOSTILE);
	assert_xpath(xml, "/domain/devices/filesystem/source/@socket", HOSTILE);
	assert_xpath(xml, "/domain/os/kernel", HOSTILE);
	assert_xpath(xml, "/domain/os/cmdline", HOSTILE);
	assert_xpath(xml, "/domain/metadata/*/@run-dir", HOSTILE);
	/* QEMU's own escape: the comma doubled. */
	assert_xpath(xml, "/domain/*[local-name()='commandline']/*[2]/@value",
		"socket,id=vsock,path=/x/'\"></source><disk/>&amp;<!--,,id=b");
	assert_int_equal(domain_xml_write_disk(27, HOSTILE, &disk, &err), 0);
	assert_xpath(disk, "/disk/source/@file", HOSTILE);
}

static void test_text_that_xml_cannot_hold_is_refused(void **state)
{
	static const char *const bad[] = {"/a\nb", "/a\x01", "/\xff\xfe"};
	struct domain_xml domain = plain;
	struct err err = ERR_INIT;
	char *xml = NULL;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		domain.kernel = bad[i];
		assert_int_equal(domain_xml_write(&domain, &xml, &err), -EINVAL);
		assert_int_equal(domain_xml_write_disk(1, bad[i], &xml, &err), -EINVAL);
	}
}

static void test_disk_names(void **state)
{
	static const struct {
		unsigned target;
		const char *name;
	} rows[] = {{1, "sdb"}, {25, "sdz"}, {26, "sdaa"}, {255, "sdiv"}};
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_free_ char *xml = NULL;

		assert_int_equal(domain_xml_write_disk(rows[i].target, "/l", &xml, &err), 0);
		assert_xpath(xml, "/disk/target/@dev", rows[i].name);
		assert_xpath(xml, "count(/disk/readonly)", "1");
		/* libvirt takes none beside a domain's that says for all that no owner changes. */
		assert_xpath(xml, "count(//seclabel)", "0");
	}
}

static void test_no_two_devices_share_a_slot(void **state)
{
	_cleanup_free_ char *xml = write_domain(&plain);

	(void)state;
	assert_xpath(xml,
		"count(//address[@type='pci'][@slot=../preceding::address/@slot or "
		"@slot=../following::address/@slot])",
		"0");
	assert_xpath(xml, "count(//address[@slot='0x06'])", "0");
}

static void test_accelerator_and_transport(void **state)
{
	struct domain_xml domain = plain;
	_cleanup_free_ char *tcg = write_domain(&domain), *kvm = NULL;

	(void)state;
	domain.kvm = true;
	domain.vhost_socket = NULL;
	domain.cid = 2147483647;
	kvm = write_domain(&domain);
	assert_xpath(tcg, "/domain/@type", "qemu");
	/* A host's /dev/shm may be full. */
	assert_xpath(tcg, "/domain/memoryBacking/source/@type", "memfd");
	assert_xpath(tcg, "/domain/devices/rng/backend", "/dev/urandom");
	assert_xpath(tcg, "count(//tb-cache)", "1");
	assert_xpath(tcg, "count(//vsock)", "0");
	assert_xpath(kvm, "/domain/@type", "kvm");
	assert_xpath(kvm, "count(//tb-cache)", "0");
	/* libvirt would take the lowest that is free: that of a machine which has just ended. */
	assert_xpath(kvm, "//vsock/cid/@auto", "no");
	assert_xpath(kvm, "//vsock/cid/@address", "2147483647");
	assert_xpath(kvm, "/domain/cpu/@mode", "host-passthrough");
}

static void test_owner_and_cid(void **state)
{
	const char *ours = "<b:machine xmlns:b='" DOMAIN_XML_NAMESPACE "' run-dir='/run/a&amp;b'/>";
	struct domain_live live;

	(void)state;
	assert_true(domain_xml_is_ours(ours, "/run/a&b"));
	assert_false(domain_xml_is_ours(ours, "/run/a"));
	assert_false(domain_xml_is_ours("<machine/>", "/run/a"));
	assert_false(domain_xml_is_ours("not xml", "/run/a"));
	domain_xml_read("<domain><devices><vsock><cid auto='yes' address='7'/></vsock></devices>"
			"</domain>",
		&live);
	assert_int_equal(live.cid, 7);
	domain_xml_read("<domain/>", &live);
	assert_int_equal(live.cid, 0);
	domain_xml_read("<domain>", &live);
	assert_int_equal(live.cid, 0);
}

static void test_room_to_grow(void **state)
{
	struct hv_vm_spec spec = plain_spec;
	struct domain_xml domain = plain;
	_cleanup_free_ char *small = write_domain(&domain), *large = NULL, *kvm = NULL,
			    *device = NULL;
	struct err err = ERR_INIT;

	(void)state;
	assert_xpath(small, "count(//devices/memory)", "0");
	assert_xpath(small, "count(//maxMemory)", "0");
	assert_xpath(small, "string(/domain/vcpu)", "2");
	domain.spec = &spec;
	spec.vcpus_max = 8;
	spec.memory_max_mib = 256 + 300; /* two blocks of the guest's */
	large = write_domain(&domain);
	assert_xpath(large, "string(/domain/vcpu)", "8");
	assert_xpath(large, "string(/domain/vcpu/@current)", "8");
	assert_xpath(large, "string(/domain/cpu/numa/cell/@cpus)", "0-7");
	assert_xpath(large, "string(/domain/maxMemory)", "512");
	assert_xpath(large, "string(//devices/memory/target/size)", "256");
	assert_xpath(large, "string(//devices/memory/target/requested)", "0");
	assert_xpath(large, "string(//devices/memory/address/@slot)", "0x07");
	domain.kvm = true;
	kvm = write_domain(&domain);
	assert_xpath(kvm, "string(/domain/vcpu)", "8");
	assert_xpath(kvm, "string(/domain/vcpu/@current)", "2");
	assert_int_equal(domain_xml_write_memory(&spec, 320, &device, &err), 0);
	assert_xpath(device, "string(/memory/target/size)", "256");
	assert_xpath(device, "string(/memory/target/requested)", "64");
	assert_xpath(device, "string(/memory/address/@slot)", "0x07");
}

/* As libvirt writes it, with all in KiB and the device's size in that of the machine. */
static void test_size_is_read(void **state)
{
	struct domain_live live;

	(void)state;
	domain_xml_read("<domain><memory unit='KiB'>524288</memory><vcpu placement='static' "
			"current='1'>4</vcpu><devices><memory model='virtio-mem'><target><size "
			"unit='KiB'>262144</size><requested unit='KiB'>65536</requested></target>"
			"</memory></devices></domain>",
		&live);
	assert_int_equal(live.size.vcpus, 1);
	assert_int_equal(live.size.vcpus_max, 4);
	assert_int_equal(live.boot_memory_mib, 256);
	assert_int_equal(live.size.memory_mib, 320);
	assert_int_equal(live.size.memory_max_mib, 512);
	/* One of before there was such a device. */
	domain_xml_read("<domain><memory unit='KiB'>262144</memory><vcpu>2</vcpu></domain>", &live);
	assert_int_equal(live.size.vcpus, 2);
	assert_int_equal(live.size.vcpus_max, 2);
	assert_int_equal(live.size.memory_mib, 256);
	assert_int_equal(live.size.memory_max_mib, 256);
}

static void test_link_of_a_nic(void **state)
{
	static const char domain[] =
		"<domain><interface><mac address='02:00:00:00:00:02'/></interface><devices><disk/>"
		"<interface type='ethernet'><mac address='02:00:00:00:00:01'/><target dev='a'/>"
		"</interface><interface type='ethernet'><mac address='02:00:00:00:00:02'/>"
		"<target dev='b'/><link state='down'/></interface></devices></domain>";
	_cleanup_free_ char *down = NULL, *up = NULL, *same = NULL;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(domain_xml_link(domain, "02:00:00:00:00:01", false, &down, &err), 0);
	assert_xpath(down, "string(/interface/target/@dev)", "a");
	assert_xpath(down, "string(/interface/link/@state)", "down");
	assert_int_equal(domain_xml_link(domain, "02:00:00:00:00:02", true, &up, &err), 0);
	assert_xpath(up, "string(/interface/target/@dev)", "b");
	assert_xpath(up, "string(/interface/link/@state)", "up");
	assert_xpath(up, "count(/interface/link)", "1");
	assert_int_equal(domain_xml_link(domain, "02:00:00:00:00:01", true, &same, &err), 1);
	assert_int_equal(domain_xml_link(domain, "02:00:00:00:00:02", false, &same, &err), 1);
	assert_int_equal(domain_xml_link(domain, "02:00:00:00:00:03", true, &same, &err), -ENODEV);
	assert_int_equal(
		domain_xml_link("<domain>", "02:00:00:00:00:01", true, &same, &err), -ENODEV);
	assert_null(same);
}

static void test_machine_that_never_ran(void **state)
{
	(void)state;
	assert_true(
		domain_xml_never_ran("<domstatus state='paused' pid='0'><domain/></domstatus>"));
	assert_false(domain_xml_never_ran("<domstatus state='paused' pid='10'/>"));
	assert_false(domain_xml_never_ran("<domstatus/>"));
	assert_false(domain_xml_never_ran("<domstatus pid='0'>"));
	assert_false(domain_xml_never_ran(""));
}

static void test_libvirts_schema_accepts_it(void **state)
{
	char path[] = "/tmp/domain-xml-test-XXXXXX";
	const char *argv[] = {"virt-xml-validate", path, "domain", NULL};
	struct spawn_options options = {
		.argv = argv, .timeout_ms = 20000, .cancel_fd = -1, .netns_fd = -1};
	struct spawn_result result = SPAWN_RESULT_INIT(4096);
	struct hv_vm_spec spec = plain_spec;
	struct domain_xml domain = plain;
	_cleanup_free_ char *xml = NULL;
	_cleanup_close_ int fd = -EBADF;
	struct err err = ERR_INIT;
	int r;

	(void)state;
	if (access("/usr/bin/virt-xml-validate", X_OK) < 0 ||
		access("/usr/bin/xmllint", X_OK) < 0) {
		print_message("skipped: needs libvirt-clients and libxml2-utils\n");
		skip();
	}
	spec.memory_max_mib = 4096;
	domain.spec = &spec;
	domain.libvirtd = true;
	domain.uid = 0x70000001;
	xml = write_domain(&domain);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, xml, strlen(xml), &err), 0);
	r = spawn_check(&options, &result, &err);
	unlink(path);
	if (r < 0)
		fail_msg("%s", err.msg);
	spawn_result_done(&result);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cpu_is_read_at_once),
		cmocka_unit_test(test_user),
		cmocka_unit_test(test_no_file_is_given_to_qemu),
		cmocka_unit_test(test_nic_driver),
		cmocka_unit_test(test_tap_that_was_made),
		cmocka_unit_test(test_a_full_disk_is_the_guests_to_see),
		cmocka_unit_test(test_no_disk_is_probed),
		cmocka_unit_test(test_hostile_text_stays_text),
		cmocka_unit_test(test_text_that_xml_cannot_hold_is_refused),
		cmocka_unit_test(test_disk_names),
		cmocka_unit_test(test_no_two_devices_share_a_slot),
		cmocka_unit_test(test_accelerator_and_transport),
		cmocka_unit_test(test_owner_and_cid),
		cmocka_unit_test(test_room_to_grow),
		cmocka_unit_test(test_size_is_read),
		cmocka_unit_test(test_link_of_a_nic),
		cmocka_unit_test(test_machine_that_never_ran),
		cmocka_unit_test(test_libvirts_schema_accepts_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
