#include "cri-server/stream/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "common/buf.h"
#include "common/fd.h"
#include "common/listener.h"
#include "cri-server/stream/wire.h"

#define CHUNK_BYTES  16384 /* a TLS record */
#define ANSWER_BYTES 16384 /* more goes out to whom has a session alone */

struct connection {
	LIST_ENTRY(connection) link;
	struct tls *tls;
	SSL *ssl;
	int outer, inner;
	struct ev_source *outer_io, *inner_io, *timer;
	size_t said;        /* to the client */
	struct buf in, out; /* what the other side did not take at once */
	bool in_ended, in_shut, out_ended, out_shut;
	bool in_lost;         /* nobody takes it any more */
	bool hung_up;         /* the inner side, both ways */
	uint32_t outer_wants; /* of the TLS layer */
	struct wire_linger linger;
};

struct tls {
	struct tls_config config;
	SSL_CTX *context;
	int listen_fd;
	struct ev_listener *listener;
	LIST_HEAD(connection_list, connection) connections;
	unsigned n;
};

static void connection_free(struct connection *c)
{
	struct tls *tls = c->tls;
	LIST_REMOVE(c, link);
	tls->n--;
	ev_source_free(c->outer_io);
	ev_source_free(c->inner_io);
	ev_source_free(c->timer);
	SSL_free(c->ssl);
	fd_close(c->outer);
	fd_close(c->inner);
	buf_done(&c->in);
	buf_done(&c->out);
	free(c);
	if (tls->listener)
		ev_listener_set(tls->listener, true);
}

/* After a call that gave r: 1: it waits; 0: the client's end; -1: the connection is broken. */
static int why(struct connection *c, int r)
{
	int error = SSL_get_error(c->ssl, r);
	ERR_clear_error();
	switch (error) {
	case SSL_ERROR_WANT_READ:
		c->outer_wants |= EPOLLIN;
		return 1;
	case SSL_ERROR_WANT_WRITE:
		c->outer_wants |= EPOLLOUT;
		return 1;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	default:
		return -1;
	}
}

/*
 * Sends what waits. What nobody takes any more is thrown away: the client may ping, or not know yet
 * that it is over, while it takes the last of what goes out.
 */
static void flush_in(struct connection *c)
{
	while (c->in.len) {
		ssize_t n = send(c->inner, c->in.data, c->in.len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		c->in_lost = n < 0;
		buf_consume(&c->in, n < 0 ? c->in.len : (size_t)n);
	}
	if (c->in_ended && !c->in_shut) {
		shutdown(c->inner, SHUT_WR);
		c->in_shut = true;
	}
}

/* Who has no token is not to hold a place for hours. */
static unsigned finish_ms(const struct connection *c)
{
	const struct tls_config *config = &c->tls->config;
	return c->said > ANSWER_BYTES ? config->finish_ms : config->handshake_ms;
}

static int flush_out(struct connection *c)
{
	while (c->out.len) {
		int n = SSL_write(c->ssl, c->out.data, (int)c->out.len);
		if (n <= 0)
			return why(c, n) > 0 ? 0 : -1;
		buf_consume(&c->out, (size_t)n);
		if (c->hung_up)
			ev_timer_set(c->timer, finish_ms(c));
	}
	if (c->out_ended && !c->out_shut) {
		int n = SSL_shutdown(c->ssl);
		if (n < 0 && why(c, n) > 0)
			return 0; /* no room for its few bytes now */
		shutdown(c->outer, SHUT_WR);
		c->out_shut = true;
		ev_timer_set(c->timer, WIRE_LINGER_MS);
	}
	return 0;
}

static int bring_in(struct connection *c)
{
	char data[CHUNK_BYTES];
	flush_in(c);
	while (!c->in.len && !c->in_ended) {
		int n = SSL_read(c->ssl, data, sizeof(data));
		int waits = n > 0 ? 0 : why(c, n);
		if (waits > 0)
			return 0;
		if (n <= 0 && waits < 0)
			return -1;
		c->in_ended = n <= 0;
		if (n > 0 && c->in_lost) { /* a record at a time: it may come without end */
			c->outer_wants |= EPOLLIN;
			return 0;
		}
		if (n > 0 && buf_append(&c->in, data, (size_t)n) < 0)
			return -1;
		flush_in(c);
	}
	return 0;
}

static int bring_out(struct connection *c)
{
	char data[CHUNK_BYTES];
	int r = flush_out(c);
	while (r == 0 && !c->out.len && !c->out_ended) {
		ssize_t n = recv(c->inner, data, sizeof(data), MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		c->out_ended = n <= 0;
		c->said += n > 0 ? (size_t)n : 0;
		if (n > 0 && buf_append(&c->out, data, (size_t)n) < 0)
			return -1;
		r = flush_out(c);
	}
	return r;
}

/* Brings both ways what there is, and waits for more. Frees the connection at its end. */
static void go_on(struct connection *c)
{
	c->outer_wants = 0;
	if (bring_in(c) < 0 || bring_out(c) < 0 || (c->in_shut && c->out_shut)) {
		connection_free(c);
		return;
	}
	/* A client may vanish while nothing is read from it. */
	ev_io_set(c->outer_io, c->outer_wants ? c->outer_wants : EPOLLERR);
	/* A hang-up is always told; it is what EPOLLPRI is for. */
	uint32_t events = c->out.len || c->out_ended ? EPOLLPRI : EPOLLIN;
	ev_io_set(c->inner_io, c->hung_up ? 0 : events | (c->in.len ? EPOLLOUT : 0));
}

static void on_inner(void *userdata, uint32_t events)
{
	struct connection *c = userdata;
	if ((events & EPOLLHUP) && !c->hung_up) {
		c->hung_up = true;
		if (!c->out_shut)
			ev_timer_set(c->timer, finish_ms(c));
	}
	go_on(c);
}

/* The handshake is done. */
static int hand_on(struct connection *c)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -1;
	c->inner = pair[0];
	if (ev_io_new(c->tls->config.loop, c->inner, EPOLLIN, on_inner, c, &c->inner_io, NULL) <
		0) {
		fd_close(pair[1]);
		return -1;
	}
	if (!c->tls->config.take(c->tls->config.userdata, pair[1]))
		return -1;
	ev_timer_set(c->timer, EV_NEVER);
	return 0;
}

static void shake_hands(struct connection *c)
{
	c->outer_wants = 0;
	int r = SSL_accept(c->ssl);
	if (r == 1 && hand_on(c) == 0)
		go_on(c);
	else if (r == 1 || why(c, r) <= 0)
		connection_free(c);
	else
		ev_io_set(c->outer_io, c->outer_wants);
}

static void on_outer(void *userdata, uint32_t events)
{
	struct connection *c = userdata;
	if ((events & (EPOLLERR | EPOLLHUP)) && (c->in.len || c->in_ended))
		connection_free(c); /* it is not read, which would have told the same */
	else if (c->inner >= 0)
		go_on(c);
	else
		shake_hands(c);
}

static void on_late(void *userdata)
{
	struct connection *c = userdata;
	if (c->out_shut && wire_lingers(c->outer, finish_ms(c), &c->linger))
		ev_timer_set(c->timer, WIRE_LINGER_MS);
	else
		connection_free(c);
}

static void on_accept(void *userdata, int taken)
{
	struct tls *tls = userdata;
	_cleanup_close_ int fd = taken;
	struct connection *c = calloc(1, sizeof(*c));
	if (!c)
		return;
	wire_keep_alive(fd);
	*c = (struct connection){.tls = tls, .outer = TAKE_FD(fd), .inner = -EBADF};
	c->in = c->out = buf_init(CHUNK_BYTES);
	LIST_INSERT_HEAD(&tls->connections, c, link);
	if (++tls->n == TLS_CONNECTIONS_MAX)
		ev_listener_set(tls->listener, false);
	c->ssl = SSL_new(tls->context);
	if (!c->ssl || !SSL_set_fd(c->ssl, c->outer) ||
		ev_timer_new(tls->config.loop, tls->config.handshake_ms, on_late, c, &c->timer,
			NULL) < 0 ||
		ev_io_new(tls->config.loop, c->outer, EPOLLIN, on_outer, c, &c->outer_io, NULL) < 0)
		connection_free(c);
}

static int fail(struct err *err, const char *what, const char *path)
{
	char text[256];
	ERR_error_string_n(ERR_get_error(), text, sizeof(text));
	ERR_clear_error();
	return err_set(err, -EINVAL, "%s %s: %s", what, path, text);
}

static int make_context(struct tls *tls, struct err *err)
{
	const struct tls_config *config = &tls->config;
	tls->context = SSL_CTX_new(TLS_server_method());
	if (!tls->context || !SSL_CTX_set_min_proto_version(tls->context, TLS1_2_VERSION))
		return err_nomem(err);
	SSL_CTX_set_options(tls->context, SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_mode(tls->context, SSL_MODE_ENABLE_PARTIAL_WRITE |
					       SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
					       SSL_MODE_RELEASE_BUFFERS);
	if (SSL_CTX_use_certificate_chain_file(tls->context, config->certificate) != 1)
		return fail(err, "streaming.tls_certificate", config->certificate);
	if (SSL_CTX_use_PrivateKey_file(tls->context, config->key, SSL_FILETYPE_PEM) != 1 ||
		SSL_CTX_check_private_key(tls->context) != 1)
		return fail(err, "streaming.tls_key", config->key);
	return 0;
}

int tls_new(const struct tls_config *config, int listen_fd, struct tls **ret, struct err *err)
{
	struct tls *tls = calloc(1, sizeof(*tls));
	if (!tls)
		return err_nomem(err);
	tls->config = *config;
	tls->listen_fd = -EBADF;
	LIST_INIT(&tls->connections);
	int r = make_context(tls, err);
	if (r == 0)
		r = ev_listener_new(config->loop, listen_fd, on_accept, tls, &tls->listener, err);
	if (r < 0) {
		tls_free(tls);
		return r;
	}
	tls->listen_fd = listen_fd;
	*ret = tls;
	return 0;
}

struct tls *tls_free(struct tls *tls)
{
	if (!tls)
		return NULL;
	tls->listener = ev_listener_free(tls->listener);
	while (!LIST_EMPTY(&tls->connections))
		connection_free(LIST_FIRST(&tls->connections));
	fd_close(tls->listen_fd);
	SSL_CTX_free(tls->context);
	free(tls);
	return NULL;
}
