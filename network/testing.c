#include "network/testing.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netlink/route/link.h>
#include <netlink/route/link/veth.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "common/loop.h"
#include "common/spawn.h"
#include "network/antispoof.h"
#include "network/interface.h"
#include "network/netlink.h"
#include "network/redirect.h"

#define FRAME_TIMEOUT_MS 30000

/* Of the range for local experiments. */
#define TEST_ETHERTYPE 0x88b5

bool testing_isolate(void)
{
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	struct err err = ERR_INIT;
	int lo;

	if (geteuid() != 0)
		return false;
	assert_int_equal(unshare(CLONE_NEWNET | CLONE_NEWNS), 0);
	assert_int_equal(mount("", "/", "none", MS_PRIVATE | MS_REC, NULL), 0);
	assert_int_equal(netlink_open(&sock, &err), 0);
	lo = netlink_link_index(sock, "lo", &err);
	assert_true(lo > 0);
	assert_int_equal(interface_up(sock, lo, &err), 0);
	return true;
}

char *testing_dir(void)
{
	char *dir = strdup("/tmp/network-test-XXXXXX");

	assert_non_null(dir);
	assert_non_null(mkdtemp(dir));
	return dir;
}

void testing_dir_remove(char *dir)
{
	_cleanup_free_ char *netns = str_printf("%s/netns", dir);
	struct err err = ERR_INIT;

	(void)umount2(netns, MNT_DETACH);
	assert_int_equal(fd_remove_tree(dir, &err), 0);
	free(dir);
}

void testing_write(const char *dir, const char *name, const char *text, unsigned int mode)
{
	_cleanup_free_ char *path = str_printf("%s/%s", dir, name);
	struct err err = ERR_INIT;

	assert_int_equal(fd_write_file(path, text, strlen(text), mode, &err), 0);
}

char *testing_output(const char *const argv[])
{
	struct spawn_result result = SPAWN_RESULT_INIT(1 << 20);
	struct err err = ERR_INIT;
	char *text;

	if (spawn_check(&(struct spawn_options){.argv = argv,
				.timeout_ms = 60000,
				.cancel_fd = -EBADF,
				.netns_fd = -EBADF},
		    &result, &err) < 0)
		fail_msg("%s", err.msg);
	text = strdup(result.out.len > 0 ? buf_string(&result.out) : "");
	assert_non_null(text);
	spawn_result_done(&result);
	return text;
}

static short tap_flags(bool header)
{
	return IFF_TAP | IFF_NO_PI | (header ? IFF_VNET_HDR : 0);
}

int testing_tap(const char *name, bool header)
{
	struct ifreq request = {.ifr_flags = tap_flags(header)};
	int fd;

	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	(void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	assert_int_equal(ioctl(fd, TUNSETIFF, &request), 0);
	return fd;
}

/* In /dev nodes of all namespaces meet under one name; a sysfs of ours tells which device it is. */
static int open_node(const char *name, bool header)
{
	struct ifreq request = {.ifr_flags = tap_flags(header)};
	char *dir = testing_dir();
	_cleanup_free_ char *device = NULL, *node = str_printf("%s/node", dir);
	_cleanup_free_ char *text = NULL;
	unsigned int major, minor;
	struct err err = ERR_INIT;
	size_t len;
	int fd;

	device = str_printf("%s/class/net/%s/macvtap/tap%u/dev", dir, name, if_nametoindex(name));
	assert_int_equal(mount("sysfs", dir, "sysfs", 0, NULL), 0);
	assert_int_equal(fd_read_file(device, 64, &text, &len, &err), 0);
	assert_int_equal(sscanf(text, "%u:%u", &major, &minor), 2);
	assert_int_equal(umount2(dir, MNT_DETACH), 0);
	assert_int_equal(mknod(node, S_IFCHR | 0600, makedev(major, minor)), 0);
	fd = open(node, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ioctl(fd, TUNSETIFF, &request), 0);
	testing_dir_remove(dir);
	return fd;
}

/* As testing_tap(), a macvtap over the link, which lasts as long as that. */
static int testing_macvtap(const char *name, const char *over, bool header)
{
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	_cleanup_close_ int own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	struct err err = ERR_INIT;

	assert_int_equal(netlink_open(&sock, &err), 0);
	if (redirect_macvtap.make(sock, (int)if_nametoindex(over),
		    &(struct interface_place){own, name, 1500}, &err) < 0)
		fail_msg("%s", err.msg);
	return open_node(name, header);
}

void testing_await_link(struct nl_sock *sock, const char *name)
{
	bool up = false;

	for (int i = 0; i < 1500 && !up; i++) {
		struct rtnl_link *link;

		assert_int_equal(rtnl_link_get_kernel(sock, 0, name, &link), 0);
		up = rtnl_link_get_operstate(link) == rtnl_link_str2operstate("up");
		rtnl_link_put(link);
		if (!up)
			usleep(20000);
	}
	assert_true(up);
}

int testing_packet_socket(const char *link)
{
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = (int)if_nametoindex(link),
	};
	int fd;

	fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
	assert_true(fd >= 0);
	assert_true(address.sll_ifindex > 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

void testing_wire_join(struct testing_wire *w, enum net_redirect kind,
	const struct net_interface *interface, bool header)
{
	struct redirect_tap tap = {.redirect = redirect_of(kind)};
	struct err err = ERR_INIT;
	int near_index, far_index;

	assert_int_equal(netlink_open(&w->sock, &err), 0);
	assert_int_equal(rtnl_link_veth_add(w->sock, "bhnear", "bhfar", getpid()), 0);
	w->tap = tap.redirect->make ? testing_macvtap("bhtap", "bhnear", header)
				    : testing_tap("bhtap", header);
	near_index = netlink_link_index(w->sock, "bhnear", &err);
	far_index = netlink_link_index(w->sock, "bhfar", &err);
	tap.link = netlink_link_index(w->sock, "bhtap", &err);
	assert_int_equal(interface_quieten("bhtap", true, &err), 0);
	assert_int_equal(tap.redirect->join(w->sock, near_index, tap.link, &err), 0);
	if (antispoof_attach(w->sock, &tap, interface, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(interface_up(w->sock, near_index, &err), 0);
	assert_int_equal(interface_up(w->sock, far_index, &err), 0);
	assert_int_equal(interface_up(w->sock, tap.link, &err), 0);
	testing_await_link(w->sock, "bhnear");
	/* A macvtap takes its state from the link below, by that same queue. */
	if (tap.redirect->make)
		testing_await_link(w->sock, "bhtap");
	w->far = testing_packet_socket("bhfar");
}

void testing_wire_part(struct testing_wire *w)
{
	struct rtnl_link *link = rtnl_link_alloc();

	rtnl_link_set_name(link, "bhnear");
	assert_int_equal(rtnl_link_delete(w->sock, link), 0);
	rtnl_link_put(link);
	netlink_close(w->sock);
	close(w->tap);
	close(w->far);
}

void testing_frame(unsigned char *frame, size_t len, const unsigned char *to, unsigned char seed)
{
	static const unsigned char from[ETH_ALEN] = {0x02, 0xfe, 0, 0, 0, 1};
	size_t i;

	memcpy(frame, to, ETH_ALEN);
	memcpy(frame + ETH_ALEN, from, ETH_ALEN);
	frame[12] = TEST_ETHERTYPE >> 8;
	frame[13] = TEST_ETHERTYPE & 0xff;
	for (i = ETH_HLEN; i < len; i++)
		frame[i] = (unsigned char)(seed + i * 7);
}

bool testing_expect_frame(int fd, const unsigned char *frame, size_t len)
{
	uint64_t deadline = ev_now_ms() + FRAME_TIMEOUT_MS;
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	static unsigned char got[65536];
	uint64_t now;
	ssize_t n;

	while ((now = ev_now_ms()) < deadline) {
		if (poll(&poll_fd, 1, (int)(deadline - now)) <= 0)
			break;
		n = read(fd, got, sizeof(got));
		if (n == (ssize_t)len && memcmp(got, frame, len) == 0)
			return true;
	}
	return false;
}
