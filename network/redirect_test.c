#include "network/redirect.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netlink/route/link.h>
#include <netlink/route/link/veth.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "network/interface.h"
#include "network/netlink.h"
#include "network/netns.h"
#include "network/testing.h"

static bool is_isolated;

static void need_root(void)
{
	if (!is_isolated) {
		print_message("skipped: needs root\n");
		skip();
	}
}

/* A tap joined to one end of a veth pair: what enters the one leaves by the other, unchanged. */
static void test_frames(void **state)
{
	static const unsigned char to[6] = {0x02, 0xfe, 0, 0, 0, 2};
	static const size_t sizes[] = {60, 61, 1000, 1514};
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	_cleanup_close_ int tap = -EBADF, far = -EBADF;
	unsigned char frame[2048];
	struct err err = ERR_INIT;
	int near_index, far_index, tap_index;
	size_t i;

	(void)state;
	need_root();
	assert_int_equal(netlink_open(&sock, &err), 0);
	assert_int_equal(rtnl_link_veth_add(sock, "bhnear", "bhfar", getpid()), 0);
	tap = testing_tap("bhtap", false);
	near_index = netlink_link_index(sock, "bhnear", &err);
	far_index = netlink_link_index(sock, "bhfar", &err);
	tap_index = netlink_link_index(sock, "bhtap", &err);
	assert_true(near_index > 0 && far_index > 0 && tap_index > 0);
	assert_int_equal(interface_quieten("bhtap", true, &err), 0);
	if (redirect_tcfilter.join(sock, near_index, tap_index, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(interface_up(sock, near_index, &err), 0);
	assert_int_equal(interface_up(sock, far_index, &err), 0);
	assert_int_equal(interface_up(sock, tap_index, &err), 0);
	testing_await_link(sock, "bhnear");
	testing_await_link(sock, "bhfar");
	far = testing_packet_socket("bhfar");
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		testing_frame(frame, sizes[i], to, (unsigned char)i);
		assert_int_equal(write(tap, frame, sizes[i]), sizes[i]);
		assert_true(testing_expect_frame(far, frame, sizes[i]));
		testing_frame(frame, sizes[i], to, (unsigned char)(i + 100));
		assert_int_equal(write(far, frame, sizes[i]), sizes[i]);
		assert_true(testing_expect_frame(tap, frame, sizes[i]));
	}
	/* Joined already: refused, and what is there goes on working. */
	assert_int_equal(redirect_tcfilter.join(sock, near_index, tap_index, &err), -EEXIST);
	assert_int_equal(write(tap, frame, 60), 60);
	assert_true(testing_expect_frame(far, frame, 60));
}

/* The second half cannot be made: the first is taken back, so that another tap may follow. */
static void test_half_join_is_undone(void **state)
{
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	_cleanup_close_ int a = -EBADF, b = -EBADF;
	struct err err = ERR_INIT;
	int index_a, index_b;

	(void)state;
	need_root();
	assert_int_equal(netlink_open(&sock, &err), 0);
	a = testing_tap("bhtapa", false);
	b = testing_tap("bhtapb", false);
	index_a = netlink_link_index(sock, "bhtapa", &err);
	index_b = netlink_link_index(sock, "bhtapb", &err);
	assert_true(redirect_tcfilter.join(sock, index_a, 99999, &err) < 0);
	assert_int_equal(redirect_tcfilter.join(sock, index_a, index_b, &err), 0);
}

static int link_index(void *userdata, struct err *err)
{
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	int r;

	r = netlink_open(&sock, err);
	return r < 0 ? r : netlink_link_index(sock, userdata, err);
}

static void test_netns(void **state)
{
	char *dir = testing_dir();
	_cleanup_free_ char *names = str_printf("%s/netns", dir);
	_cleanup_free_ char *path = str_printf("%s/bh-x", names);
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	_cleanup_close_ int netns = -EBADF, tap = -EBADF;
	struct stat before, after, inside;
	struct err err = ERR_INIT;

	(void)state;
	need_root();
	assert_int_equal(stat("/proc/thread-self/ns/net", &before), 0);
	assert_int_equal(netns_open(path, &netns, &err), -ENOENT);
	assert_int_equal(netns_create(names, "bh-x", &err), 0);
	assert_int_equal(netns_create(names, "bh-x", &err), -EEXIST);
	assert_int_equal(netns_open(path, &netns, &err), 0);
	assert_int_equal(fstat(netns, &inside), 0);
	assert_int_equal(stat("/proc/thread-self/ns/net", &after), 0);
	assert_int_equal(before.st_ino, after.st_ino);
	assert_int_not_equal(before.st_ino, inside.st_ino);

	tap = testing_tap("bhtapx", false);
	assert_int_equal(netns_call(netns, link_index, (void *)"bhtapx", &err), -ENODEV);
	assert_int_equal(netlink_open(&sock, &err), 0);
	assert_int_equal(interface_move(sock, "bhtapx",
				 &(struct interface_place){netns, "tap0", 1400}, &err),
		0);
	assert_true(netns_call(netns, link_index, (void *)"tap0", &err) > 0);
	assert_int_equal(if_nametoindex("bhtapx"), 0);
	assert_int_equal(interface_move(sock, "bhtapx",
				 &(struct interface_place){netns, "tap0", 1400}, &err),
		-ENODEV);
	assert_int_equal(netns_delete(path, &err), 0);
	assert_int_equal(netns_delete(path, &err), 0);
	assert_int_equal(access(path, F_OK), -1);
	testing_dir_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frames),
		cmocka_unit_test(test_half_join_is_undone),
		cmocka_unit_test(test_netns),
	};

	is_isolated = testing_isolate();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
