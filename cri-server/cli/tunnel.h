/*
 * The client's side of a port-forward: local connections, each a pair of SPDY streams in the one
 * connection to the streaming server.
 *
 * A connection that is not read holds only itself: its stream's window bounds what is kept for it.
 * Threads: the loop's alone.
 */
#pragma once

#include "common/buf.h"
#include "common/err.h"
#include "common/loop.h"
#include "cri-server/cli/link.h"

/* The server takes no more pairs at once. */
#define TUNNEL_CONNECTIONS_MAX 512

struct tunnel;

/* Borrowed, with userdata, until tunnel_free(). Nothing is freed from within. */
struct tunnel_events {
	/* The server says why a connection failed; it ends. */
	void (*on_error)(void *userdata, uint16_t local, uint16_t remote, const char *text);
	/* A connection has ended: there is room for another. */
	void (*on_room)(void *userdata);
	/* The server's connection is over. Called once, and nothing after it. */
	void (*on_lost)(void *userdata, const struct err *err);
};

/* Takes the upgraded connection, also on failure; rest: what came behind the upgrade. */
int tunnel_new(struct ev_loop *loop, struct link *link, struct buf *rest,
	const struct tunnel_events *events, void *userdata, struct tunnel **ret, struct err *err);
struct tunnel *tunnel_free(struct tunnel *tunnel);

/* Takes the local connection fd, also on failure. The ports are for the server and on_error(). */
int tunnel_connect(struct tunnel *tunnel, int fd, uint16_t local, uint16_t remote, struct err *err);
unsigned tunnel_connections(const struct tunnel *tunnel);
