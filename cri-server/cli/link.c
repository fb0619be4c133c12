#include "cri-server/cli/link.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/fd.h"

#define HANDSHAKE_MS 10000

struct link {
	int fd;
	SSL_CTX *context; /* NULL: no TLS */
	SSL *ssl;
	BIO_METHOD *method; /* how TLS writes to the socket */
};

struct target {
	bool tls;
	char host[256], port[8];
	const char *path;
};

static int parse_url(const char *url, struct target *ret, struct err *err)
{
	int path_at = 0;
	ret->tls = strncmp(url, "https://", 8) == 0;
	if (!ret->tls && strncmp(url, "http://", 7) != 0)
		return err_set(err, -EPROTONOSUPPORT, "the runtime answered with '%s'", url);
	const char *at = url + (ret->tls ? 8 : 7);
	if (sscanf(at, "[%255[^]]]:%7[0-9]%n", ret->host, ret->port, &path_at) != 2 &&
		sscanf(at, "%255[^:/]:%7[0-9]%n", ret->host, ret->port, &path_at) != 2)
		return err_set(err, -EPROTONOSUPPORT, "the runtime answered with '%s'", url);
	ret->path = at + path_at;
	return 0;
}

static int connect_target(const struct target *target, int *ret_fd, struct err *err)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
	struct addrinfo *found;
	int r = getaddrinfo(target->host, target->port, &hints, &found);
	if (r)
		return err_set(err, -EINVAL, "%s: %s", target->host, gai_strerror(r));
	_cleanup_close_ int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	r = fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) < 0
		    ? err_errno(err, "connect to %s:%s", target->host, target->port)
		    : fd_set_nonblock(fd, err);
	freeaddrinfo(found);
	if (r < 0)
		return r;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int tls_fail(struct err *err, const char *what)
{
	char text[256];
	ERR_error_string_n(ERR_get_error(), text, sizeof(text));
	ERR_clear_error();
	return err_set(err, -EINVAL, "%s: %s", what, text);
}

static int set_trust(SSL_CTX *context, const char *ca, struct err *err)
{
	/* The server's own certificate may be all that there is. */
	X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	if (ca)
		return SSL_CTX_load_verify_file(context, ca) == 1 ? 0 : tls_fail(err, ca);
	return SSL_CTX_set_default_verify_paths(context) == 1
		       ? 0
		       : tls_fail(err, "the system's certificates");
}

/* Waits for what the TLS layer wants after a call that gave r; -errno where it cannot go on. */
static int wait_tls(struct link *link, int r, int timeout_ms)
{
	int error = SSL_get_error(link->ssl, r);
	struct pollfd poller = {.fd = link->fd, .events = POLLIN};
	if (error == SSL_ERROR_WANT_WRITE)
		poller.events = POLLOUT;
	else if (error != SSL_ERROR_WANT_READ)
		return -EIO;
	r = poll(&poller, 1, timeout_ms);
	if (r == 0)
		return -ETIMEDOUT;
	return r < 0 && errno != EINTR ? -errno : 0;
}

static int handshake(struct link *link, const char *host, struct err *err)
{
	int done, r = 0;
	while ((done = SSL_connect(link->ssl)) != 1 && r == 0)
		r = wait_tls(link, done, HANDSHAKE_MS);
	if (done == 1)
		return 0;
	long verified = SSL_get_verify_result(link->ssl);
	if (verified != X509_V_OK)
		return err_set(err, -EACCES,
			"the streaming server's certificate is not trusted for %s: %s. Whom to "
			"trust says --tls-ca FILE",
			host, X509_verify_cert_error_string(verified));
	if (r == -ETIMEDOUT)
		return err_set(err, r, "the streaming server does not answer");
	return tls_fail(err, "begin TLS with the streaming server");
}

/* OpenSSL's own writes raise SIGPIPE, which is stdout's to raise: `exec POD cat | head`. */
static int send_quietly(BIO *bio, const char *data, int len)
{
	BIO_clear_retry_flags(bio);
	ssize_t n = send((int)BIO_get_fd(bio, NULL), data, (size_t)len, MSG_NOSIGNAL);
	if (n <= 0 && BIO_sock_should_retry((int)n))
		BIO_set_retry_write(bio);
	return (int)n;
}

static bool set_socket(struct link *link)
{
	const BIO_METHOD *socket = BIO_s_socket();
	link->method = BIO_meth_new(BIO_TYPE_SOCKET, "socket without SIGPIPE");
	if (!link->method || !BIO_meth_set_write(link->method, send_quietly) ||
		!BIO_meth_set_read(link->method, BIO_meth_get_read(socket)) ||
		!BIO_meth_set_ctrl(link->method, BIO_meth_get_ctrl(socket)) ||
		!BIO_meth_set_create(link->method, BIO_meth_get_create(socket)) ||
		!BIO_meth_set_destroy(link->method, BIO_meth_get_destroy(socket)))
		return false;
	BIO *bio = BIO_new(link->method);
	if (!bio)
		return false;
	BIO_set_fd(bio, link->fd, BIO_NOCLOSE);
	SSL_set_bio(link->ssl, bio, bio);
	return true;
}

static int begin_tls(struct link *link, const char *host, const char *ca, struct err *err)
{
	link->context = SSL_CTX_new(TLS_client_method());
	if (!link->context || !SSL_CTX_set_min_proto_version(link->context, TLS1_2_VERSION))
		return err_nomem(err);
	SSL_CTX_set_mode(
		link->context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	int r = set_trust(link->context, ca, err);
	if (r < 0)
		return r;
	link->ssl = SSL_new(link->context);
	if (!link->ssl || !set_socket(link) ||
		!X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(link->ssl), host))
		return err_nomem(err);
	return handshake(link, host, err);
}

int link_open(
	const char *url, const char *ca, struct link **ret, const char **ret_path, struct err *err)
{
	struct target target;
	int r = parse_url(url, &target, err);
	if (r < 0)
		return r;
	struct link *link = calloc(1, sizeof(*link));
	if (!link)
		return err_nomem(err);
	link->fd = -EBADF;
	r = connect_target(&target, &link->fd, err);
	if (r == 0 && target.tls)
		r = begin_tls(link, target.host, ca, err);
	if (r < 0) {
		link_free(link);
		return r;
	}
	*ret = link;
	*ret_path = target.path;
	return 0;
}

struct link *link_free(struct link *link)
{
	if (!link)
		return NULL;
	if (link->ssl && SSL_is_init_finished(link->ssl))
		SSL_shutdown(link->ssl);
	SSL_free(link->ssl);
	SSL_CTX_free(link->context);
	BIO_meth_free(link->method);
	ERR_clear_error();
	fd_close(link->fd);
	free(link);
	return NULL;
}

int link_fd(const struct link *link)
{
	return link->fd;
}

/* The errno of a socket after a call of TLS that gave r; 0: the other side's orderly end. */
static ssize_t tls_result(struct link *link, int r)
{
	if (r > 0)
		return r;
	int error = SSL_get_error(link->ssl, r);
	ERR_clear_error();
	if (error == SSL_ERROR_ZERO_RETURN)
		return 0;
	errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EPIPE;
	return -1;
}

ssize_t link_send(struct link *link, const void *data, size_t len)
{
	if (!link->ssl)
		return send(link->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (!len)
		return 0;
	return tls_result(link, SSL_write(link->ssl, data, len < INT_MAX ? (int)len : INT_MAX));
}

ssize_t link_recv(struct link *link, void *data, size_t len)
{
	if (!link->ssl)
		return recv(link->fd, data, len, MSG_DONTWAIT);
	return tls_result(link, SSL_read(link->ssl, data, len < INT_MAX ? (int)len : INT_MAX));
}

static int wait_for(const struct link *link, short events)
{
	struct pollfd poller = {.fd = link->fd, .events = events};
	return poll(&poller, 1, -1) < 0 && errno != EINTR ? -errno : 0;
}

int link_send_all(struct link *link, const void *data, size_t len, struct err *err)
{
	while (len) {
		ssize_t n = link_send(link, data, len);
		if (n < 0 && (errno == EAGAIN || errno == EINTR) && wait_for(link, POLLOUT) == 0)
			continue;
		if (n < 0)
			return err_errno(err, "send to the streaming server");
		data = (const char *)data + n;
		len -= (size_t)n;
	}
	return 0;
}

ssize_t link_recv_wait(struct link *link, void *data, size_t len)
{
	ssize_t n;
	do {
		n = link_recv(link, data, len);
	} while (n < 0 && (errno == EAGAIN || errno == EINTR) && wait_for(link, POLLIN) == 0);
	return n;
}
