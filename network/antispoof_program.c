#include "network/antispoof.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/fd.h"

/* Offsets in a frame without VLAN tag: the kernel takes a tag out of it before this hook. */
#define MAC_SOURCE      6
#define MAC_PROTOCOL    12
#define NETWORK         14
#define ARP_HARDWARE    NETWORK /* hardware and protocol type, lengths of both */
#define ARP_LENGTHS     (NETWORK + 4)
#define ARP_SENDER_MAC  (NETWORK + 8)
#define ARP_SENDER_IP   (NETWORK + 14)
#define IP4_VERSION     NETWORK /* and the header's length in words */
#define IP4_LENGTH      (NETWORK + 2)
#define IP4_FRAGMENT    (NETWORK + 6)
#define IP4_PROTOCOL    (NETWORK + 9)
#define IP4_SOURCE      (NETWORK + 12)
#define IP6_VERSION     NETWORK
#define IP6_LENGTH      (NETWORK + 4)
#define IP6_NEXT        (NETWORK + 6)
#define IP6_SOURCE      (NETWORK + 8)
#define IP6_PAYLOAD     (NETWORK + 40)
#define HOP_OPTIONS_LEN 8

/* RFC 4861, 4.6: an option is its type, its length in eights of bytes (here one), a MAC. */
#define OPTION_SOURCE_MAC 0x0101
#define OPTION_TARGET_MAC 0x0201
#define OPTION_NONCE      0x0e01 /* RFC 7527: of duplicate address detection */
#define OPTION_LEN        8

/* RFC 2236, 3376; what asks for such reports is a router's. */
#define IGMP_REPORT_V1 0x12
#define IGMP_REPORT_V2 0x16
#define IGMP_LEAVE     0x17
#define IGMP_REPORT_V3 0x22

/* RFC 3810; those of RFC 2710 are in netinet/icmp6.h. */
#define MLD_REPORT_V2 143

/*
 * Jumps lead forward to a label and are resolved when it is placed. A conditional jump of BPF
 * reaches 255 instructions, a list of addresses more: each is a condition over an unconditional
 * jump, whose reach is not limited. Until it is placed a label is the chain of the jumps to it,
 * each holding the position of the one before.
 */
struct label {
	uint32_t last; /* position of the latest jump to it, plus 1; 0: none */
};

struct assembler {
	struct sock_filter *program;
	size_t n;
	uint8_t mac[ETH_ALEN];
	struct in_addr ip4[NET_ADDRESSES_MAX];
	size_t n_ip4;
	struct in6_addr ip6[NET_ADDRESSES_MAX + 1];
	size_t n_ip6;
	struct label drop, pass;
	uint32_t dropped; /* what the program returns for it */
};

static void emit(struct assembler *a, struct sock_filter instruction)
{
	/* Too long is told at the end: what does not fit is counted. */
	if (a->n < ANTISPOOF_INSTRUCTIONS_MAX)
		a->program[a->n] = instruction;
	a->n++;
}

static void load_byte(struct assembler *a, uint32_t offset)
{
	emit(a, (struct sock_filter)BPF_STMT(BPF_LD | BPF_B | BPF_ABS, offset));
}

static void load_half(struct assembler *a, uint32_t offset)
{
	emit(a, (struct sock_filter)BPF_STMT(BPF_LD | BPF_H | BPF_ABS, offset));
}

static void load_word(struct assembler *a, uint32_t offset)
{
	emit(a, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset));
}

static void jump(struct assembler *a, struct label *to)
{
	emit(a, (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, to->last));
	to->last = (uint32_t)a->n;
}

static void if_equal(struct assembler *a, uint32_t value, struct label *to)
{
	emit(a, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1));
	jump(a, to);
}

static void if_differs(struct assembler *a, uint32_t value, struct label *to)
{
	emit(a, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0));
	jump(a, to);
}

static void if_reaches(struct assembler *a, uint32_t value, struct label *to)
{
	emit(a, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, value, 0, 1));
	jump(a, to);
}

static void if_below(struct assembler *a, uint32_t value, struct label *to)
{
	emit(a, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, value, 1, 0));
	jump(a, to);
}

/* A length in the frame that says more than there is, so many bytes before not counted. */
static void if_longer_than_frame(
	struct assembler *a, uint32_t length_offset, uint32_t before, struct label *to)
{
	emit(a, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0));
	emit(a, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_SUB | BPF_K, before));
	emit(a, (struct sock_filter)BPF_STMT(BPF_MISC | BPF_TAX, 0));
	load_half(a, length_offset);
	emit(a, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_X, 0, 0, 1));
	jump(a, to);
}

/* X: the length of an IPv4 header in bytes. */
static void load_header_length(struct assembler *a)
{
	emit(a, (struct sock_filter)BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, IP4_VERSION));
}

/* What is behind the IPv4 header whose length is in X. */
static void load_byte_behind(struct assembler *a)
{
	emit(a, (struct sock_filter)BPF_STMT(BPF_LD | BPF_B | BPF_IND, NETWORK));
}

static void if_shorter_than_header(struct assembler *a, uint32_t length_offset, struct label *to)
{
	load_half(a, length_offset);
	emit(a, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_X, 0, 1, 0));
	jump(a, to);
}

static void place(struct assembler *a, struct label *label)
{
	uint32_t at = label->last;

	while (at > 0 && at <= ANTISPOOF_INSTRUCTIONS_MAX) {
		struct sock_filter *jump_here = &a->program[at - 1];
		uint32_t before = jump_here->k;

		jump_here->k = (uint32_t)a->n - at;
		at = before;
	}
	label->last = 0;
}

/* ---- what is compared ---- */

static uint32_t word_at(const void *bytes)
{
	uint32_t word;

	memcpy(&word, bytes, sizeof(word));
	return ntohl(word);
}

static void if_mac_differs(struct assembler *a, uint32_t offset, struct label *to)
{
	load_word(a, offset);
	if_differs(a, word_at(a->mac), to);
	load_half(a, offset + 4);
	if_differs(a, (uint32_t)(a->mac[4] << 8 | a->mac[5]), to);
}

static void if_ip6_is(struct assembler *a, uint32_t offset, const void *address, struct label *to)
{
	const unsigned char *bytes = address;
	struct label next = {0};
	uint32_t i;

	for (i = 0; i < sizeof(struct in6_addr); i += 4) {
		load_word(a, offset + i);
		if_differs(a, word_at(bytes + i), &next);
	}
	jump(a, to);
	place(a, &next);
}

static void if_own_ip6(struct assembler *a, uint32_t offset, struct label *to)
{
	size_t i;

	for (i = 0; i < a->n_ip6; i++)
		if_ip6_is(a, offset, &a->ip6[i], to);
}

/* ---- the protocols ---- */

static void write_ethernet(
	struct assembler *a, struct label *arp, struct label *ip4, struct label *ip6)
{
	load_word(a, (uint32_t)(SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT));
	if_differs(a, 0, &a->drop);
	if_mac_differs(a, MAC_SOURCE, &a->drop);
	load_half(a, MAC_PROTOCOL);
	if_equal(a, ETH_P_ARP, arp);
	if_equal(a, ETH_P_IP, ip4);
	if_equal(a, ETH_P_IPV6, ip6);
	jump(a, &a->drop);
}

static void write_own_ip4(struct assembler *a, struct label *own)
{
	size_t i;

	for (i = 0; i < a->n_ip4; i++)
		if_equal(a, ntohl(a->ip4[i].s_addr), own);
	jump(a, &a->drop);
}

static void write_arp(struct assembler *a)
{
	load_word(a, ARP_HARDWARE);
	if_differs(a, ARPHRD_ETHER << 16 | ETH_P_IP, &a->drop);
	load_half(a, ARP_LENGTHS);
	if_differs(a, ETH_ALEN << 8 | (uint32_t)sizeof(struct in_addr), &a->drop);
	if_mac_differs(a, ARP_SENDER_MAC, &a->drop);
	load_word(a, ARP_SENDER_IP);
	if_equal(a, 0, &a->pass); /* a probe, RFC 5227 */
	write_own_ip4(a, &a->pass);
}

static void if_any(struct assembler *a, const uint8_t *values, size_t n, struct label *to)
{
	size_t i;

	for (i = 0; i < n; i++)
		if_equal(a, values[i], to);
}

/* What a kernel sends for processes without raw sockets, or of its own. */
static void write_ip4_protocols(struct assembler *a)
{
	static const uint8_t plain[] = {
		IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP, IPPROTO_UDPLITE, IPPROTO_ESP};
	static const uint8_t icmp_types[] = {ICMP_ECHOREPLY, ICMP_DEST_UNREACH, ICMP_ECHO,
		ICMP_TIME_EXCEEDED, ICMP_PARAMETERPROB, ICMP_TIMESTAMPREPLY};
	static const uint8_t igmp_types[] = {
		IGMP_REPORT_V1, IGMP_REPORT_V2, IGMP_LEAVE, IGMP_REPORT_V3};
	struct label icmp = {0}, igmp = {0};

	load_byte(a, IP4_PROTOCOL);
	if_any(a, plain, ARRAY_SIZE(plain), &a->pass);
	if_equal(a, IPPROTO_ICMP, &icmp);
	if_equal(a, IPPROTO_IGMP, &igmp);
	jump(a, &a->drop);

	/* The type is in the first fragment, which has eight bytes at least. */
	place(a, &icmp);
	load_half(a, IP4_FRAGMENT);
	emit(a, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, IP_OFFMASK));
	if_differs(a, 0, &a->pass);
	load_header_length(a);
	load_byte_behind(a);
	if_any(a, icmp_types, ARRAY_SIZE(icmp_types), &a->pass);
	jump(a, &a->drop);

	place(a, &igmp);
	load_header_length(a);
	load_byte_behind(a);
	if_any(a, igmp_types, ARRAY_SIZE(igmp_types), &a->pass);
	jump(a, &a->drop);
}

static void write_ip4(struct assembler *a)
{
	struct label own = {0};

	load_byte(a, IP4_VERSION);
	if_below(a, 0x45, &a->drop);
	if_reaches(a, 0x50, &a->drop);
	if_longer_than_frame(a, IP4_LENGTH, NETWORK, &a->drop);
	load_header_length(a);
	if_shorter_than_header(a, IP4_LENGTH, &a->drop);
	load_word(a, IP4_SOURCE);
	write_own_ip4(a, &own);
	place(a, &own);
	write_ip4_protocols(a);
}

/* After a fixed part of so many bytes: nothing, or one option that is said of the own MAC. */
static void write_option(struct assembler *a, uint32_t fixed, uint32_t type)
{
	uint32_t option = IP6_PAYLOAD + fixed;

	load_half(a, IP6_LENGTH);
	if_equal(a, fixed, &a->pass);
	if_differs(a, fixed + OPTION_LEN, &a->drop);
	load_half(a, option);
	if (type == OPTION_SOURCE_MAC)
		if_equal(a, OPTION_NONCE, &a->pass);
	if_differs(a, type, &a->drop);
	if_mac_differs(a, option + 2, &a->drop);
	jump(a, &a->pass);
}

/* The source is an own address. */
static void write_icmp6(struct assembler *a)
{
	struct label own = {0}, solicitation = {0}, advertisement = {0}, router = {0};

	load_byte(a, IP6_PAYLOAD);
	if_equal(a, ND_NEIGHBOR_SOLICIT, &solicitation);
	if_equal(a, ND_NEIGHBOR_ADVERT, &advertisement);
	if_equal(a, ND_ROUTER_SOLICIT, &router);
	if_below(a, MLD_LISTENER_QUERY, &a->pass); /* errors and echo */
	if_equal(a, MLD_LISTENER_REPORT, &a->pass);
	if_equal(a, MLD_LISTENER_REDUCTION, &a->pass);
	if_equal(a, MLD_REPORT_V2, &a->pass);
	jump(a, &a->drop);
	place(a, &solicitation);
	write_option(a, sizeof(struct nd_neighbor_solicit), OPTION_SOURCE_MAC);
	place(a, &router);
	write_option(a, sizeof(struct nd_router_solicit), OPTION_SOURCE_MAC);
	place(a, &advertisement);
	if_own_ip6(a, IP6_PAYLOAD + offsetof(struct nd_neighbor_advert, nd_na_target), &own);
	jump(a, &a->drop);
	place(a, &own);
	write_option(a, sizeof(struct nd_neighbor_advert), OPTION_TARGET_MAC);
}

/* A report of the multicast groups that the guest is in, behind the router alert. */
static void write_hop_options(struct assembler *a)
{
	load_half(a, IP6_PAYLOAD);
	if_differs(a, IPPROTO_ICMPV6 << 8, &a->drop);
	load_byte(a, IP6_PAYLOAD + HOP_OPTIONS_LEN);
	if_equal(a, MLD_LISTENER_REPORT, &a->pass);
	if_equal(a, MLD_LISTENER_REDUCTION, &a->pass);
	if_equal(a, MLD_REPORT_V2, &a->pass);
	jump(a, &a->drop);
}

static void write_ip6(struct assembler *a)
{
	static const uint32_t plain[] = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP, IPPROTO_UDPLITE,
		IPPROTO_FRAGMENT, IPPROTO_ESP};
	struct label own = {0}, unspecified = {0}, icmp6 = {0}, hop_options = {0},
		     solicitation = {0};
	size_t i;

	load_byte(a, IP6_VERSION);
	emit(a, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf0));
	if_differs(a, 0x60, &a->drop);
	if_longer_than_frame(a, IP6_LENGTH, IP6_PAYLOAD, &a->drop);
	if_own_ip6(a, IP6_SOURCE, &own);
	if_ip6_is(a, IP6_SOURCE, &in6addr_any, &unspecified);
	jump(a, &a->drop);

	place(a, &own);
	load_byte(a, IP6_NEXT);
	for (i = 0; i < ARRAY_SIZE(plain); i++)
		if_equal(a, plain[i], &a->pass);
	if_equal(a, IPPROTO_ICMPV6, &icmp6);
	if_equal(a, IPPROTO_HOPOPTS, &hop_options);
	jump(a, &a->drop);

	place(a, &unspecified);
	load_byte(a, IP6_NEXT);
	if_equal(a, IPPROTO_HOPOPTS, &hop_options);
	if_differs(a, IPPROTO_ICMPV6, &a->drop);
	load_byte(a, IP6_PAYLOAD);
	if_equal(a, ND_NEIGHBOR_SOLICIT, &solicitation);
	jump(a, &a->drop);
	place(a, &solicitation);
	write_option(a, sizeof(struct nd_neighbor_solicit), OPTION_SOURCE_MAC);

	place(a, &icmp6);
	write_icmp6(a);
	place(a, &hop_options);
	write_hop_options(a);
}

static void write_program(struct assembler *a)
{
	struct label arp = {0}, ip4 = {0}, ip6 = {0};

	write_ethernet(a, &arp, &ip4, &ip6);
	place(a, &arp);
	write_arp(a);
	place(a, &ip4);
	if (a->n_ip4 > 0)
		write_ip4(a);
	else
		jump(a, &a->drop);
	place(a, &ip6);
	if (a->n_ip6 > 0)
		write_ip6(a);
	place(a, &a->drop);
	emit(a, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, a->dropped));
	place(a, &a->pass);
	emit(a, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, (uint32_t)TC_ACT_UNSPEC));
}

/* ---- what the interface has ---- */

static int take_mac(struct assembler *a, const char *text, struct err *err)
{
	unsigned int byte[ETH_ALEN];
	size_t i;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x", &byte[0], &byte[1], &byte[2], &byte[3],
		    &byte[4], &byte[5]) != ETH_ALEN)
		return err_set(err, -EINVAL, "'%s' is not a MAC address", text);
	for (i = 0; i < ETH_ALEN; i++)
		a->mac[i] = (uint8_t)byte[i];
	return 0;
}

static int take_address(struct assembler *a, const char *cidr, struct err *err)
{
	char text[INET6_ADDRSTRLEN];
	size_t len = strcspn(cidr, "/");

	if (len < sizeof(text)) {
		memcpy(text, cidr, len);
		text[len] = '\0';
		if (inet_pton(AF_INET, text, &a->ip4[a->n_ip4]) == 1) {
			a->n_ip4++;
			return 0;
		}
		if (inet_pton(AF_INET6, text, &a->ip6[a->n_ip6]) == 1) {
			a->n_ip6++;
			return 0;
		}
	}
	return err_set(err, -EINVAL, "'%s' is not an address", cidr);
}

/* RFC 4291, appendix A. */
static void take_link_local(struct assembler *a)
{
	struct in6_addr *address = &a->ip6[a->n_ip6++];
	const uint8_t *mac = a->mac;

	*address = (struct in6_addr){.s6_addr = {0xfe, 0x80, [8] = mac[0] ^ 2, mac[1], mac[2], 0xff,
					     0xfe, mac[3], mac[4], mac[5]}};
}

int antispoof_program(const struct net_interface *interface, uint32_t dropped,
	struct sock_filter *ret_program, size_t *ret_n, struct err *err)
{
	struct assembler a = {.program = ret_program, .dropped = dropped};
	size_t i;
	int r;

	r = take_mac(&a, interface->mac, err);
	for (i = 0; r == 0 && i < interface->n_addresses; i++)
		r = take_address(&a, interface->addresses[i], err);
	if (r < 0)
		return r;
	/* The kernel gives itself one on a link that has IPv6 at all. */
	take_link_local(&a);
	write_program(&a);
	if (a.n > ANTISPOOF_INSTRUCTIONS_MAX)
		return err_set(err, -E2BIG, "interface %s has too many addresses for a filter",
			interface->name);
	*ret_n = a.n;
	return 0;
}
