#include "tests/bench/frame.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/fd.h"
#include "network/pod_network.h"
#include "tests/bench/clock.h"

#define PODS         2
#define FRAMES       2000 /* of a turn */
#define QUARTETS     4
#define SEGMENT_SIZE 1448
#define DATA_SIZE    40960 /* what guests send on average between pods of a node */
#define PLUGIN_MS    60000

struct packet {
	struct virtio_net_hdr_mrg_rxbuf header;
	struct ether_header ethernet;
	struct iphdr ip;
	struct tcphdr tcp;
	unsigned char data[DATA_SIZE];
} __attribute__((packed));

struct pod {
	const char *id;
	struct net_pod_info *info;
	int tap;
};

/* The first pod sends to the second. */
struct wire {
	const struct frame_bench *bench;
	char *cache_dir, *netns_dir;
	struct net *net;
	struct pod pods[PODS];
};

/* As QEMU opens one. */
static int open_tap(const char *name, int *ret, struct err *err)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	const int header = sizeof(struct virtio_net_hdr_mrg_rxbuf);
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	*ret = fd;
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0 ||
		ioctl(fd, TUNSETVNETHDRSZ, &header) < 0 ||
		ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) < 0)
		return err_errno(err, "open the tap %s", name);
	return 0;
}

static int make_pod(struct wire *wire, struct pod *pod, struct err *err)
{
	const struct net_pod_spec spec = {
		.id = pod->id, .name = pod->id, .namespace = "bench", .uid = pod->id};
	char name[NET_TAP_NAME_SIZE];
	int r = net_pod_setup(wire->net, &spec, &pod->info, err);
	if (r < 0)
		return r;
	if (pod->info->n_interfaces == 0 || !pod->info->ips[0])
		return err_set(err, -EBADMSG, "the plugins gave %s no address", pod->id);
	net_tap_name(pod->id, 0, name);
	r = open_tap(name, &pod->tap, err);
	return r < 0 ? r : net_pod_attach_tap(wire->net, pod->id, pod->info, 0, err);
}

static int make_wire(struct wire *wire, struct err *err)
{
	const char *dir = wire->bench->wiring.dir;
	wire->cache_dir = str_printf("%s/frame-cache", dir);
	wire->netns_dir = str_printf("%s/frame-netns", dir);
	if (!wire->cache_dir || !wire->netns_dir)
		return err_nomem(err);
	const struct net_config config = {.conf_dir = wire->bench->conf_dir,
		.bin_dirs = "/opt/cni/bin:/usr/lib/cni",
		.cache_dir = wire->cache_dir,
		.netns_dir = wire->netns_dir,
		.plugin_timeout_ms = PLUGIN_MS,
		.redirect = NET_REDIRECT_TCFILTER,
		.antispoof = true};
	int r = net_open(&config, &wire->net, err);
	for (size_t i = 0; r == 0 && i < PODS; i++)
		r = make_pod(wire, &wire->pods[i], err);
	return r;
}

static int end_wire(struct wire *wire, struct err *err)
{
	int first = 0;
	for (size_t i = 0; i < PODS; i++) {
		struct pod *pod = &wire->pods[i];
		(void)fd_close(pod->tap); /* and the tap is gone */
		int r = pod->info ? net_pod_teardown(wire->net, pod->id, err) : 0;
		first = first < 0 ? first : r;
		net_pod_info_free(pod->info);
	}
	net_close(wire->net);
	free(wire->cache_dir);
	free(wire->netns_dir);
	return first;
}

static void read_mac(const struct pod *pod, uint8_t mac[ETH_ALEN])
{
	unsigned byte[ETH_ALEN] = {0};
	(void)sscanf(pod->info->interfaces[0].mac, "%2x:%2x:%2x:%2x:%2x:%2x", &byte[0], &byte[1],
		&byte[2], &byte[3], &byte[4], &byte[5]);
	for (size_t i = 0; i < ETH_ALEN; i++)
		mac[i] = (uint8_t)byte[i];
}

/* Its checksum is left to the receiver, as between machines of a node. */
static void fill_packet(struct packet *packet, const struct pod *from, const struct pod *to)
{
	const size_t headers = offsetof(struct packet, data) - offsetof(struct packet, ethernet);
	*packet = (struct packet){
		.header.hdr = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
			.gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
			.hdr_len = (uint16_t)headers,
			.gso_size = SEGMENT_SIZE,
			.csum_start = ETH_HLEN + sizeof(struct iphdr),
			.csum_offset = offsetof(struct tcphdr, th_sum)},
		.ethernet = {.ether_type = htons(ETHERTYPE_IP)},
		.ip = {.version = IPVERSION,
			.ihl = sizeof(struct iphdr) / 4,
			.tot_len = htons(sizeof(*packet) - offsetof(struct packet, ip)),
			.ttl = IPDEFTTL,
			.protocol = IPPROTO_TCP},
		.tcp = {.th_sport = htons(1024),
			.th_dport = htons(1024),
			.th_off = sizeof(struct tcphdr) / 4,
			.th_flags = TH_ACK},
	};
	read_mac(from, packet->ethernet.ether_shost);
	read_mac(to, packet->ethernet.ether_dhost);
	(void)inet_pton(AF_INET, from->info->ips[0], &packet->ip.saddr);
	(void)inet_pton(AF_INET, to->info->ips[0], &packet->ip.daddr);

	uint32_t sum = 0;
	uint16_t word;
	for (size_t i = 0; i < sizeof(packet->ip); i += sizeof(word)) {
		memcpy(&word, (const char *)&packet->ip + i, sizeof(word));
		sum += word;
	}
	sum = (sum & 0xffff) + (sum >> 16);
	packet->ip.check = (uint16_t) ~(sum + (sum >> 16));
}

/* Everything that waits there; whether one was so long. */
static bool drain(int tap, size_t len)
{
	static unsigned char frame[sizeof(struct packet) + 1];
	bool seen = false;
	ssize_t n;
	while ((n = read(tap, frame, sizeof(frame))) > 0)
		seen |= (size_t)n == len;
	return seen;
}

static int send_packet(int tap, const struct packet *packet, size_t len, struct err *err)
{
	ssize_t n = write(tap, packet, len);
	return n == (ssize_t)len ? 0 : err_errno(err, "write a frame to a tap");
}

/* A frame the other way first, from which the bridge learns where the receiver is. */
static int introduce(struct wire *wire, struct err *err)
{
	static struct packet packet;
	fill_packet(&packet, &wire->pods[1], &wire->pods[0]);
	int r = send_packet(wire->pods[1].tap, &packet, sizeof(packet), err);
	drain(wire->pods[0].tap, 0);
	return r;
}

static int measure_turn(struct wire *wire, double *sum_us, struct err *err)
{
	static struct packet packet;
	uint64_t ns = 0;
	int r = introduce(wire, err);
	fill_packet(&packet, &wire->pods[0], &wire->pods[1]);
	for (unsigned i = 0; r == 0 && i < FRAMES; i++) {
		uint64_t begin = clock_ns();
		r = send_packet(wire->pods[0].tap, &packet, sizeof(packet), err);
		ns += clock_ns() - begin;
		if (r == 0 && !drain(wire->pods[1].tap, sizeof(packet)))
			r = err_set(err, -EIO, "a frame between two pods did not arrive");
	}
	*sum_us += (double)ns / 1e3 / FRAMES;
	return r;
}

static int set_wiring(struct wire *wire, bool wired, struct err *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < PODS; i++) {
		const struct pod *pod = &wire->pods[i];
		r = (wired ? wiring_restore : wiring_remove)(
			&wire->bench->wiring, pod->id, pod->info->netns, err);
	}
	return r;
}

/* Wired, bare, bare, wired. */
static int measure_quartet(struct wire *wire, struct results *results, struct err *err)
{
	double wired = 0, bare = 0;
	int r = measure_turn(wire, &wired, err);
	if (r == 0)
		r = set_wiring(wire, false, err);
	for (unsigned i = 0; r == 0 && i < 2; i++)
		r = measure_turn(wire, &bare, err);
	if (r == 0)
		r = set_wiring(wire, true, err);
	if (r == 0)
		r = measure_turn(wire, &wired, err);
	if (r == 0)
		r = results_add(results, "net.frame", wired / 2, err);
	return r < 0 ? r : results_add(results, "bare.frame", bare / 2, err);
}

int frame_measure(const struct frame_bench *bench, struct results *results, struct err *err)
{
	struct wire wire = {.bench = bench,
		.pods = {{.id = "framesender", .tap = -EBADF},
			{.id = "framereceiver", .tap = -EBADF}}};
	struct err ignored = ERR_INIT;
	int r = make_wire(&wire, err);
	for (unsigned i = 0; r == 0 && i < QUARTETS; i++)
		r = measure_quartet(&wire, results, err);
	int gone = end_wire(&wire, r < 0 ? &ignored : err);
	return r < 0 ? r : gone;
}
