#include "cri-server/stream/pump.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "agent/client/client.h"
#include "common/buf.h"
#include "common/fd.h"

#define HOLD_BYTES  (256u << 10)
#define PENDING_MAX (1u << 20) /* what one message or read adds to HOLD_BYTES fits */
#define READ_BYTES  65536
#define ACK_BYTES   (64u << 10) /* of AGENT_RING_BYTES, which the agent keeps until then */

struct pump {
	struct ev_loop *loop;
	struct pump_config config;
	int fd;
	struct ev_source *source;
	struct buf pending; /* from the client */
	bool holds;         /* the client's connection */
	bool client_ended;
	bool in_done; /* nothing more goes to the socket */
	bool out_done;
	bool blocked; /* the client takes no more */
	bool told;
	uint64_t offset, acknowledged;
	uint64_t last_ms;
};

int pump_new(
	struct ev_loop *loop, const struct pump_config *config, struct pump **ret, struct err *err)
{
	struct pump *pump = calloc(1, sizeof(*pump));
	if (!pump)
		return err_nomem(err);
	pump->loop = loop;
	pump->config = *config;
	pump->fd = -EBADF;
	pump->pending = buf_init(PENDING_MAX);
	pump->in_done = !(config->flags & PUMP_IN);
	pump->out_done = !(config->flags & PUMP_OUT);
	pump->last_ms = ev_now_ms();
	*ret = pump;
	return 0;
}

static void let_go(struct pump *pump)
{
	if (!pump->holds)
		return;
	pump->holds = false;
	peer_let_go(pump->config.peer);
}

struct pump *pump_free(struct pump *pump)
{
	if (!pump)
		return NULL;
	let_go(pump);
	ev_source_free(pump->source);
	fd_close(pump->fd);
	buf_done(&pump->pending);
	free(pump);
	return NULL;
}

static void tell(struct pump *pump)
{
	if (pump->told || !pump->in_done || !pump->out_done)
		return;
	pump->told = true;
	pump->source = ev_source_free(pump->source);
	pump->fd = fd_close(pump->fd);
	pump->config.on_end(pump->config.userdata);
}

static void arm(struct pump *pump)
{
	if (!pump->source)
		return;
	uint32_t events = 0;
	if (!pump->out_done && !pump->blocked)
		events |= EPOLLIN;
	if (!pump->in_done && pump->pending.len)
		events |= EPOLLOUT;
	/* Else an end would go unseen while nothing else is waited for. The end of what comes out
	 * is none for what goes in where both go through one socket: then it is the hang-up. */
	if (!events && !pump->in_done && pump->out_done)
		events = pump->config.flags & PUMP_OUT ? EPOLLPRI : EPOLLRDHUP;
	ev_io_set(pump->source, events);
}

static void drop_input(struct pump *pump)
{
	peer_took(pump->config.peer, pump->config.id, pump->pending.len);
	buf_done(&pump->pending);
	pump->in_done = true;
	let_go(pump);
}

static void send_pending(struct pump *pump)
{
	size_t sent = 0;
	while (sent < pump->pending.len && pump->fd >= 0) {
		ssize_t n = send(pump->fd, pump->pending.data + sent, pump->pending.len - sent,
			MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			drop_input(pump); /* the process has closed it */
			return;
		}
		sent += (size_t)n;
	}
	if (sent)
		peer_took(pump->config.peer, pump->config.id, sent);
	buf_consume(&pump->pending, sent);
	if (pump->pending.len <= HOLD_BYTES / 2)
		let_go(pump);
	if (pump->client_ended && !pump->pending.len && pump->fd >= 0) {
		pump->in_done = true;
		if (!(pump->config.flags & PUMP_KEEP_OPEN))
			shutdown(pump->fd, SHUT_WR);
	}
}

static void read_socket(struct pump *pump)
{
	char data[READ_BYTES];
	bool discard = pump->config.flags & PUMP_DISCARD;
	size_t room = discard ? sizeof(data) : peer_room(pump->config.peer, pump->config.id);
	pump->blocked = !room;
	if (!room)
		return;
	ssize_t n = recv(pump->fd, data, room < sizeof(data) ? room : sizeof(data), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	pump->last_ms = ev_now_ms();
	if (n <= 0) {
		pump->out_done = true;
		if (!discard)
			peer_end(pump->config.peer, pump->config.id);
		if (n < 0 || pump->config.flags & PUMP_ONE_END)
			drop_input(pump);
		return;
	}
	if (!discard)
		peer_send(pump->config.peer, pump->config.id, data, (size_t)n);
	pump->offset += (uint64_t)n;
	if (pump->config.flags & PUMP_ACK && pump->offset - pump->acknowledged >= ACK_BYTES &&
		agent_stream_ack(pump->fd, pump->offset, NULL) == 0)
		pump->acknowledged = pump->offset;
}

static void on_io(void *userdata, uint32_t events)
{
	struct pump *pump = userdata;
	if (!pump->in_done && (events & EPOLLOUT))
		send_pending(pump);
	if (!pump->out_done && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		read_socket(pump);
	else if (pump->out_done && !pump->in_done && (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)))
		drop_input(pump);
	arm(pump);
	tell(pump);
}

int pump_attach(struct pump *pump, int fd, struct err *err)
{
	_cleanup_close_ int taken = fd;
	int r = fd_set_nonblock(taken, err);
	if (r == 0)
		r = ev_io_new(pump->loop, taken, 0, on_io, pump, &pump->source, err);
	if (r < 0)
		return r;
	pump->fd = TAKE_FD(taken);
	pump->last_ms = ev_now_ms();
	if (!pump->in_done)
		send_pending(pump);
	arm(pump);
	return 0;
}

void pump_client_data(struct pump *pump, const void *data, size_t len)
{
	if (pump->in_done || pump->client_ended) {
		peer_took(pump->config.peer, pump->config.id, len);
		return;
	}
	if (buf_append(&pump->pending, data, len) < 0) {
		drop_input(pump);
		return;
	}
	send_pending(pump);
	if (pump->pending.len > HOLD_BYTES && !pump->holds) {
		pump->holds = true;
		peer_hold(pump->config.peer);
	}
	arm(pump);
}

void pump_client_end(struct pump *pump)
{
	if (pump->in_done || pump->client_ended)
		return;
	pump->client_ended = true;
	send_pending(pump);
	arm(pump);
	/* Told by the loop, not from within a call of the session's. */
	if (pump->in_done && pump->out_done && pump->source)
		ev_io_set(pump->source, EPOLLOUT);
}

void pump_room(struct pump *pump)
{
	pump->blocked = false;
	arm(pump);
}

bool pump_is_done(const struct pump *pump)
{
	return pump->out_done;
}

uint64_t pump_last_ms(const struct pump *pump)
{
	return pump->last_ms;
}

bool pump_is_blocked(const struct pump *pump)
{
	return pump->blocked;
}
