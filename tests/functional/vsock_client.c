/*
 * A client on the host for tests of the vsock device: one check each run, against the services of
 * guest/vsock_echo.c; "stranger" against an agent.
 *
 *	vsock_client SOCKET CHECK [ARGUMENT]
 *
 * Prints what it saw. Exit code 0: as it should be; 1: not; nothing is waited for beyond 30 s.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/fd.h"

#define CHUNK     (64u << 10)
#define MIB       (1u << 20)
#define MANY      200
#define LIMIT_S   30
#define HOST_PORT 52

enum port {
	PORT_ECHO = 1000,
	PORT_SINK,
	PORT_SOURCE,
	PORT_STALL,
	PORT_WATCH,
	PORT_LINGER,
	PORT_DIAL,
	PORT_STREAMS = 1025, /* of the agent */
	PORT_CLOSED = 7777,
};

static void set_limit(int fd)
{
	struct timeval limit = {.tv_sec = LIMIT_S};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

static struct sockaddr_un address(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	return addr;
}

static int connect_to(const char *path)
{
	struct sockaddr_un addr = address(path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		perror(path);
		exit(EXIT_FAILURE);
	}
	set_limit(fd);
	return fd;
}

/* Reads up to and with a newline; false at an end before it. */
static bool read_line(int fd, char line[64])
{
	size_t n = 0;
	while (n < 63 && read(fd, line + n, 1) == 1 && line[n] != '\n')
		n++;
	bool whole = line[n] == '\n';
	line[n] = '\0';
	return whole;
}

/* The stream to a port of the guest; negative: refused. */
static int open_port(const char *path, unsigned port)
{
	char line[64] = "";
	int fd = connect_to(path);
	dprintf(fd, "CONNECT %u\n", port);
	if (read_line(fd, line) && strncmp(line, "OK ", 3) == 0)
		return fd;
	return fd_close(fd);
}

static uint8_t source_byte(uint64_t at)
{
	return (uint8_t)(at * 7 + (at >> 8));
}

static bool send_all(int fd, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
		data += n;
		len -= (size_t)n;
	}
	return true;
}

static bool upload(const char *path, uint64_t total)
{
	static uint8_t data[CHUNK];
	char line[64] = "";
	char expected[64];
	uint64_t sum = 0xcbf29ce484222325;
	_cleanup_close_ int fd = open_port(path, PORT_SINK);
	for (uint64_t at = 0; at < total;) {
		for (size_t i = 0; i < sizeof(data); i++, at++) {
			data[i] = (uint8_t)(at * 13 + (at >> 9));
			sum = (sum ^ data[i]) * 0x100000001b3;
		}
		if (!send_all(fd, data, sizeof(data)))
			return false;
	}
	shutdown(fd, SHUT_WR);
	snprintf(expected, sizeof(expected), "%llu %016llx", (unsigned long long)total,
		(unsigned long long)sum);
	bool whole = read_line(fd, line);
	printf("sent %s, the guest has %s\n", expected, line);
	return whole && strcmp(line, expected) == 0;
}

static bool read_source(int fd, uint64_t total)
{
	static uint8_t data[CHUNK];
	uint64_t got = 0;
	uint64_t bad = 0;
	for (ssize_t n; (n = read(fd, data, sizeof(data))) > 0;) {
		for (ssize_t i = 0; i < n; i++, got++)
			bad += data[i] != source_byte(got);
	}
	printf("%llu bytes of %llu, %llu wrong\n", (unsigned long long)got,
		(unsigned long long)total, (unsigned long long)bad);
	return got == total && !bad;
}

static bool check_upload(const char *path, const char *mib)
{
	return upload(path, strtoull(mib, NULL, 10) * MIB);
}

static bool check_download(const char *path, const char *mib)
{
	uint64_t total = strtoull(mib, NULL, 10) * MIB;
	_cleanup_close_ int fd = open_port(path, PORT_SOURCE);
	dprintf(fd, "%llu\n", (unsigned long long)total);
	return read_source(fd, total);
}

/* A guest's program and a client that do not read stop their own streams and no other. */
static bool check_stalled(const char *path, const char *mib)
{
	static const uint8_t data[CHUNK];
	uint64_t total = strtoull(mib, NULL, 10) * MIB;
	_cleanup_close_ int into = open_port(path, PORT_STALL);
	_cleanup_close_ int from = open_port(path, PORT_SOURCE);
	dprintf(from, "%llu\n", (unsigned long long)total);
	uint64_t taken = 0;
	for (unsigned quiet = 0; quiet < 3;) {
		ssize_t n = send(into, data, sizeof(data), MSG_DONTWAIT | MSG_NOSIGNAL);
		taken += n > 0 ? (uint64_t)n : 0;
		quiet = n > 0 ? 0 : quiet + 1;
		if (n <= 0)
			usleep(100 * 1000);
	}
	printf("the guest that does not read took %llu bytes\n", (unsigned long long)taken);
	return taken < 4 * MIB && upload(path, MIB) && read_source(from, total);
}

static bool check_refused(const char *path, const char *unused)
{
	(void)unused;
	return open_port(path, PORT_CLOSED) < 0;
}

static bool check_many(const char *path, const char *unused)
{
	(void)unused;
	int fds[MANY];
	unsigned echoed = 0;
	unsigned ended = 0;
	for (unsigned i = 0; i < MANY; i++)
		fds[i] = open_port(path, PORT_ECHO);
	for (unsigned i = 0; i < MANY; i++)
		dprintf(fds[i], "%u\n", i);
	for (unsigned i = 0; i < MANY; i++) {
		char line[64] = "";
		echoed += read_line(fds[i], line) && strtoul(line, NULL, 10) == i;
	}
	/* Half close: the other direction stays open until the guest ends it too. */
	for (unsigned i = 0; i < MANY; i++)
		shutdown(fds[i], SHUT_WR);
	for (unsigned i = 0; i < MANY; i++) {
		char c;
		ended += read(fds[i], &c, 1) == 0;
		fd_close(fds[i]);
	}
	printf("%u echoes, %u ends\n", echoed, ended);
	return echoed == MANY && ended == MANY;
}

/* The guest ends its direction first; ours goes on. The console says what came. */
static bool check_linger(const char *path, const char *unused)
{
	static const uint8_t data[CHUNK];
	char c;
	(void)unused;
	_cleanup_close_ int fd = open_port(path, PORT_LINGER);
	return read(fd, &c, 1) == 0 && send_all(fd, data, sizeof(data));
}

static bool check_watch(const char *path, const char *unused)
{
	(void)unused;
	_cleanup_close_ int fd = open_port(path, PORT_WATCH);
	return fd >= 0;
}

static bool dial(const char *path, const char *expected)
{
	char line[64] = "";
	_cleanup_close_ int fd = open_port(path, PORT_DIAL);
	dprintf(fd, "%d\n", HOST_PORT);
	bool whole = read_line(fd, line);
	printf("the guest was %s\n", line);
	return whole && strcmp(line, expected) == 0;
}

static bool check_dial(const char *path, const char *unused)
{
	(void)unused;
	_cleanup_free_ char *served = str_printf("%s_%d", path, HOST_PORT);
	if (!served || !dial(path, "refused"))
		return false;
	struct sockaddr_un addr = address(served);
	_cleanup_close_ int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* The device runs as a user of its own. */
	if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 || chmod(served, 0666) < 0 ||
		listen(listener, 1) < 0) {
		perror(served);
		return false;
	}
	set_limit(listener);
	bool dialled = dial(path, "connected");
	char line[64] = "";
	_cleanup_close_ int fd = dialled ? accept(listener, NULL, NULL) : -EBADF;
	unlink(served);
	return fd >= 0 && read_line(fd, line) && strcmp(line, "hello") == 0;
}

/* Stays connected and idle, says so, and waits for the end. */
static bool check_hold(const char *path, const char *unused)
{
	char c;
	(void)unused;
	_cleanup_close_ int fd = open_port(path, PORT_STALL);
	printf("connected\n");
	fflush(stdout);
	return fd >= 0 && read(fd, &c, 1) == 0;
}

/* In QEMU's place: connects and goes away, or sends what is no message. */
static bool check_vhost(const char *path, const char *text)
{
	char c;
	_cleanup_close_ int fd = connect_to(path);
	if (!*text)
		return true;
	return send_all(fd, (const uint8_t *)text, strlen(text)) && read(fd, &c, 1) <= 0;
}

/*
 * Asks a pod's agent for a port of the pod without its machine's key: a StreamOpen of agent.proto
 * and the beginning of a StreamOpened.
 */
static bool check_stranger(const char *path, const char *unused)
{
	static const uint8_t open[] = {0, 0, 0, 38, 0x18, 3 /* FORWARD */, 0x28, 80 /* port */,
		0x32, 32 /* key: zeros */, [41] = 0};
	static const uint8_t refused[] = {0x08, EACCES};
	uint8_t answer[4 + sizeof(refused)] = {0};
	(void)unused;
	_cleanup_close_ int fd = open_port(path, PORT_STREAMS);
	return fd >= 0 && send_all(fd, open, sizeof(open)) &&
	       fd_read_exact(fd, answer, sizeof(answer), NULL) == 0 &&
	       memcmp(answer + 4, refused, sizeof(refused)) == 0;
}

static const struct {
	const char *name;
	bool (*check)(const char *path, const char *argument);
} checks[] = {
	{"upload", check_upload},
	{"download", check_download},
	{"stalled", check_stalled},
	{"refused", check_refused},
	{"many", check_many},
	{"linger", check_linger},
	{"watch", check_watch},
	{"dial", check_dial},
	{"hold", check_hold},
	{"vhost", check_vhost},
	{"stranger", check_stranger},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc >= 3 && i < ARRAY_SIZE(checks); i++) {
		if (strcmp(argv[2], checks[i].name) == 0)
			return checks[i].check(argv[1], argc > 3 ? argv[3] : "") ? EXIT_SUCCESS
										 : EXIT_FAILURE;
	}
	fprintf(stderr, "usage: vsock_client SOCKET CHECK [ARGUMENT]\n");
	return EXIT_FAILURE;
}
