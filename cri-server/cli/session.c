#include "cri-server/cli/session.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <wslay/wslay.h>

#include "common/buf.h"
#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/detach.h"
#include "cri-server/cli/terminal.h"
#include "cri-server/cli/upgrade.h"

#define READ_BYTES   LINK_READ_BYTES
#define STATUS_MAX   65536
#define OUT_HIGH     (64u << 10) /* stdin is not read while more waits to go out */
#define CLOSE_SIGNAL "\xff"

enum { CHANNEL_IN, CHANNEL_OUT, CHANNEL_ERR, CHANNEL_STATUS, CHANNEL_SIZE };

struct session {
	const struct session_options *options;
	struct link *link;
	wslay_event_context_ptr wslay;
	struct buf in;  /* read behind the handshake, for wslay */
	struct buf out; /* to the server */
	struct buf status;
	bool in_open;
	bool answered;
	struct detach_keys keys;
	bool detached;
	struct err err;
	struct terminal terminal;
};

static ssize_t on_recv(
	wslay_event_context_ptr wslay, uint8_t *to, size_t len, int flags, void *userdata)
{
	struct session *s = userdata;
	(void)flags;
	size_t n = len < s->in.len ? len : s->in.len;
	if (!n) {
		wslay_event_set_error(wslay, WSLAY_ERR_WOULDBLOCK);
		return -1;
	}
	memcpy(to, s->in.data, n);
	buf_consume(&s->in, n);
	return (ssize_t)n;
}

static ssize_t on_send(
	wslay_event_context_ptr wslay, const uint8_t *data, size_t len, int flags, void *userdata)
{
	struct session *s = userdata;
	(void)flags;
	if (buf_append(&s->out, data, len) == 0)
		return (ssize_t)len;
	wslay_event_set_error(wslay, WSLAY_ERR_NOMEM);
	return -1;
}

static int on_mask(wslay_event_context_ptr wslay, uint8_t *to, size_t len, void *userdata)
{
	(void)wslay;
	(void)userdata;
	arc4random_buf(to, len);
	return 0;
}

static void take_output(struct session *s, int stream, const void *data, size_t len)
{
	if (!s->options->on_output)
		fd_write_all(stream, data, len, &s->err);
	else if (s->options->on_output(s->options->userdata, stream, data, len) != 0)
		err_set(&s->err, -EPIPE, "what came could not be taken");
}

static void on_message(wslay_event_context_ptr wslay, const struct wslay_event_on_msg_recv_arg *arg,
	void *userdata)
{
	struct session *s = userdata;
	(void)wslay;
	if (!s->answered && s->options->on_open)
		s->options->on_open(s->options->userdata);
	s->answered = true;
	if (wslay_is_ctrl_frame(arg->opcode) || arg->msg_length < 2)
		return;
	const uint8_t *data = arg->msg + 1;
	size_t len = arg->msg_length - 1;
	if (arg->msg[0] == CHANNEL_STATUS)
		buf_append(&s->status, data, len);
	else if (arg->msg[0] == CHANNEL_OUT || arg->msg[0] == CHANNEL_ERR)
		take_output(
			s, arg->msg[0] == CHANNEL_OUT ? STDOUT_FILENO : STDERR_FILENO, data, len);
}

static void send_message(struct session *s, char channel, const void *data, size_t len)
{
	uint8_t bytes[READ_BYTES + 1] = {(uint8_t)channel};
	memcpy(bytes + 1, data, len);
	const struct wslay_event_msg message = {
		.opcode = WSLAY_BINARY_FRAME, .msg = bytes, .msg_length = len + 1};
	if (wslay_event_queue_msg(s->wslay, &message) != 0 || wslay_event_send(s->wslay) != 0)
		err_nomem(&s->err);
}

static void send_ping(struct session *s)
{
	const struct wslay_event_msg ping = {.opcode = WSLAY_PING};
	if (wslay_event_queue_msg(s->wslay, &ping) != 0 || wslay_event_send(s->wslay) != 0)
		err_nomem(&s->err);
}

static void send_size(struct session *s)
{
	struct winsize size;
	char text[64];
	if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_col || !size.ws_row)
		return;
	int len = snprintf(
		text, sizeof(text), "{\"Width\":%u,\"Height\":%u}", size.ws_col, size.ws_row);
	send_message(s, CHANNEL_SIZE, text, (size_t)len);
}

/* Keys are pressed at a terminal; elsewhere the same bytes are data. */
static void take_input(struct session *s, const char *data, size_t len)
{
	char typed[READ_BYTES];
	size_t n;
	if (!s->options->detach_keys || !s->terminal.raw) {
		send_message(s, CHANNEL_IN, data, len);
		return;
	}
	s->detached = detach_filter(&s->keys, data, len, typed, &n);
	if (n)
		send_message(s, CHANNEL_IN, typed, n);
}

static void read_stdin(struct session *s)
{
	char data[READ_BYTES - 1]; /* a key that was held back comes before them */
	ssize_t n = read(s->options->in_fd, data, sizeof(data));
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n > 0) {
		take_input(s, data, (size_t)n);
		return;
	}
	s->in_open = false;
	send_message(s, CLOSE_SIGNAL[0], "", 1);
}

static void flush(struct session *s)
{
	ssize_t n = link_send(s->link, s->out.data, s->out.len);
	if (n > 0)
		buf_consume(&s->out, (size_t)n);
	else if (n < 0 && errno != EAGAIN && errno != EINTR)
		err_errno(&s->err, "send to the streaming server");
}

/* False at the end of the connection. */
static bool receive(struct session *s)
{
	char data[READ_BYTES];
	ssize_t n = link_recv(s->link, data, sizeof(data));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	return n > 0 && buf_append(&s->in, data, (size_t)n) == 0;
}

static bool take_messages(struct session *s)
{
	while (s->in.len && wslay_event_want_read(s->wslay))
		if (wslay_event_recv(s->wslay) != 0)
			return false;
	wslay_event_send(s->wslay);
	return !wslay_event_get_close_received(s->wslay);
}

static void pump(struct session *s)
{
	const int stop = s->options->stop_fd;
	bool open = take_messages(s);
	while (open && !s->detached && !s->err.code) {
		bool reads = s->in_open && s->out.len < OUT_HIGH;
		struct pollfd polls[] = {
			{.fd = link_fd(s->link),
				.events = (short)(POLLIN | (s->out.len ? POLLOUT : 0))},
			{.fd = reads ? s->options->in_fd : -1, .events = POLLIN},
			{.fd = s->terminal.resized, .events = POLLIN},
			{.fd = stop > 0 ? stop : -1, .events = POLLIN},
		};
		int n = poll(polls, ARRAY_SIZE(polls), LINK_PING_MS);
		if (n < 0)
			continue;
		if (n == 0 && !s->out.len)
			send_ping(s);
		if (polls[3].revents)
			s->detached = true;
		if (polls[2].revents && terminal_was_resized(&s->terminal))
			send_size(s);
		if (polls[1].revents)
			read_stdin(s);
		if (polls[0].revents & POLLOUT)
			flush(s);
		if (polls[0].revents & (POLLIN | POLLHUP | POLLERR))
			open = receive(s) && take_messages(s);
	}
	if (s->detached && s->out.len) /* typed before */
		flush(s);
}

int session_status(const char *json, size_t len, int *ret_exit, struct err *err)
{
	json_t *status = json_loadb(json, len, 0, NULL);
	const char *what = json_string_value(json_object_get(status, "status"));
	const char *reason = json_string_value(json_object_get(status, "reason"));
	const char *message = json_string_value(json_object_get(status, "message"));
	int r = 0;
	if (what && strcmp(what, "Success") == 0) {
		*ret_exit = 0;
	} else if (reason && strcmp(reason, "NonZeroExitCode") == 0) {
		const json_t *causes =
			json_object_get(json_object_get(status, "details"), "causes");
		const char *code =
			json_string_value(json_object_get(json_array_get(causes, 0), "message"));
		*ret_exit = code ? atoi(code) : EXIT_FAILURE;
	} else {
		r = err_set(err, -EIO, "%s",
			message ? message : "the session ended without a status: it was cut off");
	}
	json_decref(status);
	return r;
}

static int session_open(struct session *s, const struct upgrade *open, struct err *err)
{
	const struct wslay_event_callbacks callbacks = {.recv_callback = on_recv,
		.send_callback = on_send,
		.genmask_callback = on_mask,
		.on_msg_recv_callback = on_message};
	int r = upgrade(open, &s->link, &s->in, err);
	if (r == 0 && wslay_event_context_client_init(&s->wslay, &callbacks, s) != 0)
		r = err_nomem(err);
	if (r == 0 && s->options->tty) {
		r = terminal_begin(&s->terminal, s->options->in, err);
		send_size(s);
	}
	return r;
}

int session_run(const struct cli *cli, const char *url, const struct session_options *options,
	int *ret_exit, struct err *err)
{
	const struct upgrade open = {.url = url,
		.ca = cli->tls_ca,
		.method = "GET",
		.headers = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
			   "Sec-WebSocket-Key: YnVsa2hlYWRjdGwgMDEyMw==\r\n"
			   "Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n"};
	struct session s = {.options = options,
		.terminal = TERMINAL_INIT,
		.in = buf_init(1u << 20),
		.out = buf_init(1u << 20),
		.status = buf_init(STATUS_MAX),
		.in_open = options->in};
	int r = session_open(&s, &open, err);
	if (r == 0)
		pump(&s);
	terminal_end(&s.terminal);
	if (r == 0 && s.detached)
		*ret_exit = EXIT_SUCCESS;
	else if (r == 0 && s.err.code)
		r = err_set(err, s.err.code, "%s", s.err.msg);
	else if (r == 0)
		r = session_status(s.status.data ? s.status.data : "", s.status.len, ret_exit, err);
	if (s.wslay)
		wslay_event_context_free(s.wslay);
	link_free(s.link);
	buf_done(&s.in);
	buf_done(&s.out);
	buf_done(&s.status);
	return r;
}
