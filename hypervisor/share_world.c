#include "hypervisor/share_world.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "hypervisor/helper.h"
#include "hypervisor/share.h"
#include "hypervisor/vm.h"

#define VIRTIOFSD "/usr/lib/qemu/virtiofsd"
/*
 * Idle it has 3 MiB. Each of its two queues adds what it takes one request into, 1 MiB, and chains
 * that it knows of, as many as the ring has entries, of some KiB; guest memory, of which it counts
 * what it touched, is 2 MiB. Twice that: the sizes that requests claim are in the order of GiB.
 */
#define MEMORY_KIB (16 << 10)

bool sw_can_run(void)
{
#ifdef __SANITIZE_THREAD__
	/* It gives each child a second thread; none that has one may enter a mount namespace. */
	return false;
#endif
	return geteuid() == 0 && access(VIRTIOFSD, X_OK) == 0;
}

static void check(int r, const struct err *err)
{
	if (r < 0)
		fail_msg("%s", err->msg);
}

/* ---- the host ---- */

static void make_file(const char *path)
{
	struct err err = ERR_INIT;

	check(fd_write_file(path, path, strlen(path), 0644, &err), &err);
}

static void make_host(const struct share_world *world)
{
	static const char *const dirs[] = {"host", "host/vault", "host/rw", "host/rw/dir",
		"host/rw/dir/sub", "host/rw/swap", "host/ro", "host/ro/dir", "machine"};
	static const char *const files[] = {"host/secret", "host/vault/secret", "host/rw/file",
		"host/rw/dir/inner", "host/ro/file", "host/ro/dir/inner"};
	_cleanup_free_ char *absolute = str_printf("%s/host/secret", world->top);

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		assert_int_equal(mkdir(dirs[i], 0755), 0);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		make_file(files[i]);
	/* Whatever user the guest names may write what can be written. */
	assert_int_equal(chmod("host/rw", 0777), 0);
	assert_int_equal(chmod("host/rw/dir", 0777), 0);
	assert_int_equal(symlink(absolute, "host/rw/absolute"), 0);
	assert_int_equal(symlink("../secret", "host/rw/relative"), 0);
	assert_int_equal(symlink("../vault", "host/rw/vault"), 0);
	assert_int_equal(symlink("..", "host/rw/up"), 0);
	assert_int_equal(symlink("/proc/self/fd/3", "host/rw/proc"), 0);
	assert_int_equal(mknod("host/rw/null", S_IFCHR | 0666, makedev(1, 3)), 0);
	assert_int_equal(mkfifo("host/rw/pipe", 0666), 0);
}

/* Calls fn for all at and below the path, links as links. */
static void walk(const char *path, void (*fn)(void *userdata, const FTSENT *entry), void *userdata)
{
	char *const paths[] = {(char *)(uintptr_t)path, NULL};
	FTS *fts = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);

	assert_non_null(fts);
	for (const FTSENT *entry = fts_read(fts); entry; entry = fts_read(fts))
		fn(userdata, entry);
	fts_close(fts);
}

static void describe_entry(void *userdata, const FTSENT *entry)
{
	const struct stat *st = entry->fts_statp;

	fprintf(userdata, "%s %lu %o %u:%u %lu %ld %ld.%09ld %ld.%09ld\n", entry->fts_path,
		st->st_ino, st->st_mode, st->st_uid, st->st_gid, st->st_nlink, st->st_size,
		st->st_mtim.tv_sec, st->st_mtim.tv_nsec, st->st_ctim.tv_sec, st->st_ctim.tv_nsec);
}

static unsigned count_entries(const char *path)
{
	DIR *stream = opendir(path);
	unsigned n = 0;

	assert_non_null(stream);
	while (readdir(stream))
		n++;
	closedir(stream);
	return n;
}

/* All that the guest must not change. */
static char *describe(void)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	assert_non_null(out);
	/* Of what lies beside the volumes, that there is no more of it. */
	fprintf(out, "%u in host\n", count_entries("host"));
	walk("host/secret", describe_entry, out);
	walk("host/vault", describe_entry, out);
	walk("host/ro", describe_entry, out);
	walk("machine/share", describe_entry, out);
	fclose(out);
	return text;
}

struct search {
	ino_t ino;
	bool found;
};

static void compare(void *userdata, const FTSENT *entry)
{
	struct search *search = userdata;

	search->found |= entry->fts_statp->st_ino == search->ino;
}

bool sw_is_inside(uint64_t ino)
{
	struct search search = {.ino = ino};
	struct stat root;

	assert_int_equal(stat("machine/share", &root), 0);
	walk("host/rw", compare, &search);
	walk("host/ro", compare, &search);
	return search.found || ino == root.st_ino;
}

void sw_assert_untouched(const struct share_world *world)
{
	_cleanup_free_ char *now = describe();

	assert_string_equal(now, world->before);
}

/* ---- virtiofsd ---- */

bool sw_bind(const struct share_world *world, const char *name, const char *path, unsigned flags,
	const struct userns_map *map)
{
	struct err err = ERR_INIT;
	int fd = open(path, O_PATH | O_CLOEXEC);

	assert_true(fd >= 0);
	int r = share_bind(world->machine, name, &(struct share_source){fd, flags, map}, &err);
	close(fd);
	if (r == -EINVAL && map)
		return false;
	check(r, &err);
	return true;
}

bool sw_has_ended(int pidfd, int timeout_ms)
{
	return poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, timeout_ms) == 1;
}

/* The process that serves is the only child of virtiofsd's first. */
static void find_processes(struct share_world *world)
{
	_cleanup_free_ char *text = NULL;
	struct err err = ERR_INIT;
	char path[64];

	check(helper_find(world->machine, "virtiofsd", &world->first_pid, &world->first, &err),
		&err);
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", world->first_pid,
		world->first_pid);
	check(fd_read_file(path, 4096, &text, NULL, &err), &err);
	world->serving_pid = atoi(text);
	world->serving = (int)syscall(SYS_pidfd_open, world->serving_pid, 0);
	assert_true(world->serving >= 0);
}

void sw_note_host(struct share_world *world)
{
	free(world->before);
	world->before = describe();
}

static void start_virtiofsd(struct share_world *world)
{
	const struct share share = {.dir = world->machine, .program = VIRTIOFSD};
	_cleanup_free_ char *socket = NULL;
	struct err err = ERR_INIT;

	check(share_start(&share, &socket, &world->log, &err), &err);
	sd_start(&world->sd, socket);
	find_processes(world);
	check(share_seal(world->machine, &err), &err);
	sw_bind(world, "rw", "host/rw", HV_BIND_READ_ONLY, NULL);
	check(share_writable(world->machine, "rw", &err), &err);
	sw_bind(world, "ro", "host/ro", HV_BIND_READ_ONLY | HV_BIND_READ_ONLY_BELOW, NULL);
}

static long status_kib(pid_t pid, const char *field)
{
	_cleanup_free_ char *text = NULL;
	char path[32];
	const char *found;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (fd_read_file(path, 65536, &text, NULL, NULL) < 0)
		return -1;
	found = strstr(text, field);
	return found ? atol(found + strlen(field)) : -1;
}

/*
 * The most that the process which serves ever had. Of one that has ended the kernel tells it with
 * what the process had before it executed virtiofsd: it was a copy of this one then.
 */
static bool memory_was_bounded(const struct share_world *world)
{
	long peak, bound = MEMORY_KIB;
	struct rusage usage = {0};

	if (sw_has_ended(world->serving, 0)) {
		wait4(world->first_pid, NULL, 0, &usage);
		peak = usage.ru_maxrss;
		long ours = status_kib(getpid(), "VmHWM:");
		bound = ours > bound ? ours : bound;
	} else {
		peak = status_kib(world->serving_pid, "VmHWM:");
	}
	if (peak > 0 && peak <= bound)
		return true;
	print_error("virtiofsd had %ld KiB\n", peak);
	return false;
}

/* ---- what the guest sends ---- */

int sw_call(struct share_world *world, uint32_t opcode, uint64_t node, const void *arg, size_t size,
	const char *name, struct sd_reply *reply)
{
	const struct sd_request request = {
		.opcode = opcode, .node = node, .arg = arg, .arg_size = size, .names = {name}};

	return sd_call(&world->sd, &request, reply);
}

void sw_refused(int r, const char *what)
{
	if (r == 0)
		fail_msg("%s: virtiofsd did it", what);
	if (r > 0)
		fail_msg("%s: virtiofsd %s", what, r == SD_ENDED ? "ended" : "does not answer");
}

int sw_lookup(
	struct share_world *world, uint64_t parent, const char *name, struct fuse_entry_out *ret)
{
	struct sd_reply reply;
	int r = sw_call(world, FUSE_LOOKUP, parent, NULL, 0, name, &reply);

	if (r == 0)
		memcpy(ret, reply.data, sizeof(*ret));
	return r;
}

uint64_t sw_node(struct share_world *world, uint64_t parent, const char *name)
{
	struct fuse_entry_out entry = {0};
	int r = sw_lookup(world, parent, name, &entry);

	if (r)
		fail_msg("look up %s: %d", name, r);
	return entry.nodeid;
}

int sw_open(
	struct share_world *world, uint32_t opcode, uint64_t node, uint32_t flags, uint64_t *ret)
{
	const struct fuse_open_in arg = {.flags = flags};
	struct fuse_open_out out;
	struct sd_reply reply;
	int r = sw_call(world, opcode, node, ARG(arg), NULL, &reply);

	if (r == 0) {
		memcpy(&out, reply.data, sizeof(out));
		*ret = out.fh;
	}
	return r;
}

uint64_t sw_handle(struct share_world *world, uint32_t opcode, uint64_t node, uint32_t flags)
{
	uint64_t handle = 0;
	int r = sw_open(world, opcode, node, flags, &handle);

	if (r)
		fail_msg("open: %d", r);
	return handle;
}

/* ---- the world ---- */

struct share_world *sw_new(bool init)
{
	struct share_world *world = calloc(1, sizeof(*world));

	assert_non_null(world);
	/* Its assertions end virtiofsd with SIGABRT. */
	setrlimit(RLIMIT_CORE, &(struct rlimit){0});
	*world = (struct share_world){.top = "/tmp/share-hostile-XXXXXX", .log = -EBADF};
	assert_non_null(mkdtemp(world->top));
	assert_int_equal(chdir(world->top), 0);
	world->machine = str_printf("%s/machine", world->top);
	make_host(world);
	start_virtiofsd(world);
	sw_note_host(world);
	if (!init)
		return world;
	assert_int_equal(sd_init(&world->sd), 0);
	world->rw = sw_node(world, FUSE_ROOT_ID, "rw");
	world->ro = sw_node(world, FUSE_ROOT_ID, "ro");
	world->dir = sw_node(world, world->rw, "dir");
	world->file = sw_node(world, world->rw, "file");
	world->ro_file = sw_node(world, world->ro, "file");
	return world;
}

/* Ends as a machine does: QEMU first. What is found is judged when all of it is gone. */
static void sw_free(struct share_world *world)
{
	struct err err = ERR_INIT;
	bool bounded = memory_was_bounded(world);

	sd_done(&world->sd);
	int r = share_end(world->machine, &err);
	bool ended = sw_has_ended(world->serving, SW_ENDS_MS);
	if (!ended)
		syscall(SYS_pidfd_send_signal, world->serving, SIGKILL, NULL, 0);
	_cleanup_free_ char *before = TAKE_PTR(world->before), *now = describe();
	fd_close(world->first);
	fd_close(world->serving);
	fd_close(world->log);
	if (chdir("/") == 0)
		fd_remove_tree(world->top, NULL);
	free(world->machine);
	free(world);
	check(r, &err);
	assert_true(ended);
	assert_true(bounded);
	assert_string_equal(now, before);
}

int sw_setup(void **state)
{
	*state = sw_can_run() ? sw_new(true) : NULL;
	if (!*state)
		print_message("skipped: needs root, " VIRTIOFSD ", and no thread sanitizer\n");
	return 0;
}

int sw_teardown(void **state)
{
	struct share_world *world = *state;

	*state = NULL;
	if (world)
		sw_free(world);
	return 0;
}

struct share_world *sw_of(void **state)
{
	if (!*state)
		skip();
	return *state;
}

static const uint32_t open_flags[] = {O_RDONLY, O_RDWR, O_WRONLY | O_TRUNC, O_PATH,
	O_PATH | O_NOFOLLOW, O_RDONLY | O_DIRECTORY, O_RDWR | O_CREAT, O_RDWR | O_TMPFILE};

void sw_not_opened(struct share_world *world, uint64_t node, const char *what)
{
	uint64_t handle;

	for (size_t i = 0; i < ARRAY_SIZE(open_flags); i++) {
		sw_refused(sw_open(world, FUSE_OPEN, node, open_flags[i], &handle), what);
		sw_refused(sw_open(world, FUSE_OPENDIR, node, open_flags[i], &handle), what);
	}
}

int sw_set_attr(struct share_world *world, uint64_t node, uint32_t valid, uint64_t handle)
{
	const struct fuse_setattr_in arg = {
		.valid = valid,
		.fh = handle,
		.mode = 0666,
		.uid = 12345,
		.gid = 12345,
		.atime = 1,
		.mtime = 1,
	};

	return sw_call(world, FUSE_SETATTR, node, ARG(arg), NULL, NULL);
}

int sw_set_xattr(struct share_world *world, uint64_t node, const char *name)
{
	const struct fuse_setxattr_in arg = {.size = 4};
	const struct sd_request request = {
		.opcode = FUSE_SETXATTR,
		.node = node,
		.arg = &arg,
		.arg_size = FUSE_COMPAT_SETXATTR_IN_SIZE,
		.names = {name},
		.data = "evil",
		.data_size = 4,
	};

	return sd_call(&world->sd, &request, NULL);
}

void sw_all_refused(struct share_world *world, const struct sd_request *requests, size_t n)
{
	char what[64];

	for (size_t i = 0; i < n; i++) {
		snprintf(what, sizeof(what), "opcode %u of node %lx", requests[i].opcode,
			requests[i].node);
		sw_refused(sd_call(&world->sd, &requests[i], NULL), what);
	}
}

void sw_not_a_node(struct share_world *world, uint64_t node)
{
	const struct fuse_getattr_in get_attr = {0};
	const struct fuse_create_in create = {.flags = O_RDWR | O_CREAT, .mode = 0644};
	const struct fuse_mkdir_in make_dir = {.mode = 0755};
	const struct fuse_mknod_in mknod_in = {.mode = S_IFREG | 0644};
	const struct fuse_link_in link_in = {.oldnodeid = node};
	const struct fuse_getxattr_in get_xattr = {.size = 100};
	const struct fuse_rename_in rename_in = {.newdir = node}, rename_out = {world->rw};
	const struct fuse_fsync_in sync = {.fh = UINT64_MAX}; /* of no handle: the node's */
	const struct sd_request requests[] = {
		{.opcode = FUSE_LOOKUP, .node = node, .names = {"secret"}},
		{.opcode = FUSE_LOOKUP, .node = node, .names = {".."}},
		{.opcode = FUSE_GETATTR, .node = node, ARG_OF(get_attr)},
		{.opcode = FUSE_READLINK, .node = node},
		{.opcode = FUSE_STATFS, .node = node},
		{.opcode = FUSE_CREATE, .node = node, ARG_OF(create), .names = {"made"}},
		{.opcode = FUSE_MKDIR, .node = node, ARG_OF(make_dir), .names = {"made"}},
		{.opcode = FUSE_MKNOD, .node = node, ARG_OF(mknod_in), .names = {"made"}},
		{.opcode = FUSE_SYMLINK, .node = node, .names = {"made", "target"}},
		{.opcode = FUSE_UNLINK, .node = node, .names = {"secret"}},
		{.opcode = FUSE_RMDIR, .node = node, .names = {"vault"}},
		{.opcode = FUSE_RENAME, .node = node, ARG_OF(rename_out), .names = {"rw", "b"}},
		{.opcode = FUSE_RENAME,
			.node = world->rw,
			ARG_OF(rename_in),
			.names = {"dir", "b"}},
		{.opcode = FUSE_LINK, .node = world->rw, ARG_OF(link_in), .names = {"made"}},
		{.opcode = FUSE_GETXATTR, .node = node, ARG_OF(get_xattr), .names = {"user.a"}},
		{.opcode = FUSE_LISTXATTR, .node = node, ARG_OF(get_xattr)},
		{.opcode = FUSE_REMOVEXATTR, .node = node, .names = {"user.a"}},
		{.opcode = FUSE_FSYNC, .node = node, ARG_OF(sync)},
	};

	sw_all_refused(world, requests, ARRAY_SIZE(requests));
	sw_not_opened(world, node, "open of a forged node");
	sw_refused(sw_set_attr(world, node, FATTR_MODE, 0), "mode of a forged node");
	sw_refused(sw_set_attr(world, node, FATTR_UID, 0), "owner of a forged node");
	sw_refused(sw_set_attr(world, node, FATTR_SIZE, 0), "size of a forged node");
	sw_refused(sw_set_attr(world, node, FATTR_MTIME, 0), "time of a forged node");
	sw_refused(sw_set_xattr(world, node, "user.evil"), "attribute of a forged node");
}

void sw_not_a_handle(struct share_world *world, uint64_t handle)
{
	const struct fuse_read_in read_in = {.fh = handle, .size = 100};
	const struct fuse_write_in write_in = {.fh = handle, .size = 4};
	const struct fuse_fallocate_in allocate = {.fh = handle, .length = 100};
	const struct fuse_lseek_in seek = {.fh = handle};
	const struct fuse_copy_file_range_in copy = {
		.fh_in = handle, .fh_out = handle, .nodeid_out = world->file, .len = 10};
	const struct fuse_release_in release = {.fh = handle};
	const struct fuse_flush_in flush = {.fh = handle};
	const struct fuse_lk_in lock = {
		.fh = handle, .lk_flags = FUSE_LK_FLOCK, .lk.type = F_WRLCK};
	const struct fuse_fsync_in sync = {.fh = handle};
	const struct sd_request requests[] = {
		{.opcode = FUSE_READ, .node = world->file, ARG_OF(read_in)},
		{.opcode = FUSE_WRITE, .node = world->file, ARG_OF(write_in), .names = {"abc"}},
		{.opcode = FUSE_READDIR, .node = world->dir, ARG_OF(read_in)},
		{.opcode = FUSE_READDIRPLUS, .node = world->dir, ARG_OF(read_in)},
		{.opcode = FUSE_READDIRPLUS, .node = FUSE_ROOT_ID, ARG_OF(read_in)},
		{.opcode = FUSE_FALLOCATE, .node = world->file, ARG_OF(allocate)},
		{.opcode = FUSE_LSEEK, .node = world->file, ARG_OF(seek)},
		{.opcode = FUSE_COPY_FILE_RANGE, .node = world->file, ARG_OF(copy)},
		{.opcode = FUSE_RELEASEDIR, .node = world->dir, ARG_OF(release)},
		{.opcode = FUSE_FLUSH, .node = world->file, ARG_OF(flush)},
		{.opcode = FUSE_SETLK, .node = world->file, ARG_OF(lock)},
		{.opcode = FUSE_FSYNCDIR, .node = world->dir, ARG_OF(sync)},
	};

	sw_all_refused(world, requests, ARRAY_SIZE(requests));
	sw_refused(
		sw_set_attr(world, world->file, FATTR_FH | FATTR_MODE, handle), "mode by a handle");
	sw_refused(
		sw_set_attr(world, world->file, FATTR_FH | FATTR_SIZE, handle), "size by a handle");
}

void sw_release(struct share_world *world, uint32_t opcode, uint64_t node, uint64_t handle)
{
	const struct fuse_release_in arg = {.fh = handle};

	assert_int_equal(sw_call(world, opcode, node, ARG(arg), NULL, NULL), 0);
}

void sw_put(
	struct share_world *world, unsigned queue, unsigned slot, const struct sd_request *request)
{
	uint32_t size = sd_write(&world->sd, queue, slot, request);

	sd_offer(&world->sd, queue, slot, size, VST_BUFFER_SIZE);
}
