/*
 * A client after the handshake: its socket and its protocol (SPDY, WebSocket with channels, or SPDY
 * through a WebSocket), as streams with numbers. What handler.h says is what the session hears.
 *
 * Flow control: the session sends at most peer_room(), and holds the connection while it
 * cannot take more; a client with windows of its own is told what was taken.
 *
 * Threads: the loop's alone.
 */
#pragma once

#include "common/loop.h"
#include "cri-server/stream/handler.h"
#include "cri-server/stream/websocket.h"

enum peer_kind {
	PEER_SPDY,
	PEER_WEBSOCKET,
	PEER_WEBSOCKET_BASE64,
	PEER_TUNNEL,
};

struct peer;

/*
 * fd stays the caller's, until after peer_free(). on_gone(session) comes once: the connection is
 * over, by the client or after peer_finish(). on_error() before it where the client broke the
 * protocol.
 */
struct peer_config {
	enum peer_kind kind;
	int fd;
	unsigned finish_ms; /* within which the client takes something of what waits at the end */
	const struct stream_handler *handler;
	void (*on_gone)(void *session);
	void (*on_error)(void *session, const struct err *err);
	void *session;
};
int peer_new(
	struct ev_loop *loop, const struct peer_config *config, struct peer **ret, struct err *err);
struct peer *peer_free(struct peer *peer);

/* Bytes that came right behind the handshake. */
void peer_begin(struct peer *peer, const void *data, size_t len);

/* Bytes that may be sent on the stream now. */
size_t peer_room(const struct peer *peer, uint32_t id);
/* No more than there is room; the data is copied. A client that is lost is told of by on_gone. */
void peer_send(struct peer *peer, uint32_t id, const void *data, size_t len);
/* When the client last sent anything, pings too, or was sent or took something; ev_now_ms(). */
uint64_t peer_last_ms(const struct peer *peer);
void peer_end(struct peer *peer, uint32_t id);
void peer_reset(struct peer *peer, uint32_t id);
/* Of a WebSocket with channels, before anything comes: how many it has, not as exec has them. */
void peer_set_channels(struct peer *peer, unsigned n);
void peer_took(struct peer *peer, uint32_t id, size_t len);
/* Counted: the connection is read while nobody holds it. */
void peer_hold(struct peer *peer);
void peer_let_go(struct peer *peer);
/* Sends what waits and closes. */
void peer_finish(struct peer *peer);
/* on_gone comes at once; nothing more is sent. */
void peer_drop(struct peer *peer);
