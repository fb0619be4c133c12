/* A machine's QEMU is known by what it cannot change, when its guest has taken it over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/internal.h"

#define ID "00000000000000000000000000000007"

struct fixture {
	char dir[64];
	char *state_dir, *vm_dir;
	char path[64]; /* of the cgroup */
	struct hv hv;
	pid_t pid;
};

/* A process that is called otherwise than QEMU is, and the file that says it is the machine's. */
static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	_cleanup_free_ char *file = NULL, *text = NULL;

	assert_non_null(f);
	*state = f;
	snprintf(f->dir, sizeof(f->dir), "/tmp/vm-cgroup-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "/bulkhead-test-%d", (int)getpid());
	f->hv.config.run_dir = f->dir;
	f->hv.state_dir = f->state_dir = str_printf("%s/qemu", f->dir);
	f->vm_dir = str_printf("%s/vm/%s", f->dir, ID);
	assert_int_equal(fd_mkdir_all(f->state_dir, 0700, NULL), 0);
	assert_int_equal(fd_mkdir_all(f->vm_dir, 0700, NULL), 0);
	f->pid = fork();
	if (f->pid == 0)
		for (;;)
			pause();
	file = str_printf("%s/bh-%s.pid", f->state_dir, ID);
	text = str_printf("%d\n", (int)f->pid);
	assert_int_equal(fd_write_file(file, text, strlen(text), 0600, NULL), 0);
	return cgroups_read("/proc/self/mountinfo", &f->hv.cgroups, NULL);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	kill(f->pid, SIGKILL);
	waitpid(f->pid, NULL, 0);
	vm_cgroup_remove(&f->hv, f->vm_dir, NULL);
	cgroups_done(&f->hv.cgroups);
	fd_remove_tree(f->dir, NULL);
	free(f->state_dir);
	free(f->vm_dir);
	free(f);
	return 0;
}

static void test_qemu_that_hides_its_arguments(void **state)
{
	struct fixture *f = *state;
	const struct hv_vm vm = {.hv = &f->hv, .dir = f->vm_dir};
	const struct hv_limits limits = {0};
	const struct cgroup_place place = {&f->hv.cgroups, f->path};
	struct err err = ERR_INIT;
	int pid = 0;

	if (geteuid() != 0 || f->hv.cgroups.n == 0)
		skip();
	assert_int_equal(hv_open_qemu(&f->hv, ID, &pid), -ESRCH);
	if (vm_cgroup_make(&vm, f->path, &limits, &err) < 0)
		skip();
	assert_int_equal(hv_open_qemu(&f->hv, ID, &pid), -ESRCH);
	assert_int_equal(cgroups_enter(&place, f->pid, &err), 0);
	int pidfd = hv_open_qemu(&f->hv, ID, &pid);
	assert_true(pidfd >= 0);
	assert_int_equal(pid, f->pid);
	close(pidfd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_qemu_that_hides_its_arguments, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
