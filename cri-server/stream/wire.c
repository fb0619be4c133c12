#include "cri-server/stream/wire.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "common/buf.h"
#include "common/fd.h"

#define OUT_BYTES_MAX        (8u << 20)
#define READ_BYTES           32768
#define KEEPALIVE_IDLE_S     30
#define KEEPALIVE_INTERVAL_S 10
#define KEEPALIVE_PROBES     3

struct wire {
	struct ev_loop *loop;
	int fd;
	struct ev_source *source;
	struct ev_source *timer;
	const struct wire_handler *handler;
	void *userdata;
	struct buf out;
	size_t start; /* of what is not sent, in `out` */
	bool paused;
	bool deaf; /* what comes is thrown away */
	bool finishing;
	unsigned within_ms; /* from then on something is to be taken */
	bool shut;
	struct wire_linger linger;
	bool gone; /* on_gone is due or was called */
};

static void on_timer(void *userdata);
static void on_io(void *userdata, uint32_t events);

int wire_new(struct ev_loop *loop, int fd, const struct wire_handler *handler, void *userdata,
	struct wire **ret, struct err *err)
{
	struct wire *wire = calloc(1, sizeof(*wire));
	if (!wire)
		return err_nomem(err);
	*wire = (struct wire){.loop = loop,
		.fd = fd,
		.handler = handler,
		.userdata = userdata,
		.out = buf_init(OUT_BYTES_MAX)};
	int r = ev_timer_new(loop, EV_NEVER, on_timer, wire, &wire->timer, err);
	if (r == 0)
		r = ev_io_new(loop, fd, EPOLLIN, on_io, wire, &wire->source, err);
	if (r < 0) {
		wire_free(wire);
		return r;
	}
	*ret = wire;
	return 0;
}

struct wire *wire_free(struct wire *wire)
{
	if (!wire)
		return NULL;
	ev_source_free(wire->source);
	ev_source_free(wire->timer);
	buf_done(&wire->out);
	free(wire);
	return NULL;
}

static size_t waiting(const struct wire *wire)
{
	return wire->out.len - wire->start;
}

/* Through the timer: never from within what the owner calls. */
static void lose(struct wire *wire)
{
	if (wire->gone)
		return;
	wire->gone = true;
	wire->source = ev_source_free(wire->source);
	ev_timer_set(wire->timer, 0);
}

bool wire_lingers(int fd, unsigned within_ms, struct wire_linger *linger)
{
	int unsent = 0;
	ioctl(fd, SIOCOUTQ, &unsent);
	/* Also when all of it has just gone: the other end is given its time to end then. */
	if (unsent != linger->unsent) {
		linger->unsent = unsent;
		linger->until_ms = ev_now_ms() + within_ms;
		return true;
	}
	return unsent && ev_now_ms() < linger->until_ms;
}

static void on_timer(void *userdata)
{
	struct wire *wire = userdata;
	if (!wire->gone && wire->shut && wire_lingers(wire->fd, wire->within_ms, &wire->linger)) {
		ev_timer_set(wire->timer, WIRE_LINGER_MS);
		return;
	}
	if (!wire->gone) { /* it finishes, and that took too long */
		wire->gone = true;
		wire->source = ev_source_free(wire->source);
	}
	wire->handler->on_gone(wire->userdata);
}

static void arm(struct wire *wire)
{
	if (wire->gone)
		return;
	bool reads = wire->deaf || (!wire->paused && waiting(wire) <= WIRE_HIGH_BYTES);
	uint32_t events = (reads ? EPOLLIN : 0) | (waiting(wire) ? EPOLLOUT : 0);
	/* A client that is held may vanish. Its half-close alone is no error, and stays unread. */
	ev_io_set(wire->source, events ? events : EPOLLERR);
}

static void flush(struct wire *wire)
{
	while (waiting(wire)) {
		ssize_t n = send(wire->fd, wire->out.data + wire->start, waiting(wire),
			MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			lose(wire);
			return;
		}
		wire->start += (size_t)n;
		if (wire->finishing)
			ev_timer_set(wire->timer, wire->within_ms);
	}
	/* Moved rarely, so that a long queue is not moved for each packet. */
	if (!waiting(wire)) {
		wire->out.len = wire->start = 0;
	} else if (wire->start >= WIRE_HIGH_BYTES) {
		buf_consume(&wire->out, wire->start);
		wire->start = 0;
	}
	if (wire->finishing && !wire->shut && !waiting(wire)) {
		wire->shut = true;
		shutdown(wire->fd, SHUT_WR);
		ev_timer_set(wire->timer, WIRE_LINGER_MS);
	}
	arm(wire);
}

static void read_some(struct wire *wire)
{
	char data[READ_BYTES];
	ssize_t n = recv(wire->fd, data, sizeof(data), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		lose(wire);
		return;
	}
	if (!wire->deaf && wire->handler->on_bytes(wire->userdata, data, (size_t)n) < 0)
		wire->deaf = true;
}

static void on_io(void *userdata, uint32_t events)
{
	struct wire *wire = userdata;
	if (events & EPOLLOUT) {
		bool was_full = waiting(wire) > WIRE_HIGH_BYTES / 2;
		flush(wire);
		if (was_full && waiting(wire) <= WIRE_HIGH_BYTES / 2 && !wire->gone)
			wire->handler->on_room(wire->userdata);
	}
	if (wire->gone)
		return;
	if (events & (EPOLLERR | EPOLLHUP))
		lose(wire);
	else if (events & EPOLLIN)
		read_some(wire);
	arm(wire);
}

void wire_keep_alive(int fd)
{
	int on = 1, idle = KEEPALIVE_IDLE_S, interval = KEEPALIVE_INTERVAL_S;
	int probes = KEEPALIVE_PROBES;
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

void wire_write(struct wire *wire, const void *data, size_t len)
{
	if (wire->gone || wire->shut)
		return;
	if (buf_append(&wire->out, data, len) < 0)
		lose(wire);
	else
		arm(wire);
}

size_t wire_room(const struct wire *wire)
{
	size_t n = waiting(wire);
	return wire->gone || n >= WIRE_HIGH_BYTES ? 0 : WIRE_HIGH_BYTES - n;
}

void wire_pause(struct wire *wire, bool pause)
{
	wire->paused = pause;
	arm(wire);
}

void wire_finish(struct wire *wire, unsigned within_ms)
{
	wire->within_ms = within_ms;
	wire->finishing = wire->deaf = true;
	if (wire->gone)
		return;
	ev_timer_set(wire->timer, within_ms);
	flush(wire);
}

void wire_drop(struct wire *wire)
{
	lose(wire);
}
