/* The streaming server over real connections; the process is a child on socket pairs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"
#include "cri-server/stream/server_fixture.h"
#include "cri-server/stream/wire.h"

static void send_text(int fd, const char *text)
{
	fixture_send(fd, text, (uint8_t)strlen(text));
}

static void in_out_and_the_end_of_stdin(void **state)
{
	char out[256];
	struct target target = {.command = "cat; echo done"};
	(void)state;
	struct stream_server *server = fixture_start(NULL, NULL, 60000, 60000);
	int fd = fixture_websocket(server, &target, false);
	fixture_send(fd, "\0hello ", 7);
	fixture_send(fd, "\xff\0", 2);
	fixture_read_channel(fd, 1, out, sizeof(out));
	assert_string_equal(out, "hello done\n");
	fixture_await(&target.ended);
	close(fd);
	stream_server_stop(server);
}

static void the_exit_code_is_in_the_status(void **state)
{
	char out[1024];
	struct target target = {.command = "exit 7"}, missing = {.command = NULL};
	(void)state;
	struct stream_server *server = fixture_start(NULL, NULL, 60000, 60000);
	int fd = fixture_websocket(server, &target, false);
	fixture_read_channel(fd, 3, out, sizeof(out));
	assert_non_null(strstr(out, "\"reason\":\"NonZeroExitCode\""));
	assert_non_null(strstr(out, "{\"reason\":\"ExitCode\",\"message\":\"7\"}"));
	close(fd);
	fd = fixture_websocket(server, &missing, false);
	fixture_read_channel(fd, 3, out, sizeof(out));
	assert_non_null(strstr(out, "InternalError"));
	assert_non_null(strstr(out, "no such program"));
	close(fd);
	stream_server_stop(server);
}

static void a_client_that_vanishes_ends_it(void **state)
{
	struct target target = {.command = "exec sleep 1000"};
	(void)state;
	struct stream_server *server = fixture_start(NULL, NULL, 60000, 60000);
	int fd = fixture_websocket(server, &target, false);
	usleep(100000);
	assert_false(atomic_load(&target.ended));
	close(fd);
	fixture_await(&target.ended);
	stream_server_stop(server);
}

static void a_client_that_vanishes_while_it_is_held_ends_it(void **state)
{
	struct target target = {.command = "exec sleep 1000"};
	uint8_t message[FIXTURE_MESSAGE];
	size_t len = fixture_message(message), at = 0;
	(void)state;
	struct stream_server *server = fixture_start(NULL, NULL, 60000, 60000);
	int fd = fixture_websocket(server, &target, false);
	while (!fixture_is_held(fd)) {
		ssize_t n = send(fd, message + at, len - at, MSG_DONTWAIT);
		assert_true(n > 0);
		at = (at + (size_t)n) % len;
	}
	assert_false(atomic_load(&target.ended));
	fixture_break(fd);
	fixture_await(&target.ended);
	stream_server_stop(server);
}

static void silence_ends_it(void **state)
{
	struct target target = {.command = "exec sleep 1000"};
	(void)state;
	struct stream_server *server = fixture_start(NULL, NULL, 300, 60000);
	int fd = fixture_websocket(server, &target, false);
	fixture_await(&target.ended);
	close(fd);
	stream_server_stop(server);
}

static const uint8_t websocket_ping[] = {0x89, 0x80, 0, 0, 0, 0};
static const uint8_t spdy_ping[] = {0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1};

/* How a client makes the server talk. */
struct talk {
	const char *headers;
	const char *command;
	const uint8_t *ping; /* said now and then; NULL: nothing */
	size_t ping_len;
};

/*
 * False: it ended before so much time was over. The gap is the longest time without a word, the
 * first of which is waited for since before the session began.
 */
static bool is_heard_for(
	int fd, const struct talk *talk, uint64_t last, uint64_t ms, uint64_t *ret_gap_ms)
{
	uint64_t until = ev_now_ms() + ms;
	char data[4096];
	ssize_t n = 1;
	*ret_gap_ms = 0;
	while (n > 0 && last < until) {
		if (talk->ping) {
			usleep(50000);
			send(fd, talk->ping, talk->ping_len, MSG_NOSIGNAL);
		}
		n = recv(fd, data, sizeof(data), 0);
		uint64_t now = ev_now_ms();
		if (now - last > *ret_gap_ms)
			*ret_gap_ms = now - last;
		last = now;
	}
	return n > 0;
}

/*
 * Where the machine is so slow that there was silence after all (part of it may be ours, who heard
 * late), there is more time for each word.
 */
static void is_no_silence(const struct talk *talk)
{
	bool heard = false;
	uint64_t gap_ms = UINT64_MAX;
	for (unsigned idle_ms = 1000; !heard && gap_ms >= idle_ms / 4; idle_ms *= 2) {
		char answer[2048];
		struct target target = {.command = talk->command};
		struct stream_server *server = fixture_start(NULL, NULL, idle_ms, 60000);
		uint64_t begin_ms = ev_now_ms();
		_cleanup_free_ char *url = fixture_url(server, &target, false);
		int fd = fixture_request(url, talk->headers, answer, sizeof(answer));
		assert_non_null(strstr(answer, "101 Switching"));
		heard = is_heard_for(fd, talk, begin_ms, idle_ms + idle_ms * 3 / 4, &gap_ms);
		close(fd);
		fixture_await(&target.ended);
		stream_server_stop(server);
	}
	assert_true(heard);
}

/* Nothing comes from the client: what goes to it is enough. */
static void what_goes_out_is_no_silence(void **state)
{
	const struct talk talk = {FIXTURE_WEBSOCKET, "while sleep 0.05; do echo x; done", NULL, 0};
	(void)state;
	is_no_silence(&talk);
}

/* Those of Kubernetes ping every five seconds. */
static void pings_are_no_silence(void **state)
{
	const struct talk websocket = {
		FIXTURE_WEBSOCKET, "exec sleep 1000", websocket_ping, sizeof(websocket_ping)};
	const struct talk spdy = {FIXTURE_SPDY, "exec sleep 1000", spdy_ping, sizeof(spdy_ping)};
	(void)state;
	is_no_silence(&websocket);
	is_no_silence(&spdy);
}

#define LINES 2000000 /* more than all buffers on the way hold */

static void a_client_that_reads_late_gets_all(void **state)
{
	static char out[16u << 20];
	struct target target = {.command = "seq 2000000"};
	char *at = out;
	(void)state;
	struct stream_server *server = fixture_start(NULL, NULL, 60000, 60000);
	int fd = fixture_websocket(server, &target, false);
	usleep(300000);
	fixture_read_channel(fd, 1, out, sizeof(out) - 1);
	for (unsigned long i = 1; i <= LINES; i++) {
		assert_int_equal(strtoul(at, &at, 10), i);
		assert_int_equal(*at++, '\n');
	}
	assert_int_equal(*at, 0);
	close(fd);
	fixture_await(&target.ended);
	stream_server_stop(server);
}

static unsigned count_descriptors(void)
{
	unsigned n = 0;
	DIR *dir = opendir("/proc/self/fd");
	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* The server gives back the client's connection last. */
static void await_descriptors(unsigned n)
{
	for (int i = 0; i < FIXTURE_WAIT_MS / 10 && count_descriptors() != n; i++)
		usleep(10000);
	assert_int_equal(count_descriptors(), n);
}

static void a_client_that_never_reads_is_let_go_of(void **state)
{
	struct target target = {.command = "seq 2000000"};
	(void)state;
	struct stream_server *server = fixture_start(NULL, NULL, 300, 60000);
	unsigned n = count_descriptors();
	int fd = fixture_websocket(server, &target, false);
	await_descriptors(n + 1);
	close(fd);
	stream_server_stop(server);
}

/* What is left is in the kernel: more than the client's side holds, less than both do. */
static void a_client_that_pauses_at_the_end_is_waited_for(void **state)
{
	static char out[1u << 20];
	struct target target = {.command = "exec head -c 400000 /dev/zero"};
	(void)state;
	struct stream_server *server = fixture_start(NULL, NULL, 60000, 60000);
	unsigned n = count_descriptors();
	int fd = fixture_websocket(server, &target, false);
	fixture_await(&target.ended);
	usleep((WIRE_LINGER_MS + 1000) * 1000);
	assert_true(count_descriptors() > n + 1);
	while (recv(fd, out, sizeof(out), 0) > 0)
		;
	close(fd);
	await_descriptors(n);
	stream_server_stop(server);
}

static void the_size_comes_first_and_changes(void **state)
{
	struct target target = {.command = "exec sleep 1000"};
	(void)state;
	struct stream_server *server = fixture_start(NULL, NULL, 60000, 60000);
	int fd = fixture_websocket(server, &target, true);
	fixture_send(fd, "\4{\"Width\":90,\"Height\":20}", 25);
	for (int i = 0; i < FIXTURE_WAIT_MS / 10 && atomic_load(&target.columns) != 90; i++)
		usleep(10000);
	assert_int_equal(atomic_load(&target.columns), 90);
	/* In pieces, two in one message, and nonsense. */
	send_text(fd, "\4nonsense");
	send_text(fd, "\4{\"Width\":0,\"Height\":20}{\"Wid");
	send_text(fd, "\4th\":91,\"Height\":2}");
	for (int i = 0; i < FIXTURE_WAIT_MS / 10 && atomic_load(&target.columns) != 91; i++)
		usleep(10000);
	assert_int_equal(atomic_load(&target.columns), 91);
	close(fd);
	fixture_await(&target.ended);
	stream_server_stop(server);
}

static void stopping_ends_sessions_and_tokens(void **state)
{
	struct target runs = {.command = "exec sleep 1000"}, waits = {.command = "true"};
	(void)state;
	struct stream_server *server = fixture_start(NULL, NULL, 60000, 60000);
	int fd = fixture_websocket(server, &runs, false);
	_cleanup_free_ char *url = fixture_url(server, &waits, false);
	stream_server_stop(server);
	assert_true(atomic_load(&runs.ended));
	assert_true(atomic_load(&waits.ended));
	close(fd);
}

static void tokens_are_bounded(void **state)
{
	static struct target targets[1001];
	(void)state;
	struct stream_server *server = fixture_start(NULL, NULL, 60000, 60000);
	for (int i = 0; i < 1000; i++)
		free(fixture_url(server, &targets[i], false));
	const struct stream_request one = {
		.kind = STREAM_EXEC, .ops = &fixture_ops, .target = &targets[1000], .pod = "pod"};
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
	struct stream_server *server = fixture_start(NULL, NULL, 60000, 300);
	_cleanup_free_ char *url = fixture_url(server, &target, false);
	int fd = fixture_request(url, FIXTURE_SPDY, answer, sizeof(answer));
	assert_non_null(strstr(answer, "101 Switching"));
	assert_non_null(strstr(answer, "v4.channel.k8s.io"));
	fixture_await(&target.ended);
	assert_int_equal(target.pid, 0);
	close(fd);
	stream_server_stop(server);
}

/* A process that says nothing for a while, and its last words when its end is told of. */
struct taciturn {
	int out;
	int looks;
	atomic_bool ended;
};

static int taciturn_start(
	void *userdata, const struct stream_start *start, int ret_fds[3], struct err *err)
{
	struct taciturn *process = userdata;
	int pair[2];
	(void)start;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_errno(err, "make a socket pair");
	process->out = pair[1];
	ret_fds[0] = ret_fds[2] = -EBADF;
	ret_fds[1] = pair[0];
	return 0;
}

static int taciturn_status(void *userdata, int *ret_code, struct err *err)
{
	struct taciturn *process = userdata;
	if (process->looks++ == 0)
		return 0;
	*ret_code = 0;
	int r = fd_write_all(process->out, "last words\n", strlen("last words\n"), err);
	return r < 0 ? r : 1;
}

static void taciturn_end(void *userdata)
{
	struct taciturn *process = userdata;
	fd_close(process->out);
	atomic_store(&process->ended, true);
}

static void last_words_are_read_when_the_end_is_known(void **state)
{
	static const struct stream_ops ops = {
		.start = taciturn_start, .status = taciturn_status, .end = taciturn_end};
	struct taciturn process = {.out = -EBADF};
	const struct stream_request request = {
		.kind = STREAM_EXEC, .out = true, .ops = &ops, .target = &process, .pod = "pod"};
	char answer[2048], out[256], *url;
	(void)state;
	struct stream_server *server = fixture_start(NULL, NULL, 60000, 60000);
	assert_int_equal(stream_server_url(server, &request, &url, NULL), 0);
	int fd = fixture_request(url, FIXTURE_WEBSOCKET, answer, sizeof(answer));
	free(url);
	fixture_read_channel(fd, 1, out, sizeof(out));
	assert_string_equal(out, "last words\n");
	fixture_await(&process.ended);
	close(fd);
	stream_server_stop(server);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_out_and_the_end_of_stdin),
		cmocka_unit_test(the_exit_code_is_in_the_status),
		cmocka_unit_test(a_client_that_vanishes_ends_it),
		cmocka_unit_test(a_client_that_vanishes_while_it_is_held_ends_it),
		cmocka_unit_test(silence_ends_it),
		cmocka_unit_test(what_goes_out_is_no_silence),
		cmocka_unit_test(pings_are_no_silence),
		cmocka_unit_test(a_client_that_reads_late_gets_all),
		cmocka_unit_test(a_client_that_never_reads_is_let_go_of),
		cmocka_unit_test(a_client_that_pauses_at_the_end_is_waited_for),
		cmocka_unit_test(the_size_comes_first_and_changes),
		cmocka_unit_test(stopping_ends_sessions_and_tokens),
		cmocka_unit_test(tokens_are_bounded),
		cmocka_unit_test(streams_that_never_come_time_out),
		cmocka_unit_test(last_words_are_read_when_the_end_is_known),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
