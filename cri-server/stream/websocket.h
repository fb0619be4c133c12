/*
 * WebSocket as Kubernetes uses it, the server's side, without a socket: bytes come in by
 * websocket_feed(), frames go out through a callback. Frames are wslay's affair (RFC 6455).
 *
 *	channels   a message is one byte, the channel, and its bytes; stream n is channel n. Channel
 *	           255 is the close signal of v5: the byte after it is the channel that ends
 *	base64     the same as text: a digit, the channel, and the bytes in base64
 *	tunnel     messages are pieces of one stream of bytes: stream 0
 *
 * Source: k8s.io/streaming/pkg/httpstream/wsstream, KEP-4006. Messages are bounded. A client that
 * breaks the protocol gets a close frame that says so.
 *
 * Threads: one, the caller's.
 */
#pragma once

#include "common/err.h"
#include "cri-server/stream/handler.h"

#define WEBSOCKET_CHANNELS 5
#define WEBSOCKET_ACCEPT   29 /* characters and NUL */

enum websocket_mode {
	WEBSOCKET_CHANNELS_BINARY,
	WEBSOCKET_CHANNELS_BASE64,
	WEBSOCKET_TUNNEL,
};

struct websocket;

typedef void (*websocket_write_fn)(void *userdata, const void *data, size_t len);

/* on_open and on_room of the handler are not called: the channels are there from the start. */
int websocket_new(enum websocket_mode mode, websocket_write_fn write, void *userdata,
	const struct stream_handler *handler, void *session, struct websocket **ret,
	struct err *err);
/* Of another number than WEBSOCKET_CHANNELS, below 255. */
void websocket_set_channels(struct websocket *websocket, unsigned n);
struct websocket *websocket_free(struct websocket *websocket);

/* 0; positive 1: the client has closed; -EPROTO or -ENOMEM: the connection is over. */
int websocket_feed(struct websocket *websocket, const void *data, size_t len, struct err *err);

/* One message. */
void websocket_send(struct websocket *websocket, uint32_t channel, const void *data, size_t len);
/* The close frame of an end that went well. */
void websocket_close(struct websocket *websocket);

/* The value of Sec-WebSocket-Accept for the client's key. */
void websocket_accept(const char *key, char accept[WEBSOCKET_ACCEPT]);
