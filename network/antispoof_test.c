#include "network/antispoof.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/ethernet.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "network/redirect.h"
#include "network/testing.h"

#define OWN_MAC    "02:fe:00:00:00:0a"
#define OTHER_MAC  "02:fe:00:00:00:0b"
#define OWN_IP4    "10.213.0.10"
#define SECOND_IP4 "10.213.7.10"
#define OTHER_IP4  "10.213.0.11"
#define OWN_IP6    "fd13::a"
#define OTHER_IP6  "fd13::b"
#define LINK_IP6   "fe80::fe:ff:fe00:a" /* of OWN_MAC */
#define OTHER_LINK "fe80::fe:ff:fe00:b"

static bool is_isolated;

/* ---- frames ---- */

struct frame {
	unsigned char bytes[256];
	size_t len;
};

static void put(struct frame *f, const void *bytes, size_t len)
{
	assert_true(f->len + len <= sizeof(f->bytes));
	memcpy(f->bytes + f->len, bytes, len);
	f->len += len;
}

static void put_byte(struct frame *f, unsigned int value)
{
	put(f, &(uint8_t){(uint8_t)value}, 1);
}

static void put_half(struct frame *f, unsigned int value)
{
	put_byte(f, value >> 8);
	put_byte(f, value & 0xff);
}

static void put_mac(struct frame *f, const char *text)
{
	unsigned int byte[ETH_ALEN];
	size_t i;

	assert_int_equal(sscanf(text, "%x:%x:%x:%x:%x:%x", &byte[0], &byte[1], &byte[2], &byte[3],
				 &byte[4], &byte[5]),
		ETH_ALEN);
	for (i = 0; i < ETH_ALEN; i++)
		put_byte(f, byte[i]);
}

static void put_address(struct frame *f, int family, const char *text)
{
	unsigned char bytes[sizeof(struct in6_addr)];

	assert_int_equal(inet_pton(family, text, bytes), 1);
	put(f, bytes, family == AF_INET ? sizeof(struct in_addr) : sizeof(struct in6_addr));
}

static struct frame ethernet(const char *source, unsigned int protocol)
{
	struct frame f = {.len = 0};

	put(&f, "\xff\xff\xff\xff\xff\xff", ETH_ALEN);
	put_mac(&f, source);
	put_half(&f, protocol);
	return f;
}

static struct frame arp(const char *source, const char *sender_mac, const char *sender)
{
	struct frame f = ethernet(source, ETHERTYPE_ARP);

	put(&f, "\0\1\x08\0\6\4\0\1", 8);
	put_mac(&f, sender_mac);
	put_address(&f, AF_INET, sender);
	put(&f, "\0\0\0\0\0\0", ETH_ALEN);
	put_address(&f, AF_INET, OTHER_IP4);
	return f;
}

static struct frame ip4(const char *source_mac, const char *source)
{
	struct frame f = ethernet(source_mac, ETHERTYPE_IP);

	put(&f, "\x45\0\0\x1c\0\0\0\0\x40\x11\0\0", 12);
	put_address(&f, AF_INET, source);
	put_address(&f, AF_INET, OTHER_IP4);
	put(&f, "\0\x44\0\x43\0\x08\0\0", 8);
	return f;
}

/* An own IPv4 packet in which some bytes are others. */
static struct frame changed(size_t at, const char *bytes, size_t len)
{
	struct frame f = ip4(OWN_MAC, OWN_IP4);

	memcpy(f.bytes + ETH_HLEN + at, bytes, len);
	return f;
}

/* Of a protocol, with the first byte behind the header and how much of a datagram is before it. */
static struct frame protocol4(unsigned int protocol, unsigned int type, unsigned int fragment)
{
	struct frame f = ip4(OWN_MAC, OWN_IP4);

	f.bytes[ETH_HLEN + 7] = (unsigned char)fragment;
	f.bytes[ETH_HLEN + 9] = (unsigned char)protocol;
	f.bytes[ETH_HLEN + 20] = (unsigned char)type;
	return f;
}

static struct frame with_options4(unsigned int type)
{
	struct frame f = protocol4(IPPROTO_ICMP, ICMP_ECHO, 0);

	f.bytes[ETH_HLEN] = 0x46;
	f.bytes[ETH_HLEN + 3] = 32;
	f.bytes[ETH_HLEN + 24] = (unsigned char)type;
	put(&f, "\0\0\0\0", 4);
	return f;
}

static struct frame ip6(const char *source, unsigned int next, size_t payload)
{
	struct frame f = ethernet(OWN_MAC, ETHERTYPE_IPV6);

	put(&f, "\x60\0\0\0", 4);
	put_half(&f, (unsigned int)payload);
	put_byte(&f, next);
	put_byte(&f, 255);
	put_address(&f, AF_INET6, source);
	put_address(&f, AF_INET6, OTHER_IP6);
	return f;
}

static struct frame udp6(const char *source)
{
	struct frame f = ip6(source, IPPROTO_UDP, 8);

	put(&f, "\0\x35\0\x35\0\x08\0\0", 8);
	return f;
}

static struct frame version6(unsigned int version)
{
	struct frame f = udp6(OWN_IP6);

	f.bytes[ETH_HLEN] = (unsigned char)version;
	return f;
}

/* Neighbour discovery: type, target ("" for none), and an option's two bytes and MAC ("" for none).
 */
static struct frame nd(const char *source, unsigned int type, const char *target,
	unsigned int option, const char *mac)
{
	struct frame f = ip6(source, IPPROTO_ICMPV6, 8 + (*target ? 16 : 0) + (*mac ? 8 : 0));

	put_byte(&f, type);
	put(&f, "\0\0\0\0\0\0\0", 7);
	if (*target)
		put_address(&f, AF_INET6, target);
	if (*mac) {
		put_half(&f, option);
		put_mac(&f, mac);
	}
	return f;
}

/* ICMPv6 behind a hop-by-hop header. */
static struct frame listener(const char *source, unsigned int type)
{
	struct frame f = ip6(source, IPPROTO_HOPOPTS, 16);

	put(&f, "\x3a\0\5\2\0\0\1\0", 8);
	put_byte(&f, type);
	put(&f, "\0\0\0\0\0\0\0", 7);
	return f;
}

static struct frame behind(unsigned int header)
{
	struct frame f = ip6(OWN_IP6, header, 32);

	put(&f, "\x3a\0\1\4\0\0\0\0", 8);
	put_byte(&f, ND_NEIGHBOR_ADVERT);
	put(&f, "\0\0\0\x20\0\0\0", 7);
	put_address(&f, AF_INET6, OTHER_IP6);
	return f;
}

static struct frame tagged(const char *source)
{
	struct frame inner = ip4(OWN_MAC, source), f = {.len = 0};

	put(&f, inner.bytes, 2 * ETH_ALEN);
	put(&f, "\x81\0\0\7", 4);
	put(&f, inner.bytes + 2 * ETH_ALEN, inner.len - 2 * ETH_ALEN);
	return f;
}

static struct frame cut(struct frame f, size_t len)
{
	f.len = len;
	return f;
}

/* ---- the wire ---- */

static bool is_frame(const unsigned char *got, ssize_t len, const struct frame *frame)
{
	return len == (ssize_t)frame->len && memcmp(got, frame->bytes, frame->len) == 0;
}

/* Sends the frame and then one that passes: whether the first came before the second. */
static bool passes(const struct testing_wire *w, const struct frame *frame)
{
	struct frame mark = udp6(OWN_IP6);
	struct pollfd far = {.fd = w->far, .events = POLLIN};
	unsigned char got[512];
	bool seen = false;

	put(&mark, "the mark", 8);
	assert_int_equal(write(w->tap, frame->bytes, frame->len), frame->len);
	assert_int_equal(write(w->tap, mark.bytes, mark.len), mark.len);
	while (poll(&far, 1, 30000) > 0) {
		ssize_t n = read(w->far, got, sizeof(got));

		if (is_frame(got, n, &mark))
			return seen;
		seen |= is_frame(got, n, frame);
	}
	fail_msg("the mark does not come");
	return false;
}

static struct net_interface own_interface(void)
{
	return (struct net_interface){
		.name = "eth0",
		.mac = OWN_MAC,
		.mtu = 1500,
		.addresses = {OWN_IP4 "/24", OWN_IP6 "/64", SECOND_IP4 "/32"},
		.n_addresses = 3,
	};
}

struct case_of {
	const char *what;
	bool pass;
	struct frame frame;
};

static void check_cases_of(enum net_redirect kind, const struct case_of *cases, size_t n)
{
	const struct net_interface interface = own_interface();
	struct testing_wire wire;

	testing_wire_join(&wire, kind, &interface, false);
	for (size_t i = 0; i < n; i++)
		if (passes(&wire, &cases[i].frame) != cases[i].pass)
			fail_msg("%s: %s (%s)", cases[i].what, cases[i].pass ? "dropped" : "passed",
				redirect_of(kind)->kind);
	testing_wire_part(&wire);
}

static void check_cases(const struct case_of *cases, size_t n)
{
	if (!is_isolated)
		skip();
	check_cases_of(NET_REDIRECT_TCFILTER, cases, n);
	check_cases_of(NET_REDIRECT_MACVTAP, cases, n);
}

static void only_own_frames_pass(void **state)
{
	const struct case_of cases[] = {
		{"IPv4", true, ip4(OWN_MAC, OWN_IP4)},
		{"IPv4 of the second address", true, ip4(OWN_MAC, SECOND_IP4)},
		{"forged MAC", false, ip4(OTHER_MAC, OWN_IP4)},
		{"forged IPv4 source", false, ip4(OWN_MAC, OTHER_IP4)},
		{"IPv4 without a source", false, ip4(OWN_MAC, "0.0.0.0")},
		{"a frame that is padded", true, changed(3, "\x1b", 1)},
		{"IPv4 longer than its frame", false, changed(3, "\x1d", 1)},
		{"IPv4 shorter than its header", false, changed(3, "\x13", 1)},
		{"IPv4 of a version that is none", false, changed(0, "\x55", 1)},
		{"IPv4 with half a header", false, changed(0, "\x44", 1)},
		{"IPv4 with a header that is longer than all", false, changed(0, "\x4f", 1)},
		{"TCP", true, protocol4(IPPROTO_TCP, 0, 0)},
		{"SCTP", true, protocol4(IPPROTO_SCTP, 0, 0)},
		{"echo request over IPv4", true, protocol4(IPPROTO_ICMP, ICMP_ECHO, 0)},
		{"unreachable", true, protocol4(IPPROTO_ICMP, ICMP_DEST_UNREACH, 0)},
		{"redirect over IPv4", false, protocol4(IPPROTO_ICMP, ICMP_REDIRECT, 0)},
		{"redirect behind options", false, with_options4(ICMP_REDIRECT)},
		{"echo request behind options", true, with_options4(ICMP_ECHO)},
		{"router advertisement over IPv4", false, protocol4(IPPROTO_ICMP, 9, 0)},
		{"a later fragment", true, protocol4(IPPROTO_ICMP, ICMP_REDIRECT, 1)},
		{"group report", true, protocol4(IPPROTO_IGMP, 0x16, 0)},
		{"group query", false, protocol4(IPPROTO_IGMP, 0x11, 0)},
		{"VRRP", false, protocol4(112, 0x21, 0)},
		{"OSPF", false, protocol4(89, 2, 0)},
		{"GRE", false, protocol4(IPPROTO_GRE, 0, 0)},
		{"cut IPv4", false, cut(ip4(OWN_MAC, OTHER_IP4), 20)},
		{"ARP", true, arp(OWN_MAC, OWN_MAC, OWN_IP4)},
		{"ARP probe", true, arp(OWN_MAC, OWN_MAC, "0.0.0.0")},
		{"ARP for another's address", false, arp(OWN_MAC, OWN_MAC, OTHER_IP4)},
		{"ARP of another's MAC", false, arp(OWN_MAC, OTHER_MAC, OWN_IP4)},
		{"ARP from another's MAC", false, arp(OTHER_MAC, OWN_MAC, OWN_IP4)},
		{"cut ARP", false, cut(arp(OWN_MAC, OWN_MAC, OTHER_IP4), 30)},
		{"VLAN tag", false, tagged(OWN_IP4)},
		{"unknown protocol", false, ethernet(OWN_MAC, 0x88b5)},
	};

	(void)state;
	check_cases(cases, ARRAY_SIZE(cases));
}

static void only_own_ipv6_passes(void **state)
{
	const struct case_of cases[] = {
		{"IPv6", true, udp6(OWN_IP6)},
		{"IPv6 longer than its frame", false, cut(udp6(OWN_IP6), 61)},
		{"IPv6 of a version that is none", false, version6(0x40)},
		{"link-local IPv6", true, udp6(LINK_IP6)},
		{"forged IPv6 source", false, udp6(OTHER_IP6)},
		{"forged link-local source", false, udp6(OTHER_LINK)},
		{"IPv6 without a source", false, udp6("::")},
		{"echo request", true, nd(OWN_IP6, ICMP6_ECHO_REQUEST, "", 0, "")},
		{"solicitation", true,
			nd(OWN_IP6, ND_NEIGHBOR_SOLICIT, OTHER_IP6, 0x0101, OWN_MAC)},
		{"bare solicitation", true, nd(OWN_IP6, ND_NEIGHBOR_SOLICIT, OTHER_IP6, 0, "")},
		{"duplicate address detection", true,
			nd("::", ND_NEIGHBOR_SOLICIT, OWN_IP6, 0x0e01, OTHER_MAC)},
		{"solicitation for another's MAC", false,
			nd(OWN_IP6, ND_NEIGHBOR_SOLICIT, OTHER_IP6, 0x0101, OTHER_MAC)},
		{"advertisement", true, nd(OWN_IP6, ND_NEIGHBOR_ADVERT, OWN_IP6, 0x0201, OWN_MAC)},
		{"bare advertisement", true, nd(LINK_IP6, ND_NEIGHBOR_ADVERT, LINK_IP6, 0, "")},
		{"advertisement of another's address", false,
			nd(OWN_IP6, ND_NEIGHBOR_ADVERT, OTHER_IP6, 0x0201, OWN_MAC)},
		{"advertisement of another's MAC", false,
			nd(OWN_IP6, ND_NEIGHBOR_ADVERT, OWN_IP6, 0x0201, OTHER_MAC)},
		{"router solicitation", true, nd(LINK_IP6, ND_ROUTER_SOLICIT, "", 0x0101, OWN_MAC)},
		{"router solicitation for another", false,
			nd(LINK_IP6, ND_ROUTER_SOLICIT, "", 0x0101, OTHER_MAC)},
		{"router advertisement", false, nd(LINK_IP6, ND_ROUTER_ADVERT, "", 0, "")},
		{"redirect", false, nd(LINK_IP6, ND_REDIRECT, OTHER_IP6, 0, "")},
		{"listener report", true, listener(LINK_IP6, 143)},
		{"first listener report", true, listener("::", 143)},
		{"listener query", false, listener(LINK_IP6, MLD_LISTENER_QUERY)},
		{"advertisement behind options", false, listener(LINK_IP6, ND_NEIGHBOR_ADVERT)},
		{"behind destination options", false, behind(IPPROTO_DSTOPTS)},
		{"behind a routing header", false, behind(IPPROTO_ROUTING)},
		{"behind an authentication header", false, behind(IPPROTO_AH)},
		{"cut advertisement", false,
			cut(nd(OWN_IP6, ND_NEIGHBOR_ADVERT, OTHER_IP6, 0, ""), 60)},
	};

	(void)state;
	check_cases(cases, ARRAY_SIZE(cases));
}

/* As many addresses as an interface can have: jumps are longer than a condition's reach. */
static void many_addresses_pass(void **state)
{
	struct net_interface interface = {.name = "eth0", .mac = OWN_MAC, .mtu = 1500};
	struct testing_wire wire;
	char address[64];

	(void)state;
	if (!is_isolated)
		skip();
	for (size_t i = 0; i < NET_ADDRESSES_MAX - 1; i++)
		snprintf(interface.addresses[i], sizeof(interface.addresses[i]), "fd13::%zu:1/64",
			i);
	snprintf(interface.addresses[NET_ADDRESSES_MAX - 1], sizeof(interface.addresses[0]),
		OWN_IP6 "/64");
	interface.n_addresses = NET_ADDRESSES_MAX;
	testing_wire_join(&wire, NET_REDIRECT_TCFILTER, &interface, false);
	for (size_t i = 0; i < NET_ADDRESSES_MAX - 1; i++) {
		struct frame frame;

		snprintf(address, sizeof(address), "fd13::%zu:1", i);
		frame = nd(address, ND_NEIGHBOR_ADVERT, address, 0x0201, OWN_MAC);
		assert_true(passes(&wire, &frame));
		snprintf(address, sizeof(address), "fd13::%zu:2", i);
		frame = nd(address, ND_NEIGHBOR_ADVERT, address, 0x0201, OWN_MAC);
		assert_false(passes(&wire, &frame));
	}
	/* No IPv4 address: none of it. */
	assert_false(passes(&wire, &(struct frame[]){ip4(OWN_MAC, OWN_IP4)}[0]));
	testing_wire_part(&wire);
}

static void refuses_what_is_no_address(void **state)
{
	static struct sock_filter program[ANTISPOOF_INSTRUCTIONS_MAX];
	struct net_interface interface = own_interface();
	struct err err = ERR_INIT;
	size_t n;

	(void)state;
	snprintf(interface.addresses[1], sizeof(interface.addresses[1]), "fd13::a::/64");
	assert_int_equal(antispoof_program(&interface, 0, program, &n, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "fd13::a::/64"));
	interface = own_interface();
	snprintf(interface.mac, sizeof(interface.mac), "02:fe");
	assert_int_equal(antispoof_program(&interface, 0, program, &n, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_own_frames_pass),
		cmocka_unit_test(only_own_ipv6_passes),
		cmocka_unit_test(many_addresses_pass),
		cmocka_unit_test(refuses_what_is_no_address),
	};

	is_isolated = testing_isolate();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
