#include "agent/stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/forward.h"
#include "agent/proto/ports.h"
#include "common/fd.h"
#include "common/listener.h"

#define HANDSHAKES_MAX       64
#define HANDSHAKE_TIMEOUT_MS 10000

/* A connection whose StreamOpen is not complete. */
struct handshake {
	struct stream_listener *listener;
	int fd;
	struct ev_source *source;
	struct ev_source *timer;
	size_t len;
	uint8_t data[4 + AGENT_STREAM_HEADER_MAX];
};

struct stream_listener {
	struct ev_loop *loop;
	int fd;
	struct ev_listener *connections;
	const struct key *key;
	stream_lookup_fn lookup;
	void *userdata;
	struct forwards *forwards;
	struct handshake *handshakes[HANDSHAKES_MAX];
	unsigned n_handshakes;
};

static void handshake_free(struct handshake *handshake)
{
	struct stream_listener *listener = handshake->listener;
	for (unsigned i = 0; i < listener->n_handshakes; i++) {
		if (listener->handshakes[i] != handshake)
			continue;
		listener->handshakes[i] = listener->handshakes[--listener->n_handshakes];
		break;
	}
	ev_source_free(handshake->source);
	ev_source_free(handshake->timer);
	fd_close(handshake->fd);
	free(handshake);
	if (listener->connections)
		ev_listener_set(listener->connections, true);
}

static void handshake_on_timeout(void *userdata)
{
	handshake_free(userdata);
}

static void refuse(int fd, struct err *err)
{
	Bulkhead__Agent__StreamOpened opened = BULKHEAD__AGENT__STREAM_OPENED__INIT;
	opened.error = (uint32_t)-err->code;
	opened.message = err->msg;
	stdio_answer(fd, &opened, NULL);
}

static void stream_open(struct handshake *handshake, const Bulkhead__Agent__StreamOpen *open)
{
	struct stream_listener *listener = handshake->listener;
	struct err err = ERR_INIT;
	handshake->source = ev_source_free(handshake->source);
	if (key_check(listener->key, &open->key, &err) < 0) {
		refuse(handshake->fd, &err);
		return;
	}
	if (open->stream == BULKHEAD__AGENT__STREAM__FORWARD) {
		if (forward_start(listener->forwards, open->port, handshake->fd, &err) == 0)
			handshake->fd = -EBADF;
		else
			refuse(handshake->fd, &err);
		return;
	}
	struct stdio *stdio = listener->lookup(listener->userdata, open, &err);
	if (stdio && stdio_connect(stdio, open, handshake->fd, &err) == 0) {
		handshake->fd = -EBADF;
		return;
	}
	refuse(handshake->fd, &err);
}

/* How many bytes the message still lacks; 0: complete; -EPROTO: too large. */
static ssize_t handshake_missing(const struct handshake *handshake)
{
	if (handshake->len < 4)
		return (ssize_t)(4 - handshake->len);
	uint32_t length;
	memcpy(&length, handshake->data, sizeof(length));
	length = ntohl(length);
	if (length > AGENT_STREAM_HEADER_MAX)
		return -EPROTO;
	return (ssize_t)(4 + length - handshake->len);
}

static void handshake_on_io(void *userdata, uint32_t events)
{
	struct handshake *handshake = userdata;
	(void)events;
	ssize_t missing = handshake_missing(handshake);
	while (missing > 0) {
		ssize_t n = recv(handshake->fd, handshake->data + handshake->len, (size_t)missing,
			MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			handshake_free(handshake);
			return;
		}
		handshake->len += (size_t)n;
		/* The length is known after four bytes; an empty message is complete with them. */
		if (n == missing)
			missing = handshake->len == 4 ? handshake_missing(handshake) : 0;
		else
			missing -= n;
	}
	Bulkhead__Agent__StreamOpen *open = NULL;
	if (missing == 0)
		open = bulkhead__agent__stream_open__unpack(
			NULL, handshake->len - 4, handshake->data + 4);
	if (open)
		stream_open(handshake, open);
	if (open)
		bulkhead__agent__stream_open__free_unpacked(open, NULL);
	handshake_free(handshake);
}

static void on_connection(void *userdata, int fd)
{
	struct stream_listener *listener = userdata;
	struct handshake *handshake = calloc(1, sizeof(*handshake));
	if (!handshake) {
		fd_close(fd);
		return;
	}
	handshake->listener = listener;
	handshake->fd = fd;
	listener->handshakes[listener->n_handshakes++] = handshake;
	if (listener->n_handshakes == HANDSHAKES_MAX)
		ev_listener_set(listener->connections, false);
	int r = ev_io_new(
		listener->loop, fd, EPOLLIN, handshake_on_io, handshake, &handshake->source, NULL);
	if (r == 0)
		r = ev_timer_new(listener->loop, HANDSHAKE_TIMEOUT_MS, handshake_on_timeout,
			handshake, &handshake->timer, NULL);
	if (r < 0)
		handshake_free(handshake);
}

int stream_listener_new(struct ev_loop *loop, int fd, const struct key *key,
	stream_lookup_fn lookup, void *userdata, struct stream_listener **ret, struct err *err)
{
	_cleanup_close_ int taken = fd;
	_cleanup_free_ struct stream_listener *listener = calloc(1, sizeof(*listener));
	if (!listener)
		return err_nomem(err);
	listener->loop = loop;
	listener->key = key;
	listener->lookup = lookup;
	listener->userdata = userdata;
	int r = forwards_new(loop, &listener->forwards, err);
	if (r == 0)
		r = ev_listener_new(
			loop, taken, on_connection, listener, &listener->connections, err);
	if (r < 0) {
		forwards_free(listener->forwards);
		return r;
	}
	listener->fd = TAKE_FD(taken);
	*ret = TAKE_PTR(listener);
	return 0;
}

struct stream_listener *stream_listener_free(struct stream_listener *listener)
{
	if (!listener)
		return NULL;
	listener->connections = ev_listener_free(listener->connections);
	while (listener->n_handshakes)
		handshake_free(listener->handshakes[0]);
	forwards_free(listener->forwards);
	fd_close(listener->fd);
	free(listener);
	return NULL;
}
