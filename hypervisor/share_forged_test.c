/*
 * A guest whose driver is not its kernel's sends virtiofsd nodes and handles that it does not have,
 * or has no more, and writes to what it may only read.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "hypervisor/share_world.h"

/* ---- nodes and handles ---- */

/* What nobody handed out; some are a descriptor's number, or AT_FDCWD. */
static const uint64_t forged[] = {0, 3, 100, 12345, INT32_MAX, UINT32_MAX, UINT32_MAX - 99,
	1ull << 32, 1ull << 63, UINT64_MAX / 16, UINT64_MAX - 99, UINT64_MAX};

static void test_forged_nodes(void **state)
{
	struct share_world *world = sw_of(state);

	for (size_t i = 0; i < ARRAY_SIZE(forged); i++)
		/* Theirs are small numbers, the root's among them; 3 is one. */
		if (forged[i] == 0 || forged[i] >= 100)
			sw_not_a_node(world, forged[i]);
}

static void test_forged_handles(void **state)
{
	struct share_world *world = sw_of(state);

	for (size_t i = 0; i < ARRAY_SIZE(forged); i++)
		sw_not_a_handle(world, forged[i]);
	/* Those that were good once. */
	uint64_t file = sw_handle(world, FUSE_OPEN, world->file, O_RDWR);
	uint64_t dir = sw_handle(world, FUSE_OPENDIR, world->dir, O_RDONLY);
	sw_release(world, FUSE_RELEASE, world->file, file);
	sw_release(world, FUSE_RELEASEDIR, world->dir, dir);
	sw_not_a_handle(world, file);
	sw_not_a_handle(world, dir);
}

static void forget(struct share_world *world, uint64_t node, uint64_t n)
{
	const struct fuse_forget_in arg = {.nlookup = n};

	assert_int_equal(sw_call(world, FUSE_FORGET, node, ARG(arg), NULL, NULL), 0);
}

static void forget_many(struct share_world *world, uint32_t count, uint64_t node, size_t n)
{
	const struct fuse_batch_forget_in arg = {.count = count};
	struct fuse_forget_one list[100];

	for (size_t i = 0; i < ARRAY_SIZE(list); i++)
		list[i] = (struct fuse_forget_one){.nodeid = node, .nlookup = 1};
	const struct sd_request request = {
		.opcode = FUSE_BATCH_FORGET,
		ARG_OF(arg),
		.data = list,
		.data_size = n * sizeof(list[0]),
	};
	assert_int_equal(sd_call(&world->sd, &request, NULL), 0);
}

static void test_forgotten(void **state)
{
	struct share_world *world = sw_of(state);
	uint64_t sub = sw_node(world, world->dir, "sub");
	static const uint32_t lies[] = {2, 100, 101, INT32_MAX, UINT32_MAX};

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		forget_many(world, lies[i], sub, 1);
		forget_many(world, lies[i], sub, 0);
	}
	forget_many(world, 0, sub, 100);
	assert_int_equal(sw_node(world, world->dir, "sub"), sub); /* none was believed */
	for (size_t i = 0; i < ARRAY_SIZE(forged); i++)
		if (forged[i] == 0 || forged[i] >= 100) {
			forget(world, forged[i], UINT64_MAX);
			forget_many(world, 100, forged[i], 100);
		}
	forget(world, sub, 2);
	sw_not_a_node(world, sub);
	forget(world, sub, 1);
	forget_many(world, 1, world->dir, 1);
	sw_not_a_node(world, world->dir);
}

/* ---- what is read-only ---- */

/*
 * For that reason, not for another that a better driver would avoid. Whiteouts take a right that
 * virtiofsd lacks, and the root's entries, volumes, do not open as files.
 */
static void is_read_only(int r, uint32_t opcode)
{
	if (r != -EROFS && r != -EPERM && r != -EISDIR)
		fail_msg("opcode %u where nothing may be written: %s", opcode,
			r > 0 ? "no answer" : strerror(-r));
}

static void not_changed(struct share_world *world, uint64_t dir, const char *file, const char *sub)
{
	const struct fuse_create_in create = {.flags = O_RDWR | O_CREAT, .mode = 0644};
	const struct fuse_create_in open_old = {.flags = O_WRONLY | O_TRUNC, .mode = 0644};
	const struct fuse_mkdir_in make_dir = {.mode = 0755};
	const struct fuse_mknod_in mknod_in = {.mode = S_IFREG | 0644};
	const struct fuse_link_in link_in = {.oldnodeid = sw_node(world, dir, file)};
	const struct fuse_rename_in rename_in = {.newdir = dir};
	const struct fuse_rename2_in exchange = {.newdir = dir, .flags = RENAME_EXCHANGE};
	const struct fuse_rename2_in whiteout = {.newdir = dir, .flags = RENAME_WHITEOUT};
	const struct sd_request requests[] = {
		{.opcode = FUSE_CREATE, .node = dir, ARG_OF(create), .names = {"made"}},
		{.opcode = FUSE_CREATE, .node = dir, ARG_OF(open_old), .names = {file}},
		{.opcode = FUSE_MKDIR, .node = dir, ARG_OF(make_dir), .names = {"made"}},
		{.opcode = FUSE_MKNOD, .node = dir, ARG_OF(mknod_in), .names = {"made"}},
		{.opcode = FUSE_SYMLINK, .node = dir, .names = {"made", "target"}},
		{.opcode = FUSE_UNLINK, .node = dir, .names = {file}},
		{.opcode = FUSE_RMDIR, .node = dir, .names = {sub}},
		{.opcode = FUSE_RENAME, .node = dir, ARG_OF(rename_in), .names = {file, "made"}},
		{.opcode = FUSE_RENAME2, .node = dir, ARG_OF(exchange), .names = {file, sub}},
		{.opcode = FUSE_RENAME2, .node = dir, ARG_OF(whiteout), .names = {file, "made"}},
		{.opcode = FUSE_LINK, .node = dir, ARG_OF(link_in), .names = {"made"}},
		{.opcode = FUSE_REMOVEXATTR, .node = dir, .names = {"user.kept"}},
	};
	uint64_t handle;

	sw_node(world, dir, sub); /* what is to be removed must be known */
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++)
		is_read_only(sd_call(&world->sd, &requests[i], NULL), requests[i].opcode);
	is_read_only(sw_set_attr(world, dir, FATTR_MODE, 0), FUSE_SETATTR);
	is_read_only(sw_set_attr(world, dir, FATTR_UID, 0), FUSE_SETATTR);
	is_read_only(sw_set_attr(world, dir, FATTR_MTIME, 0), FUSE_SETATTR);
	is_read_only(sw_set_xattr(world, dir, "user.evil"), FUSE_SETXATTR);
	sw_refused(sw_open(world, FUSE_OPEN, dir, O_RDWR | O_TMPFILE, &handle), "O_TMPFILE");
	sw_assert_untouched(world);
}

static void test_read_only(void **state)
{
	struct share_world *world = sw_of(state);

	not_changed(world, world->ro, "file", "dir");
	not_changed(world, sw_node(world, world->ro, "dir"), "inner", "inner");
	not_changed(world, FUSE_ROOT_ID, "ro", "rw");
}

/* Of files that it may write it has handles and nodes, and mixes them with the others'. */
static void test_read_only_handles(void **state)
{
	struct share_world *world = sw_of(state);
	static const uint32_t flags[] = {
		O_RDWR, O_WRONLY, O_RDONLY | O_TRUNC, O_APPEND | O_WRONLY, O_RDWR | O_DIRECT};
	uint64_t handle, ours = sw_handle(world, FUSE_OPEN, world->file, O_RDWR);

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		is_read_only(
			sw_open(world, FUSE_OPEN, world->ro_file, flags[i], &handle), FUSE_OPEN);
	is_read_only(sw_set_attr(world, world->ro_file, FATTR_SIZE, 0), FUSE_SETATTR);
	is_read_only(sw_set_attr(world, world->ro_file, FATTR_MODE, 0), FUSE_SETATTR);
	is_read_only(sw_set_attr(world, world->ro_file, FATTR_UID, 0), FUSE_SETATTR);
	is_read_only(sw_set_xattr(world, world->ro_file, "user.evil"), FUSE_SETXATTR);
	is_read_only(sw_set_xattr(world, world->ro_file, "security.capability"), FUSE_SETXATTR);
	/* Linux takes the third for neither reading nor writing. */
	static const uint32_t reading[] = {O_RDONLY, O_PATH, O_ACCMODE};
	for (size_t i = 0; i < ARRAY_SIZE(reading); i++) {
		handle = sw_handle(world, FUSE_OPEN, world->ro_file, reading[i]);
		const struct fuse_write_in write_in = {.fh = handle, .size = 4, .flags = O_RDWR};
		const struct fuse_fallocate_in allocate = {.fh = handle, .length = 100};
		const struct fuse_copy_file_range_in copy = {
			.fh_in = ours, .nodeid_out = world->file, .fh_out = handle, .len = 4};
		const struct sd_request requests[] = {
			{.opcode = FUSE_WRITE,
				.node = world->file,
				ARG_OF(write_in),
				.names = {"abc"}},
			{.opcode = FUSE_FALLOCATE, .node = world->file, ARG_OF(allocate)},
			{.opcode = FUSE_COPY_FILE_RANGE, .node = world->file, ARG_OF(copy)},
		};

		sw_all_refused(world, requests, ARRAY_SIZE(requests));
		sw_refused(sw_set_attr(world, world->file, FATTR_FH | FATTR_MODE, handle), "mode");
		sw_refused(sw_set_attr(world, world->file, FATTR_FH | FATTR_SIZE, handle), "size");
		sw_refused(sw_set_attr(world, world->file, FATTR_FH | FATTR_MTIME, handle), "time");
	}
}

/* All volumes here are of one file system; for the guest they are as many. */
static void test_across_volumes(void **state)
{
	struct share_world *world = sw_of(state);

	sw_bind(world, "other", "host/rw/dir", 0, NULL);
	sw_note_host(world);
	const uint64_t volumes[] = {world->rw, world->ro, sw_node(world, FUSE_ROOT_ID, "other")};
	for (size_t i = 0; i < ARRAY_SIZE(volumes); i++)
		for (size_t j = 0; j < ARRAY_SIZE(volumes); j++) {
			const char *name = i == 2 ? "inner" : "file";
			const struct fuse_rename_in rename_in = {.newdir = volumes[j]};
			const struct fuse_rename2_in exchange = {
				.newdir = volumes[j], .flags = RENAME_EXCHANGE};
			const struct fuse_link_in link_in = {sw_node(world, volumes[i], name)};
			int r;

			if (i == j)
				continue;
			r = sw_call(world, FUSE_LINK, volumes[j], ARG(link_in), "made", NULL);
			assert_int_equal(r, volumes[j] == world->ro ? -EROFS : -EXDEV);
			r = sd_call(&world->sd,
				&(struct sd_request){.opcode = FUSE_RENAME,
					.node = volumes[i],
					ARG_OF(rename_in),
					.names = {name, "made"}},
				NULL);
			assert_int_equal(r, -EXDEV);
			r = sd_call(&world->sd,
				&(struct sd_request){.opcode = FUSE_RENAME2,
					.node = volumes[i],
					ARG_OF(exchange),
					.names = {name, "dir"}},
				NULL);
			assert_int_equal(r, -EXDEV);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_forged_nodes, sw_setup, sw_teardown),
		cmocka_unit_test_setup_teardown(test_forged_handles, sw_setup, sw_teardown),
		cmocka_unit_test_setup_teardown(test_forgotten, sw_setup, sw_teardown),
		cmocka_unit_test_setup_teardown(test_read_only, sw_setup, sw_teardown),
		cmocka_unit_test_setup_teardown(test_read_only_handles, sw_setup, sw_teardown),
		cmocka_unit_test_setup_teardown(test_across_volumes, sw_setup, sw_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
