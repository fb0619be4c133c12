/*
 * Run in containers by tests and `make bench`: what a TCP connection carries.
 *
 *	net_load serve PORT            serves the two below, one connection after the other
 *	net_load tcp ADDRESS PORT MS   sends for so long; prints MiB per second as they arrived
 *	net_load rtt ADDRESS PORT N    N questions of a byte, each answered; prints the median in µs
 *	net_load ping ADDRESS          an echo request, by the socket that takes no rights
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BLOCK     65536
#define ROUND_MAX 100000
#define CONNECT_S 20

/* The first byte of a connection says what it is for. */
enum purpose {
	PURPOSE_SINK = 'S',
	PURPOSE_ECHO = 'E',
};

static char block[BLOCK];

static double now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int fail(const char *what)
{
	fprintf(stderr, "net_load: %s: %s\n", what, strerror(errno));
	return EXIT_FAILURE;
}

/* Reads until the end, then tells how much it was. */
static void sink(int fd)
{
	uint64_t total = 0;
	ssize_t n;
	while ((n = read(fd, block, sizeof(block))) > 0)
		total += (uint64_t)n;
	if (write(fd, &total, sizeof(total)) < 0)
		fail("answer");
}

static void echo(int fd)
{
	ssize_t n;
	while ((n = read(fd, block, sizeof(block))) > 0)
		if (write(fd, block, (size_t)n) < 0)
			break;
}

static void set_nodelay(int fd)
{
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

static int serve(const char *port)
{
	struct sockaddr_in6 address = {
		.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
	int listener = socket(AF_INET6, SOCK_STREAM, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
		listen(listener, 8) < 0)
		return fail("listen");
	for (;;) {
		char purpose = 0;
		int fd = accept(listener, NULL, NULL);
		if (fd < 0)
			return fail("accept");
		set_nodelay(fd);
		if (read(fd, &purpose, 1) == 1 && purpose == PURPOSE_SINK)
			sink(fd);
		else if (purpose == PURPOSE_ECHO)
			echo(fd);
		close(fd);
	}
}

/* The server may not be up yet. */
static int dial(const char *address, const char *port, char purpose)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	double deadline = now_us() + CONNECT_S * 1e6;
	inet_pton(AF_INET, address, &to.sin_addr);
	for (;;) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0) {
			set_nodelay(fd);
			if (write(fd, &purpose, 1) == 1)
				return fd;
		}
		if (fd >= 0)
			close(fd);
		if (now_us() > deadline)
			return -1;
		nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	}
}

static int send_for(const char *address, const char *port, double us)
{
	uint64_t total = 0;
	int fd = dial(address, port, PURPOSE_SINK);
	if (fd < 0)
		return fail("connect");
	double begin = now_us();
	while (now_us() - begin < us)
		if (write(fd, block, sizeof(block)) < 0)
			return fail("send");
	shutdown(fd, SHUT_WR);
	if (read(fd, &total, sizeof(total)) != sizeof(total))
		return fail("read the answer");
	printf("%.3f\n", (double)total / 1048576 / ((now_us() - begin) / 1e6));
	return EXIT_SUCCESS;
}

/* The kernel fills in identifier and checksum. */
static int ping(const char *address)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	unsigned char request[16] = {8}, answer[64] = {0xff};
	struct timeval patience = {.tv_sec = CONNECT_S};
	int fd = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
	inet_pton(AF_INET, address, &to.sin_addr);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
		return fail("socket");
	if (sendto(fd, request, sizeof(request), 0, (void *)&to, sizeof(to)) < 0)
		return fail("send");
	if (recv(fd, answer, sizeof(answer), 0) < 0)
		return fail("receive");
	return answer[0] == 0 ? EXIT_SUCCESS : EXIT_FAILURE; /* ICMP_ECHOREPLY */
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static int ask_times(const char *address, const char *port, int rounds)
{
	static double took[ROUND_MAX];
	int fd = dial(address, port, PURPOSE_ECHO);
	if (fd < 0)
		return fail("connect");
	if (rounds < 1 || rounds > ROUND_MAX)
		return EXIT_FAILURE;
	for (int i = 0; i < rounds; i++) {
		char byte = (char)i;
		double begin = now_us();
		if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1)
			return fail("ask");
		took[i] = now_us() - begin;
	}
	qsort(took, (size_t)rounds, sizeof(took[0]), compare);
	printf("%.1f\n", took[rounds / 2]);
	return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "serve") == 0)
		return serve(argv[2]);
	if (argc == 3 && strcmp(argv[1], "ping") == 0)
		return ping(argv[2]);
	if (argc == 5 && strcmp(argv[1], "tcp") == 0)
		return send_for(argv[2], argv[3], atof(argv[4]) * 1e3);
	if (argc == 5 && strcmp(argv[1], "rtt") == 0)
		return ask_times(argv[2], argv[3], atoi(argv[4]));
	fprintf(stderr, "usage: net_load serve PORT | tcp ADDRESS PORT MS | rtt ADDRESS PORT N | "
			"ping ADDRESS\n");
	return 2;
}
