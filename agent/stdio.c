#include "agent/stdio.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "agent/input.h"
#include "agent/output.h"
#include "agent/proto/ports.h"
#include "common/fd.h"

struct stdio {
	struct ev_loop *loop;
	struct stdio_child child;

	struct input *in;   /* NULL: /dev/null */
	struct output *out; /* a terminal's only one */
	struct output *err; /* NULL with a terminal */

	int terminal; /* our end of the socket that the master comes over */
	struct ev_source *terminal_source;
	int master; /* for the window's size */
	struct winsize size;

	struct ev_source *drain_timer;
	stdio_drained_fn drained;
	void *drained_userdata;
};

static bool stdio_at_eof(const struct stdio *stdio)
{
	return output_at_eof(stdio->out) && (!stdio->err || output_at_eof(stdio->err));
}

/* Through the timer, so that the callback never comes from within a stream's code. */
static void stdio_on_eof(void *userdata)
{
	struct stdio *stdio = userdata;
	if (stdio->drain_timer && stdio_at_eof(stdio))
		ev_timer_set(stdio->drain_timer, 0);
}

static int stdio_make_streams(
	struct stdio *stdio, const Bulkhead__Agent__Process *process, struct err *err)
{
	int r = output_new(stdio->loop, stdio_on_eof, stdio, &stdio->out, err);
	if (r == 0 && !process->terminal)
		r = output_new(stdio->loop, stdio_on_eof, stdio, &stdio->err, err);
	if (r == 0 && process->stdin)
		r = input_new(
			stdio->loop, process->stdin_once && !process->terminal, &stdio->in, err);
	return r;
}

/* Fewer switches between the process and us, which are what bulk data costs most where each empties
 * the TLB. A pipe that stays small (over the user's limit) does as well. */
static void enlarge(int pipe)
{
	fcntl(pipe, F_SETPIPE_SZ, (int)AGENT_RING_BYTES);
}

static int make_output(struct output *output, int *ret_child, struct err *err)
{
	int fds[2];
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_errno(err, "pipe");
	enlarge(fds[1]);
	*ret_child = fds[1];
	_cleanup_close_ int reader = fds[0];
	int r = fd_set_nonblock(reader, err);
	if (r < 0)
		return r;
	return output_attach(output, TAKE_FD(reader), err);
}

static int make_input(struct input *input, int *ret_child, struct err *err)
{
	if (!input) {
		*ret_child = open("/dev/null", O_RDONLY | O_CLOEXEC);
		return *ret_child < 0 ? err_errno(err, "open /dev/null") : 0;
	}
	int fds[2];
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_errno(err, "pipe");
	enlarge(fds[0]);
	*ret_child = fds[0];
	_cleanup_close_ int writer = fds[1];
	int r = fd_set_nonblock(writer, err);
	if (r < 0)
		return r;
	return input_attach(input, TAKE_FD(writer), err);
}

static int make_pipes(struct stdio *stdio, struct err *err)
{
	int r = make_input(stdio->in, &stdio->child.in, err);
	if (r == 0)
		r = make_output(stdio->out, &stdio->child.out, err);
	if (r == 0)
		r = make_output(stdio->err, &stdio->child.err, err);
	return r;
}

/* The one descriptor that the child sends, or -EBADF when it ended without. */
static int receive_descriptor(int socket)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	char byte;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};
	if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0)
		return -EBADF;
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
	if (!cmsg || cmsg->cmsg_type != SCM_RIGHTS || cmsg->cmsg_len != CMSG_LEN(sizeof(int)))
		return -EBADF;
	int fd;
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
	return fd;
}

static int take_master(struct stdio *stdio, int master, struct err *err)
{
	stdio->master = master;
	if (stdio->size.ws_col)
		ioctl(master, TIOCSWINSZ, &stdio->size);
	int r = fd_set_nonblock(master, err);
	if (r < 0)
		return r;
	if (stdio->in) {
		int writer = fcntl(master, F_DUPFD_CLOEXEC, 3);
		if (writer < 0)
			return err_errno(err, "duplicate the terminal");
		r = input_attach(stdio->in, writer, err);
		if (r < 0)
			return r;
	}
	int reader = fcntl(master, F_DUPFD_CLOEXEC, 3);
	if (reader < 0)
		return err_errno(err, "duplicate the terminal");
	return output_attach(stdio->out, reader, err);
}

static void stdio_on_terminal(void *userdata, uint32_t events)
{
	struct stdio *stdio = userdata;
	(void)events;
	int master = receive_descriptor(stdio->terminal);
	stdio->terminal_source = ev_source_free(stdio->terminal_source);
	stdio->terminal = fd_close(stdio->terminal);
	if (master < 0 || take_master(stdio, master, NULL) < 0)
		output_end(stdio->out);
}

static int make_terminal(struct stdio *stdio, struct err *err)
{
	int fds[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_errno(err, "socketpair");
	stdio->terminal = fds[0];
	stdio->child.terminal = fds[1];
	return ev_io_new(stdio->loop, stdio->terminal, EPOLLIN, stdio_on_terminal, stdio,
		&stdio->terminal_source, err);
}

static void stdio_freep(struct stdio **stdio)
{
	stdio_free(*stdio);
}

int stdio_new(struct ev_loop *loop, const Bulkhead__Agent__Process *process, struct stdio **ret,
	struct err *err)
{
	_cleanup_(stdio_freep) struct stdio *stdio = calloc(1, sizeof(*stdio));
	if (!stdio)
		return err_nomem(err);
	*stdio = (struct stdio){.loop = loop,
		.child = {.in = -EBADF, .out = -EBADF, .err = -EBADF, .terminal = -EBADF},
		.terminal = -EBADF,
		.master = -EBADF};
	if (process->columns <= USHRT_MAX && process->rows <= USHRT_MAX) {
		stdio->child.columns = (unsigned short)process->columns;
		stdio->child.rows = (unsigned short)process->rows;
	}
	int r = stdio_make_streams(stdio, process, err);
	if (r == 0)
		r = process->terminal ? make_terminal(stdio, err) : make_pipes(stdio, err);
	if (r < 0)
		return err_wrap(err, "make the process's streams");
	*ret = TAKE_PTR(stdio);
	return 0;
}

struct stdio *stdio_free(struct stdio *stdio)
{
	if (!stdio)
		return NULL;
	stdio_child_close(stdio);
	ev_source_free(stdio->drain_timer);
	ev_source_free(stdio->terminal_source);
	fd_close(stdio->terminal);
	fd_close(stdio->master);
	input_free(stdio->in);
	output_free(stdio->out);
	output_free(stdio->err);
	free(stdio);
	return NULL;
}

const struct stdio_child *stdio_child(const struct stdio *stdio)
{
	return &stdio->child;
}

void stdio_child_close(struct stdio *stdio)
{
	stdio->child.in = fd_close(stdio->child.in);
	stdio->child.out = fd_close(stdio->child.out);
	stdio->child.err = fd_close(stdio->child.err);
	stdio->child.terminal = fd_close(stdio->child.terminal);
}

int stdio_answer(int fd, const Bulkhead__Agent__StreamOpened *opened, struct err *err)
{
	uint8_t frame[AGENT_STREAM_HEADER_MAX + 4];
	size_t len = bulkhead__agent__stream_opened__get_packed_size(opened);
	if (len > AGENT_STREAM_HEADER_MAX)
		return err_set(err, -EMSGSIZE, "a StreamOpened of %zu bytes", len);
	uint32_t length = htonl((uint32_t)len);
	memcpy(frame, &length, sizeof(length));
	bulkhead__agent__stream_opened__pack(opened, frame + sizeof(length));
	ssize_t n = send(fd, frame, len + sizeof(length), MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return err_errno(err, "answer a stream's connection");
	if ((size_t)n != len + sizeof(length))
		return err_set(err, -EPIPE, "a stream's connection does not take its answer");
	return 0;
}

static struct output *stdio_output(const struct stdio *stdio, Bulkhead__Agent__Stream stream)
{
	if (stream == BULKHEAD__AGENT__STREAM__STDOUT)
		return stdio->out;
	return stream == BULKHEAD__AGENT__STREAM__STDERR ? stdio->err : NULL;
}

int stdio_connect(
	struct stdio *stdio, const Bulkhead__Agent__StreamOpen *open, int fd, struct err *err)
{
	Bulkhead__Agent__StreamOpened opened = BULKHEAD__AGENT__STREAM_OPENED__INIT;
	if (open->stream == BULKHEAD__AGENT__STREAM__STDIN && stdio->in) {
		int r = input_connect(stdio->in, fd, err);
		if (r < 0)
			return r;
		/* A connection that does not take its answer is seen as ended soon. */
		if (stdio_answer(fd, &opened, NULL) < 0)
			shutdown(fd, SHUT_RDWR);
		return 0;
	}
	struct output *output = stdio_output(stdio, open->stream);
	if (!output)
		return err_set(err, -ENOENT, "the process has no stream %d", (int)open->stream);
	int r = output_offset(output, open->offset, &opened.offset, err);
	if (r == 0)
		r = stdio_answer(fd, &opened, err);
	if (r == 0)
		r = output_connect(output, opened.offset, fd, err);
	return r;
}

int stdio_resize(struct stdio *stdio, unsigned columns, unsigned rows, struct err *err)
{
	if (stdio->err)
		return err_set(err, -EINVAL, "the process has no terminal");
	if (!columns || !rows || columns > UINT16_MAX || rows > UINT16_MAX)
		return err_set(err, -EINVAL, "a terminal of %u columns and %u rows", columns, rows);
	stdio->size =
		(struct winsize){.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
	if (stdio->master >= 0 && ioctl(stdio->master, TIOCSWINSZ, &stdio->size) < 0)
		return err_errno(err, "resize the terminal");
	return 0;
}

static void stdio_on_drain_timer(void *userdata)
{
	struct stdio *stdio = userdata;
	stdio->drain_timer = ev_source_free(stdio->drain_timer);
	stdio->drained(stdio->drained_userdata, stdio_at_eof(stdio));
}

int stdio_drain(struct stdio *stdio, uint64_t timeout_ms, stdio_drained_fn fn, void *userdata,
	struct err *err)
{
	stdio->drained = fn;
	stdio->drained_userdata = userdata;
	stdio->drain_timer = ev_source_free(stdio->drain_timer);
	return ev_timer_new(stdio->loop, stdio_at_eof(stdio) ? 0 : timeout_ms, stdio_on_drain_timer,
		stdio, &stdio->drain_timer, err);
}
