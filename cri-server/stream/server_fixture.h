/*
 * For the tests of the streaming server: a server, targets that run a shell, and clients that speak
 * HTTP and WebSocket by hand over real connections. What fails, fails the test.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "cri-server/stream/stream.h"

#define FIXTURE_WAIT_MS 30000

/* What a session works on: `sh -c command`; NULL: what cannot be started. */
struct target {
	const char *command;
	pid_t pid;
	atomic_bool ended; /* end() returned */
	atomic_uint columns;
	atomic_uint starts; /* calls of start() */
};

extern const struct stream_ops fixture_ops;

/* certificate and key may be NULL; the times are those of stream_config. */
struct stream_server *fixture_start(
	const char *certificate, const char *key, unsigned idle_ms, unsigned creation_ms);
/* The caller frees. */
char *fixture_url(struct stream_server *server, struct target *target, bool tty);

/* On this host. The kernel takes so many bytes that are not read; 0: as it likes. */
int fixture_connect(unsigned port, int takes);
int fixture_listen(unsigned *ret_port);
/* Connects and says the headers, each with its end of line; returns the connection. */
int fixture_ask(const char *url, const char *headers);
/* The same, and reads up to the end of the answer's. */
int fixture_request(const char *url, const char *headers, char *answer, size_t size);

#define FIXTURE_WEBSOCKET                                                                          \
	"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"               \
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"                                          \
	"Sec-WebSocket-Protocol: v5.channel.k8s.io, v4.channel.k8s.io\r\n"
#define FIXTURE_SPDY                                                                               \
	"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"                                             \
	"X-Stream-Protocol-Version: v4.channel.k8s.io\r\n"

int fixture_websocket(struct stream_server *server, struct target *target, bool tty);
/* A binary message of at most 125 bytes, masked by zeros. */
void fixture_send(int fd, const void *data, uint8_t len);
/* One of many for stdin. */
#define FIXTURE_MESSAGE (8 + 60000)
size_t fixture_message(uint8_t message[FIXTURE_MESSAGE]);
/* There is no room for a while: the other side does not read. */
bool fixture_is_held(int fd);
/* Closes so that the other side is told of a break, not of an end. */
void fixture_break(int fd);
/* All of a channel up to the close frame, with a NUL behind; size leaves room for it. */
void fixture_read_channel(int fd, char channel, char *text, size_t size);

/* Until it is true, FIXTURE_WAIT_MS at most. */
void fixture_await(const atomic_bool *flag);
