#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/config.h"

static int load(const char *text, struct config **ret, struct err *err)
{
	char path[] = "/tmp/config-test-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, text, strlen(text), err), 0);
	close(fd);
	int r = config_load(path, ret, err);
	unlink(path);
	return r;
}

static void everything_has_a_default(void **state)
{
	(void)state;
	struct config *c;
	struct err err = ERR_INIT;
	assert_int_equal(load("", &c, &err), 0);
	assert_string_equal(c->socket, "/run/bulkhead/bulkhead.sock");
	assert_string_equal(
		c->hypervisor.libvirt_uri, "qemu:///embed?root=/var/lib/bulkhead/libvirt");
	assert_string_equal(c->streaming.address, "127.0.0.1");
	assert_int_equal(c->streaming.port, 0);
	assert_int_equal(c->streaming.idle_timeout_ms, 4 * 3600 * 1000);
	assert_int_equal(c->streaming.creation_timeout_ms, 30000);
	assert_string_equal(c->hypervisor.kernel, "/usr/lib/bulkhead/vmlinux");
	assert_string_equal(c->hypervisor.initramfs, "/usr/lib/bulkhead/initramfs.cpio");
	assert_string_equal(c->hypervisor.vsock_helper, "/usr/lib/bulkhead/bulkhead-vsock");
	assert_string_equal(c->hypervisor.virtiofsd, "/usr/lib/qemu/virtiofsd");
	assert_null(c->hypervisor.debug_console);
	assert_string_equal(c->network.conf_dir, "/etc/cni/net.d");
	assert_string_equal(c->network.bin_dirs, "/opt/cni/bin:/usr/lib/cni");
	assert_string_equal(c->images.unpack_helper, "/usr/lib/bulkhead/bulkhead-unpack");
	assert_non_null(config_handler(c, ""));
	assert_null(config_handler(c, "other"));
	config_free(c);
}

static void an_empty_file_is_all_defaults(void **state)
{
	(void)state;
	static const char *const empty[] = {"", "\n", "# nothing\n", "{}\n"};
	for (size_t i = 0; i < ARRAY_SIZE(empty); i++) {
		struct config *c;
		struct err err = ERR_INIT;
		if (load(empty[i], &c, &err) < 0)
			fail_msg("%s", err.msg);
		assert_string_equal(c->run_dir, "/run/bulkhead");
		config_free(c);
	}
}

static void what_is_written_wins(void **state)
{
	(void)state;
	struct config *c;
	struct err err = ERR_INIT;
	const char *text = "run_dir: /tmp/r\n"
			   "images: {pinned: [busybox, 'quay.io/a/*']}\n"
			   "hypervisor:\n  accelerator: tcg\n  boots_max: 2\n"
			   "runtime_handlers:\n  - name: \"\"\n    vcpus_max: 3\n    "
			   "memory_max_mib: 700\n  - name: big\n    vcpus: 4\n"
			   "    memory_mib: 2048\n";
	if (load(text, &c, &err) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(c->socket, "/tmp/r/bulkhead.sock");
	assert_string_equal(c->hypervisor.accelerator, "tcg");
	assert_int_equal(c->hypervisor.boots_max, 2);
	assert_int_equal(c->images.n_pinned, 2);
	assert_string_equal(c->images.pinned[1], "quay.io/a/*");
	assert_int_equal(config_handler(c, "big")->memory_mib, 2048);
	assert_int_equal(config_handler(c, "big")->vcpus, 4);
	assert_true(config_handler(c, "big")->memory_max_mib >= 2048);
	assert_int_equal(config_handler(c, "")->vcpus_max, 3);
	assert_int_equal(config_handler(c, "")->memory_max_mib, 700);
	assert_int_equal(config_handler(c, "")->vcpus, 1);
	config_free(c);
}

static void refuses_with_the_reason(void **state)
{
	(void)state;
	static const struct {
		const char *text, *reason;
	} cases[] = {
		{"sockte: /tmp/x\n", "sockte"},
		{"run_dir: /a\nhypervisor:\n  acelerator: kvm\n", "line: 3"},
		{"hypervisor:\n  accelerator: xen\n", "'xen'; it can be auto, kvm or tcg"},
		{"hypervisor:\n  debug_console: sh\n", "'sh', not an absolute path"},
		{"cgroup_driver: none\n", "'none'; it can be systemd or cgroupfs"},
		{"network:\n  redirect: bridge\n", "'bridge'; it can be tcfilter or macvtap"},
		{"workers: many\n", "workers"},
		{"runtime_handlers:\n  - name: a\n  - name: a\n", "twice"},
		{"runtime_handlers:\n  - name: a\n    memory_mib: 8\n", "memory_mib"},
		{"runtime_handlers:\n  - name: a\n    memory_mib: 4294967295\n", "memory_mib"},
		{"runtime_handlers:\n  - name: a\n    memory_max_mib: 4294967295\n",
			"memory_max_mib"},
		{"runtime_handlers:\n  - name: a\n    vcpus_max: 65\n", "vcpus_max"},
		{"runtime_handlers:\n  - name: a\n    scratch_mib: 17592186044416\n",
			"scratch_mib"},
		{"runtime_handlers:\n  - vcpus: 2\n", "name"},
		{"run_dir: [\n", "configuration"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct config *c;
		struct err err = ERR_INIT;
		assert_int_equal(load(cases[i].text, &c, &err), -EINVAL);
		if (!strstr(err.msg, cases[i].reason))
			fail_msg("'%s' does not say '%s'", err.msg, cases[i].reason);
	}
}

static void a_missing_file_is_named(void **state)
{
	(void)state;
	struct config *c;
	struct err err = ERR_INIT;
	assert_int_equal(config_load("/nonexistent/config.yaml", &c, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/nonexistent/config.yaml"));
}

/* In a mount namespace of its own, with an /etc that has nothing else. */
static void a_hosts_own_is_taken_where_it_is_there(void **state)
{
	static const char text[] = "log_level: error\n";
	struct config *c;
	struct err err = ERR_INIT;
	(void)state;
	if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("tmpfs", "/etc", "tmpfs", 0, NULL) < 0)
		skip();
	assert_int_equal(config_load(NULL, &c, &err), 0);
	assert_string_equal(c->log_level, "info");
	config_free(c);
	assert_int_equal(mkdir("/etc/bulkhead", 0755), 0);
	assert_int_equal(fd_write_file(CONFIG_PATH, text, strlen(text), 0644, &err), 0);
	assert_int_equal(config_load(NULL, &c, &err), 0);
	assert_string_equal(c->log_level, "error");
	config_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everything_has_a_default),
		cmocka_unit_test(an_empty_file_is_all_defaults),
		cmocka_unit_test(what_is_written_wins),
		cmocka_unit_test(refuses_with_the_reason),
		cmocka_unit_test(a_missing_file_is_named),
		cmocka_unit_test(a_hosts_own_is_taken_where_it_is_there),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
