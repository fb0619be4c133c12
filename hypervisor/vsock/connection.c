#include "hypervisor/vsock/connection.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/vsock/hello.h"
#include "hypervisor/vsock/iov.h"

#define BIT(op)       (1u << (op))
#define SHUTDOWN_BOTH (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)
/* EPOLLPRI never comes: with it alone we learn of a hang-up and of nothing else. */
#define EVENTS_HANGUP ((uint32_t)EPOLLPRI)

static void settle(struct vs_conn *conn);

/* What the client has taken, or never will. */
static uint32_t forwarded(const struct vs_conn *conn)
{
	return conn->received - conn->backlog.len;
}

/* How much the guest takes at present. What it claims is its own affair, but must not go below
 * zero. */
static uint32_t credit(const struct vs_conn *conn)
{
	uint32_t in_flight = conn->sent - conn->peer_fwd_cnt;
	return in_flight < conn->peer_buf_alloc ? conn->peer_buf_alloc - in_flight : 0;
}

static bool wants_to_read(const struct vs_conn *conn)
{
	return conn->state == VS_CONN_OPEN && conn->readable && !conn->read_ended;
}

static void drop_client(struct vs_conn *conn)
{
	vs_backlog_clear(&conn->backlog);
	conn->io = ev_source_free(conn->io);
	conn->fd = fd_close(conn->fd);
	conn->read_ended = true;
	conn->write_failed = true;
}

struct vs_conn *vs_conn_free(struct vs_conn *conn)
{
	if (!conn)
		return NULL;
	drop_client(conn);
	ev_source_free(conn->timer);
	LIST_REMOVE(conn, all);
	if (conn->has_ports)
		LIST_REMOVE(conn, bucket);
	if (conn->queued)
		TAILQ_REMOVE(&conn->mux->ready, conn, turn);
	conn->mux->n_conns--;
	free(conn);
	return NULL;
}

/* The end, from each of the sides. */

/* Something went wrong between us and the guest, or with the client: both are told at once. */
static void reset(struct vs_conn *conn)
{
	bool known = conn->has_ports && !(conn->pending & BIT(VIRTIO_VSOCK_OP_REQUEST));
	drop_client(conn);
	ev_timer_set(conn->timer, EV_NEVER);
	conn->state = VS_CONN_ENDING;
	conn->pending = known ? BIT(VIRTIO_VSOCK_OP_RST) : 0;
}

static void client_is_gone(struct vs_conn *conn)
{
	drop_client(conn);
	conn->state = VS_CONN_CLOSED;
	conn->shutdown_flags = SHUTDOWN_BOTH;
	conn->pending |= BIT(VIRTIO_VSOCK_OP_SHUTDOWN);
	ev_timer_set(conn->timer, VS_ANSWER_TIMEOUT_MS);
}

/* The guest is gone or on its way; it gets `pending`, and the client what is buffered. */
static void guest_is_gone(struct vs_conn *conn, uint32_t pending)
{
	conn->state = VS_CONN_ENDING;
	conn->pending = pending;
	conn->read_ended = true;
	ev_timer_set(conn->timer, EV_NEVER);
}

static void end_direction(struct vs_conn *conn, uint32_t flag)
{
	if (conn->state != VS_CONN_OPEN || conn->shutdown_flags & flag)
		return;
	conn->shutdown_flags |= flag;
	conn->pending |= BIT(VIRTIO_VSOCK_OP_SHUTDOWN);
	if (conn->shutdown_flags == SHUTDOWN_BOTH)
		client_is_gone(conn);
}

/* Guest to client. */

static void write_failed(struct vs_conn *conn)
{
	conn->write_failed = true;
	vs_backlog_clear(&conn->backlog);
	end_direction(conn, VIRTIO_VSOCK_SHUTDOWN_RCV);
}

/* The bytes that the client takes now, maybe 0; on a broken socket 0 too, and write_failed. */
static size_t write_client(struct vs_conn *conn, struct iovec *iov, size_t n)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
	ssize_t written = sendmsg(conn->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (written >= 0)
		return (size_t)written;
	if (errno != EAGAIN && errno != EINTR)
		write_failed(conn);
	return 0;
}

static void end_writing_when_drained(struct vs_conn *conn)
{
	if (!conn->backlog.len && conn->fd >= 0 &&
		conn->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND)
		shutdown(conn->fd, SHUT_WR);
}

static void flush_backlog(struct vs_conn *conn)
{
	struct iovec iov[2];
	vs_backlog_peek(&conn->backlog, iov);
	/* When it fails the backlog is empty already. */
	vs_backlog_consume(&conn->backlog, write_client(conn, iov, ARRAY_SIZE(iov)));
	end_writing_when_drained(conn);
}

static void receive_data(
	struct vs_conn *conn, const struct vs_header *header, struct iovec *iov, size_t n)
{
	if (conn->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND ||
		header->len > VS_BACKLOG_SIZE - conn->backlog.len) {
		reset(conn);
		return;
	}
	conn->received += header->len;
	size_t written = 0;
	if (!conn->backlog.len && !conn->write_failed)
		written = write_client(conn, iov, n);
	if (conn->write_failed || written == header->len)
		return;
	vs_iov_window(iov, &n, written, SIZE_MAX);
	if (vs_backlog_append(&conn->backlog, iov, n) < 0)
		reset(conn);
}

static void receive_shutdown(struct vs_conn *conn, uint32_t flags)
{
	conn->guest_shutdown |= flags & SHUTDOWN_BOTH;
	if (conn->guest_shutdown == SHUTDOWN_BOTH) {
		guest_is_gone(conn, BIT(VIRTIO_VSOCK_OP_RST));
		return;
	}
	if (conn->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV && !conn->read_ended) {
		conn->read_ended = true;
		shutdown(conn->fd, SHUT_RD);
		end_direction(conn, VIRTIO_VSOCK_SHUTDOWN_SEND);
	}
	end_writing_when_drained(conn);
}

static void receive_response(struct vs_conn *conn)
{
	char line[32];
	int len = snprintf(line, sizeof(line), "OK %u\n", conn->host_port);
	conn->state = VS_CONN_OPEN;
	ev_timer_set(conn->timer, EV_NEVER);
	/* The socket's buffer is empty: it takes the line whole, or the client is gone. */
	if (send(conn->fd, line, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) != len)
		reset(conn);
}

static void refused(struct vs_conn *conn)
{
	drop_client(conn);
	guest_is_gone(conn, 0);
}

static void receive_open(
	struct vs_conn *conn, const struct vs_header *header, struct iovec *iov, size_t n)
{
	switch (header->op) {
	case VIRTIO_VSOCK_OP_RW:
		receive_data(conn, header, iov, n);
		break;
	case VIRTIO_VSOCK_OP_SHUTDOWN:
		receive_shutdown(conn, header->flags);
		break;
	case VIRTIO_VSOCK_OP_RST:
		guest_is_gone(conn, 0);
		break;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
		conn->pending |= BIT(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
		break;
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
		break;
	default:
		reset(conn);
	}
}

/* We have told the guest that nothing more is taken or sent: it has to answer RST. */
static void receive_closed(struct vs_conn *conn, const struct vs_header *header)
{
	if (header->op == VIRTIO_VSOCK_OP_RST)
		guest_is_gone(conn, 0);
	else if (header->op == VIRTIO_VSOCK_OP_SHUTDOWN)
		receive_shutdown(conn, header->flags);
	else if (header->op == VIRTIO_VSOCK_OP_CREDIT_REQUEST)
		conn->pending |= BIT(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	else if (header->op == VIRTIO_VSOCK_OP_RW)
		conn->received += header->len;
}

void vs_conn_receive(
	struct vs_conn *conn, const struct vs_header *header, struct iovec *iov, size_t n)
{
	conn->peer_buf_alloc = header->buf_alloc;
	conn->peer_fwd_cnt = header->fwd_cnt;
	if (credit(conn))
		conn->credit_asked = false;
	switch (conn->state) {
	case VS_CONN_REQUESTED:
		if (header->op == VIRTIO_VSOCK_OP_RESPONSE)
			receive_response(conn);
		else if (header->op == VIRTIO_VSOCK_OP_RST)
			refused(conn);
		else
			reset(conn);
		break;
	case VS_CONN_OPEN:
		receive_open(conn, header, iov, n);
		break;
	case VS_CONN_CLOSED:
		receive_closed(conn, header);
		break;
	case VS_CONN_ENDING:
		if (!conn->pending)
			vs_mux_reply_rst(conn->mux, header);
		break;
	case VS_CONN_HELLO:
		assert(!"a connection without ports gets no packet");
	}
	settle(conn);
}

bool vs_conn_release_ports(struct vs_conn *conn)
{
	if (conn->state != VS_CONN_ENDING)
		return false;
	LIST_REMOVE(conn, bucket);
	conn->has_ports = false;
	conn->pending = 0;
	settle(conn);
	return true;
}

/* Client to guest. */

/* The bytes read into iov, 0: none now; an end or an error leaves its packet pending. */
static size_t read_client(struct vs_conn *conn, struct iovec *iov, size_t n)
{
	size_t room = vs_iov_window(iov, &n, 0, credit(conn));
	ssize_t got = readv(conn->fd, iov, (int)n);
	if (got > 0) {
		conn->readable = (size_t)got == room;
		conn->sent += (uint32_t)got;
		return (size_t)got;
	}
	if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
		conn->readable = false;
	} else if (got == 0) {
		conn->read_ended = true;
		end_direction(conn, VIRTIO_VSOCK_SHUTDOWN_SEND);
	} else {
		/* It closed without having read everything: that is no orderly end. */
		reset(conn);
	}
	return 0;
}

static uint16_t take_pending(struct vs_conn *conn, const uint16_t *ops, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (conn->pending & BIT(ops[i])) {
			conn->pending &= ~BIT(ops[i]);
			return ops[i];
		}
	}
	return VIRTIO_VSOCK_OP_INVALID;
}

bool vs_conn_transmit(
	struct vs_conn *conn, struct vs_header *ret_header, struct iovec *iov, size_t n)
{
	static const uint16_t first[] = {VIRTIO_VSOCK_OP_RST, VIRTIO_VSOCK_OP_REQUEST,
		VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_SHUTDOWN};
	/* Data says what these say. */
	static const uint16_t last[] = {
		VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST};

	size_t len = 0;
	uint16_t op = take_pending(conn, first, ARRAY_SIZE(first));
	if (!op && wants_to_read(conn) && credit(conn)) {
		len = read_client(conn, iov, n);
		op = len ? VIRTIO_VSOCK_OP_RW : take_pending(conn, first, ARRAY_SIZE(first));
	}
	if (!op)
		op = take_pending(conn, last, ARRAY_SIZE(last));
	if (op) {
		*ret_header = (struct vs_header){
			.host_port = conn->host_port,
			.guest_port = conn->guest_port,
			.len = (uint32_t)len,
			.type = VIRTIO_VSOCK_TYPE_STREAM,
			.op = op,
			.flags = op == VIRTIO_VSOCK_OP_SHUTDOWN ? conn->shutdown_flags : 0,
			.buf_alloc = VS_BACKLOG_SIZE,
			.fwd_cnt = forwarded(conn),
		};
		conn->forwarded_told = forwarded(conn);
		conn->pending &= ~BIT(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	}
	settle(conn);
	return op;
}

/* The client's first line. */

static void read_hello(struct vs_conn *conn)
{
	int r = vs_hello_read(conn->fd, conn->hello, &conn->hello_len, &conn->guest_port);
	if (r > 0)
		return;
	if (r < 0 || !conn->mux->up) {
		reset(conn);
		return;
	}
	conn->host_port = vs_mux_new_host_port(conn->mux);
	vs_mux_enter(conn->mux, conn);
	conn->state = VS_CONN_REQUESTED;
	conn->pending = BIT(VIRTIO_VSOCK_OP_REQUEST);
	ev_timer_set(conn->timer, VS_ANSWER_TIMEOUT_MS);
}

/* Events. */

static uint32_t wanted_events(const struct vs_conn *conn)
{
	switch (conn->state) {
	case VS_CONN_HELLO:
		return EPOLLIN;
	case VS_CONN_REQUESTED:
		return EVENTS_HANGUP;
	default:
		break;
	}
	uint32_t events = conn->backlog.len ? EPOLLOUT : 0;
	if (conn->state != VS_CONN_OPEN)
		return events;
	if (conn->read_ended)
		return events | EVENTS_HANGUP;
	/* What is known to be readable waits for the guest; a hang-up lies behind it. */
	return conn->readable ? events : events | EPOLLIN;
}

/*
 * Draws the consequences of whatever was done to the connection: what to wait for, whether it has
 * something to say to the guest, whether it is over. May free it.
 */
static void settle(struct vs_conn *conn)
{
	if (conn->state == VS_CONN_ENDING && !conn->backlog.len) {
		drop_client(conn);
		if (!conn->pending) {
			vs_conn_free(conn);
			return;
		}
	}
	if (conn->io)
		ev_io_set(conn->io, wanted_events(conn));
	if (conn->state == VS_CONN_OPEN || conn->state == VS_CONN_CLOSED) {
		if (forwarded(conn) - conn->forwarded_told >= VS_BACKLOG_SIZE / 2)
			conn->pending |= BIT(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
		if (wants_to_read(conn) && !credit(conn) && !conn->credit_asked) {
			conn->pending |= BIT(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
			conn->credit_asked = true;
		}
	}
	if (conn->pending || (wants_to_read(conn) && credit(conn)))
		vs_mux_queue(conn->mux, conn);
}

static void on_io(void *userdata, uint32_t events)
{
	struct vs_conn *conn = userdata;
	struct vs_mux *mux = conn->mux;
	bool hangup = events & (EPOLLHUP | EPOLLERR);
	if (conn->state == VS_CONN_HELLO) {
		read_hello(conn);
	} else if (conn->state == VS_CONN_REQUESTED) {
		if (hangup)
			reset(conn);
	} else {
		bool read_ended = conn->read_ended;
		if (conn->backlog.len)
			flush_backlog(conn);
		if (conn->state == VS_CONN_OPEN && read_ended && hangup)
			client_is_gone(conn);
		else if (!read_ended && (hangup || events & EPOLLIN))
			conn->readable = true;
	}
	settle(conn);
	mux->on_work(mux->userdata);
}

static void on_timer(void *userdata)
{
	struct vs_conn *conn = userdata;
	struct vs_mux *mux = conn->mux;
	reset(conn);
	settle(conn);
	mux->on_work(mux->userdata);
}

static int conn_new(struct vs_mux *mux, int fd, struct vs_conn **ret, struct err *err)
{
	struct vs_conn *conn = calloc(1, sizeof(*conn));
	if (!conn) {
		fd_close(fd);
		return err_nomem(err);
	}
	conn->mux = mux;
	conn->fd = fd;
	LIST_INSERT_HEAD(&mux->conns, conn, all);
	mux->n_conns++;
	int r = ev_io_new(mux->loop, fd, EPOLLIN, on_io, conn, &conn->io, err);
	if (r == 0)
		r = ev_timer_new(
			mux->loop, VS_ANSWER_TIMEOUT_MS, on_timer, conn, &conn->timer, err);
	if (r < 0) {
		vs_conn_free(conn);
		return r;
	}
	*ret = conn;
	return 0;
}

int vs_conn_new_client(struct vs_mux *mux, int fd, struct err *err)
{
	struct vs_conn *conn;
	return conn_new(mux, fd, &conn, err); /* HELLO */
}

int vs_conn_new_guest(struct vs_mux *mux, int fd, const struct vs_header *request, struct err *err)
{
	struct vs_conn *conn;
	int r = conn_new(mux, fd, &conn, err);
	if (r < 0)
		return r;
	ev_timer_set(conn->timer, EV_NEVER);
	conn->state = VS_CONN_OPEN;
	conn->host_port = request->host_port;
	conn->guest_port = request->guest_port;
	conn->peer_buf_alloc = request->buf_alloc;
	conn->peer_fwd_cnt = request->fwd_cnt;
	conn->pending = BIT(VIRTIO_VSOCK_OP_RESPONSE);
	vs_mux_enter(mux, conn);
	settle(conn);
	return 0;
}
