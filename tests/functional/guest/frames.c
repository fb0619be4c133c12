/*
 * Run in privileged containers by tests: frames that a hostile guest might send, and who sees them.
 *
 *	frames send IFACE VICTIM-IP4 VICTIM-IP6 GATEWAY-IP4 GATEWAY-IP6
 *	    one of each kind below, from the interface's own MAC but where that is forged; then the
 *	    mark, which is honest
 *	frames watch IFACE SECONDS
 *	    prints the kinds that arrive, until the mark comes
 *
 * Kinds are told by a text at the end of each frame; those of neighbour discovery, which bridges
 * that filter cut down to what the header says, by a number in a field that is reserved or
 * harmless.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAGIC    "bulkhead-frame:"
#define MARK     "mark"
#define GIANT    4000
#define ND_MAGIC 0xb5
#define ND_FIELD 59 /* where it is in a frame */
/* Of a kind's text, as a payload. */
#define TEXT(kind) (sizeof(MAGIC) - 1 + sizeof(kind))

static const char broadcast[] = "\xff\xff\xff\xff\xff\xff", all_nodes[] = "\x33\x33\0\0\0\1",
		  forged_mac[] = "\x02\xba\xd0\xba\xd0\x01";

struct wire {
	int fd;
	struct sockaddr_ll to;
	unsigned char mac[ETH_ALEN];
	struct in6_addr link_local;
	struct in_addr own4, victim4, gateway4;
	struct in6_addr victim6, gateway6;
};

struct frame {
	struct virtio_net_hdr header; /* what the host is asked to do with it */
	unsigned char bytes[GIANT + 200];
	size_t len;
};

static void put(struct frame *f, const void *bytes, size_t len)
{
	memcpy(f->bytes + f->len, bytes, len);
	f->len += len;
}

static void put_half(struct frame *f, unsigned value)
{
	put(f, (unsigned char[]){(unsigned char)(value >> 8), (unsigned char)value}, 2);
}

static struct frame ethernet(const char *to, const void *from, unsigned protocol)
{
	struct frame f = {.len = 0, .header = {.flags = 0}};
	put(&f, to, ETH_ALEN);
	put(&f, from, ETH_ALEN);
	put_half(&f, protocol);
	return f;
}

static struct frame arp(const struct wire *w, const struct in_addr *claims)
{
	struct frame f = ethernet(broadcast, w->mac, ETHERTYPE_ARP);
	put(&f, "\0\1\x08\0\6\4\0\2", 8);
	put(&f, w->mac, ETH_ALEN);
	put(&f, claims, sizeof(*claims));
	put(&f, broadcast, ETH_ALEN);
	put(&f, &w->victim4, sizeof(w->victim4));
	return f;
}

/* Bridges that filter look at it. */
static void put_checksum(unsigned char *header)
{
	uint32_t sum = 0;
	for (size_t i = 0; i < 20; i += 2)
		sum += (uint32_t)(header[i] << 8 | header[i + 1]);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~((sum & 0xffff) + (sum >> 16));
	header[10] = (unsigned char)(sum >> 8);
	header[11] = (unsigned char)sum;
}

static struct frame udp4(const struct wire *w, const struct in_addr *source, unsigned payload)
{
	struct frame f = ethernet(broadcast, w->mac, ETHERTYPE_IP);
	put(&f, "\x45\0", 2);
	put_half(&f, 28 + payload);
	put(&f, "\0\0\0\0\x40\x11\0\0", 8);
	put(&f, source, sizeof(*source));
	put(&f, &w->victim4, sizeof(w->victim4));
	put_checksum(f.bytes + ETH_HLEN);
	put(&f, "\0\x43\0\x44", 4); /* a DHCP server's ports */
	put_half(&f, 8 + payload);
	put(&f, "\0\0", 2);
	return f;
}

static struct frame ip6(const char *to, const void *from, const struct in6_addr *source,
	unsigned next, unsigned payload)
{
	struct frame f = ethernet(to, from, ETHERTYPE_IPV6);
	put(&f, "\x60\0\0\0", 4);
	put_half(&f, payload);
	put(&f, (unsigned char[]){(unsigned char)next, 255}, 2);
	put(&f, source, sizeof(*source));
	put(&f, "\xff\2\0\0\0\0\0\0\0\0\0\0\0\0\0\1", 16);
	return f;
}

/* ICMPv6 of neighbour discovery, about a target where there is one. */
static struct frame nd(const struct wire *w, unsigned char number, unsigned type,
	const struct in6_addr *target, const void *mac)
{
	struct frame f =
		ip6(all_nodes, w->mac, &w->link_local, IPPROTO_ICMPV6, 8 + (target ? 16 : 0) + 8);
	put(&f, (unsigned char[]){(unsigned char)type, 0, 0, 0, 0x60, ND_MAGIC, 0x07, number}, 8);
	if (target)
		put(&f, target, sizeof(*target));
	put(&f, type == ND_NEIGHBOR_ADVERT ? "\2\1" : "\1\1", 2);
	put(&f, mac, ETH_ALEN);
	return f;
}

static int give(const struct wire *w, struct frame f, const char *kind)
{
	put(&f, MAGIC, strlen(MAGIC));
	put(&f, kind, strlen(kind) + 1);
	struct iovec parts[] = {{&f.header, sizeof(f.header)}, {f.bytes, f.len}};
	struct msghdr message = {.msg_name = (void *)&w->to,
		.msg_namelen = sizeof(w->to),
		.msg_iov = parts,
		.msg_iovlen = 2};
	if (sendmsg(w->fd, &message, 0) < 0) {
		fprintf(stderr, "frames: send %s: %s\n", kind, strerror(errno));
		return -1;
	}
	return 0;
}

static struct frame filled(struct frame f, size_t len)
{
	f.len = len;
	return f;
}

/* A TCP packet that the host is to cut into segments above the MTU. */
static struct frame segments(const struct wire *w)
{
	struct frame f = ethernet(broadcast, w->mac, ETHERTYPE_IP);
	put(&f, "\x45\0", 2);
	put_half(&f, GIANT + TEXT("segments"));
	put(&f, "\0\0\0\0\x40\x06\0\0", 8);
	put(&f, &w->own4, sizeof(w->own4));
	put(&f, &w->victim4, sizeof(w->victim4));
	put_checksum(f.bytes + ETH_HLEN);
	put(&f, "\x04\xd2\x04\xd2\0\0\0\0\0\0\0\0\x50\x10\0\0\0\0\0\0", 20);
	memset(f.bytes + f.len, 0, GIANT - 40);
	f.len += GIANT - 40;
	f.header = (struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
		.hdr_len = ETH_HLEN + 40,
		.gso_size = 3000,
		.csum_start = ETH_HLEN + 20,
		.csum_offset = 16};
	return f;
}

/* Whoever puts its checksum writes it over the end of the source. */
static struct frame summed_over_source(const struct wire *w)
{
	struct frame f = ip6(all_nodes, w->mac, &w->link_local, IPPROTO_UDP, TEXT("checksum"));
	f.header = (struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.csum_start = ETH_HLEN + 8,
		.csum_offset = 14};
	return f;
}

static struct frame tagged(struct frame inner)
{
	struct frame f = {.len = 0, .header = {.flags = 0}};
	put(&f, inner.bytes, 2 * ETH_ALEN);
	put(&f, "\x81\0\0\7", 4);
	put(&f, inner.bytes + 2 * ETH_ALEN, inner.len - 2 * ETH_ALEN);
	return f;
}

static int send_all(const struct wire *w)
{
	const struct {
		const char *kind;
		struct frame frame;
	} kinds[] = {
		{"arp-claim", arp(w, &w->gateway4)},
		{"forged-ip4", udp4(w, &w->gateway4, TEXT("forged-ip4"))},
		{"forged-ip6",
			ip6(all_nodes, w->mac, &w->victim6, IPPROTO_UDP, TEXT("forged-ip6"))},
		{"forged-mac", ip6(all_nodes, forged_mac, &w->link_local, IPPROTO_UDP,
				       TEXT("forged-mac"))},
		{"nd-claim", nd(w, 1, ND_NEIGHBOR_ADVERT, &w->gateway6, w->mac)},
		{"nd-other-mac", nd(w, 2, ND_NEIGHBOR_ADVERT, &w->link_local, forged_mac)},
		{"nd-solicit-other-mac", nd(w, 3, ND_NEIGHBOR_SOLICIT, &w->victim6, forged_mac)},
		{"router-advertisement", nd(w, 4, ND_ROUTER_ADVERT, NULL, w->mac)},
		{"redirect", nd(w, 5, ND_REDIRECT, &w->gateway6, w->mac)},
		{"routing-header", ip6(all_nodes, w->mac, &w->link_local, IPPROTO_ROUTING, 24)},
		{"long-ip6", ip6(all_nodes, w->mac, &w->link_local, IPPROTO_UDP, 900)},
		{"cut-ip6", filled(ip6(all_nodes, w->mac, &w->link_local, IPPROTO_UDP, 8), 20)},
		{"long-ip4", udp4(w, &w->own4, 900)},
		{"vlan", tagged(udp4(w, &w->own4, TEXT("vlan")))},
		{"unknown-protocol", ethernet(broadcast, w->mac, 0x88b5)},
		{"segments", segments(w)},
		{"checksum", summed_over_source(w)},
		{"giant", filled(udp4(w, &w->own4, GIANT - 42 + TEXT("giant")), GIANT)},
		{MARK, udp4(w, &w->own4, TEXT(MARK))},
	};
	int r = 0;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (give(w, kinds[i].frame, kinds[i].kind) < 0)
			r = 1;
	return r;
}

static int watch(const struct wire *w, int seconds)
{
	unsigned char bytes[65536];
	time_t end = time(NULL) + seconds;
	while (time(NULL) < end) {
		struct pollfd pollfd = {.fd = w->fd, .events = POLLIN};
		if (poll(&pollfd, 1, 1000) <= 0)
			continue;
		ssize_t n = recv(w->fd, bytes, sizeof(bytes) - 1, 0);
		if (n <= 0)
			continue;
		bytes[n] = '\0';
		if (n > ND_FIELD + 2 && bytes[20] == IPPROTO_ICMPV6 &&
			bytes[ND_FIELD] == ND_MAGIC) {
			printf("nd %u\n", bytes[ND_FIELD + 2]);
			fflush(stdout);
			continue;
		}
		const char *kind = memmem(bytes, (size_t)n, MAGIC, strlen(MAGIC));
		if (!kind)
			continue;
		puts(kind + strlen(MAGIC));
		fflush(stdout);
		if (strcmp(kind + strlen(MAGIC), MARK) == 0)
			return 0;
	}
	return 1;
}

static int open_wire(struct wire *w, const char *name)
{
	struct ifreq request = {.ifr_flags = 0};
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	w->fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
	w->to = (struct sockaddr_ll){.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = (int)if_nametoindex(name),
		.sll_halen = ETH_ALEN};
	if (w->fd < 0 || bind(w->fd, (struct sockaddr *)&w->to, sizeof(w->to)) < 0 ||
		ioctl(w->fd, SIOCGIFHWADDR, &request) < 0)
		return -1;
	memcpy(w->mac, request.ifr_hwaddr.sa_data, ETH_ALEN);
	/* Of a packet socket the address cannot be asked: its family is of IP. */
	int ip = socket(AF_INET, SOCK_DGRAM, 0);
	if (ip < 0 || ioctl(ip, SIOCGIFADDR, &request) < 0)
		return -1;
	close(ip);
	w->own4 = ((struct sockaddr_in *)&request.ifr_addr)->sin_addr;
	const unsigned char *m = w->mac;
	w->link_local = (struct in6_addr){
		.s6_addr = {0xfe, 0x80, [8] = m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]}};
	return 0;
}

int main(int argc, char **argv)
{
	struct wire w = {.fd = -1};
	if (argc < 4 || open_wire(&w, argv[2]) < 0) {
		fprintf(stderr, "frames: %s\n", argc < 4 ? "arguments" : strerror(errno));
		return 2;
	}
	if (argc == 4 && strcmp(argv[1], "watch") == 0)
		return watch(&w, atoi(argv[3]));
	if (argc != 7 || inet_pton(AF_INET, argv[3], &w.victim4) != 1 ||
		inet_pton(AF_INET6, argv[4], &w.victim6) != 1 ||
		inet_pton(AF_INET, argv[5], &w.gateway4) != 1 ||
		inet_pton(AF_INET6, argv[6], &w.gateway6) != 1)
		return 2;
	if (setsockopt(w.fd, SOL_PACKET, PACKET_VNET_HDR, &(int){1}, sizeof(int)) < 0) {
		fprintf(stderr, "frames: virtio-net headers: %s\n", strerror(errno));
		return 2;
	}
	return send_all(&w);
}
