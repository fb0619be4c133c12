/*
 * PID 1 of a guest that tests the vsock device: one process per connection, one service per port.
 *
 *	1000 echo     sends back what comes, ends its direction when the other one ended
 *	1001 sink     reads to the end and answers "<bytes> <sum>\n"
 *	1002 source   reads a decimal count and a newline, sends as many bytes of the pattern
 *	1003 stall    accepts and reads nothing
 *	1004 watch    reads to the end and prints "closed" on the console
 *	1005 linger   ends its sending at once, then reads to the end and prints the count
 *	1006 dial     reads a line with a port of the host, connects there and sends "hello\n"
 *
 * The pattern's byte at offset i is i * 7 + (i >> 8), and the sum is FNV-1a over 64 bits. Prints
 * "listening" when all ports are open.
 */
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK (64u << 10)

static void write_all(int fd, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);
		if (n <= 0)
			_exit(1);
		data += n;
		len -= (size_t)n;
	}
}

static uint64_t read_line(int fd)
{
	char line[24] = "";
	for (size_t n = 0; n < sizeof(line) - 1 && read(fd, line + n, 1) == 1 && line[n] != '\n';
		n++)
		;
	return strtoull(line, NULL, 10);
}

static void echo(int fd)
{
	static uint8_t data[CHUNK];
	ssize_t n;
	while ((n = read(fd, data, sizeof(data))) > 0)
		write_all(fd, data, (size_t)n);
	shutdown(fd, SHUT_WR);
}

static void sink(int fd)
{
	static uint8_t data[CHUNK];
	uint64_t total = 0;
	uint64_t sum = 0xcbf29ce484222325;
	ssize_t n;
	while ((n = read(fd, data, sizeof(data))) > 0) {
		total += (uint64_t)n;
		for (ssize_t i = 0; i < n; i++)
			sum = (sum ^ data[i]) * 0x100000001b3;
	}
	dprintf(fd, "%llu %016llx\n", (unsigned long long)total, (unsigned long long)sum);
}

static void source(int fd)
{
	static uint8_t data[CHUNK];
	uint64_t left = read_line(fd);
	for (uint64_t at = 0; left;) {
		size_t n = left < CHUNK ? (size_t)left : CHUNK;
		for (size_t i = 0; i < n; i++, at++)
			data[i] = (uint8_t)(at * 7 + (at >> 8));
		write_all(fd, data, n);
		left -= n;
	}
}

static void stall(int fd)
{
	(void)fd;
	for (;;)
		pause();
}

static uint64_t drain(int fd)
{
	static uint8_t data[CHUNK];
	uint64_t total = 0;
	ssize_t n;
	while ((n = read(fd, data, sizeof(data))) > 0)
		total += (uint64_t)n;
	return total;
}

static void watch(int fd)
{
	drain(fd);
	printf("closed\n");
}

static void linger(int fd)
{
	shutdown(fd, SHUT_WR);
	printf("lingered %llu\n", (unsigned long long)drain(fd));
}

static void dial(int fd)
{
	struct sockaddr_vm addr = {
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_HOST,
		.svm_port = (unsigned)read_line(fd),
	};
	int out = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (connect(out, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		dprintf(fd, "refused\n");
		return;
	}
	dprintf(out, "hello\n");
	dprintf(fd, "connected\n");
}

static void (*const services[])(int fd) = {echo, sink, source, stall, watch, linger, dial};
#define N_SERVICES (sizeof(services) / sizeof(services[0]))

static void serve(unsigned i, int listener)
{
	int fd = accept(listener, NULL, NULL);
	if (fd < 0)
		return;
	if (fork() == 0) {
		close(listener);
		services[i](fd);
		_exit(0);
	}
	close(fd);
}

int main(void)
{
	struct pollfd polls[N_SERVICES];
	setvbuf(stdout, NULL, _IONBF, 0);
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	for (unsigned i = 0; i < N_SERVICES; i++) {
		struct sockaddr_vm addr = {
			.svm_family = AF_VSOCK,
			.svm_cid = VMADDR_CID_ANY,
			.svm_port = 1000 + i,
		};
		int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
		if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 512) < 0)
			perror("listen");
		polls[i] = (struct pollfd){.fd = fd, .events = POLLIN};
	}
	printf("listening\n");
	for (;;) {
		poll(polls, N_SERVICES, -1);
		for (unsigned i = 0; i < N_SERVICES; i++) {
			if (polls[i].revents)
				serve(i, polls[i].fd);
		}
	}
}
