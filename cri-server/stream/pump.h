/*
 * Between a stream of the client's and a local socket: client to socket, socket to client, or both.
 *
 * What the client sends and the socket does not take is kept, and the client's connection held
 * beyond a bound. The socket is read only as far as the client takes it. So whoever does not read
 * holds up what is for him alone, back to the writer in the guest.
 *
 * Owner: a session. Threads: the loop's alone.
 */
#pragma once

#include <stdbool.h>

#include "common/err.h"
#include "common/loop.h"
#include "cri-server/stream/peer.h"

struct pump;

enum {
	PUMP_IN = 1,         /* client → socket */
	PUMP_OUT = 2,        /* socket → client */
	PUMP_ACK = 4,        /* an agent's output stream: what was passed on is acknowledged */
	PUMP_DISCARD = 8,    /* what comes out of the socket is for nobody */
	PUMP_KEEP_OPEN = 16, /* the client's end is not the socket's */
	PUMP_ONE_END = 32,   /* nor could the client be told of the socket's: it is the whole end */
};

struct pump_config {
	struct peer *peer;
	uint32_t id; /* of the client's stream */
	unsigned flags;
	/* All that comes has been passed on, both ways; or the socket broke. May free nothing. */
	void (*on_end)(void *userdata);
	void *userdata;
};

/* Without a socket yet: what the client sends is kept. */
int pump_new(
	struct ev_loop *loop, const struct pump_config *config, struct pump **ret, struct err *err);
struct pump *pump_free(struct pump *pump);

/* fd is taken, also on failure; made non-blocking. */
int pump_attach(struct pump *pump, int fd, struct err *err);

void pump_client_data(struct pump *pump, const void *data, size_t len);
void pump_client_end(struct pump *pump);
/* The client may take more. */
void pump_room(struct pump *pump);
/* The socket has said all that it will, and the client has it. */
bool pump_is_done(const struct pump *pump);
/* When the socket last brought anything; ev_now_ms(). */
uint64_t pump_last_ms(const struct pump *pump);
/* There is something to read that the client does not take. */
bool pump_is_blocked(const struct pump *pump);
