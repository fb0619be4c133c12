/* Forwarded connections through the real server and the real client, to sockets of this host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/test_server.h"
#include "common/fd.h"

#define CALL_MS     30000
#define LARGE_BYTES (8u << 20)

/* Takes any port of the address; where that fails the port is 0. */
static int bind_to(struct sockaddr *address, socklen_t len, uint16_t *ret_port)
{
	struct sockaddr_in6 bound = {0};
	socklen_t bound_len = sizeof(bound);
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*ret_port = 0;
	if (fd < 0 || bind(fd, address, len) < 0)
		return fd_close(fd);
	getsockname(fd, (struct sockaddr *)&bound, &bound_len);
	*ret_port = ntohs(bound.sin6_port); /* at the same place in both families */
	return fd;
}

static int listen_on(struct sockaddr *address, socklen_t len, uint16_t *ret_port)
{
	int fd = bind_to(address, len, ret_port);
	if (fd >= 0)
		listen(fd, 8);
	return fd;
}

static int forward(void **state, uint32_t port, int *ret_fd, struct err *err)
{
	struct test_client *context = *state;
	Bulkhead__Agent__StreamOpen open = BULKHEAD__AGENT__STREAM_OPEN__INIT;
	open.stream = BULKHEAD__AGENT__STREAM__FORWARD;
	open.port = port;
	return agent_stream_open(context->agent, &open, CALL_MS, ret_fd, NULL, err);
}

/* Both ways, and each end by itself. */
static void exchange(void **state, int listener, uint16_t port)
{
	int client;
	char text[8] = "";
	assert_int_equal(forward(state, port, &client, NULL), 0);
	int server = accept(listener, NULL, NULL);
	assert_int_equal(write(client, "hello", 5), 5);
	shutdown(client, SHUT_WR);
	assert_int_equal(fd_read_exact(server, text, 5, NULL), 0);
	assert_string_equal(text, "hello");
	assert_int_equal(read(server, text, 1), 0);
	assert_int_equal(write(server, "answer", 6), 6);
	assert_int_equal(fd_read_exact(client, text, 6, NULL), 0);
	assert_string_equal(text, "answer");
	fd_close(server);
	assert_int_equal(read(client, text, 1), 0);
	fd_close(client);
	fd_close(listener);
}

static void test_ipv4(void **state)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	uint16_t port;
	int listener = listen_on((struct sockaddr *)&address, sizeof(address), &port);
	exchange(state, listener, port);
}

static void test_ipv6(void **state)
{
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	uint16_t port;
	int listener = listen_on((struct sockaddr *)&address, sizeof(address), &port);
	if (listener < 0)
		skip();
	exchange(state, listener, port);
}

static void test_own_address(void **state)
{
	struct ifaddrs *all;
	uint16_t port = 0;
	int listener = -EBADF;
	assert_int_equal(getifaddrs(&all), 0);
	for (const struct ifaddrs *i = all; i && listener < 0; i = i->ifa_next) {
		if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET ||
			(i->ifa_flags & IFF_LOOPBACK))
			continue;
		struct sockaddr_in address;
		memcpy(&address, i->ifa_addr, sizeof(address));
		listener = listen_on((struct sockaddr *)&address, sizeof(address), &port);
	}
	freeifaddrs(all);
	if (listener < 0)
		skip();
	exchange(state, listener, port);
}

static void test_refused(void **state)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct err err = ERR_INIT;
	uint16_t port;
	int fd;
	/* Nobody else is to listen there. */
	int bound = bind_to((struct sockaddr *)&address, sizeof(address), &port);
	assert_int_equal(forward(state, port, &fd, &err), -ECONNREFUSED);
	assert_non_null(strstr(err.msg, "127.0.0.1: Connection refused; ::1: "));
	assert_int_equal(forward(state, 0, &fd, &err), -EINVAL);
	assert_int_equal(forward(state, 65536, &fd, &err), -EINVAL);
	fd_close(bound);
}

static void *send_much(void *userdata)
{
	int fd = *(int *)userdata;
	char data[4096];
	for (size_t sent = 0; sent < LARGE_BYTES; sent += sizeof(data)) {
		memset(data, (int)(sent / sizeof(data)), sizeof(data));
		fd_write_all(fd, data, sizeof(data), NULL);
	}
	shutdown(fd, SHUT_WR);
	return NULL;
}

static void receive_much(int fd)
{
	char data[4096];
	for (size_t got = 0; got < LARGE_BYTES; got += sizeof(data)) {
		assert_int_equal(fd_read_exact(fd, data, sizeof(data), NULL), 0);
		assert_int_equal(data[17], (char)(got / sizeof(data)));
	}
	assert_int_equal(read(fd, data, 1), 0);
}

/* Each way more than all buffers hold; the one that is not read yet waits, and waits alone. */
static void test_much(void **state)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	uint16_t port;
	int client;
	pthread_t up, down;
	int listener = listen_on((struct sockaddr *)&address, sizeof(address), &port);
	assert_int_equal(forward(state, port, &client, NULL), 0);
	int server = accept(listener, NULL, NULL);
	pthread_create(&up, NULL, send_much, &client);
	pthread_create(&down, NULL, send_much, &server);
	receive_much(server);
	receive_much(client);
	pthread_join(up, NULL);
	pthread_join(down, NULL);
	fd_close(client);
	fd_close(server);
	fd_close(listener);
}

/* The pod's server, which says nothing, sees the end of a client that went away altogether. */
static void test_client_gone(void **state)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	uint16_t port;
	int client;
	char byte;
	int listener = listen_on((struct sockaddr *)&address, sizeof(address), &port);
	assert_int_equal(forward(state, port, &client, NULL), 0);
	int server = accept(listener, NULL, NULL);
	fd_close(client);
	assert_int_equal(read(server, &byte, 1), 0);
	/* Not half closed: what the server sends now is refused. */
	ssize_t n = 0;
	for (unsigned i = 0; i < 3000 && n >= 0; i++) {
		n = send(server, "x", 1, MSG_NOSIGNAL);
		usleep(10000);
	}
	assert_int_equal(n, -1);
	fd_close(server);
	fd_close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ipv4),
		cmocka_unit_test(test_ipv6),
		cmocka_unit_test(test_own_address),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_much),
		cmocka_unit_test(test_client_gone),
	};
	return cmocka_run_group_tests(tests, test_client_setup, test_client_teardown);
}
