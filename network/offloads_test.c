/*
 * What a guest asks for in virtio-net headers, on a tap as QEMU has it, of either kind.
 */
#include "network/offloads.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "network/antispoof.h"
#include "network/testing.h"

#define MTU     1500
#define FAR_MAC "\x02\xfe\0\0\0\x0b"
#define OWN_MAC "\x02\xfe\0\0\0\x0a"
#define IP4     20
#define IP6     40
#define UDP     8
#define TCP     20

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

static bool is_isolated;

struct asked {
	const char *what;
	bool pass;
	bool may_be_refused;   /* kernels do, without a filter */
	int family;            /* 0: ARP */
	int protocol, options; /* bytes of options in the network header */
	int tcp_options;       /* and in TCP's */
	int payload;
	int segments, gso_size; /* VIRTIO_NET_HDR_GSO_..., 0: none */
	int start, offset;      /* of a checksum; 0: none */
};

struct sent {
	struct virtio_net_hdr header;
	unsigned char bytes[65000];
	size_t len;
};

static void put(struct sent *s, const void *bytes, size_t len)
{
	memcpy(s->bytes + s->len, bytes, len);
	s->len += len;
}

static void put_zeros(struct sent *s, int n)
{
	memset(s->bytes + s->len, 0, (size_t)n);
	s->len += (size_t)n;
}

static void put_half(struct sent *s, int value)
{
	put(s, (unsigned char[]){(unsigned char)(value >> 8), (unsigned char)value}, 2);
}

static int transport_length(const struct asked *asked)
{
	return asked->protocol == IPPROTO_TCP ? TCP + asked->tcp_options : UDP;
}

static void put_ip4(struct sent *s, const struct asked *asked)
{
	put(s, (unsigned char[]){(unsigned char)(0x45 + asked->options / 4), 0}, 2);
	put_half(s, IP4 + asked->options + transport_length(asked) + asked->payload);
	put(s, "\0\1\0\0\x40", 5);
	put(s, (unsigned char[]){(unsigned char)asked->protocol, 0, 0}, 3);
	put(s, "\x0a\xd5\0\x0a\x0a\xd5\0\x0b", 8);
	memset(s->bytes + s->len, 1, (size_t)asked->options); /* no operation */
	s->len += (size_t)asked->options;
}

static void put_ip6(struct sent *s, const struct asked *asked)
{
	put(s, "\x60\0\0\0", 4);
	put_half(s, transport_length(asked) + asked->payload);
	put(s, (unsigned char[]){(unsigned char)asked->protocol, 64}, 2);
	put(s, "\xfd\x13\0\0\0\0\0\0\0\0\0\0\0\0\0\x0a", 16);
	put(s, "\xfd\x13\0\0\0\0\0\0\0\0\0\0\0\0\0\x0b", 16);
}

static void put_transport(struct sent *s, const struct asked *asked)
{
	put(s, "\x04\xd2\x04\xd2", 4);
	if (asked->protocol == IPPROTO_TCP) {
		put_zeros(s, 8);
		put(s,
			(unsigned char[]){
				(unsigned char)((TCP + asked->tcp_options) / 4 << 4), 0x10},
			2);
		put_zeros(s, 6 + asked->tcp_options);
	} else {
		put_half(s, UDP + asked->payload);
		put_zeros(s, 2);
	}
	memset(s->bytes + s->len, 0x5a, (size_t)asked->payload);
	s->len += (size_t)asked->payload;
}

static void compose(struct sent *s, const struct asked *asked)
{
	memset(s, 0, sizeof(*s));
	put(s, FAR_MAC OWN_MAC, 2 * ETH_ALEN);
	put_half(s, !asked->family             ? ETHERTYPE_ARP
		    : asked->family == AF_INET ? ETHERTYPE_IP
					       : ETHERTYPE_IPV6);
	if (!asked->family) {
		put(s, "\0\1\x08\0\6\4\0\1" OWN_MAC "\x0a\xd5\0\x0a", 18);
		put(s, "\0\0\0\0\0\0\x0a\xd5\0\x0b", 10);
		put_zeros(s, 18);
	} else {
		(asked->family == AF_INET ? put_ip4 : put_ip6)(s, asked);
		put_transport(s, asked);
	}
	s->header.gso_type = (unsigned char)asked->segments;
	s->header.gso_size = (unsigned short)asked->gso_size;
	if (asked->start) {
		s->header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		s->header.csum_start = (unsigned short)asked->start;
		s->header.csum_offset = (unsigned short)asked->offset;
	}
}

/* False: the kernel does not take it. */
static bool give(int tap, struct sent *s)
{
	struct {
		struct virtio_net_hdr header;
		unsigned char bytes[sizeof(s->bytes)];
	} *whole = malloc(sizeof(*whole));
	ssize_t n;

	assert_non_null(whole);
	whole->header = s->header;
	memcpy(whole->bytes, s->bytes, s->len);
	n = write(tap, whole, sizeof(s->header) + s->len);
	free(whole);
	return n > 0;
}

/*
 * Gives what is asked and then a mark that passes: whether the first came before, unchanged, or its
 * segments, which the kernel may have cut by then.
 */
static bool passes(const struct testing_wire *w, const struct asked *asked)
{
	static struct sent sent, mark;
	static unsigned char got[sizeof(sent.bytes)];
	struct pollfd far = {.fd = w->far, .events = POLLIN};
	bool seen = false;

	compose(&sent, asked);
	compose(&mark, &(struct asked){.family = AF_INET6, .protocol = IPPROTO_UDP, .payload = 7});
	if (!give(w->tap, &sent))
		assert_true(asked->may_be_refused || !asked->pass);
	assert_true(give(w->tap, &mark));
	while (poll(&far, 1, 30000) > 0) {
		ssize_t n = read(w->far, got, sizeof(got));

		if (n == (ssize_t)mark.len && memcmp(got, mark.bytes, mark.len) == 0)
			return seen;
		if (asked->segments)
			seen |= n > 2 * ETH_ALEN && memcmp(got, sent.bytes, 2 * ETH_ALEN) == 0;
		else
			seen |= n == (ssize_t)sent.len && memcmp(got, sent.bytes, sent.len) == 0;
	}
	fail_msg("%s: the mark does not come", asked->what);
	return false;
}

static const struct net_interface own = {
	.name = "eth0",
	.mac = "02:fe:00:00:00:0a",
	.mtu = MTU,
	.addresses = {"10.213.0.10/24", "fd13::a/64"},
	.n_addresses = 2,
};

static void check_asked_of(enum net_redirect kind, const struct asked *asked, size_t n)
{
	struct testing_wire wire;

	testing_wire_join(&wire, kind, &own, true);
	for (size_t i = 0; i < n; i++)
		if (passes(&wire, &asked[i]) != asked[i].pass && !asked[i].may_be_refused)
			fail_msg("%s: %s (%s)", asked[i].what, asked[i].pass ? "dropped" : "passed",
				redirect_of(kind)->kind);
	testing_wire_part(&wire);
}

static void check_asked(const struct asked *asked, size_t n)
{
	if (!is_isolated)
		skip();
	check_asked_of(NET_REDIRECT_TCFILTER, asked, n);
	check_asked_of(NET_REDIRECT_MACVTAP, asked, n);
}

#define TCP4                                                                                       \
	.family = AF_INET, .protocol = IPPROTO_TCP, .payload = 9000,                               \
	.segments = VIRTIO_NET_HDR_GSO_TCPV4
#define TCP6                                                                                       \
	.family = AF_INET6, .protocol = IPPROTO_TCP, .payload = 9000,                              \
	.segments = VIRTIO_NET_HDR_GSO_TCPV6
#define UDP4(type)                                                                                 \
	.family = AF_INET, .protocol = IPPROTO_UDP, .payload = 9000, .segments = (type),           \
	.start = ETH_HLEN + IP4, .offset = 6
#define UDP6(type)                                                                                 \
	.family = AF_INET6, .protocol = IPPROTO_UDP, .payload = 9000, .segments = (type),          \
	.start = ETH_HLEN + IP6, .offset = 6

static void no_segment_is_above_the_mtu(void **state)
{
	const struct asked asked[] = {
		{"TCP over IPv4", true, TCP4, .gso_size = MTU - IP4 - TCP},
		{"TCP over IPv4 above", false, TCP4, .gso_size = MTU - IP4 - TCP + 1},
		{"TCP over IPv4 far above", false, TCP4, .gso_size = 8960},
		{"TCP with its checksum", true, TCP4, .gso_size = MTU - IP4 - TCP,
			.start = ETH_HLEN + IP4, .offset = 16},
		{"TCP with its checksum above", false, TCP4, .gso_size = MTU - IP4 - TCP + 1,
			.start = ETH_HLEN + IP4, .offset = 16},
		{"TCP with options", true, TCP4, .tcp_options = 12,
			.gso_size = MTU - IP4 - TCP - 12},
		{"TCP with options above", false, TCP4, .tcp_options = 12,
			.gso_size = MTU - IP4 - TCP - 11},
		{"IPv4 with options", true, TCP4, .options = 8, .gso_size = MTU - IP4 - TCP - 8},
		{"IPv4 with options above", false, TCP4, .options = 8,
			.gso_size = MTU - IP4 - TCP - 7},
		/* From there on a kernel that asks the guest counts the headers. */
		{"TCP that begins elsewhere, above", false, TCP4, .gso_size = MTU - IP4 - TCP + 1,
			.start = 1, .offset = 16},
		{"TCP over IPv6", true, TCP6, .gso_size = MTU - IP6 - TCP},
		{"TCP over IPv6 above", false, TCP6, .gso_size = MTU - IP6 - TCP + 1},
		{"TCP over IPv6 with options", true, TCP6, .tcp_options = 12,
			.gso_size = MTU - IP6 - TCP - 12, .start = ETH_HLEN + IP6, .offset = 16},
		{"TCP over IPv6 with options above", false, TCP6, .tcp_options = 12,
			.gso_size = MTU - IP6 - TCP - 11, .start = ETH_HLEN + IP6, .offset = 16},
		{"fragments of UDP", true, UDP4(VIRTIO_NET_HDR_GSO_UDP),
			.gso_size = MTU - IP4 - UDP, .may_be_refused = true},
		{"fragments of UDP above", false, UDP4(VIRTIO_NET_HDR_GSO_UDP),
			.gso_size = MTU - IP4 + 8},
		{"fragments of UDP over IPv6 above", false, UDP6(VIRTIO_NET_HDR_GSO_UDP),
			.gso_size = MTU - IP6 + 1},
		{"segments of UDP", true, UDP4(VIRTIO_NET_HDR_GSO_UDP_L4),
			.gso_size = MTU - IP4 - UDP, .may_be_refused = true},
		{"segments of UDP above", false, UDP4(VIRTIO_NET_HDR_GSO_UDP_L4),
			.gso_size = MTU - IP4 - UDP + 1},
		{"segments of UDP over IPv6", true, UDP6(VIRTIO_NET_HDR_GSO_UDP_L4),
			.gso_size = MTU - IP6 - UDP, .may_be_refused = true},
		{"segments of UDP over IPv6 above", false, UDP6(VIRTIO_NET_HDR_GSO_UDP_L4),
			.gso_size = MTU - IP6 - UDP + 1},
		{"segments of SCTP", false, .family = AF_INET, .protocol = IPPROTO_SCTP,
			.payload = 9000, .segments = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1000,
			.start = ETH_HLEN + IP4, .offset = 16},
	};

	(void)state;
	check_asked(asked, ARRAY_SIZE(asked));
}

static void no_frame_is_above_the_mtu(void **state)
{
	const struct asked asked[] = {
		{"UDP over IPv4", true, .family = AF_INET, .protocol = IPPROTO_UDP,
			.payload = MTU - IP4 - UDP},
		{"UDP over IPv4 above", false, .family = AF_INET, .protocol = IPPROTO_UDP,
			.payload = MTU - IP4 - UDP + 1},
		{"UDP over IPv6", true, .family = AF_INET6, .protocol = IPPROTO_UDP,
			.payload = MTU - IP6 - UDP},
		{"UDP over IPv6 above", false, .family = AF_INET6, .protocol = IPPROTO_UDP,
			.payload = MTU - IP6 - UDP + 1},
		{"a giant", false, .family = AF_INET6, .protocol = IPPROTO_UDP, .payload = 60000},
		{"segments that are one", false, .family = AF_INET, .protocol = IPPROTO_TCP,
			.payload = 2000, .segments = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 2000},
	};

	(void)state;
	check_asked(asked, ARRAY_SIZE(asked));
}

static void no_checksum_is_put_over_addresses(void **state)
{
	const struct asked asked[] = {
		{"UDP's", true, .family = AF_INET, .protocol = IPPROTO_UDP, .start = ETH_HLEN + IP4,
			.offset = 6},
		{"UDP's behind options", true, .family = AF_INET, .protocol = IPPROTO_UDP,
			.options = 8, .start = ETH_HLEN + IP4 + 8, .offset = 6},
		{"TCP's", true, .family = AF_INET, .protocol = IPPROTO_TCP, .start = ETH_HLEN + IP4,
			.offset = 16},
		{"UDP's over IPv6", true, .family = AF_INET6, .protocol = IPPROTO_UDP,
			.start = ETH_HLEN + IP6, .offset = 6},
		{"TCP's over IPv6", true, .family = AF_INET6, .protocol = IPPROTO_TCP,
			.start = ETH_HLEN + IP6, .offset = 16},
		{"a tunnel's inner", true, .family = AF_INET, .protocol = IPPROTO_UDP,
			.payload = 100, .start = ETH_HLEN + IP4 + UDP + 50, .offset = 16},
		{"over the source", false, .family = AF_INET, .protocol = IPPROTO_UDP,
			.start = ETH_HLEN + 6, .offset = 8},
		{"over the source behind options", false, .family = AF_INET,
			.protocol = IPPROTO_UDP, .options = 8, .start = ETH_HLEN + 6, .offset = 8},
		{"over the source over IPv6", false, .family = AF_INET6, .protocol = IPPROTO_UDP,
			.start = ETH_HLEN + 8, .offset = 14},
		{"over the source, from far before", false, .family = AF_INET6,
			.protocol = IPPROTO_UDP, .start = 1, .offset = 35},
		{"over the destination over IPv6", false, .family = AF_INET6,
			.protocol = IPPROTO_UDP, .start = ETH_HLEN + 8, .offset = 24},
		{"over the MAC", false, .family = AF_INET6, .protocol = IPPROTO_UDP, .start = 1,
			.offset = 9},
		{"ARP", true, .family = 0},
		{"in ARP", false, .start = ETH_HLEN, .offset = 16},
		{"behind ARP", false, .start = ETH_HLEN + 28, .offset = 6},
		{"SCTP", true, .family = AF_INET, .protocol = IPPROTO_SCTP},
		{"in SCTP", false, .family = AF_INET, .protocol = IPPROTO_SCTP,
			.start = ETH_HLEN + IP4, .offset = 6},
		{"no checksum to be put", true, .family = AF_INET6, .protocol = IPPROTO_TCP},
	};

	(void)state;
	check_asked(asked, ARRAY_SIZE(asked));
}

/* As the interface's changes: also where the filters stand already. */
static void the_mtu_follows(void **state)
{
	static const enum net_redirect kinds[] = {NET_REDIRECT_TCFILTER, NET_REDIRECT_MACVTAP};
	const struct asked small = {
		"", true, .family = AF_INET, .protocol = IPPROTO_UDP, .payload = 1000};
	const struct asked large = {
		"", true, .family = AF_INET, .protocol = IPPROTO_UDP, .payload = 1400};

	(void)state;
	if (!is_isolated)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct net_interface interface = own;
		struct redirect_tap tap;
		struct testing_wire wire;
		struct err err = ERR_INIT;

		testing_wire_join(&wire, kinds[i], &own, true);
		assert_int_equal(redirect_find_tap(wire.sock, "bhtap", &tap, &err), 0);
		interface.mtu = 1280;
		assert_int_equal(antispoof_attach(wire.sock, &tap, &interface, &err), 0);
		assert_true(passes(&wire, &small));
		assert_false(passes(&wire, &large));
		assert_int_equal(antispoof_attach(wire.sock, &tap, &own, &err), 0);
		assert_true(passes(&wire, &large));
		testing_wire_part(&wire);
	}
}

/* In a child, which gives up all rights. */
static _Noreturn void load_without_rights(void)
{
	struct err err = ERR_INIT;
	int fd;

	if (setresuid(65534, 65534, 65534) < 0)
		_exit(1);
	_exit(offloads_load(MTU, &fd, &err) != -EOPNOTSUPP || !strstr(err.msg, "Linux 5.7") ||
		!strstr(err.msg, "network.antispoof"));
}

static void a_kernel_that_takes_no_program_is_told(void **state)
{
	int status = -1;
	pid_t pid;

	(void)state;
	if (!is_isolated)
		skip();
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		load_without_rights();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_segment_is_above_the_mtu),
		cmocka_unit_test(no_frame_is_above_the_mtu),
		cmocka_unit_test(no_checksum_is_put_over_addresses),
		cmocka_unit_test(the_mtu_follows),
		cmocka_unit_test(a_kernel_that_takes_no_program_is_told),
	};

	is_isolated = testing_isolate();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
