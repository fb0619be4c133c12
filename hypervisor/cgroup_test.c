/*
 * A tree of plain files plays v1 and v2 side by side: what is written where is the kernel's
 * interface. That processes are in it, and that it goes, tests/functional/resources.bats shows.
 */
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
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/cgroup.h"

struct fixture {
	char root[64];
	struct cgroups cgroups;
};

static void put(const struct fixture *f, const char *name, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/%s", f->root, name);
	struct err err = ERR_INIT;
	char *slash = strrchr(path, '/');

	*slash = '\0';
	assert_int_equal(fd_mkdir_all(path, 0755, &err), 0);
	*slash = '/';
	assert_int_equal(fd_write_file(path, text, strlen(text), 0644, &err), 0);
}

static void assert_file(const struct fixture *f, const char *name, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/%s", f->root, name);
	_cleanup_free_ char *is = NULL;
	struct err err = ERR_INIT;

	assert_int_equal(fd_read_file(path, 4096, &is, NULL, &err), 0);
	assert_string_equal(is, text);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	_cleanup_free_ char *mountinfo = NULL, *text = NULL;
	struct err err = ERR_INIT;

	strcpy(f->root, "/tmp/cgroup-test-XXXXXX");
	*state = f;
	if (!mkdtemp(f->root))
		return -1;
	put(f, "v2/cgroup.controllers", "memory cpu pids\n");
	put(f, "v2/cgroup.subtree_control", "");
	put(f, "memory/x", "");
	put(f, "cpu,cpuacct/x", "");
	put(f, "cpuset/cpuset.cpus", "0-3\n");
	put(f, "cpuset/cpuset.mems", "0\n");
	put(f, "devices/x", "");
	put(f, "systemd/x", "");
	put(f, "again/cgroup.controllers", "memory cpu pids\n");
	text = str_printf("1 0 0:1 / %s rw - tmpfs tmpfs rw\n"
			  "2 1 0:2 / %s/v2 rw shared:1 - cgroup2 cgroup2 rw\n"
			  "3 1 0:3 / %s/memory rw - cgroup cgroup rw,memory\n"
			  "4 1 0:4 / %s/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
			  "5 1 0:5 / %s/cpuset rw - cgroup cgroup rw,cpuset\n"
			  "6 1 0:6 / %s/devices rw - cgroup cgroup rw,devices\n"
			  "7 1 0:7 / %s/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
			  "8 1 0:2 / %s/again rw - cgroup2 none rw\n",
		f->root, f->root, f->root, f->root, f->root, f->root, f->root, f->root);
	put(f, "mountinfo", text);
	mountinfo = str_printf("%s/mountinfo", f->root);
	return cgroups_read(mountinfo, &f->cgroups, &err);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	cgroups_done(&f->cgroups);
	fd_remove_tree(f->root, NULL);
	free(f);
	return 0;
}

/* Others mount some of them once more, and may unmount that: the first is the host's. */
static void test_hierarchies(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *first = str_printf("%s/v2", f->root);

	assert_int_equal(f->cgroups.n, 4);
	assert_string_equal(f->cgroups.items[0].mount, first);
	assert_true(f->cgroups.items[0].v2 && f->cgroups.items[0].memory);
	assert_true(f->cgroups.items[0].cpu && !f->cgroups.items[0].cpuset);
	assert_true(f->cgroups.items[1].memory && !f->cgroups.items[1].cpu);
	assert_true(f->cgroups.items[2].cpu && f->cgroups.items[3].cpuset);
}

static void test_limits(void **state)
{
	static const char *const files[] = {"v2/pods/a/memory.max", "v2/pods/a/cpu.weight",
		"v2/pods/a/cpu.max", "memory/pods/a/memory.limit_in_bytes",
		"cpu,cpuacct/pods/a/cpu.shares", "cpu,cpuacct/pods/a/cpu.cfs_quota_us",
		"cpu,cpuacct/pods/a/cpu.cfs_period_us", "cpuset/pods/a/x"};
	struct hv_limits limits = {.memory_mib = 3,
		.cpu_shares = 1024,
		.cpu_quota_us = 50000,
		.cpu_period_us = 100000};
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		put(f, files[i], "");
	assert_int_equal(cgroups_make(&f->cgroups, "/pods/a", "/run/a", &err), 0);
	assert_file(f, "v2/cgroup.subtree_control", "+memory");
	assert_int_equal(cgroups_limit(&f->cgroups, "/pods/a", &limits, &err), 0);
	assert_file(f, "v2/pods/a/memory.max", "3145728");
	assert_file(f, "v2/pods/a/cpu.weight", "39");
	assert_file(f, "v2/pods/a/cpu.max", "50000 100000");
	assert_file(f, "memory/pods/a/memory.limit_in_bytes", "3145728");
	assert_file(f, "cpu,cpuacct/pods/a/cpu.shares", "1024");
	assert_file(f, "cpu,cpuacct/pods/a/cpu.cfs_quota_us", "50000");
	limits.cpu_quota_us = 0;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		put(f, files[i], "");
	assert_int_equal(cgroups_limit(&f->cgroups, "/pods/a", &limits, &err), 0);
	assert_file(f, "v2/pods/a/cpu.max", "max 100000");
	assert_file(f, "cpu,cpuacct/pods/a/cpu.cfs_quota_us", "-1");
	/* One that lacks what is to be bounded is an error, not a machine without bounds. */
	assert_int_equal(cgroups_limit(&f->cgroups, "/none", &limits, &err), -ENOENT);
}

/*
 * systemd, when it sets a slice anew, takes what is below it the controllers that no unit there
 * asked for: they are given again where they lack.
 */
static void test_controllers_taken_away(void **state)
{
	const struct hv_limits limits = {.memory_mib = 3};
	struct fixture *f = *state;
	struct cgroups v2 = {.items = {f->cgroups.items[0]}, .n = 1};
	struct err err = ERR_INIT;
	char gone[96];

	assert_int_equal(cgroups_make(&v2, "/pods/a", "/run/a", &err), 0);
	put(f, "v2/pods/cgroup.subtree_control", "");
	/* Files alone bring no controller back. */
	assert_int_equal(cgroups_limit(&v2, "/pods/a", &limits, &err), -ENOENT);
	assert_file(f, "v2/pods/cgroup.subtree_control", "+memory");
	put(f, "v2/pods/cgroup.subtree_control", "");
	v2.items[0].cpuset = true;
	assert_int_equal(cgroups_pin(&v2, "/pods/a", "1", "", &err), -ENOENT);
	assert_file(f, "v2/pods/cgroup.subtree_control", "+memory");
	/* Of a machine that is gone nothing is made anew. */
	assert_int_equal(cgroups_limit(&v2, "/pods/b", &limits, &err), -ENOENT);
	snprintf(gone, sizeof(gone), "%s/v2/pods/b", f->root);
	assert_int_equal(access(gone, F_OK), -1);
}

/* Below another, in the kernel's own hierarchy of v1; where there is none the test is skipped. */
struct real {
	struct cgroups all, cpu;
	char parent[64], child[72];
};

static void set_up_real(struct real *real)
{
	struct err err = ERR_INIT;

	assert_int_equal(cgroups_read("/proc/self/mountinfo", &real->all, &err), 0);
	for (size_t i = 0; i < real->all.n; i++)
		if (real->all.items[i].cpu && !real->all.items[i].v2)
			real->cpu = (struct cgroups){.items = {real->all.items[i]}, .n = 1};
	snprintf(real->parent, sizeof(real->parent), "/bulkhead-cgroup-test-%d", getpid());
	snprintf(real->child, sizeof(real->child), "%s/a", real->parent);
	if (real->cpu.n && cgroups_make(&real->cpu, real->child, "/run/a", &err) == 0)
		return;
	cgroups_done(&real->all);
	skip();
}

static void tear_down_real(struct real *real)
{
	struct err err = ERR_INIT;

	assert_int_equal(cgroups_remove(&real->cpu, real->child, &err), 0);
	assert_int_equal(cgroups_remove(&real->cpu, real->parent, &err), 0);
	cgroups_done(&real->all);
}

static void assert_quota(const struct real *real, uint64_t quota, uint64_t period, const char *is)
{
	const struct hv_limits limits = {.cpu_quota_us = quota, .cpu_period_us = period};
	_cleanup_free_ char *file =
		str_printf("%s%s/cpu.cfs_quota_us", real->cpu.items[0].mount, real->child);
	_cleanup_free_ char *text = NULL;
	struct err err = ERR_INIT;

	if (cgroups_limit(&real->cpu, real->child, &limits, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(fd_read_file(file, 64, &text, NULL, &err), 0);
	assert_string_equal(text, is);
}

static void test_cpu_time_below_another(void **state)
{
	const struct hv_limits two = {.cpu_quota_us = 200000, .cpu_period_us = 100000};
	struct real real = {0};
	struct err err = ERR_INIT;

	(void)state;
	set_up_real(&real);
	assert_int_equal(cgroups_limit(&real.cpu, real.parent, &two, &err), 0);
	assert_quota(&real, 200000, 100000, "200000\n");
	/* The old quota in the new period would be too much. */
	assert_quota(&real, 20000, 10000, "20000\n");
	/* More than there is above: what is above holds, not what was before. */
	assert_quota(&real, 400000, 100000, "-1\n");
	tear_down_real(&real);
}

/* Whoever finds a cpuset that is empty fills it, be it another's; one that is not stays. */
static void test_cpusets(void **state)
{
	static const char *const blank[] = {"cpuset/pods/cpuset.cpus", "cpuset/pods/cpuset.mems",
		"cpuset/pods/a/cpuset.cpus", "cpuset/pods/a/cpuset.mems",
		"cpuset/own/b/cpuset.cpus", "cpuset/own/b/cpuset.mems"};
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(blank); i++)
		put(f, blank[i], "\n");
	put(f, "cpuset/own/cpuset.cpus", "1\n");
	put(f, "cpuset/own/cpuset.mems", "0\n");
	assert_int_equal(cgroups_make(&f->cgroups, "/pods/a", "/run/a", &err), 0);
	assert_int_equal(cgroups_make(&f->cgroups, "/own/b", "/run/b", &err), 0);
	assert_file(f, "cpuset/pods/cpuset.cpus", "0-3\n");
	assert_file(f, "cpuset/pods/cpuset.mems", "0\n");
	assert_file(f, "cpuset/pods/a/cpuset.cpus", "0-3\n");
	assert_file(f, "cpuset/pods/a/cpuset.mems", "0\n");
	assert_file(f, "cpuset/own/cpuset.cpus", "1\n");
	assert_file(f, "cpuset/own/b/cpuset.cpus", "1\n");
}

/* Where nothing is named it has what the one above has, at that time. */
static void test_processors_that_are_named(void **state)
{
	struct fixture *f = *state;
	struct cgroups none = {0};
	struct err err = ERR_INIT;

	put(f, "cpuset/pods/cpuset.cpus", "0-2\n");
	put(f, "cpuset/pods/cpuset.mems", "0-1\n");
	put(f, "cpuset/pods/a/cpuset.cpus", "");
	put(f, "cpuset/pods/a/cpuset.mems", "");
	assert_int_equal(cgroups_pin(&f->cgroups, "/pods/a", "1-2", "", &err), 0);
	assert_file(f, "cpuset/pods/a/cpuset.cpus", "1-2");
	assert_file(f, "cpuset/pods/a/cpuset.mems", "0-1\n");
	put(f, "cpuset/pods/a/cpuset.cpus", "");
	put(f, "cpuset/pods/a/cpuset.mems", "");
	assert_int_equal(cgroups_pin(&f->cgroups, "/pods/a", "", "1", &err), 0);
	assert_file(f, "cpuset/pods/a/cpuset.cpus", "0-2\n");
	assert_file(f, "cpuset/pods/a/cpuset.mems", "1");

	f->cgroups.items[0].cpuset = true;
	assert_int_equal(cgroups_pin(&f->cgroups, "/pods/a", "1", "", &err), -ENOENT);
	assert_int_equal(cgroups_pin(&f->cgroups, "/pods/a", "", "", &err), 0);
	put(f, "v2/pods/a/cpuset.cpus", "");
	put(f, "v2/pods/a/cpuset.mems", "");
	assert_int_equal(cgroups_pin(&f->cgroups, "/pods/a", "1", "", &err), 0);
	assert_file(f, "v2/pods/a/cpuset.cpus", "1");
	assert_file(f, "v2/pods/a/cpuset.mems", "\n");

	assert_int_equal(cgroups_pin(&none, "/pods/a", "", "", &err), 0);
	assert_int_equal(cgroups_pin(&none, "/pods/a", "1", "", &err), -EOPNOTSUPP);
}

/* The kernel takes 0 for who writes it: this process would go where a machine is killed. */
static void test_nobody_enters(void **state)
{
	static const char *const files[] = {"v2/a/cgroup.procs", "memory/a/cgroup.procs",
		"cpu,cpuacct/a/cgroup.procs", "cpuset/a/cgroup.procs"};
	struct fixture *f = *state;
	const struct cgroup_place place = {&f->cgroups, "/a"};
	struct err err = ERR_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		put(f, files[i], "");
	assert_int_equal(cgroups_enter(&place, 0, &err), -ESRCH);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		assert_file(f, files[i], "");
	assert_int_equal(cgroups_enter(&place, 7, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		assert_file(f, files[i], "7");
}

/* Of the kernel's own threads, as vhost's once were: not of whoever takes such a name. */
static void test_kernel_threads_enter(void **state)
{
	static const char name[] = "ksoftirqd/0";
	struct fixture *f = *state;
	const struct cgroup_place place = {
		&(struct cgroups){.items = {f->cgroups.items[0]}, .n = 1}, "/a"};
	_cleanup_free_ char *comm = NULL, *path = NULL, *procs = NULL, *is = NULL;
	struct err err = ERR_INIT;
	pid_t impostor;

	if (fd_read_file("/proc/2/comm", 32, &comm, NULL, NULL) < 0 ||
		strcmp(comm, "kthreadd\n") != 0)
		skip();
	impostor = fork();
	if (impostor == 0) {
		prctl(PR_SET_NAME, name);
		pause();
		_exit(0);
	}
	put(f, "v2/a/cgroup.procs", "");
	cgroups_enter_kernel_threads(&place, name);
	kill(impostor, SIGKILL);
	waitpid(impostor, NULL, 0);
	procs = str_printf("%s/v2/a/cgroup.procs", f->root);
	assert_int_equal(fd_read_file(procs, 64, &is, NULL, &err), 0);
	path = str_printf("/proc/%s/comm", is);
	free(TAKE_PTR(comm));
	assert_int_equal(fd_read_file(path, 32, &comm, NULL, &err), 0);
	assert_string_equal(comm, "ksoftirqd/0\n");
	put(f, "v2/a/cgroup.procs", "");
	cgroups_enter_kernel_threads(&place, "ksoftirqd/");
	assert_file(f, "v2/a/cgroup.procs", "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_hierarchies, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_controllers_taken_away, setup, teardown),
		cmocka_unit_test(test_cpu_time_below_another),
		cmocka_unit_test_setup_teardown(test_cpusets, setup, teardown),
		cmocka_unit_test_setup_teardown(test_processors_that_are_named, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nobody_enters, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kernel_threads_enter, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
