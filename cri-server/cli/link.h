/*
 * bulkheadctl's connection to the streaming server: TCP, with TLS where the URL is https.
 *
 * The server proves with its certificate that it is the host of the URL; the caller says whom to
 * trust. One thread. A record of TLS has LINK_READ_BYTES at most: who reads with so much room at
 * once leaves nothing behind that poll() would not tell of.
 */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "common/err.h"

#define LINK_READ_BYTES 16384
/* How often the server is told that a quiet session is not forgotten; kubectl does so, too. */
#define LINK_PING_MS 5000

struct link;

/*
 * Connects to http://ADDRESS:PORT/… or https://…; blocking. ca: a file of certificates in PEM, the
 * server's own perhaps; NULL: the system's. *ret_path is the rest of the URL, in it. -EACCES: the
 * server's certificate is not trusted.
 */
int link_open(
	const char *url, const char *ca, struct link **ret, const char **ret_path, struct err *err);
/* NULL is accepted. Returns NULL. */
struct link *link_free(struct link *link);

/* To wait for. */
int link_fd(const struct link *link);

/* As send() and recv() with MSG_DONTWAIT, errno included. */
ssize_t link_send(struct link *link, const void *data, size_t len);
ssize_t link_recv(struct link *link, void *data, size_t len);

/* Blocking: sends all, receives what there is (0: the end). */
int link_send_all(struct link *link, const void *data, size_t len, struct err *err);
ssize_t link_recv_wait(struct link *link, void *data, size_t len);
