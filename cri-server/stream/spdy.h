/*
 * SPDY/3.1 without a socket, the server's side and the client's: bytes come in by spdy_feed(),
 * frames go out through a callback.
 *
 * Source: draft-mbelshe-httpbis-spdy-00 and "SPDY Protocol - Draft 3.1". The streams are the
 * client's; none is pushed. The clients of Kubernetes (moby/spdystream) know no flow control: they
 * neither send WINDOW_UPDATE nor heed it. So the client's windows bind us from its first
 * WINDOW_UPDATE or SETTINGS with a window on; until then its TCP connection is what holds us. Ours
 * are always announced, as the bytes are taken; by SETTINGS too, to a client that does flow
 * control.
 *
 * Everything is bounded: frames, header blocks before and after inflation, streams at once, what is
 * said back. A client that breaks the protocol gets GOAWAY, and spdy_feed() fails from then on.
 *
 * A stream that is not read holds only itself: of the connection's window bytes are taken as they
 * come, of the stream's by spdy_took(). The client's side has no use for the headers that the
 * server sends.
 *
 * Threads: one, the caller's.
 */
#pragma once

#include "common/err.h"
#include "cri-server/stream/handler.h"

#define SPDY_STREAMS_MAX    1024
#define SPDY_OPEN_BYTES_MAX 512

struct spdy;

typedef void (*spdy_write_fn)(void *userdata, const void *data, size_t len);

/* write(userdata) takes the bytes for the client; handler and session as handler.h says. */
int spdy_new(spdy_write_fn write, void *userdata, const struct stream_handler *handler,
	void *session, struct spdy **ret, struct err *err);
/* The client's side, for spdy_open(): on_open is not called, "client" above is the server then. */
int spdy_new_client(spdy_write_fn write, void *userdata, const struct stream_handler *handler,
	void *session, struct spdy **ret, struct err *err);
struct spdy *spdy_free(struct spdy *spdy);

/* 0; -EPROTO or -ENOMEM: the connection is over. */
int spdy_feed(struct spdy *spdy, const void *data, size_t len, struct err *err);

/*
 * The client opens a stream; silent: it sends nothing on it. -EAGAIN: too many, or the connection
 * is over. The headers are at most SPDY_OPEN_BYTES_MAX / 2 bytes.
 */
int spdy_open(struct spdy *spdy, const struct stream_open *open, bool silent, uint32_t *ret_id,
	struct err *err);

/* How many bytes the client's window takes on the stream; 0 for one that is closed. */
size_t spdy_room(const struct spdy *spdy, uint32_t id);
/* len is at most what spdy_room() said. On a closed stream nothing happens. */
void spdy_send(struct spdy *spdy, uint32_t id, const void *data, size_t len);
/* Nothing more is sent on the stream. */
void spdy_end(struct spdy *spdy, uint32_t id);
void spdy_reset(struct spdy *spdy, uint32_t id);
/* Bytes of the stream were taken: the client may send as many again. */
void spdy_took(struct spdy *spdy, uint32_t id, size_t len);
/* Of the client's side: the server answers, which is not told. */
void spdy_ping(struct spdy *spdy);
/* No further streams: the connection is about to end. */
void spdy_goaway(struct spdy *spdy);
