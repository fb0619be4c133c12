/*
 * The overlay, with directories as layers, and paths in a hostile root. Needs root and overlayfs:
 * each test runs in a child with mounts of its own.
 */
#include "agent/rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/disk.h"
#include "agent/root_path.h"
#include "common/fd.h"

/* No disks here: the layers are directories that the tests put into the stage. */
int disk_wait(
	unsigned target, unsigned timeout_ms, char ret_path[static DISK_PATH_MAX], struct err *err)
{
	(void)timeout_ms;
	(void)ret_path;
	return err_set(err, -ETIMEDOUT, "no disk %u", target);
}

/* Ends the child with the line as its message where the condition does not hold. */
#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition,                 \
				strerror(errno));                                                  \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

static void in_child(void (*test)(void))
{
	if (geteuid() != 0) {
		print_message("skipped: needs root\n");
		skip();
	}
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		CHECK(unshare(CLONE_NEWNS) == 0);
		CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
		CHECK(mount("tmpfs", "/run", "tmpfs", 0, NULL) == 0);
		CHECK(mkdir(ROOTFS_STAGE, 0700) == 0 && mkdir("/run/scratch", 0700) == 0);
		test();
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void put(const char *path, const char *text)
{
	CHECK(fd_write_file(path, text, strlen(text), 0644, NULL) == 0);
}

static void check_text(const char *path, const char *text)
{
	char *found = NULL;
	CHECK(fd_read_file(path, 4096, &found, NULL, NULL) == 0);
	CHECK(strcmp(found, text) == 0);
	free(found);
}

static void whiteouts(void)
{
	struct err err = ERR_INIT;
	int root = -EBADF;
	CHECK(rootfs_begin(&err) == 0);
	CHECK(mkdir("0", 0755) == 0 && mkdir("0/opaque", 0755) == 0 && mkdir("1", 0755) == 0);
	put("0/kept", "low");
	put("0/gone", "low");
	put("0/changed", "low");
	put("0/opaque/hidden", "low");
	put("1/changed", "high");
	CHECK(mknod("1/gone", S_IFCHR, makedev(0, 0)) == 0);
	CHECK(mkdir("1/opaque", 0755) == 0);
	CHECK(setxattr("1/opaque", "trusted.overlay.opaque", "y", 1, 0) == 0);
	put("1/opaque/seen", "high");
	CHECK(rootfs_overlay(2, "/run/scratch/a", 0, &root, &err) == 0);
	CHECK(rootfs_enter(root, &err) == 0);
	check_text("/kept", "low");
	check_text("/changed", "high");
	check_text("/opaque/seen", "high");
	CHECK(access("/gone", F_OK) < 0 && access("/opaque/hidden", F_OK) < 0);
	put("/new", "upper");
	/* Nothing of the old root is in sight. */
	CHECK(chdir("/../..") == 0 && access("run", F_OK) < 0);
	CHECK(umount2("/", MNT_DETACH) < 0 || access("/run", F_OK) < 0);
}

static void test_whiteouts(void **state)
{
	(void)state;
	in_child(whiteouts);
}

static void many_layers(void)
{
	struct err err = ERR_INIT;
	int root = -EBADF;
	CHECK(rootfs_begin(&err) == 0);
	for (int i = 0; i < ROOTFS_LAYERS_MAX; i++) {
		char path[32], text[16];
		snprintf(path, sizeof(path), "%d", i);
		CHECK(mkdir(path, 0755) == 0);
		snprintf(text, sizeof(text), "%d", i);
		snprintf(path, sizeof(path), "%d/top", i);
		put(path, text);
		snprintf(path, sizeof(path), "%d/own-%d", i, i);
		put(path, text);
	}
	CHECK(rootfs_overlay(ROOTFS_LAYERS_MAX, "/run/scratch/a", 0, &root, &err) == 0);
	CHECK(rootfs_enter(root, &err) == 0);
	check_text("/top", "126");
	check_text("/own-0", "0");
	check_text("/own-126", "126");
}

static void test_many_layers(void **state)
{
	(void)state;
	in_child(many_layers);
	uint32_t targets[ROOTFS_LAYERS_MAX + 1] = {0};
	const struct ids ids = IDS_INIT;
	assert_int_equal(rootfs_layers(targets, ARRAY_SIZE(targets), &ids, NULL), -EINVAL);
}

static void no_layers(void)
{
	struct err err = ERR_INIT;
	int root = -EBADF;
	CHECK(rootfs_begin(&err) == 0);
	CHECK(rootfs_overlay(0, "/run/scratch/a", 0, &root, &err) == 0);
	CHECK(rootfs_enter(root, &err) == 0);
	put("/file", "x");
}

static void test_no_layers(void **state)
{
	(void)state;
	in_child(no_layers);
}

/* Links of the image lead nowhere but to places inside it. */
static void test_paths(void **state)
{
	(void)state;
	char outside[] = "/tmp/rootfs_test.XXXXXX";
	assert_non_null(mkdtemp(outside));
	_cleanup_free_ char *dir = str_printf("%s/root", outside);
	assert_int_equal(mkdir(dir, 0755), 0);
	_cleanup_close_ int root = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(symlinkat("..", root, "up"), 0);
	assert_int_equal(symlinkat("../../../nowhere/deep", root, "etc"), 0);
	assert_int_equal(symlinkat("/proc/self/root", root, "magic"), 0);
	assert_int_equal(symlinkat("loop", root, "loop"), 0);

	struct err err = ERR_INIT;
	_cleanup_close_ int made = root_make(root, "/etc/hosts", false, &err);
	assert_true(made >= 0);
	assert_int_equal(faccessat(root, "nowhere/deep/hosts", F_OK, 0), 0);
	_cleanup_close_ int up = root_make(root, "/up/up/x/../y", true, &err);
	assert_true(up >= 0);
	assert_int_equal(faccessat(root, "y", F_OK, 0), 0);
	assert_int_equal(faccessat(root, "../y", F_OK, 0), -1);
	assert_int_equal(root_open(root, "/../../etc/passwd", O_RDONLY), -ENOENT);
	assert_int_equal(root_open(root, "loop/x", O_RDONLY), -ELOOP);
	assert_int_equal(root_open(root, "magic/etc/passwd", O_RDONLY), -ENOENT);
	assert_int_equal(root_make(root, "/y", false, &err), -EISDIR);
	assert_int_equal(root_make(root, "/nowhere/deep/hosts", true, &err), -ENOTDIR);
	assert_int_equal(root_make(root, "/nowhere/deep/hosts/x", true, &err), -ENOTDIR);
	char deep[1024] = "";
	for (size_t i = 0; i < 200; i++)
		memcpy(deep + 2 * i, "/a", sizeof("/a"));
	assert_int_equal(root_make(root, deep, true, &err), -ELOOP);
	assert_int_equal(fd_remove_tree(outside, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whiteouts),
		cmocka_unit_test(test_many_layers),
		cmocka_unit_test(test_no_layers),
		cmocka_unit_test(test_paths),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
