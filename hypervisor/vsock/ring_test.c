#include "hypervisor/vsock/ring.h"

#include <endian.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "hypervisor/vsock/testing.h"

#define Q VS_QUEUE_FROM_GUEST

struct world {
	struct vst_guest guest;
	struct vs_memory memory;
	struct vs_ring ring;
	struct vs_chain chain;
	struct err err;
};

static int setup(void **state)
{
	struct world *world = calloc(1, sizeof(*world));
	assert_non_null(world);
	vst_guest_init(&world->guest);
	world->memory = vst_guest_map(&world->guest);
	world->ring.addr = vst_ring_addr(&world->guest, Q);
	assert_int_equal(vs_ring_set_size(&world->ring, VST_RING_SIZE, NULL), 0);
	assert_int_equal(vs_ring_map(&world->ring, &world->memory, NULL), 0);
	*state = world;
	return 0;
}

static int teardown(void **state)
{
	struct world *world = *state;
	vs_memory_done(&world->memory);
	vst_guest_done(&world->guest);
	free(world);
	return 0;
}

static void set(struct world *world, uint16_t index, uint64_t addr, uint32_t len, uint16_t flags,
	uint16_t next)
{
	vst_set_desc(&world->guest, Q, index,
		(struct vring_desc){.addr = addr, .len = len, .flags = flags, .next = next});
}

static int peek(struct world *world)
{
	return vs_ring_peek(&world->ring, &world->memory, &world->chain, &world->err);
}

static void assert_refused(struct world *world, const char *why)
{
	assert_int_equal(peek(world), -EPROTO);
	assert_non_null(strstr(world->err.msg, why));
}

static void test_size(void **state)
{
	struct world *world = *state;
	static const uint32_t bad[] = {
		0, 3, 127, 129, VS_RING_SIZE_MAX * 2, 65536, 1u << 31, UINT32_MAX};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(vs_ring_set_size(&world->ring, bad[i], NULL), -EINVAL);
	assert_int_equal(world->ring.size, VST_RING_SIZE);
	for (uint32_t size = 1; size <= VS_RING_SIZE_MAX; size *= 2)
		assert_int_equal(vs_ring_set_size(&world->ring, size, NULL), 0);
}

static void test_map(void **state)
{
	struct world *world = *state;
	const struct vs_ring_addr good = world->ring.addr;
	uint64_t end = VST_USER_ADDR + VST_REGION_SIZE;
	const struct {
		struct vs_ring_addr addr;
		int code;
	} cases[] = {
		{{good.desc + 8, good.used, good.avail}, -EINVAL},
		{{good.desc, good.used + 2, good.avail}, -EINVAL},
		{{good.desc, good.used, good.avail + 1}, -EINVAL},
		{{0, good.used, good.avail}, -EFAULT},
		{{VST_USER_ADDR - 16, good.used, good.avail}, -EFAULT},
		/* its last entry, and the event field alone, beyond the end */
		{{end - 16 * VST_RING_SIZE + 16, good.used, good.avail}, -EFAULT},
		{{good.desc, good.used, end - 4 - 2 * VST_RING_SIZE}, -EFAULT},
		{{good.desc, end - 4 - 8 * VST_RING_SIZE, good.avail}, -EFAULT},
		{{UINT64_MAX - 15, good.used, good.avail}, -EFAULT},
		{{good.desc, UINT64_MAX - 3, good.avail}, -EFAULT},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		world->ring.addr = cases[i].addr;
		assert_int_equal(vs_ring_map(&world->ring, &world->memory, NULL), cases[i].code);
		assert_null(world->ring.desc);
		assert_null(world->ring.used);
	}
	world->ring.addr = good;
	world->ring.addr.desc = end - 16 * VST_RING_SIZE;
	assert_int_equal(vs_ring_map(&world->ring, &world->memory, NULL), 0);
	world->ring.size = 0;
	assert_int_equal(vs_ring_map(&world->ring, &world->memory, NULL), -EINVAL);
}

static void test_chain(void **state)
{
	struct world *world = *state;
	assert_int_equal(peek(world), 1);
	set(world, 5, 0x20000, 44, VRING_DESC_F_NEXT, 9);
	set(world, 9, 0x30000, 100, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
	set(world, 2, 0x40000, 7, VRING_DESC_F_WRITE, 5);
	vst_offer(&world->guest, Q, 5);
	assert_int_equal(peek(world), 0);
	const struct vs_chain *chain = &world->chain;
	assert_int_equal(chain->head, 5);
	assert_int_equal(chain->n_out, 1);
	assert_int_equal(chain->n_in, 2);
	assert_int_equal(chain->out_len, 44);
	assert_int_equal(chain->in_len, 107);
	/* Our mapping is another one than the guest's, of the same memory. */
	*(uint8_t *)chain->iov[2].iov_base = 0xa5;
	assert_int_equal(*vst_guest_at(&world->guest, 0x40000), 0xa5);

	struct vring_used_elem elem;
	assert_false(vst_take_used(&world->guest, Q, &elem));
	vs_ring_push(&world->ring, chain, 33);
	assert_true(vst_take_used(&world->guest, Q, &elem));
	assert_int_equal(elem.id, 5);
	assert_int_equal(elem.len, 33);
	assert_int_equal(peek(world), 1);
}

static void test_index_wraps(void **state)
{
	struct world *world = *state;
	struct vst_driver *driver = &world->guest.drivers[Q];
	world->ring.next = world->ring.signalled = 65533;
	driver->next_used = 65533;
	driver->avail->idx = htole16(65533);
	for (unsigned i = 0; i < 6; i++) {
		struct vring_used_elem elem;
		vst_offer(&world->guest, Q, 3);
		assert_int_equal(peek(world), 0);
		vs_ring_push(&world->ring, &world->chain, i);
		assert_true(vst_take_used(&world->guest, Q, &elem));
		assert_int_equal(elem.len, i);
	}
	assert_int_equal(world->ring.next, 3);
}

static void test_available_index(void **state)
{
	struct world *world = *state;
	struct vring_avail *avail = world->guest.drivers[Q].avail;
	avail->idx = htole16(VST_RING_SIZE);
	assert_int_equal(peek(world), 0);
	avail->idx = htole16(VST_RING_SIZE + 1);
	assert_refused(world, "jumps by 129");
	avail->idx = htole16(UINT16_MAX); /* backwards by one */
	assert_refused(world, "jumps by 65535");
}

static void test_descriptor_index(void **state)
{
	struct world *world = *state;
	vst_offer(&world->guest, Q, VST_RING_SIZE);
	assert_refused(world, "descriptor 128 of 128");
	world->guest.drivers[Q].avail->ring[0] = 0;
	set(world, 0, 0x20000, 44, VRING_DESC_F_NEXT, UINT16_MAX);
	assert_refused(world, "descriptor 65535 of 128");
}

static void test_loops(void **state)
{
	struct world *world = *state;
	vst_offer(&world->guest, Q, 0);
	set(world, 0, 0x20000, 1, VRING_DESC_F_NEXT, 0);
	assert_refused(world, "loop");
	set(world, 0, 0x20000, 0, VRING_DESC_F_NEXT, 1); /* of nothing */
	set(world, 1, 0x20000, 0, VRING_DESC_F_NEXT, 0);
	assert_refused(world, "loop");
	/* As long as can be, and one more. */
	for (uint16_t i = 0; i < VST_RING_SIZE; i++)
		set(world, i, 0x20000, 1, i + 1 < VST_RING_SIZE ? VRING_DESC_F_NEXT : 0, i + 1);
	assert_int_equal(peek(world), 0);
	assert_int_equal(world->chain.out_len, VST_RING_SIZE);
	set(world, VST_RING_SIZE - 1, 0x20000, 1, VRING_DESC_F_NEXT, 7);
	assert_refused(world, "loop");
}

static void test_addresses(void **state)
{
	struct world *world = *state;
	uint64_t end = (uint64_t)VST_REGIONS * VST_REGION_SIZE;
	static const uint32_t write[] = {0, VRING_DESC_F_WRITE};
	const struct {
		uint64_t addr;
		uint32_t len;
	} bad[] = {
		{end, 1},
		{end - 1, 2},
		{0, (uint32_t)end + 1},
		{0, UINT32_MAX},
		{UINT64_MAX, 1},
		{UINT64_MAX, 2}, /* wraps to an address that exists */
		{UINT64_MAX - 100, UINT32_MAX},
		{VST_USER_ADDR, 1}, /* QEMU's address is none of the guest's */
		{1ull << 63, 16},
	};
	vst_offer(&world->guest, Q, 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		for (size_t j = 0; j < ARRAY_SIZE(write); j++) {
			set(world, 0, bad[i].addr, bad[i].len, (uint16_t)write[j], 0);
			assert_refused(world, "outside");
		}
	}
	set(world, 0, end - 1, 1, 0, 0);
	assert_int_equal(peek(world), 0);
	set(world, 0, UINT64_MAX, 0, 0, 0); /* nothing is nowhere */
	assert_int_equal(peek(world), 0);
	assert_int_equal(world->chain.n_out, 0);
}

static void test_spans_regions(void **state)
{
	struct world *world = *state;
	vst_offer(&world->guest, Q, 0);
	set(world, 0, VST_REGION_SIZE - 10, 30, VRING_DESC_F_WRITE, 0);
	assert_int_equal(peek(world), 0);
	assert_int_equal(world->chain.n_in, 2);
	assert_int_equal(world->chain.in_len, 30);
	assert_int_equal(world->chain.iov[0].iov_len, 10);
	assert_int_equal(world->chain.iov[1].iov_len, 20);
	assert_ptr_equal(world->chain.iov[1].iov_base, world->memory.regions[1].data);

	/* Half of each chain's descriptors span: more parts than descriptors, but bounded. */
	struct vs_ring *ring = &world->ring;
	assert_int_equal(vs_ring_set_size(ring, VS_RING_SIZE_MAX, NULL), 0);
	ring->addr.desc = VST_USER_ADDR + 0x40000;
	assert_int_equal(vs_ring_map(ring, &world->memory, NULL), 0);
	struct vring_desc *desc = (void *)vst_guest_at(&world->guest, 0x40000);
	for (uint16_t i = 0; i < VS_RING_SIZE_MAX; i++) {
		desc[i] = (struct vring_desc){
			.addr = htole64(VST_REGION_SIZE - 1),
			.len = htole32(2),
			.flags = htole16(i + 1 < VS_RING_SIZE_MAX / 2 ? VRING_DESC_F_NEXT : 0),
			.next = htole16((uint16_t)(i + 1)),
		};
	}
	assert_int_equal(peek(world), 0);
	assert_int_equal(world->chain.n_out, VS_RING_SIZE_MAX);
	desc[VS_RING_SIZE_MAX / 2 - 1].flags = htole16(VRING_DESC_F_NEXT);
	assert_refused(world, "too many parts");
}

static void test_flags(void **state)
{
	struct world *world = *state;
	vst_offer(&world->guest, Q, 0);
	set(world, 0, 0x20000, 32, VRING_DESC_F_INDIRECT, 0);
	assert_refused(world, "indirect");
	set(world, 0, 0x20000, 32, 0, 0);
	assert_int_equal(peek(world), 0);
	set(world, 0, 0x20000, 32, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
	set(world, 1, 0x20000, 32, 0, 0);
	assert_refused(world, "readable descriptor behind a writable one");
}

static void use(struct world *world, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		vst_offer(&world->guest, Q, 0);
		assert_int_equal(peek(world), 0);
		vs_ring_push(&world->ring, &world->chain, 0);
	}
}

static void test_signals(void **state)
{
	struct world *world = *state;
	struct vring_avail *avail = world->guest.drivers[Q].avail;
	assert_false(vs_ring_take_signal(&world->ring)); /* of nothing */
	use(world, 2);
	assert_true(vs_ring_take_signal(&world->ring));
	assert_false(vs_ring_take_signal(&world->ring));
	avail->flags = htole16(VRING_AVAIL_F_NO_INTERRUPT);
	use(world, 1);
	assert_false(vs_ring_take_signal(&world->ring));

	world->ring.event_idx = true; /* 3 were used; the flag counts no more */
	avail->ring[VST_RING_SIZE] = htole16(5);
	use(world, 2);
	assert_false(vs_ring_take_signal(&world->ring));
	use(world, 1);
	assert_true(vs_ring_take_signal(&world->ring));
	use(world, 1);
	assert_false(vs_ring_take_signal(&world->ring));
}

static void test_kicks(void **state)
{
	struct world *world = *state;
	struct vring_used *used = world->guest.drivers[Q].used;
	vs_ring_disable_kick(&world->ring);
	assert_int_equal(le16toh(used->flags), VRING_USED_F_NO_NOTIFY);
	assert_false(vs_ring_enable_kick(&world->ring));
	assert_int_equal(used->flags, 0);
	vst_offer(&world->guest, Q, 0); /* in between */
	assert_true(vs_ring_enable_kick(&world->ring));
	use(world, 2);

	world->ring.event_idx = true;
	vs_ring_disable_kick(&world->ring);
	assert_int_equal(used->flags, 0);
	vs_ring_enable_kick(&world->ring);
	uint16_t event;
	memcpy(&event, &used->ring[VST_RING_SIZE], sizeof(event));
	assert_int_equal(le16toh(event), 2);
}

static void test_regions_refused(void **state)
{
	struct world *world = *state;
	const struct vs_region_spec good = {
		.guest_addr = 1ull << 32,
		.size = VST_REGION_SIZE,
		.user_addr = 1ull << 32,
	};
	const uint64_t page = 4096;
	struct {
		struct vs_region_spec spec;
		const char *why;
	} cases[] = {
		{{good.guest_addr, 0, good.user_addr, 0}, "empty"},
		{{good.guest_addr, good.size - 1, good.user_addr, 0}, "whole pages"},
		{{good.guest_addr + 1, page, good.user_addr, 0}, "whole pages"},
		{{good.guest_addr, page, good.user_addr + 16, 0}, "whole pages"},
		{{good.guest_addr, page, good.user_addr, 5}, "whole pages"},
		{{UINT64_MAX - page + 1, page, good.user_addr, 0}, "wraps"},
		{{good.guest_addr, page, UINT64_MAX - page + 1, 0}, "wraps"},
		{{good.guest_addr, 2 * page, good.user_addr, UINT64_MAX - page + 1}, "wraps"},
		{{good.guest_addr, 1ull << 63, good.user_addr, 0}, "empty"},
		{{good.guest_addr, VST_REGION_SIZE + page, good.user_addr, 0}, "beyond the end"},
		{{good.guest_addr, page, good.user_addr, VST_REGION_SIZE}, "beyond the end"},
		{{VST_REGION_SIZE - page, 2 * page, good.user_addr, 0}, "overlap"},
		{{good.guest_addr, page, VST_USER_ADDR + page, 0}, "overlap"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(vs_memory_add(&world->memory, &cases[i].spec, world->guest.fds[0],
					 &world->err),
			-EINVAL);
		assert_non_null(strstr(world->err.msg, cases[i].why));
	}
	assert_int_equal(world->memory.n_regions, VST_REGIONS);
	struct vs_region_spec spec = good;
	while (world->memory.n_regions < VS_REGIONS_MAX) {
		assert_int_equal(
			vs_memory_add(&world->memory, &spec, world->guest.fds[0], NULL), 0);
		spec.guest_addr += spec.size;
		spec.user_addr += spec.size;
	}
	assert_int_equal(vs_memory_add(&world->memory, &spec, world->guest.fds[0], NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_size, setup, teardown),
		cmocka_unit_test_setup_teardown(test_map, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chain, setup, teardown),
		cmocka_unit_test_setup_teardown(test_index_wraps, setup, teardown),
		cmocka_unit_test_setup_teardown(test_available_index, setup, teardown),
		cmocka_unit_test_setup_teardown(test_descriptor_index, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loops, setup, teardown),
		cmocka_unit_test_setup_teardown(test_addresses, setup, teardown),
		cmocka_unit_test_setup_teardown(test_spans_regions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flags, setup, teardown),
		cmocka_unit_test_setup_teardown(test_signals, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kicks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_regions_refused, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
