/*
 * The host's end of process streams: client.h's agent_stream_*(). Connections of their own, so they
 * need none of the client's state but its transport.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/client/check.h"
#include "agent/client/client.h"
#include "agent/client/client_internal.h"
#include "common/fd.h"

/*
 * Until the descriptor is ready. The deadline is for all that is said until the stream is open: a
 * guest that answers byte by byte holds up nobody for longer.
 */
static int await(int fd, short events, uint64_t until_ms, struct err *err)
{
	struct pollfd poll_fd = {.fd = fd, .events = events};
	uint64_t left = ev_left_ms(until_ms);
	int n = poll(&poll_fd, 1, left < INT_MAX ? (int)left : INT_MAX);
	if (n < 0 && errno != EINTR)
		return err_errno(err, "wait for the agent");
	return n ? 0 : err_set(err, -ETIMEDOUT, "the agent did not answer in time");
}

static int send_all(int fd, const void *data, size_t len, uint64_t until_ms, struct err *err)
{
	while (len) {
		int r = await(fd, POLLOUT, until_ms, err);
		if (r < 0)
			return r;
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return err_errno(err, "send to the agent");
		data = (const char *)data + n;
		len -= (size_t)n;
	}
	return 0;
}

static int receive_all(int fd, void *data, size_t len, uint64_t until_ms, struct err *err)
{
	for (size_t got = 0; got < len;) {
		int r = await(fd, POLLIN, until_ms, err);
		if (r < 0)
			return r;
		ssize_t n = recv(fd, (char *)data + got, len - got, MSG_DONTWAIT);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return err_errno(err, "read the agent's answer");
		if (n == 0)
			return err_set(err, -ENODATA,
				"the agent's answer ended after %zu of %zu bytes", got, len);
		got += (size_t)n;
	}
	return 0;
}

static int send_open(
	int fd, const Bulkhead__Agent__StreamOpen *open, uint64_t until_ms, struct err *err)
{
	uint8_t frame[sizeof(uint32_t) + AGENT_STREAM_HEADER_MAX];
	size_t len = bulkhead__agent__stream_open__get_packed_size(open);
	if (len > AGENT_STREAM_HEADER_MAX)
		return err_set(err, -EMSGSIZE, "a StreamOpen of %zu bytes", len);
	uint32_t length = htonl((uint32_t)len);
	memcpy(frame, &length, sizeof(length));
	bulkhead__agent__stream_open__pack(open, frame + sizeof(length));
	return send_all(fd, frame, sizeof(length) + len, until_ms, err);
}

static int receive_opened(
	int fd, uint64_t until_ms, Bulkhead__Agent__StreamOpened **ret, struct err *err)
{
	uint8_t data[AGENT_STREAM_HEADER_MAX];
	uint32_t length;
	int r = receive_all(fd, &length, sizeof(length), until_ms, err);
	if (r < 0)
		return r;
	length = ntohl(length);
	if (length > sizeof(data))
		return err_set(err, -EPROTO, "the agent answered with %" PRIu32 " bytes", length);
	r = receive_all(fd, data, length, until_ms, err);
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

static int handshake(int fd, const struct agent_transport *transport,
	const Bulkhead__Agent__StreamOpen *open, uint64_t until_ms, uint64_t *ret_offset,
	struct err *err)
{
	Bulkhead__Agent__StreamOpened *opened = NULL;
	Bulkhead__Agent__StreamOpen with_key = *open;
	with_key.key = (ProtobufCBinaryData){AGENT_KEY_BYTES, (uint8_t *)transport->key};
	int r = send_open(fd, &with_key, until_ms, err);
	if (r == 0)
		r = receive_opened(fd, until_ms, &opened, err);
	if (r != 0)
		return r;
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
	uint64_t until_ms = ev_now_ms() + timeout_ms;
	int r = transport->connect(transport->userdata, AGENT_STREAM_PORT, timeout_ms, &fd, err);
	if (r == 0)
		r = handshake(fd, transport, open, until_ms, ret_offset, err);
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
