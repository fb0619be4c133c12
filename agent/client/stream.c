/*
 * The host's end of process streams: client.h's agent_stream_*(). Connections of their own, so they
 * need none of the client's state but its transport.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "agent/client/check.h"
#include "agent/client/client.h"
#include "agent/client/client_internal.h"
#include "common/fd.h"

/* 0: no limit, as SO_RCVTIMEO has it. */
static int set_timeout(int fd, uint64_t timeout_ms, struct err *err)
{
	struct timeval timeout = {.tv_sec = (time_t)(timeout_ms / 1000),
		.tv_usec = (suseconds_t)(timeout_ms % 1000) * 1000};
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0 ||
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0)
		return err_errno(err, "limit the time of a stream's connection");
	return 0;
}

static int send_all(int fd, const void *data, size_t len, struct err *err)
{
	while (len) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, "send to the agent");
		data = (const char *)data + n;
		len -= (size_t)n;
	}
	return 0;
}

static int send_open(int fd, const Bulkhead__Agent__StreamOpen *open, struct err *err)
{
	uint8_t frame[sizeof(uint32_t) + AGENT_STREAM_HEADER_MAX];
	size_t len = bulkhead__agent__stream_open__get_packed_size(open);
	if (len > AGENT_STREAM_HEADER_MAX)
		return err_set(err, -EMSGSIZE, "a StreamOpen of %zu bytes", len);
	uint32_t length = htonl((uint32_t)len);
	memcpy(frame, &length, sizeof(length));
	bulkhead__agent__stream_open__pack(open, frame + sizeof(length));
	return send_all(fd, frame, sizeof(length) + len, err);
}

static int receive_opened(int fd, Bulkhead__Agent__StreamOpened **ret, struct err *err)
{
	uint8_t data[AGENT_STREAM_HEADER_MAX];
	uint32_t length;
	int r = fd_read_exact(fd, &length, sizeof(length), err);
	if (r < 0)
		return r;
	length = ntohl(length);
	if (length > sizeof(data))
		return err_set(err, -EPROTO, "the agent answered with %" PRIu32 " bytes", length);
	r = fd_read_exact(fd, data, length, err);
	if (r < 0)
		return r;
	*ret = bulkhead__agent__stream_opened__unpack(NULL, length, data);
	return *ret ? 0 : err_set(err, -EPROTO, "the agent's answer does not parse");
}

static int check_opened(const Bulkhead__Agent__StreamOpened *opened,
	const Bulkhead__Agent__StreamOpen *open, struct err *err)
{
	if (opened->error) {
		int code = opened->error < 4096 ? -(int)opened->error : -EPROTO;
		err_set(err, code, "%s", opened->message);
		if (err)
			check_clean(err->msg);
		return code;
	}
	if (open->stream != BULKHEAD__AGENT__STREAM__STDIN && opened->offset < open->offset)
		return err_set(err, -EPROTO,
			"the agent goes back to offset %" PRIu64 " from %" PRIu64, opened->offset,
			open->offset);
	return 0;
}

static int handshake(
	int fd, const Bulkhead__Agent__StreamOpen *open, uint64_t *ret_offset, struct err *err)
{
	Bulkhead__Agent__StreamOpened *opened = NULL;
	int r = send_open(fd, open, err);
	if (r == 0)
		r = receive_opened(fd, &opened, err);
	if (r != 0)
		return r == -EAGAIN ? err_set(err, -ETIMEDOUT, "the agent did not answer in time")
				    : r;
	r = check_opened(opened, open, err);
	if (r == 0 && ret_offset)
		*ret_offset = opened->offset;
	bulkhead__agent__stream_opened__free_unpacked(opened, NULL);
	return r;
}

int agent_stream_open(struct agent *agent, const Bulkhead__Agent__StreamOpen *open,
	uint64_t timeout_ms, int *ret_fd, uint64_t *ret_offset, struct err *err)
{
	const struct agent_transport *transport = agent_transport_of(agent);
	_cleanup_close_ int fd = -EBADF;
	int r = transport->connect(transport->userdata, AGENT_STREAM_PORT, timeout_ms, &fd, err);
	if (r == 0)
		r = set_timeout(fd, timeout_ms, err);
	if (r == 0)
		r = handshake(fd, open, ret_offset, err);
	if (r == 0)
		r = set_timeout(fd, 0, err);
	if (r < 0 && open->stream == BULKHEAD__AGENT__STREAM__FORWARD)
		return err_wrap(err, "connect to port %" PRIu32 " inside the pod", open->port);
	if (r < 0)
		return err_wrap(err, "open a stream of container %s", open->container_id);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int agent_stream_ack(int fd, uint64_t offset, struct err *err)
{
	uint64_t wire = htobe64(offset);
	ssize_t n = send(fd, &wire, sizeof(wire), MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n == (ssize_t)sizeof(wire))
		return 0;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 1;
	if (n < 0)
		return err_errno(err, "acknowledge a stream's bytes");
	/* Half a number would shift all that follow. */
	shutdown(fd, SHUT_RDWR);
	return err_set(err, -EPROTO, "acknowledge a stream's bytes: the agent does not read");
}
