#include "agent/input.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fd.h"

#define INPUT_BUFFER_BYTES 65536

struct input {
	struct ev_loop *loop;
	bool once;
	bool closed; /* by the host, or the process does not read any more */

	int fd;
	struct ev_source *source;

	int conn;
	struct ev_source *conn_source;

	size_t start;
	size_t len;
	char data[INPUT_BUFFER_BYTES];
};

int input_new(struct ev_loop *loop, bool once, struct input **ret, struct err *err)
{
	struct input *input = calloc(1, sizeof(*input));
	if (!input)
		return err_nomem(err);
	input->loop = loop;
	input->once = once;
	input->fd = -EBADF;
	input->conn = -EBADF;
	*ret = input;
	return 0;
}

static void disconnect(struct input *input)
{
	input->conn_source = ev_source_free(input->conn_source);
	input->conn = fd_close(input->conn);
}

static void input_close(struct input *input)
{
	disconnect(input);
	input->source = ev_source_free(input->source);
	input->fd = fd_close(input->fd);
	input->closed = true;
}

struct input *input_free(struct input *input)
{
	if (!input)
		return NULL;
	input_close(input);
	free(input);
	return NULL;
}

/* Waits for room in the pipe while something is buffered, else for the connection. */
static void input_arm(struct input *input)
{
	if (input->source)
		ev_io_set(input->source, input->len ? EPOLLOUT : 0);
	if (input->conn_source)
		ev_io_set(input->conn_source, input->len || !input->source ? 0 : EPOLLIN);
}

static void input_flush(struct input *input)
{
	while (input->len && input->source) {
		ssize_t n = write(input->fd, input->data + input->start, input->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			input_close(input);
			return;
		}
		input->start += (size_t)n;
		input->len -= (size_t)n;
	}
	input_arm(input);
}

static void input_on_source(void *userdata, uint32_t events)
{
	(void)events;
	input_flush(userdata);
}

static void input_on_conn(void *userdata, uint32_t events)
{
	struct input *input = userdata;
	(void)events;
	ssize_t n = recv(input->conn, input->data, sizeof(input->data), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		input->start = 0;
		input->len = (size_t)n;
		input_flush(input);
		return;
	}
	if (input->once)
		input_close(input);
	else
		disconnect(input);
}

int input_attach(struct input *input, int fd, struct err *err)
{
	_cleanup_close_ int taken = fd;
	int r = ev_io_new(input->loop, taken, 0, input_on_source, input, &input->source, err);
	if (r < 0)
		return r;
	input->fd = TAKE_FD(taken);
	input_arm(input);
	return 0;
}

int input_connect(struct input *input, int fd, struct err *err)
{
	if (input->closed)
		return err_set(err, -ENOENT, "stdin is closed");
	struct ev_source *source;
	int r = ev_io_new(input->loop, fd, 0, input_on_conn, input, &source, err);
	if (r < 0)
		return r;
	disconnect(input);
	input->conn = fd;
	input->conn_source = source;
	input_arm(input);
	return 0;
}
