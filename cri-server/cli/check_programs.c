/* Programs and files that bulkheadd uses. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/spawn.h"
#include "cri-server/cli/check.h"
#include "hypervisor/user.h"
#include "hypervisor/vm.h"

#define VERSION_TIMEOUT_MS 10000

/* The program in PATH, reported by the first line it prints for --version. */
static void check_program(struct check *check, const char *subject, const char *name,
	const char *version_option, const char *remedy)
{
	const char *const argv[] = {name, version_option, NULL};
	const struct spawn_options options = {.argv = argv, .timeout_ms = VERSION_TIMEOUT_MS};
	struct spawn_result result = SPAWN_RESULT_INIT(4096);
	struct err err = ERR_INIT;
	if (spawn_check(&options, &result, &err) < 0) {
		check_report(check, FINDING_MISSING, subject, remedy, "%s", err.msg);
	} else {
		char *line = buf_string(&result.out);
		if (line)
			line[strcspn(line, "\n")] = '\0';
		check_report(
			check, FINDING_OK, subject, NULL, "%s", line && line[0] ? line : "found");
	}
	spawn_result_done(&result);
}

/* The first of the paths that exists. */
static void check_path(struct check *check, const char *subject, const char *const *paths, int mode,
	const char *remedy)
{
	for (size_t i = 0; paths[i]; i++) {
		if (access(paths[i], mode) == 0) {
			check_report(check, FINDING_OK, subject, NULL, "%s", paths[i]);
			return;
		}
	}
	check_report(check, FINDING_MISSING, subject, remedy, "%s: %s", paths[0], strerror(errno));
}

static void check_user(struct check *check, const struct user *qemu)
{
	if (qemu->name[0])
		check_report(check, FINDING_OK, "qemu user", NULL, "%s", qemu->name);
	else
		check_report(check, FINDING_MISSING, "qemu user",
			"apt-get install libvirt-daemon-driver-qemu makes it",
			"no user libvirt-qemu");
}

static void check_file(
	struct check *check, const char *subject, const char *path, int mode, const char *remedy)
{
	const char *const paths[] = {path, NULL};
	check_path(check, subject, paths, mode, remedy);
}

/* What QEMU reads itself. */
static void check_guest_file(
	struct check *check, const struct user *qemu, const char *subject, const char *path)
{
	if (access(path, R_OK) == 0 && !user_machine_can(qemu, path, R_OK))
		check_report(check, FINDING_MISSING, subject,
			"make it readable by all, where every directory on its path can be entered "
			"by all",
			"%s: machines' users cannot read it", path);
	else
		check_file(check, subject, path, R_OK,
			"`make install` brings it; hypervisor.kernel and hypervisor.initramfs in "
			"the configuration say where it is");
}

static void check_helpers(struct check *check)
{
	const struct config *c = check->config;
	_cleanup_free_ char *console = hv_console_program(c->hypervisor.vsock_helper);
	const char *const paths[] = {
		c->hypervisor.vsock_helper, console ? console : "", c->images.unpack_helper};
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		check_file(check, "helper", paths[i], X_OK,
			"`make install` brings it; hypervisor.vsock_helper, beside which "
			"bulkhead-console lies, and images.unpack_helper in the configuration say "
			"where it is");
}

void check_programs(struct check *check)
{
	const struct config_hypervisor *hv = &check->config->hypervisor;
	const char *const drivers[] = {
		"/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
		"/usr/lib/libvirt/connection-driver/libvirt_driver_qemu.so",
		"/usr/lib64/libvirt/connection-driver/libvirt_driver_qemu.so", NULL};
	struct user qemu;

	user_find_qemu(&qemu);
	check_program(check, "qemu", "qemu-system-x86_64", "--version",
		"apt-get install qemu-system-x86");
	check_path(check, "libvirt", drivers, R_OK, "apt-get install libvirt-daemon-driver-qemu");
	check_user(check, &qemu);
	check_file(check, "virtiofsd", hv->virtiofsd, X_OK,
		"apt-get install qemu-system-common; hypervisor.virtiofsd in the configuration "
		"says where it is");
	check_program(check, "skopeo", "skopeo", "--version", "apt-get install skopeo");
	check_program(check, "mke2fs", "mke2fs", "-V", "apt-get install e2fsprogs");
	check_guest_file(check, &qemu, "kernel", hv->kernel);
	check_guest_file(check, &qemu, "initramfs", hv->initramfs);
	check_helpers(check);
}
