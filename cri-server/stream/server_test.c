/* The streaming server over real connections; the process is a child on socket pairs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/fd.h"
#include "common/loop.h"
#include "cri-server/stream/stream.h"

#define WAIT_MS 10000

static const struct log quiet = {.fd = -1, .level = LOG_LEVEL_ERROR};

/* What a session works on: `sh -c command`. */
struct target {
	const char *command;
	pid_t pid;
	atomic_bool ended; /* end() returned */
	atomic_uint columns;
};

static int target_start(
	void *userdata, const struct stream_start *start, int ret_fds[3], struct err *err)
{
	struct target *target = userdata;
	int pairs[3][2];
	atomic_store(&target->columns, start->columns);
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

static const struct stream_ops ops = {
	.start = target_start, .resize = target_resize, .status = target_status, .end = target_end};

static struct stream_server *start_with(const char *certificate, const char *key, unsigned idle_ms)
{
	const struct stream_config config = {.address = "127.0.0.1",
		.idle_timeout_ms = idle_ms,
		.creation_timeout_ms = 1000,
		.tls_certificate = certificate,
		.tls_key = key,
		.log = &quiet};
	struct stream_server *server;
	struct err err = ERR_INIT;
	if (stream_server_start(&config, &server, &err) < 0)
		fail_msg("%s", err.msg);
	return server;
}

static char *url_of(struct stream_server *server, struct target *target, bool tty)
{
	const struct stream_request request = {.kind = STREAM_EXEC,
		.tty = tty,
		.in = true,
		.out = true,
		.err = !tty,
		.ops = &ops,
		.target = target,
		.pod = "pod"};
	char *url;
	assert_int_equal(stream_server_url(server, &request, &url, NULL), 0);
	return url;
}

/* Connects, says the headers, and reads up to the end of the answer's. */
static int request(const char *url, const char *headers, char *answer, size_t size)
{
	unsigned port;
	int path;
	assert_int_equal(sscanf(url, "http://127.0.0.1:%u%n", &port, &path), 1);
	const struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
	_cleanup_free_ char *text =
		str_printf("GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n", url + path, headers);
	assert_int_equal(fd_write_all(fd, text, strlen(text), NULL), 0);
	size_t len = 0;
	answer[0] = '\0';
	while (!strstr(answer, "\r\n\r\n") && len + 1 < size && recv(fd, answer + len, 1, 0) == 1)
		answer[++len] = '\0';
	return fd;
}

#define WEBSOCKET                                                                                  \
	"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"               \
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"                                          \
	"Sec-WebSocket-Protocol: v5.channel.k8s.io, v4.channel.k8s.io\r\n"

static int open_websocket(struct stream_server *server, struct target *target, bool tty)
{
	char answer[2048];
	_cleanup_free_ char *url = url_of(server, target, tty);
	int fd = request(url, WEBSOCKET, answer, sizeof(answer));
	assert_non_null(strstr(answer, "101 Switching"));
	assert_non_null(strstr(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
	assert_non_null(strstr(answer, "v5.channel.k8s.io"));
	return fd;
}

static void send_message(int fd, const void *data, uint8_t len)
{
	uint8_t frame[6 + 125] = {0x82, 0x80 | len};
	memcpy(frame + 6, data, len);
	assert_int_equal(fd_write_all(fd, frame, 6u + len, NULL), 0);
}

static void send_text(int fd, const char *text)
{
	send_message(fd, text, (uint8_t)strlen(text));
}

/* All of a channel up to the close frame. */
static void read_channel(int fd, char channel, char *text, size_t size)
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

static void await(const atomic_bool *flag)
{
	for (int i = 0; i < WAIT_MS / 10 && !atomic_load(flag); i++)
		usleep(10000);
	assert_true(atomic_load(flag));
}

static void in_out_and_the_end_of_stdin(void **state)
{
	char out[256];
	struct target target = {.command = "cat; echo done"};
	(void)state;
	struct stream_server *server = start_with(NULL, NULL, 60000);
	int fd = open_websocket(server, &target, false);
	send_message(fd, "\0hello ", 7);
	send_message(fd, "\xff\0", 2);
	read_channel(fd, 1, out, sizeof(out));
	assert_string_equal(out, "hello done\n");
	await(&target.ended);
	close(fd);
	stream_server_stop(server);
}

static void the_exit_code_is_in_the_status(void **state)
{
	char out[1024];
	struct target target = {.command = "exit 7"}, missing = {.command = NULL};
	(void)state;
	struct stream_server *server = start_with(NULL, NULL, 60000);
	int fd = open_websocket(server, &target, false);
	read_channel(fd, 3, out, sizeof(out));
	assert_non_null(strstr(out, "\"reason\":\"NonZeroExitCode\""));
	assert_non_null(strstr(out, "{\"reason\":\"ExitCode\",\"message\":\"7\"}"));
	close(fd);
	fd = open_websocket(server, &missing, false);
	read_channel(fd, 3, out, sizeof(out));
	assert_non_null(strstr(out, "InternalError"));
	assert_non_null(strstr(out, "no such program"));
	close(fd);
	stream_server_stop(server);
}

static void a_client_that_vanishes_ends_it(void **state)
{
	struct target target = {.command = "exec sleep 1000"};
	(void)state;
	struct stream_server *server = start_with(NULL, NULL, 60000);
	int fd = open_websocket(server, &target, false);
	usleep(100000);
	assert_false(atomic_load(&target.ended));
	close(fd);
	await(&target.ended);
	stream_server_stop(server);
}

static void silence_ends_it(void **state)
{
	struct target target = {.command = "exec sleep 1000"};
	(void)state;
	struct stream_server *server = start_with(NULL, NULL, 300);
	int fd = open_websocket(server, &target, false);
	await(&target.ended);
	close(fd);
	stream_server_stop(server);
}

static void the_size_comes_first_and_changes(void **state)
{
	struct target target = {.command = "exec sleep 1000"};
	(void)state;
	struct stream_server *server = start_with(NULL, NULL, 60000);
	int fd = open_websocket(server, &target, true);
	send_message(fd, "\4{\"Width\":90,\"Height\":20}", 25);
	for (int i = 0; i < WAIT_MS / 10 && atomic_load(&target.columns) != 90; i++)
		usleep(10000);
	assert_int_equal(atomic_load(&target.columns), 90);
	/* In pieces, two in one message, and nonsense. */
	send_text(fd, "\4nonsense");
	send_text(fd, "\4{\"Width\":0,\"Height\":20}{\"Wid");
	send_text(fd, "\4th\":91,\"Height\":2}");
	for (int i = 0; i < WAIT_MS / 10 && atomic_load(&target.columns) != 91; i++)
		usleep(10000);
	assert_int_equal(atomic_load(&target.columns), 91);
	close(fd);
	await(&target.ended);
	stream_server_stop(server);
}

static void stopping_ends_sessions_and_tokens(void **state)
{
	struct target runs = {.command = "exec sleep 1000"}, waits = {.command = "true"};
	(void)state;
	struct stream_server *server = start_with(NULL, NULL, 60000);
	int fd = open_websocket(server, &runs, false);
	_cleanup_free_ char *url = url_of(server, &waits, false);
	stream_server_stop(server);
	assert_true(atomic_load(&runs.ended));
	assert_true(atomic_load(&waits.ended));
	close(fd);
}

static void tokens_are_bounded(void **state)
{
	static struct target targets[1001];
	(void)state;
	struct stream_server *server = start_with(NULL, NULL, 60000);
	for (int i = 0; i < 1000; i++)
		free(url_of(server, &targets[i], false));
	const struct stream_request one = {
		.kind = STREAM_EXEC, .ops = &ops, .target = &targets[1000], .pod = "pod"};
	char *url;
	struct err err = ERR_INIT;
	assert_int_equal(stream_server_url(server, &one, &url, &err), -EAGAIN);
	assert_true(atomic_load(&targets[1000].ended));
	stream_server_stop(server);
}

static void streams_that_never_come_time_out(void **state)
{
	char answer[2048];
	struct target target = {.command = "true"};
	(void)state;
	struct stream_server *server = start_with(NULL, NULL, 60000);
	_cleanup_free_ char *url = url_of(server, &target, false);
	int fd = request(url,
		"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
		"X-Stream-Protocol-Version: v4.channel.k8s.io\r\n",
		answer, sizeof(answer));
	assert_non_null(strstr(answer, "101 Switching"));
	assert_non_null(strstr(answer, "v4.channel.k8s.io"));
	await(&target.ended);
	assert_int_equal(target.pid, 0);
	close(fd);
	stream_server_stop(server);
}

/* Through openssl's client: the upgrade too. */
static void tls(void **state)
{
	char dir[] = "/tmp/stream-test.XXXXXX", out[4096] = "";
	struct target target = {.command = "echo through TLS; exec sleep 3"};
	(void)state;
	assert_non_null(mkdtemp(dir));
	_cleanup_free_ char *make = str_printf("openssl req -x509 -newkey rsa:2048 -nodes -days 1 "
					       "-subj /CN=localhost -keyout %s/key -out %s/cert "
					       "2>/dev/null",
		dir, dir);
	/* NOLINTNEXTLINE(cert-env33-c): the command is ours */
	if (system(make) != 0)
		skip();
	_cleanup_free_ char *certificate = str_printf("%s/cert", dir);
	_cleanup_free_ char *key = str_printf("%s/key", dir);
	struct stream_server *server = start_with(certificate, key, 60000);
	_cleanup_free_ char *url = url_of(server, &target, false);
	assert_int_equal(strncmp(url, "https://127.0.0.1:", 18), 0);
	unsigned port = (unsigned)atoi(url + 18);
	_cleanup_free_ char *command = str_printf(
		"(printf 'GET %s HTTP/1.1\\r\\nHost: x\\r\\n" WEBSOCKET "\\r\\n'; sleep 2) | "
		"timeout 5 openssl s_client -quiet -connect 127.0.0.1:%u 2>/dev/null",
		strchr(url + 18, '/'), port);
	/* NOLINTNEXTLINE(cert-env33-c): likewise */
	FILE *pipe = popen(command, "r");
	size_t len = fread(out, 1, sizeof(out) - 1, pipe);
	pclose(pipe);
	assert_non_null(memmem(out, len, "101 Switching", 13));
	assert_non_null(memmem(out, len, "through TLS", 11));
	await(&target.ended);
	stream_server_stop(server);
	fd_remove_tree(dir, NULL);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_out_and_the_end_of_stdin),
		cmocka_unit_test(the_exit_code_is_in_the_status),
		cmocka_unit_test(a_client_that_vanishes_ends_it),
		cmocka_unit_test(silence_ends_it),
		cmocka_unit_test(the_size_comes_first_and_changes),
		cmocka_unit_test(stopping_ends_sessions_and_tokens),
		cmocka_unit_test(tokens_are_bounded),
		cmocka_unit_test(streams_that_never_come_time_out),
		cmocka_unit_test(tls),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
