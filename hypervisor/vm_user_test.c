/* Who has a machine's rights: nobody else, and what was given to it nobody else may open. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/internal.h"

struct fixture {
	char dir[64];
	char *socket; /* in a machine's directory */
	struct hv hv;
	struct hv_vm vm;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	_cleanup_free_ char *vm_dir = NULL;

	assert_non_null(f);
	*state = f;
	snprintf(f->dir, sizeof(f->dir), "/tmp/vm-user-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->hv.config.run_dir = f->dir;
	f->hv.qemu_user = (struct user){.name = "qemu", .uid = 64055, .gid = 109};
	f->vm.hv = &f->hv;
	vm_dir = str_printf("%s/vm/one", f->dir);
	f->socket = str_printf("%s/console.sock", vm_dir);
	assert_int_equal(fd_mkdir_all(vm_dir, 0711, NULL), 0);
	return fd_write_file(f->socket, "", 0, 0600, NULL);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fd_remove_tree(f->dir, NULL);
	free(f->socket);
	free(f);
	return 0;
}

static void test_picked_ones(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	uid_t before = 0;

	if (geteuid() != 0)
		skip();
	for (int i = 0; i < 3; i++) {
		assert_int_equal(vm_user_pick(&f->vm, &err), 0);
		assert_in_range(f->vm.uid, USER_MACHINE_MIN, USER_MACHINE_MAX);
		assert_int_not_equal(f->vm.uid, before);
		before = f->vm.uid;
	}
	/* What libvirt's build decides is not known. */
	f->hv.qemu_user.name[0] = '\0';
	f->vm.uid = 0;
	assert_int_equal(vm_user_pick(&f->vm, &err), 0);
	assert_int_equal(f->vm.uid, 0);
}

static void test_what_is_a_machines(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	struct stat st;

	if (geteuid() != 0)
		skip();
	f->vm.uid = USER_MACHINE_MAX;
	assert_int_equal(vm_user_is_taken(&f->hv, f->vm.uid, &err), 0);
	assert_int_equal(vm_user_give(&f->vm, f->socket, &err), 0);
	assert_int_equal(vm_user_is_taken(&f->hv, f->vm.uid, &err), 1);
	assert_int_equal(vm_user_is_taken(&f->hv, f->vm.uid - 1, &err), 0);
	assert_int_equal(stat(f->socket, &st), 0);
	assert_int_equal(st.st_uid, f->vm.uid);
	assert_int_equal(st.st_gid, 0);
}

/* A build before this left it to libvirt, which says so or, a libvirtd, nothing. */
static void test_machines_of_before(void **state)
{
	struct fixture *f = *state;
	char text[VM_USER_TEXT];

	if (geteuid() != 0)
		skip();
	vm_user_take(&f->vm, 0);
	assert_int_equal(f->vm.uid, 64055);
	vm_user_take(&f->vm, 7);
	assert_string_equal(vm_user_text(&f->vm, text), "7:109");
}

/* Asked is for a machine that owns nothing: not for QEMU's user, who may have been given it. */
static void test_what_every_machine_can(void **state)
{
	struct fixture *f = *state;
	const struct user *qemu = &f->hv.qemu_user;

	if (geteuid() != 0)
		skip();
	assert_int_equal(chmod(f->dir, 0711), 0);
	assert_false(user_machine_can(qemu, f->socket, R_OK));
	assert_int_equal(lchown(f->socket, qemu->uid, 0), 0);
	assert_false(user_machine_can(qemu, f->socket, R_OK));
	assert_int_equal(lchown(f->socket, 0, qemu->gid), 0);
	assert_int_equal(chmod(f->socket, 0640), 0);
	assert_true(user_machine_can(qemu, f->socket, R_OK));
	assert_false(user_machine_can(qemu, f->socket, W_OK));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_picked_ones, setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_is_a_machines, setup, teardown),
		cmocka_unit_test_setup_teardown(test_machines_of_before, setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_every_machine_can, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
