/*
 * The probe's machine under TCG, where it must say all its stages, and the probe itself, whose
 * answer depends on the host but which must end in time and give a reason.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/spawn.h"
#include "hypervisor/accel_guest.h"
#include "hypervisor/vm.h"

#define QEMU "/usr/bin/qemu-system-x86_64"

static void test_machine_says_all_stages(void **state)
{
	char dir[] = "/tmp/accel-test-XXXXXX";
	_cleanup_free_ char *rom_path = NULL, *console = NULL;
	_cleanup_free_ uint8_t *rom = malloc(ACCEL_ROM_SIZE);
	const char *argv[] = {QEMU, "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", "16",
		"-nodefaults", "-display", "none", "-bios", NULL, "-debugcon", "stdio", "-device",
		"isa-debug-exit,iobase=0x501,iosize=1", NULL};
	struct spawn_options options = {
		.argv = argv, .timeout_ms = 60000, .cancel_fd = -1, .netns_fd = -1};
	struct spawn_result result = SPAWN_RESULT_INIT(4096);
	struct err err = ERR_INIT;

	(void)state;
	if (access(QEMU, X_OK) < 0) {
		print_message("skipped: there is no " QEMU "\n");
		skip();
	}
	assert_non_null(rom);
	assert_non_null(mkdtemp(dir));
	accel_rom_write(rom);
	rom_path = str_printf("%s/rom", dir);
	assert_int_equal(fd_write_file(rom_path, rom, ACCEL_ROM_SIZE, 0644, &err), 0);
	argv[13] = rom_path;
	assert_int_equal(spawn_run(&options, &result, &err), 0);
	console = strndup(result.out.data ? result.out.data : "", result.out.len);
	assert_string_equal(console, ACCEL_STAGES);
	spawn_result_done(&result);
	fd_remove_tree(dir, NULL);
}

static void test_probe_ends_in_time_with_a_reason(void **state)
{
	char reason[256] = "";
	struct timespec begin, end;
	int r;

	(void)state;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	r = hv_probe_kvm(reason, sizeof(reason));
	clock_gettime(CLOCK_MONOTONIC, &end);
	print_message("KVM: %s\n", r == 0 ? "works" : reason);
	assert_in_range(r, 0, 1);
	assert_true(r == 0 || reason[0]);
	assert_true(end.tv_sec - begin.tv_sec <= 30);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_machine_says_all_stages),
		cmocka_unit_test(test_probe_ends_in_time_with_a_reason),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
