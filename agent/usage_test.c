#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/usage.h"
#include "common/fd.h"

static void test_interfaces(void **state)
{
	(void)state;
	const char *text =
		"Inter-|   Receive                                                |  Transmit\n"
		" face |bytes    packets errs drop fifo frame compressed multicast|bytes    "
		"packets "
		"errs drop fifo colls carrier compressed\n"
		"    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n"
		"  eth0:1000 10 1 2 0 0 0 0 18446744073709551615 20 3 4 0 0 0 0\n"
		"a-name-of-16-byte: 1 1 1 1 0 0 0 0 1 1 1 1 0 0 0 0\n"
		"  net1: 5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n"
		"e\xff\x01\x7fx: 7 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0";
	struct usage_interface found[4];
	assert_int_equal(usage_parse_interfaces(text, found, ARRAY_SIZE(found)), 3);
	assert_string_equal(found[0].message.name, "eth0");
	assert_int_equal(found[0].message.rx_bytes, 1000);
	assert_int_equal(found[0].message.rx_packets, 10);
	assert_int_equal(found[0].message.rx_errors, 1);
	assert_int_equal(found[0].message.rx_dropped, 2);
	assert_true(found[0].message.tx_bytes == UINT64_MAX);
	assert_int_equal(found[0].message.tx_packets, 20);
	assert_int_equal(found[0].message.tx_errors, 3);
	assert_int_equal(found[0].message.tx_dropped, 4);
	assert_string_equal(found[1].message.name, "net1");
	/* For such a name the host would take nothing of the statistics. */
	assert_string_equal(found[2].message.name, "e???x");
	assert_int_equal(found[2].message.rx_bytes, 7);
	assert_int_equal(usage_parse_interfaces(text, found, 1), 1);
}

static void test_pressure(void **state)
{
	(void)state;
	Bulkhead__Agent__Stall some, full;
	usage_parse_pressure("some avg10=1.05 avg60=0.00 avg300=100.00 total=12345\n"
			     "full avg10=0.00 avg60=0.50 avg300=0.00 total=7\n",
		&some, &full);
	assert_int_equal(some.avg10, 105);
	assert_int_equal(some.avg300, 10000);
	assert_int_equal(some.total_us, 12345);
	assert_int_equal(full.avg60, 50);
	assert_int_equal(full.total_us, 7);
	usage_parse_pressure("nonsense", &some, &full);
	assert_int_equal(some.total_us, 0);
}

static void test_io(void **state)
{
	(void)state;
	const char *text = "8:0 rbytes=100 wbytes=7 rios=3 wios=1 dbytes=50 dios=1\n"
			   "8:16 rbytes=23 wbytes=0 rios=2 wios=0 dbytes=0 dios=0\n";
	assert_int_equal(usage_io_sum(text, "rbytes"), 123);
	assert_int_equal(usage_io_sum(text, "wios"), 1);
	assert_int_equal(usage_io_sum(text, "bytes"), 0);
}

static void put(int directory, const char *name, const char *text)
{
	int fd = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, text, strlen(text), NULL), 0);
	close(fd);
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* A directory with the files of a cgroup. */
static void test_cgroup(void **state)
{
	(void)state;
	char path[] = "/tmp/usage-XXXXXX";
	assert_non_null(mkdtemp(path));
	_cleanup_close_ int directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	put(directory, "cpu.stat",
		"usage_usec 1000\nuser_usec 600\nsystem_usec 400\nnr_periods 4\n");
	put(directory, "memory.current", "5000\n");
	put(directory, "memory.max", "max\n");
	put(directory, "memory.stat",
		"anon 11\nfile 22\nkernel 33\nfile_mapped 44\n"
		"inactive_file 55\npgfault 66\npgmajfault 77\n");
	put(directory, "memory.events", "low 0\nhigh 0\nmax 8\noom 2\noom_kill 1\n");
	put(directory, "pids.current", "3\n");
	put(directory, "pids.max", "100\n");

	struct usage usage;
	struct usage_rate rate;
	usage_rate_begin(&rate);
	nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	usage_read(directory, &rate, &usage);
	const Bulkhead__Agent__Usage *m = &usage.message;
	assert_int_equal(m->cpu_ns, 1000000);
	assert_int_equal(m->cpu_user_ns, 600000);
	assert_int_equal(m->cpu_periods, 4);
	/* 1 ms in 10 ms or, on a busy host, many more: at most a tenth of a CPU. */
	assert_in_range(m->cpu_nano_cores, 10000, 100000000);
	assert_int_equal(m->memory_bytes, 5000);
	assert_true(m->memory_limit == UINT64_MAX);
	assert_int_equal(m->file_bytes, 22);
	assert_int_equal(m->inactive_file_bytes, 55);
	assert_int_equal(m->page_faults, 66);
	assert_int_equal(m->major_page_faults, 77);
	assert_int_equal(m->oom_kills, 1);
	assert_int_equal(m->memory_limit_hits, 8);
	assert_int_equal(m->tasks, 3);
	assert_int_equal(m->tasks_limit, 100);
	assert_null(m->cpu_pressure);

	/* The rate holds for callers that come in quick succession. */
	uint64_t before = m->cpu_nano_cores, at_ns = rate.at_ns;
	put(directory, "cpu.stat", "usage_usec 900000\n");
	usage_read(directory, &rate, &usage);
	if (now_ns() - at_ns < 500000000) /* a busy host may have taken longer */
		assert_int_equal(usage.message.cpu_nano_cores, before);
	assert_int_equal(usage.message.cpu_ns, 900000000);
	rate = (struct usage_rate){.cpu_ns = 1000000, .at_ns = now_ns() - 1000000000};
	usage_read(directory, &rate, &usage);
	assert_in_range(usage.message.cpu_nano_cores, 9000000, 899000000);
	assert_int_equal(fd_remove_tree(path, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_interfaces),
		cmocka_unit_test(test_pressure),
		cmocka_unit_test(test_io),
		cmocka_unit_test(test_cgroup),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
