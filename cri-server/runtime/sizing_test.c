#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/runtime/sizing.h"

#define MIB (INT64_C(1) << 20)

static const struct config_handler handler = {
	.vcpus = 1, .vcpus_max = 4, .memory_mib = 512, .memory_max_mib = 4096};

static void test_at_start(void **state)
{
	static const struct {
		int64_t memory, overhead, quota, period;
		unsigned mib, vcpus;
	} rows[] = {
		/* No limit: the handler's size, whatever the overhead. */
		{0, 0, 0, 0, 512, 1},
		{0, 160 * MIB, -1, 100000, 512, 1},
		/* A limit, and what the guest needs beside it: no limit is too small to boot. */
		{128 * MIB, 0, 50000, 100000, 192, 1},
		{1, 0, 1, 100000, 65, 1},
		/* An overhead for host and guest: together they stay within limit and overhead. */
		{128 * MIB, 160 * MIB, 0, 0, 192, 1},
		{128 * MIB, 320 * MIB, 0, 0, 128 + 320 - 96, 1},
		{128 * MIB, 32 * MIB, 0, 0, 192, 1},
		/* Rounded up, and bounded. */
		{128 * MIB + 1, 0, 250000, 100000, 193, 3},
		{INT64_MAX, INT64_MAX, INT64_MAX, 1, 4u << 20, 64},
		{0, 0, INT64_MAX, INT64_MAX, 512, 1},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		Runtime__V1__LinuxPodSandboxConfig linux =
			RUNTIME__V1__LINUX_POD_SANDBOX_CONFIG__INIT;
		Runtime__V1__LinuxContainerResources resources =
			RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
		Runtime__V1__LinuxContainerResources overhead =
			RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
		linux.resources = &resources;
		linux.overhead = &overhead;
		resources.memory_limit_in_bytes = rows[i].memory;
		resources.cpu_quota = rows[i].quota;
		resources.cpu_period = rows[i].period;
		overhead.memory_limit_in_bytes = rows[i].overhead;
		struct sizing size = sizing_at_start(&handler, &linux);
		assert_int_equal(size.memory_mib, rows[i].mib);
		assert_int_equal(size.vcpus, rows[i].vcpus);
	}
	struct sizing none = sizing_at_start(&handler, NULL);
	assert_int_equal(none.memory_mib, 512);
	assert_int_equal(none.vcpus, 1);
}

/* Limits of containers are added up before they are rounded. */
static void test_sum(void **state)
{
	Runtime__V1__LinuxContainerResources half = RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	Runtime__V1__LinuxContainerResources none = RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	struct sizing_sum sum = {0};
	(void)state;
	half.memory_limit_in_bytes = 100 * MIB;
	half.cpu_quota = 50000;
	half.cpu_period = 100000;
	sizing_add(&sum, &none);
	sizing_add(&sum, NULL);
	assert_int_equal(sizing_needed(&sum, NULL).memory_mib, 0);
	assert_int_equal(sizing_needed(&sum, NULL).vcpus, 0);
	for (int i = 0; i < 3; i++)
		sizing_add(&sum, &half);
	assert_int_equal(sizing_needed(&sum, NULL).memory_mib, 300 + SIZING_GUEST_MIB);
	assert_int_equal(sizing_needed(&sum, NULL).vcpus, 2);
	/* Huge pages come on top. */
	Runtime__V1__HugepageLimit pages = RUNTIME__V1__HUGEPAGE_LIMIT__INIT;
	Runtime__V1__HugepageLimit *limits[] = {&pages};
	pages.limit = 16 * MIB;
	none.hugepage_limits = limits;
	none.n_hugepage_limits = 1;
	sizing_add(&sum, &none);
	assert_int_equal(sizing_needed(&sum, NULL).memory_mib, 316 + SIZING_GUEST_MIB);
	pages.limit = UINT64_MAX;
	sizing_add(&sum, &none);
	assert_int_equal(sizing_needed(&sum, NULL).memory_mib, SIZING_MEMORY_MIB_MAX);
}

static void test_limits_on_the_host(void **state)
{
	Runtime__V1__LinuxPodSandboxConfig linux = RUNTIME__V1__LINUX_POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__LinuxContainerResources resources =
		RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	Runtime__V1__LinuxContainerResources overhead =
		RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	struct hv_limits limits = sizing_limits(NULL, 640);
	(void)state;
	assert_int_equal(limits.memory_mib, 640 + 10 + SIZING_HOST_ROOM_MIB);
	assert_int_equal(limits.cpu_shares | limits.cpu_quota_us, 0);
	linux.resources = &resources;
	resources.cpu_shares = 512;
	resources.cpu_quota = 50000;
	resources.cpu_period = 100000;
	limits = sizing_limits(&linux, 640);
	assert_int_equal(limits.cpu_shares, 512);
	assert_int_equal(limits.cpu_quota_us, 50000);
	assert_int_equal(limits.cpu_period_us, 100000);
	linux.overhead = &overhead;
	overhead.memory_limit_in_bytes = 300 * MIB;
	overhead.cpu_quota = 25000;
	overhead.cpu_period = 100000;
	limits = sizing_limits(&linux, 640);
	assert_int_equal(limits.memory_mib, 640 + 10 + 300);
	assert_int_equal(limits.cpu_quota_us, 75000);
	overhead.memory_limit_in_bytes = 100 * MIB;
	assert_int_equal(sizing_limits(&linux, 64).memory_mib, 64 + 1 + SIZING_HOST_ROOM_MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_at_start),
		cmocka_unit_test(test_sum),
		cmocka_unit_test(test_limits_on_the_host),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
