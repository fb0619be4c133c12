/*
 * A port of SCTP, by tests: in a guest one that is open, from outside whether it is.
 *
 *	sctp serve PORT          listens until it is killed
 *	sctp ask ADDRESS PORT    prints what an INIT is answered: "open", "closed" or "silent"
 *
 * `ask` makes the packet itself: the host's kernel may have no SCTP. Source: RFC 9260.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_MS 3000
#define PACKETS   100 /* of others, before the answer */

#define CHUNK_INIT     1
#define CHUNK_INIT_ACK 2
#define CHUNK_ABORT    6

struct packet {
	uint16_t source, destination;
	uint32_t tag, checksum;
	uint8_t chunk, flags;
	uint16_t length;
	uint32_t init_tag, window;
	uint16_t streams_out, streams_in;
	uint32_t first;
};

static int serve(unsigned short port)
{
	const struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP);
	if (fd < 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
		listen(fd, 8) < 0) {
		perror("sctp serve");
		return 1;
	}
	for (;;)
		pause();
}

/* CRC32c. */
static uint32_t checksum(const void *data, size_t len)
{
	const uint8_t *bytes = data;
	uint32_t crc = ~0u;
	for (size_t i = 0; i < len; i++) {
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return ~crc;
}

/* The type of the chunk that answers; 0: none came. */
static int read_answer(int fd, uint16_t port)
{
	uint8_t got[2048];
	struct pollfd poller = {.fd = fd, .events = POLLIN};
	for (int i = 0; i < PACKETS && poll(&poller, 1, ANSWER_MS) > 0; i++) {
		ssize_t n = recv(fd, got, sizeof(got), 0);
		size_t header = n > 0 ? (size_t)(got[0] & 0xf) * 4 : 0;
		uint16_t to;
		if (n < 0 || (size_t)n < header + 13)
			continue;
		memcpy(&to, got + header + 2, sizeof(to));
		if (to == port)
			return got[header + 12];
	}
	return 0;
}

static int ask(const char *address, unsigned short port)
{
	struct packet packet = {.source = htons((uint16_t)(20000 + getpid() % 20000)),
		.destination = htons(port),
		.chunk = CHUNK_INIT,
		.length = htons(20),
		.init_tag = htonl(0x1234567),
		.window = htonl(65536),
		.streams_out = htons(1),
		.streams_in = htons(1),
		.first = htonl(1)};
	struct sockaddr_in to = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_SCTP);
	packet.checksum = htole32(checksum(&packet, sizeof(packet)));
	if (inet_pton(AF_INET, address, &to.sin_addr) != 1 || fd < 0 ||
		sendto(fd, &packet, sizeof(packet), 0, (struct sockaddr *)&to, sizeof(to)) < 0) {
		perror("sctp ask");
		return 1;
	}
	int answer = read_answer(fd, packet.source);
	close(fd);
	puts(answer == CHUNK_INIT_ACK ? "open" : answer == CHUNK_ABORT ? "closed" : "silent");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "serve") == 0)
		return serve((unsigned short)atoi(argv[2]));
	if (argc == 4 && strcmp(argv[1], "ask") == 0)
		return ask(argv[2], (unsigned short)atoi(argv[3]));
	fputs("usage: sctp serve PORT | ask ADDRESS PORT\n", stderr);
	return 2;
}
