/*
 * The streaming server: exec, attach and port-forward over HTTP.
 *
 * The CRI call checks what is asked for and gets a URL with a token (stream_server_url()); whoever
 * connects with it, once and within a minute, gets a session. HTTP, TLS and the upgrade are
 * libmicrohttpd's; after the upgrade the socket belongs to the session.
 *
 *	token ─connects→ opening ─streams there→ starting ─ops.start→ running ─→ finishing → freed
 *	  └ expires        └ creation time-out      └ failed: its status    └ client gone, idle
 *
 * Threads: libmicrohttpd's one takes connections and looks tokens up; one loop of ours has all
 * sessions; what may block (the ops) runs in a thread of its own for as long as it takes. The
 * number of tokens, sessions and connections is bounded.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/log.h"

/* A WebSocket has two channels for each, whose numbers are characters where it is base64. */
#define STREAM_PORTS_MAX 32

enum stream_kind { STREAM_EXEC, STREAM_ATTACH, STREAM_FORWARD };

struct stream_start {
	unsigned columns, rows; /* of the terminal; 0: not known */
	/* To be called when stream_ops.status may have changed: any thread, until end() returned.
	 */
	void (*wake)(void *userdata);
	void *userdata;
};

/* What a session does in the pod. All may block but status(), and run outside of the loop. */
struct stream_ops {
	/*
	 * Starts it and gives its streams: sockets for stdin, stdout, stderr, -EBADF where there is
	 * none. Those of an exec are the agent's and are acknowledged.
	 */
	int (*start)(
		void *target, const struct stream_start *start, int ret_fds[3], struct err *err);
	int (*resize)(void *target, unsigned columns, unsigned rows, struct err *err);
	/* 0: it runs; positive 1: it has ended, with *ret_code; negative: it was lost. */
	int (*status)(void *target, int *ret_code, struct err *err);
	/* A connection to a port inside the pod. */
	int (*dial)(void *target, uint16_t port, int *ret_fd, struct err *err);
	/* Ends what start() began, and frees. Blocks only where start() was called. */
	void (*end)(void *target);
};

struct stream_request {
	enum stream_kind kind;
	bool tty, in, out, err;
	bool in_stays_open; /* the end of the client's stdin is not the process's */
	const struct stream_ops *ops;
	void *target;
	size_t bytes; /* that the target keeps of what the caller said */
	/* Of a port-forward: what a client without streams of its own means. Others say it anew. */
	uint16_t ports[STREAM_PORTS_MAX];
	unsigned n_ports;
	const char *pod; /* for messages; valid as long as the target */
};

struct stream_config {
	const char *address; /* numeric */
	uint16_t port;       /* 0: any */
	unsigned idle_timeout_ms;
	unsigned creation_timeout_ms;
	const char *tls_certificate; /* PEM files; NULL: no TLS */
	const char *tls_key;
	const struct log *log;
};

struct stream_server;

/* Listens and serves. -EADDRINUSE, -EINVAL. */
int stream_server_start(
	const struct stream_config *config, struct stream_server **ret, struct err *err);
/* Ends all sessions, waits for their ops, frees. NULL is accepted. Returns NULL. */
struct stream_server *stream_server_stop(struct stream_server *server);

/*
 * Takes the request, also on failure (then end() is called), and returns where it is served; the
 * caller frees. -EAGAIN: too many tokens are out. Any thread.
 */
int stream_server_url(struct stream_server *server, const struct stream_request *request,
	char **ret_url, struct err *err);
