/* Programs and files that bulkheadd uses. */
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/spawn.h"
#include "cri-server/cli/check.h"

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

static void check_user(struct check *check)
{
	if (getpwnam("libvirt-qemu"))
		check_report(check, FINDING_OK, "qemu user", NULL, "libvirt-qemu");
	else
		check_report(check, FINDING_MISSING, "qemu user",
			"apt-get install libvirt-daemon-driver-qemu makes it",
			"no user libvirt-qemu");
}

void check_programs(struct check *check)
{
	const struct config_hypervisor *hv = &check->config->hypervisor;
	const char *const drivers[] = {
		"/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
		"/usr/lib/libvirt/connection-driver/libvirt_driver_qemu.so",
		"/usr/lib64/libvirt/connection-driver/libvirt_driver_qemu.so", NULL};
	const char *const virtiofsds[] = {
		"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", NULL};
	const char *const kernels[] = {hv->kernel, NULL};
	const char *const initramfs[] = {hv->initramfs, NULL};
	static const char guest[] =
		"`make` builds it; hypervisor.kernel and hypervisor.initramfs in "
		"the configuration say where it is";

	check_program(check, "qemu", "qemu-system-x86_64", "--version",
		"apt-get install qemu-system-x86");
	check_path(check, "libvirt", drivers, R_OK, "apt-get install libvirt-daemon-driver-qemu");
	check_user(check);
	check_path(check, "virtiofsd", virtiofsds, X_OK,
		"apt-get install qemu-system-common (or virtiofsd)");
	check_program(check, "skopeo", "skopeo", "--version", "apt-get install skopeo");
	check_path(check, "kernel", kernels, R_OK, guest);
	check_path(check, "initramfs", initramfs, R_OK, guest);
}
