#include "cri-server/cli/tunnel.h"

#include <errno.h>
#include <stdio.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "common/fd.h"
#include "cri-server/stream/spdy.h"

#define READ_BYTES     LINK_READ_BYTES
#define LOCAL_MAX      (256u << 10) /* kept for one connection; its window is smaller */
#define OUT_HIGH       (256u << 10) /* local connections are not read while more waits */
#define OUT_MAX        (8u << 20)
#define ERROR_TEXT_MAX 4096

struct connection {
	LIST_ENTRY(connection) link;
	struct tunnel *tunnel;
	int fd;
	struct ev_source *io;
	uint16_t local, remote;
	uint32_t error_id, data_id;
	struct buf to_local;
	struct buf error;
	bool local_ended;  /* it sends no more */
	bool remote_ended; /* what is in to_local is all */
	bool cut;          /* nothing of it is wanted in the pod any more */
};

struct tunnel {
	struct ev_loop *loop;
	struct link *link;
	struct ev_source *io;
	struct ev_source *ping;
	struct spdy *spdy;
	struct buf out;
	LIST_HEAD(connection_list, connection) connections;
	unsigned n, requests;
	const struct tunnel_events *events;
	void *userdata;
	bool lost;
};

static void lose(struct tunnel *t, const struct err *err)
{
	if (t->lost)
		return;
	t->lost = true;
	t->io = ev_source_free(t->io);
	t->ping = ev_source_free(t->ping);
	t->events->on_lost(t->userdata, err);
}

static void arm_server(struct tunnel *t)
{
	if (!t->lost)
		ev_io_set(t->io, EPOLLIN | (t->out.len ? EPOLLOUT : 0));
}

static void arm_local(struct connection *c)
{
	bool reads = !c->local_ended && !c->cut && c->tunnel->out.len < OUT_HIGH &&
		     spdy_room(c->tunnel->spdy, c->data_id) > 0;
	ev_io_set(c->io, (reads ? EPOLLIN : 0) | (c->to_local.len ? EPOLLOUT : 0));
}

static void arm_all(struct tunnel *t)
{
	struct connection *c;
	LIST_FOREACH(c, &t->connections, link)
		arm_local(c);
}

static void connection_free(struct connection *c)
{
	LIST_REMOVE(c, link);
	c->tunnel->n--;
	ev_source_free(c->io);
	fd_close(c->fd);
	buf_done(&c->to_local);
	buf_done(&c->error);
	free(c);
}

/* Its end, with a reset where one side has not ended yet. */
static void connection_close(struct connection *c)
{
	struct tunnel *t = c->tunnel;
	spdy_reset(t->spdy, c->data_id);
	spdy_reset(t->spdy, c->error_id);
	connection_free(c);
	arm_server(t);
	t->events->on_room(t->userdata);
}

/* Closes it when nothing is left to do, else waits for what is. */
static void settle(struct connection *c)
{
	if (c->remote_ended && !c->to_local.len && (c->local_ended || c->cut)) {
		connection_close(c);
		return;
	}
	arm_local(c);
}

static struct connection *find(const struct tunnel *t, uint32_t id, bool *ret_is_error)
{
	struct connection *c;
	LIST_FOREACH(c, &t->connections, link)
		if (c->data_id == id || c->error_id == id) {
			*ret_is_error = c->error_id == id;
			return c;
		}
	return NULL;
}

/* ---- from the server ---- */

static void on_data(void *userdata, uint32_t id, const void *data, size_t len)
{
	struct tunnel *t = userdata;
	bool is_error;
	struct connection *c = find(t, id, &is_error);
	if (!c || is_error) {
		if (c) /* beyond its bound it is cut */
			buf_append(&c->error, data, len);
		spdy_took(t->spdy, id, len);
		return;
	}
	if (c->cut || buf_append(&c->to_local, data, len) < 0)
		connection_close(c);
	else
		arm_local(c);
}

static void on_end(void *userdata, uint32_t id, bool reset)
{
	struct tunnel *t = userdata;
	bool is_error;
	struct connection *c = find(t, id, &is_error);
	if (!c)
		return;
	if (is_error) {
		const char *text = c->error.len ? buf_string(&c->error) : NULL;
		if (text)
			t->events->on_error(t->userdata, c->local, c->remote, text);
		return;
	}
	c->remote_ended = true;
	c->cut = c->cut || reset;
	if (!c->to_local.len)
		shutdown(c->fd, SHUT_WR);
	settle(c);
}

static void on_room(void *userdata)
{
	arm_all(userdata);
}

static const struct stream_handler handler = {
	.on_data = on_data, .on_end = on_end, .on_room = on_room};

static void on_write(void *userdata, const void *data, size_t len)
{
	struct tunnel *t = userdata;
	struct err err = ERR_INIT;
	if (buf_append(&t->out, data, len) < 0) {
		err_nomem(&err);
		lose(t, &err);
	}
}

static void flush(struct tunnel *t)
{
	struct err err = ERR_INIT;
	bool was_high = t->out.len >= OUT_HIGH;
	ssize_t n = link_send(t->link, t->out.data, t->out.len);
	if (n > 0) {
		buf_consume(&t->out, (size_t)n);
	} else if (errno != EAGAIN && errno != EINTR) {
		err_errno(&err, "send to the streaming server");
		lose(t, &err);
	}
	if (was_high && t->out.len < OUT_HIGH)
		arm_all(t);
}

static void receive(struct tunnel *t)
{
	char data[READ_BYTES];
	struct err err = ERR_INIT;
	ssize_t n = link_recv(t->link, data, sizeof(data));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		err_set(&err, -ECONNRESET, "lost connection to pod");
	else
		spdy_feed(t->spdy, data, (size_t)n, &err);
	if (err.code)
		lose(t, &err);
}

static void on_server(void *userdata, uint32_t events)
{
	struct tunnel *t = userdata;
	if (events & EPOLLOUT)
		flush(t);
	if (!t->lost && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
		receive(t);
	arm_server(t);
}

static void on_ping(void *userdata)
{
	struct tunnel *t = userdata;
	ev_timer_set(t->ping, LINK_PING_MS);
	if (t->out.len)
		return;
	spdy_ping(t->spdy);
	arm_server(t);
}

/* ---- from a local connection ---- */

static void abandon(struct connection *c)
{
	c->cut = c->local_ended = c->remote_ended = true;
	c->to_local.len = 0;
}

static void read_local(struct connection *c)
{
	char data[READ_BYTES];
	struct tunnel *t = c->tunnel;
	size_t room = spdy_room(t->spdy, c->data_id);
	if (!room)
		return;
	ssize_t n = recv(c->fd, data, room < sizeof(data) ? room : sizeof(data), MSG_DONTWAIT);
	if (n > 0) {
		spdy_send(t->spdy, c->data_id, data, (size_t)n);
	} else if (n == 0) {
		c->local_ended = true;
		spdy_end(t->spdy, c->data_id);
	} else if (errno != EAGAIN && errno != EINTR) {
		abandon(c);
	}
}

static void write_local(struct connection *c)
{
	ssize_t n = send(c->fd, c->to_local.data, c->to_local.len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		abandon(c);
		return;
	}
	buf_consume(&c->to_local, (size_t)n);
	spdy_took(c->tunnel->spdy, c->data_id, (size_t)n);
	if (!c->to_local.len && c->remote_ended)
		shutdown(c->fd, SHUT_WR);
}

static void on_local(void *userdata, uint32_t events)
{
	struct connection *c = userdata;
	struct tunnel *t = c->tunnel;
	if (events & EPOLLERR)
		abandon(c);
	if (!c->cut && (events & (EPOLLIN | EPOLLHUP)) && !c->local_ended)
		read_local(c);
	if (c->to_local.len && (events & (EPOLLOUT | EPOLLHUP)))
		write_local(c);
	settle(c);
	arm_server(t);
}

/* ---- */

int tunnel_new(struct ev_loop *loop, struct link *link, struct buf *rest,
	const struct tunnel_events *events, void *userdata, struct tunnel **ret, struct err *err)
{
	struct tunnel *t = calloc(1, sizeof(*t));
	if (!t) {
		link_free(link);
		return err_nomem(err);
	}
	*t = (struct tunnel){.loop = loop,
		.link = link,
		.out = buf_init(OUT_MAX),
		.events = events,
		.userdata = userdata};
	LIST_INIT(&t->connections);
	int r = spdy_new_client(on_write, t, &handler, t, &t->spdy, err);
	if (r == 0)
		r = spdy_feed(t->spdy, rest->data, rest->len, err);
	if (r == 0)
		r = ev_io_new(loop, link_fd(link), EPOLLIN | EPOLLOUT, on_server, t, &t->io, err);
	if (r == 0)
		r = ev_timer_new(loop, LINK_PING_MS, on_ping, t, &t->ping, err);
	if (r < 0)
		tunnel_free(t);
	else
		*ret = t;
	return r;
}

struct tunnel *tunnel_free(struct tunnel *t)
{
	if (!t)
		return NULL;
	while (!LIST_EMPTY(&t->connections))
		connection_free(LIST_FIRST(&t->connections));
	ev_source_free(t->io);
	ev_source_free(t->ping);
	spdy_free(t->spdy);
	buf_done(&t->out);
	link_free(t->link);
	free(t);
	return NULL;
}

/* The error stream is first, as kubectl's. */
static int open_streams(struct connection *c, struct err *err)
{
	struct tunnel *t = c->tunnel;
	char port[8], request[16];
	snprintf(port, sizeof(port), "%u", c->remote);
	snprintf(request, sizeof(request), "%u", t->requests++);
	struct stream_open open = {.type = "error", .port = port, .request_id = request};
	int r = spdy_open(t->spdy, &open, true, &c->error_id, err);
	open.type = "data";
	return r < 0 ? r : spdy_open(t->spdy, &open, false, &c->data_id, err);
}

int tunnel_connect(struct tunnel *t, int fd, uint16_t local, uint16_t remote, struct err *err)
{
	struct connection *c =
		t->n < TUNNEL_CONNECTIONS_MAX && !t->lost ? calloc(1, sizeof(*c)) : NULL;
	if (!c) {
		fd_close(fd);
		return err_set(err, -EAGAIN, "no room for another connection");
	}
	*c = (struct connection){.tunnel = t,
		.fd = fd,
		.local = local,
		.remote = remote,
		.to_local = buf_init(LOCAL_MAX),
		.error = buf_init(ERROR_TEXT_MAX)};
	LIST_INSERT_HEAD(&t->connections, c, link);
	t->n++;
	int r = ev_io_new(t->loop, fd, EPOLLIN, on_local, c, &c->io, err);
	if (r == 0)
		r = open_streams(c, err);
	if (r < 0)
		connection_free(c);
	arm_server(t);
	return r;
}

unsigned tunnel_connections(const struct tunnel *t)
{
	return t->n;
}
