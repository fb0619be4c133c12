/*
 * Run in a container by tests: what it can reach.
 *
 *	reach vsock FIRST LAST   connects to these ports of the host; prints those that answer
 *	reach call NR [ARG…]     makes a system call; prints "ok" or the errno
 *	reach call32 NR          the same by the 32-bit entry, without arguments
 *	reach swap A B COUNT     puts each in the place of the other so many times; prints how many
 *	                         of them were done
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECT_MS 500

static int try_port(unsigned port)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	int r = 0;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		r = -errno;
	struct pollfd poller = {.fd = fd, .events = POLLOUT};
	if (r == -EINPROGRESS) {
		int error = ETIMEDOUT;
		socklen_t len = sizeof(error);
		if (poll(&poller, 1, CONNECT_MS) > 0)
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
		r = -error;
	}
	close(fd);
	return r;
}

static int reach_vsock(unsigned first, unsigned last)
{
	for (unsigned port = first; port <= last; port++) {
		int r = try_port(port);
		if (r == 0)
			printf("port %u answers\n", port);
		else if (port == first)
			printf("port %u: %s\n", port, strerror(-r));
	}
	return 0;
}

static int print_result(long r)
{
	if (r < 0)
		printf("%d\n", errno);
	else
		puts("ok");
	return 0;
}

static int call32(int number)
{
	long r = number;
	__asm__ volatile("int $0x80"
			 : "+a"(r)
			 : "b"(0), "c"(0), "d"(0), "S"(0), "D"(0)
			 : "memory", "r8", "r9", "r10", "r11");
	int result = (int)r;
	if (result < 0 && result > -4096) {
		errno = -result;
		return print_result(-1);
	}
	return print_result(0);
}

static int swap(const char *a, const char *b, int count)
{
	int done = 0;
	for (int i = 0; i < count; i++)
		done += renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0;
	return printf("%d\n", done) < 0;
}

int main(int argc, char **argv)
{
	long args[6] = {0};
	if (argc == 4 && strcmp(argv[1], "vsock") == 0)
		return reach_vsock((unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]));
	if (argc == 3 && strcmp(argv[1], "call32") == 0)
		return call32(atoi(argv[2]));
	if (argc == 5 && strcmp(argv[1], "swap") == 0)
		return swap(argv[2], argv[3], atoi(argv[4]));
	if (argc < 3 || argc > 9 || strcmp(argv[1], "call") != 0)
		return 2;
	for (int i = 3; i < argc; i++)
		args[i - 3] = strtol(argv[i], NULL, 0);
	return print_result(
		syscall(atol(argv[2]), args[0], args[1], args[2], args[3], args[4], args[5]));
}
