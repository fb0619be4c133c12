/*
 * Run in containers by tests: sends back what comes, to each of many connections at once.
 *
 *	tcp_echo PORT   listens on all addresses of both families, and returns when it does
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void echo(int fd)
{
	static char data[65536];
	ssize_t n;
	while ((n = read(fd, data, sizeof(data))) > 0)
		for (ssize_t at = 0, sent; at < n; at += sent) {
			sent = write(fd, data + at, (size_t)(n - at));
			if (sent <= 0)
				return;
		}
}

static void serve(int listener)
{
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		if (fd >= 0 && fork() == 0) {
			echo(fd);
			_exit(EXIT_SUCCESS);
		}
		close(fd);
	}
}

int main(int argc, char **argv)
{
	const char *port = argc == 2 ? argv[1] : "";
	struct sockaddr_in6 address = {
		.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
	int listener = socket(AF_INET6, SOCK_STREAM, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
		listen(listener, 512) < 0) {
		perror("tcp_echo: listen");
		return EXIT_FAILURE;
	}
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	pid_t pid = fork();
	if (pid != 0)
		return pid < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	int null = open("/dev/null", O_RDWR);
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		dup2(null, fd);
	setsid();
	serve(listener);
}
