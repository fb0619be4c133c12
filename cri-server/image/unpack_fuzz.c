/*
 * Layers into a tmpfs that only this process sees. It becomes the root while a layer is unpacked,
 * and the real one comes back through a descriptor afterwards: in one process, so that the fuzzer
 * sees what is reached. Needs root: without, nothing is done.
 */
#include "cri-server/image/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"

#define PLACE "/mnt" /* every system has it */
#define TREE  PLACE "/tree"

struct fixture {
	int root, cwd, input;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct fixture set_up(void)
{
	struct fixture f = {-EBADF, -EBADF, -EBADF};
	if (geteuid() != 0) {
		fprintf(stderr, "unpacking layers needs root\n");
		return f;
	}
	if (!setlocale(LC_ALL, "C.UTF-8") || unshare(CLONE_NEWNS) < 0 ||
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("tmpfs", PLACE, "tmpfs", MS_NODEV | MS_NOEXEC | MS_NOSUID, "size=64m") < 0)
		abort();
	umask(0);
	f.cwd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	f.root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	f.input = memfd_create("layer", MFD_CLOEXEC);
	if (f.cwd < 0 || f.root < 0 || f.input < 0)
		abort();
	return f;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct unpack_limits limits = {.bytes = 1 << 20, .files = 200};
	static struct fixture f;
	char diff_id[72];
	struct err err = ERR_INIT;
	if (!f.root)
		f = set_up();
	if (f.root < 0)
		return 0;
	if (mkdir(TREE, 0755) < 0 || ftruncate(f.input, 0) < 0 || lseek(f.input, 0, SEEK_SET) < 0 ||
		fd_write_all(f.input, data, size, NULL) < 0 || lseek(f.input, 0, SEEK_SET) < 0)
		abort();
	if (chroot(TREE) < 0 || chdir("/") < 0)
		abort();
	unpack_layer(f.input, &limits, diff_id, &err);
	if (fchdir(f.root) < 0 || chroot(".") < 0 || fchdir(f.cwd) < 0)
		abort();
	/* Whatever a layer was, what it made can be removed. */
	if (fd_remove_tree(TREE, &err) < 0) {
		fprintf(stderr, "%s\n", err.msg);
		abort();
	}
	return 0;
}
