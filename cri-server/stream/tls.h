/*
 * TLS in front of the HTTP server: takes connections, and hands each on, decrypted, as one end of a
 * pair of sockets. libmicrohttpd's own TLS is not used: an upgraded connection has four bytes of
 * buffer each way there, and stays open when its session has ended.
 *
 *	accepted ─handshake→ handed on ─one side's end, the other's→ freed
 *	   └ too slow, not TLS: closed
 *
 * Ends go through each way by themselves. TLS_CONNECTIONS_MAX at most: more wait to be accepted.
 * Threads: the loop's alone; tls_new() and tls_free() while it does not run.
 */
#pragma once

#include <stdbool.h>

#include "common/err.h"
#include "common/loop.h"

#define TLS_CONNECTIONS_MAX 4096

struct tls;

struct tls_config {
	struct ev_loop *loop;
	const char *certificate, *key; /* PEM files */
	unsigned handshake_ms; /* also for the client to take what is no more than HTTP's answer */
	unsigned finish_ms;    /* within which it takes something of what else waits at the end */
	/* Takes the descriptor, also where it is not wanted: false. On the loop's thread. */
	bool (*take)(void *userdata, int fd);
	void *userdata;
};

/* Takes listen_fd on success. -EINVAL: certificate or key cannot be used. */
int tls_new(const struct tls_config *config, int listen_fd, struct tls **ret, struct err *err);
/* Closes all connections. NULL is accepted. Returns NULL. */
struct tls *tls_free(struct tls *tls);
