/*
 * A guest whose driver is not its kernel's asks virtiofsd for what lies outside of its volumes: by
 * names, by links, by devices, with ids that are not its own, and while paths change.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/share_world.h"

/* ---- names ---- */

struct name {
	const char *bytes;
	size_t size;
};
#define NAME(s)                                                                                    \
	{                                                                                          \
		s, sizeof(s)                                                                       \
	}
/* Without its zero. */
#define BARE(s)                                                                                    \
	{                                                                                          \
		s, sizeof(s) - 1                                                                   \
	}

struct change {
	const char *what;
	uint32_t opcode;
	const void *arg;
	size_t arg_size;
	const char *first, *last; /* other names beside the one in question */
};

static int send_name(struct share_world *world, const struct change *change, uint64_t node,
	const struct name *name, struct sd_reply *reply)
{
	char data[3000];
	size_t size = name->size;

	memcpy(data, name->bytes, size);
	if (change->last)
		size += (size_t)sprintf(data + size, "%s", change->last) + 1;
	const struct sd_request request = {
		.opcode = change->opcode,
		.node = node,
		.arg = change->arg,
		.arg_size = change->arg_size,
		.names = {change->first},
		.data = data,
		.data_size = size,
	};
	return sd_call(&world->sd, &request, reply);
}

/* Whatever it finds is the share's. */
static void look_up_name(struct share_world *world, uint64_t node, const struct name *name)
{
	const struct change change = {.opcode = FUSE_LOOKUP};
	struct fuse_entry_out entry = {0};
	struct sd_reply reply = {0};
	int r = send_name(world, &change, node, name, &reply);

	if (r) {
		sw_refused(r, "LOOKUP");
		return;
	}
	memcpy(&entry, reply.data, sizeof(entry));
	if (!sw_is_inside(entry.attr.ino))
		fail_msg("LOOKUP of %.*s finds what is not the share's", (int)name->size,
			name->bytes);
}

static void change_by_name(struct share_world *world, uint64_t node, const struct name *name)
{
	const struct fuse_create_in create = {.flags = O_RDWR | O_CREAT | O_TRUNC, .mode = 0644};
	const struct fuse_mkdir_in make_dir = {.mode = 0755};
	const struct fuse_mknod_in make_node = {.mode = S_IFREG | 0644};
	const struct fuse_rename_in rename_in = {.newdir = node},
				    rename_out = {.newdir = world->rw};
	const struct fuse_link_in link_in = {.oldnodeid = world->file};
	const struct change changes[] = {
		{"CREATE", FUSE_CREATE, ARG(create), NULL, NULL},
		{"MKDIR", FUSE_MKDIR, ARG(make_dir), NULL, NULL},
		{"MKNOD", FUSE_MKNOD, ARG(make_node), NULL, NULL},
		{"SYMLINK", FUSE_SYMLINK, NULL, 0, NULL, "target"},
		{"UNLINK", FUSE_UNLINK, NULL, 0, NULL, NULL},
		{"RMDIR", FUSE_RMDIR, NULL, 0, NULL, NULL},
		{"RENAME to it", FUSE_RENAME, ARG(rename_in), "file", NULL},
		{"RENAME of it", FUSE_RENAME, ARG(rename_out), NULL, "moved"},
		{"LINK", FUSE_LINK, ARG(link_in), NULL, NULL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
		sw_refused(send_name(world, &changes[i], node, name, NULL), changes[i].what);
}

static void test_names(void **state)
{
	struct share_world *world = sw_of(state);
	char absolute[64], long_name[2000];
	int n = snprintf(absolute, sizeof(absolute), "%s/host/secret", world->top);
	const struct name names[] = {
		NAME(".."),
		NAME("../secret"),
		NAME("../../secret"),
		NAME("dir/../../secret"),
		NAME("dir/inner"),
		NAME("relative/"),
		NAME("up/secret"),
		NAME("/"),
		NAME("//"),
		NAME("/proc/self/fd/3"),
		NAME("."),
		NAME(""),
		NAME("..\0secret"),
		BARE(".."),
		BARE("../secret"),
		BARE("file"),
		BARE(""),
		{absolute, (size_t)n + 1},
		{long_name, 257},
		{long_name, sizeof(long_name)},
	};
	const uint64_t nodes[] = {FUSE_ROOT_ID, world->rw, world->ro, world->dir, world->file,
		sw_node(world, world->rw, "up"), sw_node(world, world->rw, "absolute")};

	memset(long_name, 'a', sizeof(long_name));
	long_name[256] = '\0';
	long_name[sizeof(long_name) - 1] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(nodes); i++)
		for (size_t j = 0; j < ARRAY_SIZE(names); j++) {
			look_up_name(world, nodes[i], &names[j]);
			change_by_name(world, nodes[i], &names[j]);
		}
}

/* The host moves a directory out of the volume while the guest has it: ".." does not follow. */
static void test_moved_away(void **state)
{
	struct share_world *world = sw_of(state);
	uint64_t sub = sw_node(world, world->dir, "sub");
	struct fuse_entry_out entry = {0};
	int r;

	assert_int_equal(rename("host/rw/dir", "machine/dir"), 0);
	r = sw_lookup(world, world->dir, "..", &entry);
	if (r == 0 && !sw_is_inside(entry.attr.ino))
		fail_msg("LOOKUP of .. leaves the volume");
	r = sw_lookup(world, sub, "..", &entry);
	assert_true(r < 0 || entry.nodeid == world->dir);
	assert_int_equal(rename("machine/dir", "host/rw/dir"), 0);
}

/* ---- links ---- */

/* Of the link itself it may change what it likes; the target is the host's. */
static void test_links(void **state)
{
	struct share_world *world = sw_of(state);
	static const char *const links[] = {"absolute", "relative", "vault", "up", "proc", "own"};
	static const char *const below[] = {"secret", "..", "."};
	const struct fuse_create_in create = {.flags = O_RDWR | O_TRUNC, .mode = 0666};
	const struct fuse_mkdir_in make_dir = {.mode = 0755};

	assert_int_equal(sd_call(&world->sd,
				 &(struct sd_request){.opcode = FUSE_SYMLINK,
					 .node = world->rw,
					 .names = {"own", "/proc/self/fd/5/../../vault"}},
				 NULL),
		0);
	for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
		uint64_t node = sw_node(world, world->rw, links[i]);
		struct fuse_entry_out entry = {0};

		sw_not_opened(world, node, links[i]);
		for (size_t j = 0; j < ARRAY_SIZE(below); j++)
			sw_refused(sw_lookup(world, node, below[j], &entry), links[i]);
		sw_refused(sw_call(world, FUSE_CREATE, node, ARG(create), "made", NULL), links[i]);
		sw_refused(sw_call(world, FUSE_CREATE, world->rw, ARG(create), links[i], NULL),
			links[i]);
		sw_refused(sw_call(world, FUSE_MKDIR, node, ARG(make_dir), "made", NULL), links[i]);
		sw_refused(sw_call(world, FUSE_MKDIR, world->rw, ARG(make_dir), links[i], NULL),
			links[i]);
		sw_refused(sw_call(world, FUSE_UNLINK, node, NULL, 0, "secret", NULL), links[i]);
		sw_refused(sw_set_attr(world, node, FATTR_SIZE, 0), links[i]);
		sw_set_attr(world, node, FATTR_MODE, 0);
		sw_set_attr(world, node, FATTR_UID | FATTR_GID, 0);
		sw_set_attr(world, node, FATTR_ATIME | FATTR_MTIME, 0);
		sw_refused(sw_set_xattr(world, node, "user.evil"), links[i]);
		sw_refused(sw_set_xattr(world, node, "trusted.evil"), links[i]);
		sw_set_xattr(world, node, "security.evil");
		sw_assert_untouched(world);
	}
}

/* ---- devices and ids ---- */

static int make_node(struct share_world *world, uint64_t parent, uint32_t mode, uint32_t uid,
	struct sd_reply *reply)
{
	const struct fuse_mknod_in arg = {.mode = mode, .rdev = 1 << 8 | 3};
	const struct sd_request request = {.opcode = FUSE_MKNOD,
		.node = parent,
		.uid = uid,
		.arg = &arg,
		.arg_size = sizeof(arg),
		.names = {"made"}};

	return sd_call(&world->sd, &request, reply);
}

static void test_special_files(void **state)
{
	struct share_world *world = sw_of(state);
	static const uint32_t uids[] = {0, 1000, UINT32_MAX - 1};

	for (size_t i = 0; i < ARRAY_SIZE(uids); i++) {
		assert_int_equal(
			make_node(world, world->rw, S_IFCHR | 0666, uids[i], NULL), -EPERM);
		assert_int_equal(
			make_node(world, world->rw, S_IFBLK | 0666, uids[i], NULL), -EPERM);
	}
	/* A device that the host's root made there, and what an open would wait for. */
	sw_not_opened(world, sw_node(world, world->rw, "null"), "a device");
	sw_not_opened(world, sw_node(world, world->rw, "pipe"), "a pipe");
	assert_int_equal(make_node(world, world->rw, S_IFSOCK | 0666, 0, NULL), 0);
	sw_not_opened(world, sw_node(world, world->rw, "made"), "a socket");
}

/* A thread that waited for a lock would serve nothing else, nor end. */
static void test_no_wait(void **state)
{
	struct share_world *world = sw_of(state);
	uint64_t held = sw_handle(world, FUSE_OPEN, world->file, O_RDWR);
	uint64_t wanted = sw_handle(world, FUSE_OPEN, world->file, O_RDWR);
	struct fuse_lk_in lock = {.fh = held, .lk_flags = FUSE_LK_FLOCK, .lk.type = F_WRLCK};

	assert_int_equal(sw_call(world, FUSE_SETLK, world->file, ARG(lock), NULL, NULL), 0);
	lock.fh = wanted;
	sw_refused(sw_call(world, FUSE_SETLK, world->file, ARG(lock), NULL, NULL), "lock");
	sw_refused(
		sw_call(world, FUSE_SETLKW, world->file, ARG(lock), NULL, NULL), "wait for a lock");
	lock.lk_flags = 0;
	sw_refused(
		sw_call(world, FUSE_SETLKW, world->file, ARG(lock), NULL, NULL), "wait for a lock");
}

/*
 * A volume of a pod with a user namespace. The guest's kernel may make anything of its own files,
 * also programs that take their owner's id; it cannot give one an id that is not the pod's.
 */
static void test_mapped_ids(void **state)
{
	struct share_world *world = sw_of(state);
	const struct userns_map map = {100000, 65536, 100000, 65536};
	const struct fuse_setattr_in setuid = {.valid = FATTR_MODE, .mode = S_IFREG | 06755};
	const struct fuse_setattr_in own = {.valid = FATTR_UID | FATTR_GID};
	struct fuse_entry_out entry = {0};
	struct sd_reply reply = {0};
	struct stat st;

	if (!sw_bind(world, "mapped", "host/rw/dir", 0, &map)) {
		print_message("skipped: the file system of /tmp cannot map ids\n");
		skip();
	}
	sw_note_host(world);
	uint64_t mapped = sw_node(world, FUSE_ROOT_ID, "mapped");
	assert_int_equal(make_node(world, mapped, S_IFREG | 0644, 0, NULL), -EOVERFLOW);
	assert_int_equal(make_node(world, mapped, S_IFCHR | 0644, 100000, NULL), -EPERM);
	assert_int_equal(make_node(world, mapped, S_IFBLK | 0644, 100000, NULL), -EPERM);
	assert_int_equal(make_node(world, mapped, S_IFREG | 0644, 101000, &reply), 0);
	memcpy(&entry, reply.data, sizeof(entry));
	assert_int_equal(sw_call(world, FUSE_SETATTR, entry.nodeid, ARG(setuid), NULL, NULL), 0);
	sw_refused(sw_call(world, FUSE_SETATTR, entry.nodeid, ARG(own), NULL, NULL), "chown");
	assert_int_equal(stat("host/rw/dir/made", &st), 0);
	assert_int_equal(st.st_uid, 1000);
	assert_int_equal(st.st_mode, S_IFREG | 06755);
}

/* ---- at its end ---- */

/*
 * Whoever has taken virtiofsd over need not heed what its parent's end tells it: sw_free() looks
 * whether it ends all the same.
 */
static void test_no_choice(void **state)
{
	struct share_world *world = sw_of(state);

	assert_int_equal(syscall(SYS_pidfd_send_signal, world->serving, SIGSTOP, NULL, 0), 0);
}

/* ---- at the same time ---- */

#define RACE_ROUNDS 60
#define RACE_SWAPS  31 /* odd: each round begins as the one before did not */

/* A directory and a link out of the volume change places, again and again, in one thread … */
static void put_swaps(struct share_world *world)
{
	const struct fuse_rename2_in exchange = {.newdir = world->rw, .flags = RENAME_EXCHANGE};

	for (unsigned slot = 0; slot < RACE_SWAPS; slot++)
		sw_put(world, SD_HIPRIO, slot,
			&(struct sd_request){.opcode = FUSE_RENAME2,
				.node = world->rw,
				ARG_OF(exchange),
				.names = {"swap", "vault"}});
	sd_kick(&world->sd, SD_HIPRIO);
}

/* … while what is there at a moment is looked up in another, and used. */
static unsigned use_swapped(struct share_world *world, const ino_t *known)
{
	const struct fuse_create_in create = {.flags = O_RDWR | O_TRUNC, .mode = 0666};
	const struct fuse_mkdir_in make_dir = {.mode = 0755};
	struct fuse_entry_out swapped = {0}, below = {0};
	uint64_t handle;

	assert_int_equal(sw_lookup(world, world->rw, "swap", &swapped), 0);
	assert_true(swapped.attr.ino == known[0] || swapped.attr.ino == known[1]);
	sw_refused(sw_lookup(world, swapped.nodeid, "secret", &below), "LOOKUP below");
	if (sw_lookup(world, swapped.nodeid, "..", &below) == 0)
		assert_int_equal(below.attr.ino, known[2]);
	sw_call(world, FUSE_CREATE, swapped.nodeid, ARG(create), "made", NULL);
	sw_call(world, FUSE_CREATE, world->rw, ARG(create), "swap", NULL);
	sw_call(world, FUSE_MKDIR, swapped.nodeid, ARG(make_dir), "made-dir", NULL);
	sw_refused(sw_call(world, FUSE_UNLINK, swapped.nodeid, NULL, 0, "secret", NULL), "UNLINK");
	sw_set_attr(world, swapped.nodeid, FATTR_MODE, 0);
	sw_set_xattr(world, swapped.nodeid, "user.evil");
	if (sw_open(world, FUSE_OPENDIR, swapped.nodeid, O_RDONLY, &handle) == 0)
		sw_release(world, FUSE_RELEASEDIR, swapped.nodeid, handle);
	return S_ISLNK(swapped.attr.mode) ? 1 : 2;
}

static void test_swap_race(void **state)
{
	struct share_world *world = sw_of(state);
	static const char *const paths[] = {"host/rw/swap", "host/rw/vault", "host/rw"};
	ino_t known[ARRAY_SIZE(paths)];
	unsigned seen = 0;
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		assert_int_equal(lstat(paths[i], &st), 0);
		known[i] = st.st_ino;
	}
	sw_node(world, world->rw, "vault"); /* RENAME asks for known nodes */
	sw_node(world, world->rw, "swap");
	for (unsigned round = 0; round < RACE_ROUNDS; round++) {
		put_swaps(world);
		for (unsigned i = 0; i < 3; i++)
			seen |= use_swapped(world, known);
		for (unsigned slot = 0; slot < RACE_SWAPS; slot++)
			assert_int_equal(sd_wait(&world->sd, SD_HIPRIO, slot), 0);
	}
	assert_int_equal(seen, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_names, sw_setup, sw_teardown),
		cmocka_unit_test_setup_teardown(test_moved_away, sw_setup, sw_teardown),
		cmocka_unit_test_setup_teardown(test_links, sw_setup, sw_teardown),
		cmocka_unit_test_setup_teardown(test_special_files, sw_setup, sw_teardown),
		cmocka_unit_test_setup_teardown(test_no_wait, sw_setup, sw_teardown),
		cmocka_unit_test_setup_teardown(test_mapped_ids, sw_setup, sw_teardown),
		cmocka_unit_test_setup_teardown(test_no_choice, sw_setup, sw_teardown),
		cmocka_unit_test_setup_teardown(test_swap_race, sw_setup, sw_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
