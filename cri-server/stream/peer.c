#include "cri-server/stream/peer.h"

#include <errno.h>
#include <stdlib.h>

#include "common/fd.h"
#include "cri-server/stream/spdy.h"
#include "cri-server/stream/wire.h"

/* What frames add to what is sent, at the very most. */
#define FRAME_OVERHEAD 4096

struct peer {
	struct peer_config config;
	struct wire *wire;
	struct websocket *websocket; /* NULL: SPDY itself */
	struct spdy *spdy;           /* NULL: channels */
	uint64_t last_ms;            /* that anything came or went */
	unsigned holds;
	bool finished;
};

static void write_wire(void *userdata, const void *data, size_t len)
{
	struct peer *peer = userdata;
	wire_write(peer->wire, data, len);
}

static void write_tunnel(void *userdata, const void *data, size_t len)
{
	struct peer *peer = userdata;
	websocket_send(peer->websocket, 0, data, len);
}

static int fail(struct peer *peer, const struct err *err)
{
	peer->config.on_error(peer->config.session, err);
	peer_finish(peer);
	return -EPROTO;
}

static void on_tunnel_data(void *userdata, uint32_t id, const void *data, size_t len)
{
	struct peer *peer = userdata;
	struct err err = ERR_INIT;
	(void)id;
	if (!peer->finished && spdy_feed(peer->spdy, data, len, &err) < 0)
		fail(peer, &err);
}

static const struct stream_handler tunnel_handler = {.on_data = on_tunnel_data};

static int on_bytes(void *userdata, const void *data, size_t len)
{
	struct peer *peer = userdata;
	struct err err = ERR_INIT;
	peer->last_ms = ev_now_ms();
	int r = peer->websocket ? websocket_feed(peer->websocket, data, len, &err)
				: spdy_feed(peer->spdy, data, len, &err);
	if (peer->finished)
		return 0;
	if (r < 0)
		return fail(peer, &err);
	if (r > 0)
		peer_finish(peer);
	return r > 0 ? -ECONNRESET : 0;
}

static void on_room(void *userdata)
{
	struct peer *peer = userdata;
	peer->last_ms = ev_now_ms();
	peer->config.handler->on_room(peer->config.session);
}

static void on_gone(void *userdata)
{
	struct peer *peer = userdata;
	peer->finished = true;
	peer->config.on_gone(peer->config.session);
}

static const struct wire_handler wire_handler = {
	.on_bytes = on_bytes, .on_room = on_room, .on_gone = on_gone};

static int make_protocols(struct peer *peer, struct err *err)
{
	const struct peer_config *c = &peer->config;
	if (c->kind == PEER_WEBSOCKET || c->kind == PEER_WEBSOCKET_BASE64)
		return websocket_new(c->kind == PEER_WEBSOCKET ? WEBSOCKET_CHANNELS_BINARY
							       : WEBSOCKET_CHANNELS_BASE64,
			write_wire, peer, c->handler, c->session, &peer->websocket, err);
	if (c->kind == PEER_SPDY)
		return spdy_new(write_wire, peer, c->handler, c->session, &peer->spdy, err);
	int r = websocket_new(
		WEBSOCKET_TUNNEL, write_wire, peer, &tunnel_handler, peer, &peer->websocket, err);
	return r < 0 ? r : spdy_new(write_tunnel, peer, c->handler, c->session, &peer->spdy, err);
}

int peer_new(
	struct ev_loop *loop, const struct peer_config *config, struct peer **ret, struct err *err)
{
	struct peer *peer = calloc(1, sizeof(*peer));
	if (!peer)
		return err_nomem(err);
	peer->config = *config;
	peer->last_ms = ev_now_ms();
	int r = make_protocols(peer, err);
	if (r == 0)
		r = wire_new(loop, config->fd, &wire_handler, peer, &peer->wire, err);
	if (r < 0) {
		peer_free(peer);
		return r;
	}
	*ret = peer;
	return 0;
}

struct peer *peer_free(struct peer *peer)
{
	if (!peer)
		return NULL;
	spdy_free(peer->spdy);
	websocket_free(peer->websocket);
	wire_free(peer->wire);
	free(peer);
	return NULL;
}

void peer_begin(struct peer *peer, const void *data, size_t len)
{
	if (len)
		on_bytes(peer, data, len);
}

size_t peer_room(const struct peer *peer, uint32_t id)
{
	size_t room = peer->finished ? 0 : wire_room(peer->wire);
	room = room > FRAME_OVERHEAD ? room - FRAME_OVERHEAD : 0;
	if (!peer->spdy)
		return room;
	size_t window = spdy_room(peer->spdy, id);
	return window < room ? window : room;
}

void peer_send(struct peer *peer, uint32_t id, const void *data, size_t len)
{
	if (peer->finished)
		return;
	peer->last_ms = ev_now_ms();
	if (peer->spdy)
		spdy_send(peer->spdy, id, data, len);
	else
		websocket_send(peer->websocket, id, data, len);
}

uint64_t peer_last_ms(const struct peer *peer)
{
	return peer->last_ms;
}

void peer_end(struct peer *peer, uint32_t id)
{
	if (peer->spdy && !peer->finished)
		spdy_end(peer->spdy, id);
}

void peer_reset(struct peer *peer, uint32_t id)
{
	if (peer->spdy && !peer->finished)
		spdy_reset(peer->spdy, id);
}

void peer_set_channels(struct peer *peer, unsigned n)
{
	websocket_set_channels(peer->websocket, n);
}

void peer_took(struct peer *peer, uint32_t id, size_t len)
{
	if (peer->spdy && !peer->finished)
		spdy_took(peer->spdy, id, len);
}

void peer_hold(struct peer *peer)
{
	if (peer->holds++ == 0)
		wire_pause(peer->wire, true);
}

void peer_let_go(struct peer *peer)
{
	if (--peer->holds == 0)
		wire_pause(peer->wire, false);
}

void peer_finish(struct peer *peer)
{
	if (peer->finished)
		return;
	if (peer->spdy)
		spdy_goaway(peer->spdy);
	if (peer->websocket)
		websocket_close(peer->websocket);
	peer->finished = true;
	wire_finish(peer->wire, peer->config.finish_ms);
}

void peer_drop(struct peer *peer)
{
	peer->finished = true;
	wire_drop(peer->wire);
}
