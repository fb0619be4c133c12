/*
 * A guest whose driver is not its kernel's sends virtiofsd what is no request: chains that lead
 * nowhere, sizes that are false, messages out of order, and at random. virtiofsd may end, which is
 * the end of this guest's pod alone; it is to touch nothing else, not to hang and not to grow.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>

#include "common/fd.h"
#include "hypervisor/share_world.h"

/* ---- chains ---- */

#define REQUEST_AT (VST_REGION_SIZE + SD_REQUESTS * VST_RING_SIZE * VST_BUFFER_SIZE)
#define REPLY_AT   (REQUEST_AT + VST_BUFFER_SIZE)
#define MEMORY_END (VST_REGIONS * (uint64_t)VST_REGION_SIZE)
#define SIZE       ((uint32_t)(sizeof(struct fuse_in_header) + sizeof(struct fuse_getattr_in)))
#define NEXT       VRING_DESC_F_NEXT
#define WRITE      VRING_DESC_F_WRITE
#define INDIRECT   VRING_DESC_F_INDIRECT

/* It has ended, or answers, be it with an error: neither is to take forever. */
static void settle(struct share_world *world, const char *what)
{
	const struct fuse_getattr_in arg = {0};
	int r = sw_call(world, FUSE_GETATTR, FUSE_ROOT_ID, ARG(arg), NULL, NULL);

	if (r == SD_ENDED && sw_has_ended(world->serving, SW_ENDS_MS))
		return;
	if (r > 0)
		fail_msg("%s: virtiofsd does neither end nor answer", what);
}

struct chain {
	const char *what;
	struct vring_desc descs[3];
};

static const struct chain chains[] = {
	{"a request of no length", {{REQUEST_AT, 0, NEXT, 1}, {REPLY_AT, 4096, WRITE, 0}}},
	{"a reply of no length", {{REQUEST_AT, SIZE, NEXT, 1}, {REPLY_AT, 0, WRITE, 0}}},
	{"half a header", {{REQUEST_AT, 20, NEXT, 1}, {REPLY_AT, 4096, WRITE, 0}}},
	{"half an argument", {{REQUEST_AT, 44, NEXT, 1}, {REPLY_AT, 4096, WRITE, 0}}},
	{"a header in pieces", {{REQUEST_AT, 3, NEXT, 1}, {REQUEST_AT + 3, SIZE - 3, NEXT, 2},
				       {REPLY_AT, 4096, WRITE, 0}}},
	{"no request", {{REPLY_AT, 4096, WRITE, 0}}},
	{"no room for a reply", {{REQUEST_AT, SIZE, 0, 0}}},
	{"room for half a reply", {{REQUEST_AT, SIZE, NEXT, 1}, {REPLY_AT, 20, WRITE, 0}}},
	{"room for half a header", {{REQUEST_AT, SIZE, NEXT, 1}, {REPLY_AT, 8, WRITE, 0}}},
	{"the reply first", {{REPLY_AT, 4096, WRITE | NEXT, 1}, {REQUEST_AT, SIZE, 0, 0}}},
	{"a reply over its request", {{REQUEST_AT, SIZE, NEXT, 1}, {REQUEST_AT, 4096, WRITE, 0}}},
	{"a reply over the rings", {{REQUEST_AT, SIZE, NEXT, 1}, {0, 0x10000, WRITE, 0}}},
	{"a descriptor that follows itself", {{REQUEST_AT, SIZE, NEXT, 0}}},
	{"a chain that is a ring",
		{{REQUEST_AT, SIZE, NEXT, 1}, {REQUEST_AT, 1, NEXT, 2}, {REQUEST_AT, 1, NEXT, 1}}},
	{"a ring of replies", {{REQUEST_AT, SIZE, NEXT, 1}, {REPLY_AT, 4096, WRITE | NEXT, 2},
				      {REPLY_AT, 4096, WRITE | NEXT, 1}}},
	{"a next one beyond the ring", {{REQUEST_AT, SIZE, NEXT, VST_RING_SIZE}}},
	{"a next one far beyond it", {{REQUEST_AT, SIZE, NEXT, UINT16_MAX}}},
	{"a request outside of memory", {{1ull << 40, SIZE, NEXT, 1}, {REPLY_AT, 4096, WRITE, 0}}},
	{"a reply outside of memory", {{REQUEST_AT, SIZE, NEXT, 1}, {1ull << 40, 4096, WRITE, 0}}},
	{"a reply at QEMU's address",
		{{REQUEST_AT, SIZE, NEXT, 1}, {VST_USER_ADDR, 4096, WRITE, 0}}},
	{"a request over the end of memory",
		{{MEMORY_END - 8, SIZE, NEXT, 1}, {REPLY_AT, 4096, WRITE, 0}}},
	{"a reply over the end of memory",
		{{REQUEST_AT, SIZE, NEXT, 1}, {MEMORY_END - 8, 4096, WRITE, 0}}},
	{"a reply whose end wraps",
		{{REQUEST_AT, SIZE, NEXT, 1}, {UINT64_MAX - 8, 4096, WRITE, 0}}},
	{"a request of 4 GiB", {{REQUEST_AT, UINT32_MAX, NEXT, 1}, {REPLY_AT, 4096, WRITE, 0}}},
	{"a reply of 4 GiB", {{REQUEST_AT, SIZE, NEXT, 1}, {REPLY_AT, UINT32_MAX, WRITE, 0}}},
	{"a request over both regions",
		{{VST_REGION_SIZE - 8, SIZE, NEXT, 1}, {REPLY_AT, 4096, WRITE, 0}}},
	{"a request of 2 MiB",
		{{VST_REGION_SIZE, 1 << 20, NEXT, 1}, {VST_REGION_SIZE, 1 << 20, NEXT, 2},
			{REPLY_AT, 4096, WRITE, 0}}},
	{"an indirect request", {{REQUEST_AT, 32, INDIRECT, 0}}},
	{"an indirect one of no entry", {{REQUEST_AT, 0, INDIRECT, 0}}},
	{"an indirect one of half an entry", {{REQUEST_AT, 7, INDIRECT, 0}}},
	{"an indirect one and a next", {{REQUEST_AT, 32, INDIRECT | NEXT, 1}}},
	{"an indirect one outside of memory", {{1ull << 40, 32, INDIRECT, 0}}},
	/* Its first entry is itself: descriptors are at the ring's address. */
	{"an indirect one that is the ring", {{0x9000, 1024, INDIRECT, 0}}},
};

/* A good GETATTR lies at REQUEST_AT: the chain alone is at fault. */
static void send_chain(struct share_world *world, const struct chain *chain)
{
	const struct fuse_getattr_in arg = {0};

	sd_write(&world->sd, SD_REQUESTS, 0,
		&(struct sd_request){.opcode = FUSE_GETATTR, .node = FUSE_ROOT_ID, ARG_OF(arg)});
	for (size_t i = 0; i < ARRAY_SIZE(chain->descs); i++)
		vst_set_desc(&world->sd.guest, SD_REQUESTS, (uint16_t)i, chain->descs[i]);
	vst_offer(&world->sd.guest, SD_REQUESTS, 0);
	sd_kick(&world->sd, SD_REQUESTS);
}

static void test_malformed_chains(void **state)
{
	if (!sw_can_run())
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(chains); i++) {
		struct share_world *world = *state = sw_new(true);

		send_chain(world, &chains[i]);
		settle(world, chains[i].what);
		sw_teardown(state);
	}
}

/* Sends it with that much room for its reply, and waits for what comes of it. */
static void spoil(struct share_world *world, const struct sd_request *request, uint32_t reply_size)
{
	uint32_t size = sd_write(&world->sd, SD_REQUESTS, 0, request);

	sd_offer(&world->sd, SD_REQUESTS, 0, size, reply_size);
	sd_kick(&world->sd, SD_REQUESTS);
	assert_int_not_equal(sd_wait(&world->sd, SD_REQUESTS, 0), SD_SILENT);
}

static void no_head_in_ring(struct share_world *world)
{
	vst_offer(&world->sd.guest, SD_REQUESTS, VST_RING_SIZE);
	sd_kick(&world->sd, SD_REQUESTS);
}

static void more_than_the_ring(struct share_world *world)
{
	world->sd.guest.drivers[SD_REQUESTS].avail->idx += 5000;
	sd_kick(&world->sd, SD_REQUESTS);
}

static void one_chain_many_times(struct share_world *world)
{
	const struct fuse_getattr_in arg = {0};

	spoil(world,
		&(struct sd_request){.opcode = FUSE_GETATTR, .node = FUSE_ROOT_ID, ARG_OF(arg)},
		VST_BUFFER_SIZE);
	for (unsigned i = 0; i < VST_RING_SIZE; i++)
		vst_offer(&world->sd.guest, SD_REQUESTS, 0);
	sd_kick(&world->sd, SD_REQUESTS);
}

/* Header fields that say another thing than the chain. */
static void false_header(struct share_world *world, uint32_t len, uint64_t unique)
{
	const struct fuse_getattr_in arg = {0};
	uint8_t *at = vst_guest_at(&world->sd.guest, REQUEST_AT);
	uint32_t size = sd_write(&world->sd, SD_REQUESTS, 0,
		&(struct sd_request){.opcode = FUSE_GETATTR, .node = FUSE_ROOT_ID, ARG_OF(arg)});

	memcpy(at + offsetof(struct fuse_in_header, len), &len, sizeof(len));
	memcpy(at + offsetof(struct fuse_in_header, unique), &unique, sizeof(unique));
	sd_offer(&world->sd, SD_REQUESTS, 0, size, VST_BUFFER_SIZE);
	sd_kick(&world->sd, SD_REQUESTS);
}

static void false_lengths(struct share_world *world)
{
	static const uint32_t lens[] = {0, 1, 39, 41, VST_BUFFER_SIZE, 1 << 20, UINT32_MAX};

	for (size_t i = 0; i < ARRAY_SIZE(lens); i++) {
		false_header(world, lens[i], 1);
		assert_int_not_equal(sd_wait(&world->sd, SD_REQUESTS, 0), SD_SILENT);
	}
}

static void reply_to_nobody(struct share_world *world)
{
	false_header(world, SIZE, 0);
}

static void unknown_opcodes(struct share_world *world)
{
	/* Not 50, SYNCFS, which is known, and would have the test wait for all of the host. */
	static const uint32_t opcodes[] = {
		0, 7, 19, 47, 48, 49, 51, 52, 53, 1000, 4095, 4096, INT32_MAX, UINT32_MAX};
	static const uint8_t zeros[200];

	for (size_t i = 0; i < ARRAY_SIZE(opcodes); i++)
		spoil(world,
			&(struct sd_request){
				.opcode = opcodes[i], .node = FUSE_ROOT_ID, ARG_OF(zeros)},
			VST_BUFFER_SIZE);
}

static void false_writes(struct share_world *world)
{
	uint64_t handle = sw_handle(world, FUSE_OPEN, world->file, O_RDWR);
	static const uint32_t sizes[] = {0, 3, 5, 1 << 20, (1 << 20) + 1, INT32_MAX, UINT32_MAX};
	static const uint64_t offsets[] = {0, INT64_MAX, 1ull << 63, UINT64_MAX};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		for (size_t j = 0; j < ARRAY_SIZE(offsets); j++) {
			const struct fuse_write_in arg = {
				.fh = handle, .size = sizes[i], .offset = offsets[j]};

			spoil(world,
				&(struct sd_request){.opcode = FUSE_WRITE,
					.node = world->file,
					ARG_OF(arg),
					.data = "evil",
					.data_size = 4},
				VST_BUFFER_SIZE);
		}
}

/* It asks for 4 GiB, into room for little or nothing. */
static void huge_replies(struct share_world *world)
{
	static const uint32_t rooms[] = {VST_BUFFER_SIZE, 100, 17, 16, 15, 1, 0};
	uint64_t file = sw_handle(world, FUSE_OPEN, world->file, O_RDWR);
	uint64_t dir = sw_handle(world, FUSE_OPENDIR, world->dir, O_RDONLY);
	const struct fuse_read_in read_file = {.fh = file, .size = UINT32_MAX};
	const struct fuse_read_in read_dir = {.fh = dir, .size = UINT32_MAX, .offset = 0};
	const struct fuse_getxattr_in get = {.size = UINT32_MAX};
	const struct sd_request requests[] = {
		{.opcode = FUSE_READ, .node = world->file, ARG_OF(read_file)},
		{.opcode = FUSE_READDIR, .node = world->dir, ARG_OF(read_dir)},
		{.opcode = FUSE_READDIRPLUS, .node = world->dir, ARG_OF(read_dir)},
		{.opcode = FUSE_GETXATTR, .node = world->file, ARG_OF(get), .names = {"user.a"}},
		{.opcode = FUSE_LISTXATTR, .node = world->file, ARG_OF(get)},
		{.opcode = FUSE_READLINK, .node = sw_node(world, world->rw, "absolute")},
		{.opcode = FUSE_STATFS, .node = world->rw},
	};

	sw_set_xattr(world, world->file, "user.a");
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++)
		for (size_t j = 0; j < ARRAY_SIZE(rooms); j++)
			spoil(world, &requests[i], rooms[j]);
}

static void huge_attribute(struct share_world *world)
{
	static const uint32_t sizes[] = {0, 5, 65536, 65537, INT32_MAX, UINT32_MAX};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		const struct fuse_setxattr_in arg = {.size = sizes[i]};

		spoil(world,
			&(struct sd_request){.opcode = FUSE_SETXATTR,
				.node = world->file,
				.arg = &arg,
				.arg_size = FUSE_COMPAT_SETXATTR_IN_SIZE,
				.names = {"user.a"},
				.data = "evil",
				.data_size = 4},
			VST_BUFFER_SIZE);
	}
}

static void forget_too_much(struct share_world *world)
{
	const struct fuse_forget_in arg = {.nlookup = UINT64_MAX};

	spoil(world, &(struct sd_request){.opcode = FUSE_FORGET, .node = world->file, ARG_OF(arg)},
		VST_BUFFER_SIZE);
}

static void forget_the_root(struct share_world *world)
{
	const struct fuse_forget_in arg = {.nlookup = 1};
	struct fuse_entry_out entry = {0};

	for (unsigned i = 0; i < 3; i++)
		spoil(world,
			&(struct sd_request){
				.opcode = FUSE_FORGET, .node = FUSE_ROOT_ID, ARG_OF(arg)},
			VST_BUFFER_SIZE);
	/* Whatever takes its number now. */
	if (sw_lookup(world, world->dir, "sub", &entry) == 0)
		sw_lookup(world, entry.nodeid, "..", &entry);
	if (sw_lookup(world, FUSE_ROOT_ID, "..", &entry) == 0)
		assert_true(sw_is_inside(entry.attr.ino));
}

/* Requests that say which other is to be given up; Linux' driver sends none. */
static void interrupts(struct share_world *world)
{
	const struct fuse_getattr_in get = {0};

	for (uint64_t i = 0; i < 500; i++) {
		const struct fuse_interrupt_in arg = {.unique = i % 2 ? i : UINT64_MAX - i};

		spoil(world, &(struct sd_request){.opcode = FUSE_INTERRUPT, ARG_OF(arg)},
			i % 3 ? VST_BUFFER_SIZE : 0);
		if (i % 50 == 0)
			spoil(world,
				&(struct sd_request){
					.opcode = FUSE_GETATTR, .node = FUSE_ROOT_ID, ARG_OF(get)},
				VST_BUFFER_SIZE);
	}
}

static void init_again(struct share_world *world)
{
	uint64_t handle = sw_handle(world, FUSE_OPEN, world->file, O_RDWR);

	for (unsigned i = 0; i < 3; i++)
		sd_init(&world->sd);
	sw_not_a_node(world, world->file);
	sw_not_a_node(world, world->dir);
	sw_release(world, FUSE_RELEASE, FUSE_ROOT_ID, handle);
}

static void init_wrong(struct share_world *world)
{
	static const uint32_t versions[][2] = {
		{0, 0}, {6, 40}, {7, 0}, {7, 5}, {7, 30}, {8, 0}, {UINT32_MAX, UINT32_MAX}};

	for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
		struct fuse_init_in arg = {.major = versions[i][0],
			.minor = versions[i][1],
			.max_readahead = UINT32_MAX,
			.flags = UINT32_MAX,
			.flags2 = UINT32_MAX};
		for (size_t size = 0; size <= sizeof(arg); size += 8)
			spoil(world,
				&(struct sd_request){
					.opcode = FUSE_INIT, .arg = &arg, .arg_size = size},
				VST_BUFFER_SIZE);
	}
}

static void destroyed(struct share_world *world)
{
	uint64_t handle = sw_handle(world, FUSE_OPEN, world->file, O_RDWR);

	for (unsigned i = 0; i < 2; i++)
		spoil(world, &(struct sd_request){.opcode = FUSE_DESTROY}, VST_BUFFER_SIZE);
	sw_not_a_node(world, FUSE_ROOT_ID);
	sw_not_a_node(world, world->rw);
	sw_not_a_handle(world, handle);
	assert_int_equal(sd_init(&world->sd), 0);
	sw_not_a_node(world, world->file);
}

static void not_begun(struct share_world *world)
{
	sw_not_a_node(world, FUSE_ROOT_ID);
	sw_not_a_handle(world, 0);
}

static void test_malformed_requests(void **state)
{
	static const struct {
		const char *what;
		void (*fn)(struct share_world *world);
	} cases[] = {
		{"a head that is not in the ring", no_head_in_ring},
		{"more chains than the ring has", more_than_the_ring},
		{"one chain many times", one_chain_many_times},
		{"false lengths", false_lengths},
		{"a request without a number", reply_to_nobody},
		{"unknown opcodes", unknown_opcodes},
		{"false sizes of writes", false_writes},
		{"replies of 4 GiB", huge_replies},
		{"false sizes of attributes", huge_attribute},
		{"more forgotten than known", forget_too_much},
		{"the root forgotten", forget_the_root},
		{"interrupts", interrupts},
		{"INIT again", init_again},
		{"INIT of other versions", init_wrong},
		{"DESTROY", destroyed},
		{"no INIT", not_begun},
	};

	if (!sw_can_run())
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct share_world *world = *state = sw_new(cases[i].fn != not_begun);

		cases[i].fn(world);
		settle(world, cases[i].what);
		sw_teardown(state);
	}
}

/* ---- at random ---- */

#define RANDOM_WORLDS 6
#define RANDOM_ROUNDS 60
#define RANDOM_BATCH  8

struct dice {
	uint64_t state;
	uint64_t words[16]; /* nodes, handles, and what they are easily taken for */
};

static uint32_t roll(struct dice *dice, uint32_t n)
{
	dice->state = dice->state * 6364136223846793005 + 1442695040888963407;
	return (uint32_t)(dice->state >> 33) % n;
}

/*
 * All that virtiofsd knows but what takes as long as the sizes that it names (FALLOCATE,
 * COPY_FILE_RANGE) or as all of the host's files (SYNCFS).
 */
static void put_random(struct share_world *world, struct dice *dice, unsigned queue, unsigned slot)
{
	static const char *const names[] = {"file", "dir", "swap", "vault", "up", "..", "secret",
		"made", "../secret", "", "rw", "ro", "user.a", "absolute"};
	const uint64_t *words = dice->words;
	uint64_t arg[16];
	struct sd_request request = {
		.opcode = 1 + roll(dice, FUSE_LSEEK),
		.node = words[roll(dice, ARRAY_SIZE(dice->words))],
		.uid = roll(dice, 2) * 1000,
		.arg = arg,
		.arg_size = roll(dice, ARRAY_SIZE(arg)) * sizeof(arg[0]),
		.names = {names[roll(dice, ARRAY_SIZE(names))],
			names[roll(dice, ARRAY_SIZE(names))]},
	};

	for (size_t i = 0; i < ARRAY_SIZE(arg); i++)
		arg[i] = roll(dice, 2) ? words[roll(dice, ARRAY_SIZE(dice->words))]
				       : (uint64_t)roll(dice, 4096) << 32 | roll(dice, 4096);
	if (request.opcode == FUSE_FALLOCATE)
		request.opcode = FUSE_LOOKUP;
	sw_put(world, queue, slot, &request);
}

/* Both queues at once; false: it has ended. */
static bool send_random(struct share_world *world, struct dice *dice)
{
	for (unsigned i = 0; i < VS_QUEUES * RANDOM_BATCH; i++)
		put_random(world, dice, i % VS_QUEUES, i / VS_QUEUES);
	for (unsigned queue = 0; queue < VS_QUEUES; queue++)
		sd_kick(&world->sd, queue);
	for (unsigned i = 0; i < VS_QUEUES * RANDOM_BATCH; i++) {
		int r = sd_wait(&world->sd, i % VS_QUEUES, i / VS_QUEUES);

		assert_int_not_equal(r, SD_SILENT);
		if (r == SD_ENDED)
			return false;
	}
	return true;
}

static void test_random_requests(void **state)
{
	unsigned rounds = 0, ends = 0;

	if (!sw_can_run())
		skip();
	for (unsigned seed = 0; seed < RANDOM_WORLDS; seed++) {
		struct share_world *world = *state = sw_new(true);
		struct dice dice = {
			.state = seed,
			.words = {FUSE_ROOT_ID, world->rw, world->ro, world->dir, world->file,
				world->ro_file, sw_node(world, world->rw, "vault"),
				sw_node(world, world->rw, "null"),
				sw_handle(world, FUSE_OPEN, world->file, O_RDWR),
				sw_handle(world, FUSE_OPEN, world->ro_file, O_RDONLY),
				sw_handle(world, FUSE_OPENDIR, world->dir, O_RDONLY), 0, 2, 4096,
				UINT32_MAX, UINT64_MAX},
		};
		bool serves = true;

		for (unsigned i = 0; i < RANDOM_ROUNDS && serves; i++, rounds++)
			serves = send_random(world, &dice);
		ends += !serves;
		settle(world, "random requests");
		sw_teardown(state);
	}
	print_message("%u requests, %u of %u virtiofsd ended\n", rounds * VS_QUEUES * RANDOM_BATCH,
		ends, RANDOM_WORLDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_malformed_chains, sw_teardown),
		cmocka_unit_test_teardown(test_malformed_requests, sw_teardown),
		cmocka_unit_test_teardown(test_random_requests, sw_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
