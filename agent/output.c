#include "agent/output.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/proto/ports.h"
#include "common/fd.h"

struct output {
	struct ev_loop *loop;
	ev_fn on_eof;
	void *userdata;

	int fd;
	struct ev_source *source;
	bool eof;

	char *ring;
	uint64_t base;
	uint64_t end;

	int conn;
	struct ev_source *conn_source;
	uint64_t sent;
	bool shut; /* our side of the connection */
	uint8_t ack[8];
	size_t ack_len;
};

int output_new(
	struct ev_loop *loop, ev_fn on_eof, void *userdata, struct output **ret, struct err *err)
{
	struct output *output = calloc(1, sizeof(*output));
	if (!output)
		return err_nomem(err);
	output->loop = loop;
	output->on_eof = on_eof;
	output->userdata = userdata;
	output->fd = -EBADF;
	output->conn = -EBADF;
	*ret = output;
	return 0;
}

static void disconnect(struct output *output)
{
	output->conn_source = ev_source_free(output->conn_source);
	output->conn = fd_close(output->conn);
}

static void detach(struct output *output)
{
	output->source = ev_source_free(output->source);
	output->fd = fd_close(output->fd);
}

struct output *output_free(struct output *output)
{
	if (!output)
		return NULL;
	disconnect(output);
	detach(output);
	free(output->ring);
	free(output);
	return NULL;
}

/* Sends what the socket takes; a broken connection is dropped, the bytes stay for the next one. */
static void output_send(struct output *output)
{
	while (output->sent < output->end) {
		size_t at = output->sent % AGENT_RING_BYTES;
		size_t len = AGENT_RING_BYTES - at;
		if (len > output->end - output->sent)
			len = output->end - output->sent;
		ssize_t n = send(output->conn, output->ring + at, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			disconnect(output);
			return;
		}
		output->sent += (uint64_t)n;
	}
	bool more = output->sent < output->end;
	if (!more && output->eof && !output->shut) {
		output->shut = true;
		shutdown(output->conn, SHUT_WR);
	}
	ev_io_set(output->conn_source, EPOLLIN | (more ? EPOLLOUT : 0));
}

static void output_acknowledged(struct output *output, uint64_t offset)
{
	if (offset > output->sent) {
		disconnect(output);
		return;
	}
	if (offset <= output->base)
		return;
	output->base = offset;
	if (output->source)
		ev_io_set(output->source, EPOLLIN);
	if (output->eof && output->base == output->end) {
		free(output->ring);
		output->ring = NULL;
	}
}

static void output_on_conn(void *userdata, uint32_t events)
{
	struct output *output = userdata;
	if (events & EPOLLOUT)
		output_send(output);
	while (output->conn >= 0) {
		ssize_t n = recv(output->conn, output->ack + output->ack_len,
			sizeof(output->ack) - output->ack_len, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			disconnect(output);
			return;
		}
		output->ack_len += (size_t)n;
		if (output->ack_len < sizeof(output->ack))
			continue;
		uint64_t offset;
		memcpy(&offset, output->ack, sizeof(offset));
		output->ack_len = 0;
		output_acknowledged(output, be64toh(offset));
	}
}

void output_end(struct output *output)
{
	if (output->eof)
		return;
	output->eof = true;
	detach(output);
	if (output->conn >= 0)
		output_send(output);
	output->on_eof(output->userdata);
}

/* A terminal's master fails with EIO once the last slave is closed and all was read. */
static void output_on_source(void *userdata, uint32_t events)
{
	struct output *output = userdata;
	(void)events;
	size_t room = AGENT_RING_BYTES - (output->end - output->base);
	if (!room) {
		ev_io_set(output->source, 0);
		return;
	}
	size_t at = output->end % AGENT_RING_BYTES;
	size_t len = AGENT_RING_BYTES - at < room ? AGENT_RING_BYTES - at : room;
	ssize_t n = read(output->fd, output->ring + at, len);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		output_end(output);
		return;
	}
	output->end += (uint64_t)n;
	if (output->conn >= 0)
		output_send(output);
}

int output_attach(struct output *output, int fd, struct err *err)
{
	_cleanup_close_ int taken = fd;
	/* So large that malloc() maps it: pages are touched as bytes come. */
	output->ring = malloc(AGENT_RING_BYTES);
	if (!output->ring)
		return err_nomem(err);
	int r = ev_io_new(
		output->loop, taken, EPOLLIN, output_on_source, output, &output->source, err);
	if (r < 0)
		return r;
	output->fd = TAKE_FD(taken);
	return 0;
}

bool output_at_eof(const struct output *output)
{
	return output->eof;
}

int output_offset(const struct output *output, uint64_t offset, uint64_t *ret, struct err *err)
{
	if (offset > output->end)
		return err_set(err, -EINVAL,
			"offset %" PRIu64 " is beyond the stream, which has %" PRIu64 " bytes",
			offset, output->end);
	*ret = offset > output->base ? offset : output->base;
	return 0;
}

int output_connect(struct output *output, uint64_t offset, int fd, struct err *err)
{
	struct ev_source *source;
	int r = ev_io_new(output->loop, fd, EPOLLIN, output_on_conn, output, &source, err);
	if (r < 0)
		return r;
	disconnect(output);
	output->conn = fd;
	output->conn_source = source;
	output->sent = offset;
	output->shut = false;
	output->ack_len = 0;
	output_send(output);
	return 0;
}
