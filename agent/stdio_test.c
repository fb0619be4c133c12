#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/proto/ports.h"
#include "agent/stdio.h"
#include "common/fd.h"

struct context {
	struct ev_loop *loop;
	struct stdio *stdio;
	int out;     /* the child's end of stdout, non-blocking */
	int in;      /* the child's end of stdin, non-blocking, or -EBADF */
	int drained; /* -1: not yet */
};

static void stop(void *userdata)
{
	ev_loop_stop(userdata);
}

/* Runs the loop for a moment: several times, as a run on a busy host may be a single round. */
static void pump(struct ev_loop *loop)
{
	for (int i = 0; i < 5; i++) {
		struct ev_source *timer;
		assert_int_equal(ev_timer_new(loop, 4, stop, loop, &timer, NULL), 0);
		assert_int_equal(ev_loop_run(loop, NULL), 0);
		ev_source_free(timer);
	}
}

static void begin(struct context *context, bool with_stdin, bool once)
{
	Bulkhead__Agent__Process process = BULKHEAD__AGENT__PROCESS__INIT;
	process.stdin = with_stdin;
	process.stdin_once = once;
	*context = (struct context){.in = -EBADF, .drained = -1};
	assert_int_equal(ev_loop_new(&context->loop, NULL), 0);
	assert_int_equal(stdio_new(context->loop, &process, &context->stdio, NULL), 0);
	context->out = dup(stdio_child(context->stdio)->out);
	assert_int_equal(fd_set_nonblock(context->out, NULL), 0);
	if (with_stdin) {
		context->in = dup(stdio_child(context->stdio)->in);
		assert_int_equal(fd_set_nonblock(context->in, NULL), 0);
	}
	stdio_child_close(context->stdio);
}

static void finish(struct context *context)
{
	stdio_free(context->stdio);
	ev_loop_free(context->loop);
	fd_close(context->out);
	fd_close(context->in);
}

/* Connects; returns our end, non-blocking, after the answer was read, or the error. */
static int connect_stream(struct context *context, Bulkhead__Agent__Stream stream, uint64_t offset,
	uint64_t *ret_offset)
{
	int fds[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	Bulkhead__Agent__StreamOpen open = BULKHEAD__AGENT__STREAM_OPEN__INIT;
	open.stream = stream;
	open.offset = offset;
	int r = stdio_connect(context->stdio, &open, fds[1], NULL);
	if (r < 0) {
		close(fds[0]);
		close(fds[1]);
		return r;
	}
	uint8_t answer[64];
	uint32_t length;
	assert_int_equal(recv(fds[0], &length, 4, 0), 4);
	length = ntohl(length);
	assert_in_range(length, 0, sizeof(answer));
	if (length)
		assert_int_equal(recv(fds[0], answer, length, 0), length);
	Bulkhead__Agent__StreamOpened *opened =
		bulkhead__agent__stream_opened__unpack(NULL, length, answer);
	assert_non_null(opened);
	assert_int_equal(opened->error, 0);
	if (ret_offset)
		*ret_offset = opened->offset;
	bulkhead__agent__stream_opened__free_unpacked(opened, NULL);
	return fds[0];
}

static void acknowledge(int fd, uint64_t offset)
{
	uint64_t wire = htobe64(offset);
	assert_int_equal(send(fd, &wire, sizeof(wire), MSG_NOSIGNAL), sizeof(wire));
}

static void assert_reads(int fd, const char *expected)
{
	char data[256] = "";
	/* What was written at once need not arrive at once. */
	for (size_t have = 0; have < strlen(expected);) {
		ssize_t n = read(fd, data + have, sizeof(data) - 1 - have);
		assert_true(n > 0);
		have += (size_t)n;
	}
	assert_string_equal(data, expected);
}

static void assert_ends(struct ev_loop *loop, int fd)
{
	char byte;
	ssize_t n;
	for (int i = 0; i < 1000 && (n = read(fd, &byte, 1)) < 0 && errno == EAGAIN; i++)
		pump(loop);
	assert_int_equal(n, 0);
}

static void assert_blocks(int fd)
{
	char byte;
	assert_int_equal(read(fd, &byte, 1), -1);
	assert_int_equal(errno, EAGAIN);
}

static void test_offsets(void **state)
{
	(void)state;
	struct context context;
	uint64_t offset = 99;
	begin(&context, false, false);
	assert_int_equal(write(context.out, "hello", 5), 5);
	pump(context.loop);
	int first = connect_stream(&context, BULKHEAD__AGENT__STREAM__STDOUT, 0, &offset);
	assert_int_equal(offset, 0);
	assert_reads(first, "hello");
	acknowledge(first, 2);
	pump(context.loop);

	/* Before what was acknowledged: later. The older connection is replaced. */
	int second = connect_stream(&context, BULKHEAD__AGENT__STREAM__STDOUT, 0, &offset);
	assert_int_equal(offset, 2);
	assert_reads(second, "llo");
	assert_ends(context.loop, first);
	int third = connect_stream(&context, BULKHEAD__AGENT__STREAM__STDOUT, 4, &offset);
	assert_int_equal(offset, 4);
	assert_reads(third, "o");
	assert_int_equal(
		connect_stream(&context, BULKHEAD__AGENT__STREAM__STDOUT, 6, NULL), -EINVAL);
	assert_int_equal(
		connect_stream(&context, BULKHEAD__AGENT__STREAM__STDIN, 0, NULL), -ENOENT);

	/* A refused connection leaves the one there is. */
	assert_int_equal(write(context.out, "!", 1), 1);
	pump(context.loop);
	assert_reads(third, "!");
	/* Acknowledging what was not sent is a breach. */
	acknowledge(third, 7);
	pump(context.loop);
	assert_ends(context.loop, third);
	close(first);
	close(second);
	close(third);
	finish(&context);
}

/* Writes the pattern until nobody takes more; returns how far it came. */
static uint64_t fill(struct context *context, uint64_t at)
{
	for (int idle = 0; idle < 3;) {
		uint8_t data[4096];
		for (size_t i = 0; i < sizeof(data); i++)
			data[i] = (uint8_t)((at + i) % 251);
		ssize_t n = write(context->out, data, sizeof(data));
		if (n > 0)
			at += (uint64_t)n;
		idle = n > 0 ? 0 : idle + 1;
		if (n <= 0)
			pump(context->loop);
	}
	return at;
}

/* Reads and checks the pattern until there is no more. */
static uint64_t drain(struct context *context, int fd, uint64_t at)
{
	for (int idle = 0; idle < 3;) {
		uint8_t data[4096];
		ssize_t n = read(fd, data, sizeof(data));
		for (ssize_t i = 0; i < n; i++)
			assert_int_equal(data[i], (at + (uint64_t)i) % 251);
		idle = n > 0 ? 0 : idle + 1;
		if (n > 0)
			at += (uint64_t)n;
		else
			pump(context->loop);
	}
	return at;
}

static void test_full_ring_blocks_the_writer(void **state)
{
	(void)state;
	struct context context;
	begin(&context, false, false);
	uint64_t written = fill(&context, 0);
	uint64_t pipe_bytes = (uint64_t)fcntl(context.out, F_GETPIPE_SZ);
	assert_in_range(written, AGENT_RING_BYTES, AGENT_RING_BYTES + pipe_bytes);

	/* What is not acknowledged stays in the ring, although it was sent. */
	int fd = connect_stream(&context, BULKHEAD__AGENT__STREAM__STDOUT, 0, NULL);
	uint64_t got = drain(&context, fd, 0);
	assert_int_equal(got, AGENT_RING_BYTES);
	assert_int_equal(fill(&context, written), written);

	for (int round = 0; round < 5; round++) {
		acknowledge(fd, got);
		written = fill(&context, written);
		got = drain(&context, fd, got);
	}
	assert_true(got > 3 * AGENT_RING_BYTES);
	close(fd);
	pump(context.loop);

	/* After the loss of the connection the rest comes again from what was acknowledged. */
	uint64_t offset;
	fd = connect_stream(&context, BULKHEAD__AGENT__STREAM__STDOUT, 0, &offset);
	assert_true(offset > 0 && offset < got);
	assert_int_equal(drain(&context, fd, offset), got);
	close(fd);
	finish(&context);
}

static void on_drained(void *userdata, bool all)
{
	struct context *context = userdata;
	context->drained = all;
}

static void test_end_of_stream(void **state)
{
	(void)state;
	struct context context;
	begin(&context, false, false);
	int fd = connect_stream(&context, BULKHEAD__AGENT__STREAM__STDOUT, 0, NULL);
	assert_int_equal(write(context.out, "last words", 10), 10);
	assert_int_equal(stdio_drain(context.stdio, 60000, on_drained, &context, NULL), 0);
	pump(context.loop);
	assert_int_equal(context.drained, -1);
	assert_reads(fd, "last words");
	assert_blocks(fd);
	context.out = fd_close(context.out);
	pump(context.loop);
	assert_int_equal(context.drained, 1);
	assert_ends(context.loop, fd);

	/* The end is told again to a connection that comes later. */
	int late = connect_stream(&context, BULKHEAD__AGENT__STREAM__STDOUT, 5, NULL);
	assert_reads(late, "words");
	assert_ends(context.loop, late);
	close(fd);
	close(late);
	finish(&context);
}

static void test_drain_is_bounded(void **state)
{
	(void)state;
	struct context context;
	begin(&context, false, false);
	uint64_t begin_ms = ev_now_ms();
	assert_int_equal(stdio_drain(context.stdio, 300, on_drained, &context, NULL), 0);
	for (int i = 0; i < 1000 && context.drained < 0; i++)
		pump(context.loop);
	assert_int_equal(context.drained, 0);
	assert_true(ev_now_ms() - begin_ms >= 300);
	finish(&context);
}

static void test_stdin_stays_open(void **state)
{
	(void)state;
	struct context context;
	begin(&context, true, false);
	int fd = connect_stream(&context, BULKHEAD__AGENT__STREAM__STDIN, 0, NULL);
	assert_int_equal(write(fd, "one", 3), 3);
	close(fd);
	pump(context.loop);
	assert_reads(context.in, "one");
	assert_blocks(context.in);
	fd = connect_stream(&context, BULKHEAD__AGENT__STREAM__STDIN, 0, NULL);
	assert_int_equal(write(fd, "two", 3), 3);
	pump(context.loop);
	assert_reads(context.in, "two");
	close(fd);
	finish(&context);
}

static void test_stdin_once(void **state)
{
	(void)state;
	struct context context;
	begin(&context, true, true);
	int fd = connect_stream(&context, BULKHEAD__AGENT__STREAM__STDIN, 0, NULL);
	assert_int_equal(write(fd, "one", 3), 3);
	shutdown(fd, SHUT_WR);
	pump(context.loop);
	assert_reads(context.in, "one");
	assert_ends(context.loop, context.in);
	assert_int_equal(
		connect_stream(&context, BULKHEAD__AGENT__STREAM__STDIN, 0, NULL), -ENOENT);
	close(fd);
	finish(&context);
}

/* A process that does not read holds up its host, and loses nothing. */
static void test_stdin_backpressure(void **state)
{
	(void)state;
	struct context context;
	uint8_t data[4096];
	begin(&context, true, true);
	int fd = connect_stream(&context, BULKHEAD__AGENT__STREAM__STDIN, 0, NULL);
	uint64_t sent = 0;
	for (int idle = 0; idle < 3;) {
		for (size_t i = 0; i < sizeof(data); i++)
			data[i] = (uint8_t)((sent + i) % 251);
		ssize_t n = send(fd, data, sizeof(data), MSG_NOSIGNAL);
		sent += n > 0 ? (uint64_t)n : 0;
		idle = n > 0 ? 0 : idle + 1;
		if (n <= 0)
			pump(context.loop);
	}
	assert_in_range(sent, 65536, 4 << 20);
	shutdown(fd, SHUT_WR);
	assert_int_equal(drain(&context, context.in, 0), sent);
	assert_ends(context.loop, context.in);
	close(fd);
	finish(&context);
}

/* The process closes its stdin: the host's connection ends, the agent goes on. */
static void test_stdin_unread(void **state)
{
	(void)state;
	struct context context;
	begin(&context, true, false);
	int fd = connect_stream(&context, BULKHEAD__AGENT__STREAM__STDIN, 0, NULL);
	context.in = fd_close(context.in);
	assert_int_equal(write(fd, "x", 1), 1);
	pump(context.loop);
	assert_ends(context.loop, fd);
	close(fd);
	finish(&context);
}

static _Noreturn void terminal_child(const struct stdio_child *child)
{
	char line[32] = "";
	if (stdio_child_install(child, geteuid(), NULL) < 0)
		_exit(1);
	ssize_t n = read(STDIN_FILENO, line, sizeof(line) - 1);
	if (isatty(0) && isatty(1) && isatty(2) && getpgrp() == tcgetpgrp(0) && n > 0)
		dprintf(STDOUT_FILENO, "got %s", line);
	_exit(0);
}

static void test_terminal(void **state)
{
	(void)state;
	struct context context = {.in = -EBADF, .out = -EBADF, .drained = -1};
	Bulkhead__Agent__Process process = BULKHEAD__AGENT__PROCESS__INIT;
	process.stdin = true;
	process.terminal = true;
	assert_int_equal(ev_loop_new(&context.loop, NULL), 0);
	assert_int_equal(stdio_new(context.loop, &process, &context.stdio, NULL), 0);
	pid_t pid = fork();
	if (pid == 0)
		terminal_child(stdio_child(context.stdio));
	stdio_child_close(context.stdio);
	assert_int_equal(stdio_resize(context.stdio, 80, 24, NULL), 0);
	assert_int_equal(stdio_resize(context.stdio, 0, 24, NULL), -EINVAL);
	int in = connect_stream(&context, BULKHEAD__AGENT__STREAM__STDIN, 0, NULL);
	int out = connect_stream(&context, BULKHEAD__AGENT__STREAM__STDOUT, 0, NULL);
	assert_int_equal(
		connect_stream(&context, BULKHEAD__AGENT__STREAM__STDERR, 0, NULL), -ENOENT);
	assert_int_equal(write(in, "line\n", 5), 5);
	assert_int_equal(stdio_drain(context.stdio, 60000, on_drained, &context, NULL), 0);
	for (int i = 0; i < 2000 && context.drained < 0; i++)
		pump(context.loop);
	assert_int_equal(context.drained, 1);
	assert_reads(out, "line\r\ngot line\r\n");
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(in);
	close(out);
	finish(&context);
}

/* The child fails before it has made its terminal. */
static void test_terminal_that_never_comes(void **state)
{
	(void)state;
	struct context context = {.in = -EBADF, .out = -EBADF, .drained = -1};
	Bulkhead__Agent__Process process = BULKHEAD__AGENT__PROCESS__INIT;
	process.terminal = true;
	assert_int_equal(ev_loop_new(&context.loop, NULL), 0);
	assert_int_equal(stdio_new(context.loop, &process, &context.stdio, NULL), 0);
	stdio_child_close(context.stdio);
	assert_int_equal(stdio_drain(context.stdio, 60000, on_drained, &context, NULL), 0);
	pump(context.loop);
	assert_int_equal(context.drained, 1);
	finish(&context);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_offsets),
		cmocka_unit_test(test_full_ring_blocks_the_writer),
		cmocka_unit_test(test_end_of_stream),
		cmocka_unit_test(test_drain_is_bounded),
		cmocka_unit_test(test_stdin_stays_open),
		cmocka_unit_test(test_stdin_once),
		cmocka_unit_test(test_stdin_backpressure),
		cmocka_unit_test(test_stdin_unread),
		cmocka_unit_test(test_terminal),
		cmocka_unit_test(test_terminal_that_never_comes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
