/*
 * A real machine from creation to its last trace. Needs root, QEMU, libvirt's embedded driver, and
 * in BULKHEAD_KERNEL and BULKHEAD_INITRAMFS a guest whose init listens on vsock port 1024; skips
 * otherwise. Takes some ten seconds: libvirt probes QEMU anew in a fresh root.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/internal.h"
#include "hypervisor/vm.h"

#define GUEST_PORT 1024
#define MONITOR_MS 5000
#define ROOT       "/tmp/hv-vm-test"

/*
 * libvirt 9.0 leaks what it notes of the event that tells of more memory. The leak is known by the
 * function, for which the sanitizer is to walk whole stacks.
 */
const char *__asan_default_options(void);
const char *__lsan_default_suppressions(void);

const char *__asan_default_options(void)
{
	return "fast_unwind_on_malloc=0";
}

const char *__lsan_default_suppressions(void)
{
	return "leak:qemuMonitorEmitMemoryDeviceSizeChange\n";
}

struct fixture {
	struct log log;
	struct hv *hv;
	char *uri;
	char *helper;
	atomic_int deaths;
};

static const struct hv_nic nic = {.tap = "hvtest0", .mac = "52:54:00:00:00:01"};

static void on_died(void *userdata, const char *id, const char *reason)
{
	struct fixture *fixture = userdata;

	print_message("died: %s: %s\n", id, reason);
	atomic_fetch_add(&fixture->deaths, 1);
}

/* Beside the root, and like it one bulkheadd's. */
static char *run_dir_of(const char *uri)
{
	return str_printf("%s-run", strchr(uri, '=') + 1);
}

static int open_hv(struct fixture *fixture, struct err *err)
{
	_cleanup_free_ char *run_dir = run_dir_of(fixture->uri);
	const struct hv_config config = {
		.libvirt_uri = fixture->uri,
		.run_dir = run_dir,
		.accelerator = HV_ACCELERATOR_AUTO,
		.kernel = getenv("BULKHEAD_KERNEL"),
		.initramfs = getenv("BULKHEAD_INITRAMFS"),
		/* The banner that the tests look for is a notice. */
		.kernel_arguments = "loglevel=7",
		.virtiofsd = "/usr/lib/qemu/virtiofsd",
		.vsock_helper = fixture->helper,
		.monitor_ms = MONITOR_MS,
	};

	if (!run_dir)
		return err_nomem(err);
	int r = fd_mkdir_all(run_dir, 0755, err);
	return r < 0 ? r : hv_open(&config, &fixture->log, on_died, fixture, &fixture->hv, err);
}

/* The helpers are built into a folder beside this test. */
static char *find_helper(void)
{
	char self[256];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n < 0)
		return NULL;
	self[n] = '\0';
	*strrchr(self, '/') = '\0';
	return str_printf("%s/vsock/bulkhead-vsock", self);
}

static bool can_run(const struct fixture *fixture)
{
	const char *kernel = getenv("BULKHEAD_KERNEL"), *initramfs = getenv("BULKHEAD_INITRAMFS");

	return geteuid() == 0 && kernel && access(kernel, R_OK) == 0 && initramfs &&
	       access(initramfs, R_OK) == 0 && access(fixture->helper, X_OK) == 0;
}

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	struct err err = ERR_INIT;

	if (!fixture)
		return -1;
	*state = fixture;
	fixture->log = (struct log){.fd = 2, .level = LOG_LEVEL_WARNING};
	fixture->helper = find_helper();
	fixture->uri = strdup("qemu:///embed?root=" ROOT "/libvirt");
	if (!can_run(fixture)) {
		print_message("skipped: needs root, BULKHEAD_KERNEL and BULKHEAD_INITRAMFS\n");
		return 0;
	}
	if (fd_remove_tree(ROOT, &err) < 0 || fd_mkdir_all(ROOT, 0755, &err) < 0 ||
		fd_write_file(ROOT "/scratch", "", 0, 0600, &err) < 0 ||
		fd_write_file(ROOT "/layer", "", 0, 0644, &err) < 0 ||
		truncate(ROOT "/scratch", 64 << 20) < 0 || truncate(ROOT "/layer", 1 << 20) < 0 ||
		open_hv(fixture, &err) < 0) {
		print_message("setup: %s\n", err.msg);
		return -1;
	}
	print_message("%s, %s (%s), %s\n", hv_version(fixture->hv),
		hv_accelerator_name(fixture->hv), hv_accelerator_reason(fixture->hv),
		hv_transport_name(fixture->hv));
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;

	if (fixture->hv)
		fd_remove_tree(ROOT, NULL);
	hv_close(fixture->hv);
	free(fixture->uri);
	free(fixture->helper);
	free(fixture);
	return 0;
}

static uint64_t lap(uint64_t *since, const char *what)
{
	uint64_t now = ev_now_ms(), took = now - *since;

	print_message("%-10s %4u ms\n", what, (unsigned)took);
	*since = now;
	return took;
}

static void check(int r, const struct err *err)
{
	if (r < 0)
		fail_msg("%s", err->msg);
}

static struct hv_vm *create(struct fixture *fixture, const char *id)
{
	const struct hv_vm_spec spec = {
		.id = id,
		.vcpus = 2,
		.vcpus_max = 3,
		.memory_mib = 256,
		.memory_max_mib = 768,
		.nics = &nic,
		.n_nics = 1,
		.scratch = ROOT "/scratch",
	};
	struct err err = ERR_INIT;
	struct hv_vm *vm = NULL;

	check(hv_vm_create(fixture->hv, &spec, &vm, &err), &err);
	return vm;
}

static void assert_nothing_left(struct fixture *fixture, const char *id)
{
	_cleanup_free_ char *dir = hv_vm_dir(fixture->hv, id);
	struct err err = ERR_INIT;
	struct hv_vm *vm;

	assert_int_equal(access(dir, F_OK), -1);
	assert_int_equal(if_nametoindex(nic.tap), 0);
	assert_int_equal(hv_vm_open(fixture->hv, id, &vm, &err), 1);
}

struct connector {
	struct hv_vm *vm;
	int result;
};

static void *connect_once(void *userdata)
{
	struct connector *connector = userdata;
	_cleanup_close_ int fd = -EBADF;
	struct err err = ERR_INIT;

	connector->result = hv_vm_connect(connector->vm, GUEST_PORT, 120000, &fd, &err);
	return NULL;
}

/* Every stream of a pod is a connection, and several may be the first. */
static void connect_from_two_threads(struct hv_vm *vm)
{
	struct connector connectors[2] = {{.vm = vm}, {.vm = vm}};
	pthread_t threads[2];

	for (size_t i = 0; i < 2; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, connect_once, &connectors[i]), 0);
	for (size_t i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(connectors[i].result, 0);
	}
}

/* A user of its own, which is known again by whoever opens the machine. */
static void assert_user(struct hv_vm *vm, uid_t *ret)
{
	_cleanup_free_ char *proc = str_printf("/proc/%d/fd", hv_vm_pid(vm));
	struct stat st;

	assert_int_equal(stat(proc, &st), 0);
	assert_int_equal(st.st_uid, vm->uid);
	assert_int_equal(stat(ROOT "/scratch", &st), 0);
	assert_int_equal(st.st_uid, vm->uid);
	if (vm->hv->qemu_user.name[0])
		assert_in_range(vm->uid, USER_MACHINE_MIN, USER_MACHINE_MAX);
	*ret = vm->uid;
}

static void test_life(void **state)
{
	struct fixture *fixture = *state;
	_cleanup_free_ char *console = NULL;
	struct err err = ERR_INIT;
	struct hv_vm *vm;
	uint64_t since = ev_now_ms();
	uid_t uid, same;

	if (!fixture->hv)
		skip();
	vm = create(fixture, "life");
	assert_user(vm, &uid);
	lap(&since, "create");
	assert_int_not_equal(if_nametoindex(nic.tap), 0);
	assert_true(hv_vm_pid(vm) > 0);
	check(hv_vm_resume(vm, &err), &err);
	lap(&since, "resume");
	connect_from_two_threads(vm);
	lap(&since, "connect");
	check(hv_vm_attach_disk(vm, 1, ROOT "/layer", &err), &err);
	lap(&since, "attach");
	check(hv_vm_attach_disk(vm, HV_DISK_TARGET_MAX, ROOT "/layer", &err), &err);
	assert_true(hv_vm_attach_disk(vm, 1, ROOT "/layer", &err) < 0);
	since = ev_now_ms();
	check(hv_vm_detach_disk(vm, 1, &err), &err);
	lap(&since, "detach");
	check(hv_vm_detach_disk(vm, 1, &err), &err);
	check(hv_vm_set_link(vm, nic.mac, false, &err), &err);
	assert_int_equal(hv_vm_set_link(vm, "52:54:00:00:00:09", false, &err), -ENODEV);
	assert_int_equal(hv_vm_grow(vm, 4, 256, &err), -ERANGE);
	since = ev_now_ms();
	check(hv_vm_grow(vm, 3, 257, &err), &err);
	lap(&since, "grow");
	vm = hv_vm_unref(vm);
	/* As one finds it who comes later. */
	assert_int_equal(hv_vm_open(fixture->hv, "life", &vm, &err), 0);
	assert_user(vm, &same);
	assert_int_equal(same, uid);
	assert_int_equal(hv_vm_size(vm)->vcpus, 3);
	assert_int_equal(hv_vm_size(vm)->vcpus_max, 3);
	assert_int_equal(hv_vm_size(vm)->memory_mib, 260);
	assert_int_equal(hv_vm_size(vm)->memory_max_mib, 768);
	check(hv_vm_grow(vm, 1, 768, &err), &err);
	check(hv_vm_set_link(vm, nic.mac, true, &err), &err);
	check(hv_vm_console(fixture->hv, "life", 65536, &console, &err), &err);
	assert_non_null(strstr(console, "Linux version"));
	assert_int_equal(hv_vm_wait_off(fixture->hv, "life", 50), 1);
	vm = hv_vm_unref(vm);
	since = ev_now_ms();
	check(hv_vm_destroy(fixture->hv, "life", &err), &err);
	lap(&since, "destroy");
	assert_nothing_left(fixture, "life");
	check(hv_vm_destroy(fixture->hv, "life", &err), &err);
	assert_int_equal(atomic_load(&fixture->deaths), 0);
}

static void test_death_is_told(void **state)
{
	struct fixture *fixture = *state;
	struct err err = ERR_INIT;
	struct hv_vm *vm;
	int fd;

	if (!fixture->hv)
		skip();
	vm = create(fixture, "death");
	check(hv_vm_resume(vm, &err), &err);
	kill(hv_vm_pid(vm), SIGKILL);
	assert_int_equal(hv_vm_connect(vm, GUEST_PORT, 60000, &fd, &err), -EHOSTDOWN);
	assert_int_equal(hv_vm_wait_off(fixture->hv, "death", 60000), 0);
	for (int i = 0; i < 3000 && !atomic_load(&fixture->deaths); i++)
		usleep(10000);
	assert_int_equal(atomic_load(&fixture->deaths), 1);
	vm = hv_vm_unref(vm);
	check(hv_vm_destroy(fixture->hv, "death", &err), &err);
	assert_nothing_left(fixture, "death");
}

/* As one is that its guest has taken over, for whoever waits for it. */
static void test_qemu_that_does_not_answer(void **state)
{
	struct fixture *fixture = *state;
	int deaths = atomic_load(&fixture->deaths);
	struct err err = ERR_INIT;
	struct hv_vm *vm;
	uint64_t begin;

	if (!fixture->hv)
		skip();
	vm = create(fixture, "silent");
	check(hv_vm_resume(vm, &err), &err);
	check(hv_vm_attach_disk(vm, 1, ROOT "/layer", &err), &err);
	kill(hv_vm_pid(vm), SIGSTOP);
	begin = ev_now_ms();
	assert_true(hv_vm_attach_disk(vm, 2, ROOT "/layer", &err) < 0);
	assert_in_range(ev_now_ms() - begin, MONITOR_MS, 12 * MONITOR_MS);
	assert_int_equal(hv_vm_wait_off(fixture->hv, "silent", 60000), 0);
	for (int i = 0; i < 3000 && atomic_load(&fixture->deaths) == deaths; i++)
		usleep(10000);
	assert_int_equal(atomic_load(&fixture->deaths), deaths + 1);
	vm = hv_vm_unref(vm);
	check(hv_vm_destroy(fixture->hv, "silent", &err), &err);
	assert_nothing_left(fixture, "silent");
}

/*
 * libvirt's embedded driver is one per process and lives as long as it, so what happens after a
 * restart is played by this program run anew, with another root than ours.
 */
static int run_again(const char *mode, const char *uri)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		execl("/proc/self/exe", "vm_test", mode, uri, NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_machine_outlives_process(void **state)
{
	struct fixture *fixture = *state;

	if (!fixture->hv)
		skip();
	assert_int_equal(run_again("--create", "qemu:///embed?root=" ROOT "/other"), 0);
	assert_int_equal(access(ROOT "/other-run/vm/old", F_OK), 0);
	/* libvirt would end it: it could not note it down anew. */
	assert_int_equal(run_again("--full", "qemu:///embed?root=" ROOT "/other"), 0);
	assert_int_equal(run_again("--reopen", "qemu:///embed?root=" ROOT "/other"), 0);
	assert_int_equal(access(ROOT "/other-run/vm/old", F_OK), -1);
}

/* As a process leaves it that is killed just before it starts QEMU. */
static void test_machine_that_never_ran(void **state)
{
	static const char record[] = ROOT "/unborn/run/qemu/bh-old.xml";
	static const char pid_file[] = ROOT "/unborn/run/qemu/bh-old.pid";
	struct fixture *fixture = *state;
	_cleanup_free_ char *text = NULL, *pid = NULL, *unborn = NULL;
	const char *at;
	struct err err = ERR_INIT;

	if (!fixture->hv)
		skip();
	assert_int_equal(run_again("--create", "qemu:///embed?root=" ROOT "/unborn"), 0);
	check(fd_read_file(record, 1 << 20, &text, NULL, &err), &err);
	check(fd_read_file(pid_file, 32, &pid, NULL, &err), &err);
	kill(atoi(pid), SIGKILL);
	at = strstr(text, "<domstatus ");
	assert_non_null(at);
	unborn = str_printf("%.*s<domstatus state='paused' reason='starting up' pid='0'><job "
			    "type='none' async='start' flags='0x1' asyncStarted='1'/>%s",
		(int)(at - text), text, strchr(at, '>') + 1);
	check(fd_write_file(record, unborn, strlen(unborn), 0600, &err), &err);
	assert_int_equal(run_again("--destroy", "qemu:///embed?root=" ROOT "/unborn"), 0);
	assert_int_equal(access(record, F_OK), -1);
	assert_int_equal(access(pid_file, F_OK), -1);
}

/* A machine's disks take 1024 of the host's asynchronous requests, and a node has hundreds. */
static void test_disks_of_many_machines(void **state)
{
	_cleanup_free_ char *most = NULL;

	if (!((struct fixture *)*state)->hv)
		skip();
	assert_int_equal(fd_read_file("/proc/sys/fs/aio-max-nr", 64, &most, NULL, NULL), 0);
	assert_true(strtoull(most, NULL, 10) >= 1 << 20);
}

static void test_root_has_one_owner(void **state)
{
	struct fixture *fixture = *state;

	if (!fixture->hv)
		skip();
	assert_int_equal(run_again("--second", fixture->uri), 0);
}

static int collect(void *userdata, const char *id)
{
	return strcmp(id, "old") == 0 ? (*(unsigned *)userdata)++, 0 : 0;
}

static int reopen(struct fixture *fixture, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	struct hv_vm *vm = NULL;
	unsigned found = 0;
	int r = hv_each_vm(fixture->hv, collect, &found, err);

	if (r == 0 && found != 1)
		r = err_set(err, -ENOENT, "hv_each_vm found %u", found);
	if (r == 0 && hv_vm_open(fixture->hv, "old", &vm, err) != 0)
		r = err_set(err, -ENOENT, "hv_vm_open found none");
	if (r < 0)
		return r;
	r = hv_vm_connect(vm, GUEST_PORT, 120000, &fd, err);
	hv_vm_unref(vm);
	return r < 0 ? r : hv_vm_destroy(fixture->hv, "old", err);
}

/* Gives libvirt's notes a file system that has no room left, for this process alone. */
static int fill_notes(struct err *err)
{
	static const char dir[] = ROOT "/other-run/libvirt/qemu", note[] = "/bh-old.xml";
	_cleanup_free_ char *text = NULL, *path = str_printf("%s%s", dir, note);
	size_t len;
	int r = path ? fd_read_file(path, 1 << 20, &text, &len, err) : err_nomem(err);

	if (r == 0 && (unshare(CLONE_NEWNS) < 0 ||
			      mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
			      mount("small", dir, "tmpfs", 0, "size=20k") < 0))
		r = err_errno(err, "Make a small file system");
	return r < 0 ? r : fd_write_file(path, text, len, 0600, err);
}

/* The other processes of the tests above. */
static int run_mode(const char *mode, char *uri)
{
	_cleanup_free_ char *helper = find_helper();
	struct fixture fixture = {.uri = uri, .helper = helper};
	struct err err = ERR_INIT;
	struct hv_vm *vm;
	int r = strcmp(mode, "--full") == 0 ? fill_notes(&err) : 0;

	if (r == 0)
		r = open_hv(&fixture, &err);
	if (strcmp(mode, "--full") == 0)
		return r != -ENOSPC || !strstr(err.msg, "must be free");
	if (strcmp(mode, "--second") == 0) {
		fprintf(stderr, "refused: %s\n", err.msg);
		/* Past the leak check: libvirt 9.0 leaks 24 bytes when it refuses a root. */
		_exit(r == 0);
	}
	if (r == 0 && strcmp(mode, "--create") == 0) {
		vm = create(&fixture, "old");
		/* Without closing anything, as if killed. */
		_exit(hv_vm_resume(vm, &err) < 0);
	}
	if (r == 0 && strcmp(mode, "--destroy") == 0)
		r = hv_vm_destroy(fixture.hv, "old", &err);
	else if (r == 0)
		r = reopen(&fixture, &err);
	if (r < 0)
		fprintf(stderr, "%s: %s\n", mode, err.msg);
	hv_close(fixture.hv);
	return r < 0;
}

/* The directory and the tap have fixed names: a run of another variant or checkout is waited for.
 */
static int lock_names(void)
{
	int fd = open(ROOT ".lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd >= 0)
		(void)flock(fd, LOCK_EX);
	return fd;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_life),
		cmocka_unit_test(test_death_is_told),
		cmocka_unit_test(test_qemu_that_does_not_answer),
		cmocka_unit_test(test_machine_outlives_process),
		cmocka_unit_test(test_machine_that_never_ran),
		cmocka_unit_test(test_root_has_one_owner),
		cmocka_unit_test(test_disks_of_many_machines),
	};

	if (argc == 3)
		return run_mode(argv[1], argv[2]);

	_cleanup_close_ int lock = lock_names();
	return cmocka_run_group_tests(tests, setup, teardown);
}
