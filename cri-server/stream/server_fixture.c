#include "cri-server/stream/server_fixture.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"

#define HELD_MS 500

static const struct log quiet = {.fd = -1, .level = LOG_LEVEL_ERROR};

static int target_start(
	void *userdata, const struct stream_start *start, int ret_fds[3], struct err *err)
{
	struct target *target = userdata;
	int pairs[3][2];
	atomic_store(&target->columns, start->columns);
	atomic_fetch_add(&target->starts, 1);
	if (!target->command)
		return err_set(err, -ENOENT, "no such program");
	for (int i = 0; i < 3; i++)
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pairs[i]);
	target->pid = fork();
	if (target->pid == 0) {
		for (int i = 0; i < 3; i++)
			dup2(pairs[i][1], i);
		execl("/bin/sh", "sh", "-c", target->command, NULL);
		_exit(127);
	}
	for (int i = 0; i < 3; i++) {
		close(pairs[i][1]);
		ret_fds[i] = pairs[i][0];
	}
	return 0;
}

static int target_status(void *userdata, int *ret_code, struct err *err)
{
	struct target *target = userdata;
	int status;
	(void)err;
	if (waitpid(target->pid, &status, WNOHANG) != target->pid)
		return 0;
	target->pid = 0;
	*ret_code = WEXITSTATUS(status);
	return 1;
}

static int target_resize(void *userdata, unsigned columns, unsigned rows, struct err *err)
{
	(void)rows;
	(void)err;
	atomic_store(&((struct target *)userdata)->columns, columns);
	return 0;
}

static void target_end(void *userdata)
{
	struct target *target = userdata;
	if (target->pid > 0) {
		kill(target->pid, SIGKILL);
		waitpid(target->pid, NULL, 0);
	}
	atomic_store(&target->ended, true);
}

const struct stream_ops fixture_ops = {
	.start = target_start, .resize = target_resize, .status = target_status, .end = target_end};

struct stream_server *fixture_start(
	const char *certificate, const char *key, unsigned idle_ms, unsigned creation_ms)
{
	const struct stream_config config = {.address = "127.0.0.1",
		.idle_timeout_ms = idle_ms,
		.creation_timeout_ms = creation_ms,
		.tls_certificate = certificate,
		.tls_key = key,
		.log = &quiet};
	struct stream_server *server;
	struct err err = ERR_INIT;
	if (stream_server_start(&config, &server, &err) < 0)
		fail_msg("%s", err.msg);
	return server;
}

char *fixture_url(struct stream_server *server, struct target *target, bool tty)
{
	const struct stream_request request = {.kind = STREAM_EXEC,
		.tty = tty,
		.in = true,
		.out = true,
		.err = !tty,
		.ops = &fixture_ops,
		.target = target,
		.pod = "pod"};
	char *url;
	assert_int_equal(stream_server_url(server, &request, &url, NULL), 0);
	return url;
}

int fixture_connect(unsigned port, int takes)
{
	const struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (takes)
		assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &takes, sizeof(takes)), 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

int fixture_listen(unsigned *ret_port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(fd, (const struct sockaddr *)&address, len), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
	*ret_port = ntohs(address.sin_port);
	return fd;
}

int fixture_ask(const char *url, const char *headers)
{
	unsigned port;
	int path;
	assert_int_equal(sscanf(url, "http://127.0.0.1:%u%n", &port, &path), 1);
	int fd = fixture_connect(port, 0);
	_cleanup_free_ char *text =
		str_printf("GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n", url + path, headers);
	assert_int_equal(fd_write_all(fd, text, strlen(text), NULL), 0);
	return fd;
}

int fixture_request(const char *url, const char *headers, char *answer, size_t size)
{
	int fd = fixture_ask(url, headers);
	size_t len = 0;
	answer[0] = '\0';
	while (!strstr(answer, "\r\n\r\n") && len + 1 < size && recv(fd, answer + len, 1, 0) == 1)
		answer[++len] = '\0';
	return fd;
}

int fixture_websocket(struct stream_server *server, struct target *target, bool tty)
{
	char answer[2048];
	_cleanup_free_ char *url = fixture_url(server, target, tty);
	int fd = fixture_request(url, FIXTURE_WEBSOCKET, answer, sizeof(answer));
	assert_non_null(strstr(answer, "101 Switching"));
	assert_non_null(strstr(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
	assert_non_null(strstr(answer, "v5.channel.k8s.io"));
	return fd;
}

void fixture_send(int fd, const void *data, uint8_t len)
{
	uint8_t frame[6 + 125] = {0x82, 0x80 | len};
	memcpy(frame + 6, data, len);
	assert_int_equal(fd_write_all(fd, frame, 6u + len, NULL), 0);
}

size_t fixture_message(uint8_t message[FIXTURE_MESSAGE])
{
	const size_t len = FIXTURE_MESSAGE - 8;
	const uint8_t head[8] = {0x82, 0x80 | 126, len >> 8, len & 0xff};
	memset(message, 0, FIXTURE_MESSAGE);
	memcpy(message, head, sizeof(head));
	return FIXTURE_MESSAGE;
}

bool fixture_is_held(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	return poll(&p, 1, HELD_MS) == 0;
}

void fixture_break(int fd)
{
	const struct linger linger = {.l_onoff = 1};
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	close(fd);
}

void fixture_read_channel(int fd, char channel, char *text, size_t size)
{
	size_t got = 0;
	for (;;) {
		uint8_t head[2], more[2], data[65536];
		assert_int_equal(fd_read_exact(fd, head, 2, NULL), 0);
		size_t len = head[1];
		if (len == 126) {
			assert_int_equal(fd_read_exact(fd, more, 2, NULL), 0);
			len = (size_t)more[0] << 8 | more[1];
		}
		assert_int_equal(fd_read_exact(fd, data, len, NULL), 0);
		if (head[0] == 0x88)
			break;
		if (data[0] != (uint8_t)channel)
			continue;
		assert_true(got + len <= size);
		memcpy(text + got, data + 1, len - 1);
		got += len - 1;
	}
	text[got] = '\0';
}

void fixture_await(const atomic_bool *flag)
{
	for (int i = 0; i < FIXTURE_WAIT_MS / 10 && !atomic_load(flag); i++)
		usleep(10000);
	assert_true(atomic_load(flag));
}
