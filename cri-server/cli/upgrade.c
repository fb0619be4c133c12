#include "cri-server/cli/upgrade.h"

#include <errno.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/fd.h"

#define HEADERS_MAX 8192

/* *ret_path points into url. */
static int connect_url(const char *url, int *ret_fd, const char **ret_path, struct err *err)
{
	char host[256], port[8];
	int path_at = 0;
	bool v6 = sscanf(url, "http://[%255[^]]]:%7[0-9]%n", host, port, &path_at) == 2;
	if (!v6 && sscanf(url, "http://%255[^:/]:%7[0-9]%n", host, port, &path_at) != 2)
		return err_set(err, -EPROTONOSUPPORT,
			"the runtime answered with '%s', which bulkheadctl cannot connect to; only "
			"http is supported",
			url);
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
	struct addrinfo *found;
	int r = getaddrinfo(host, port, &hints, &found);
	if (r)
		return err_set(err, -EINVAL, "%s: %s", host, gai_strerror(r));
	int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	r = fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) < 0
		    ? err_errno(err, "connect to %s:%s", host, port)
		    : 0;
	freeaddrinfo(found);
	if (r < 0) {
		fd_close(fd);
		return r;
	}
	*ret_fd = fd;
	*ret_path = url + path_at;
	return 0;
}

/* Reads up to the end of the answer's headers. */
static int read_headers(int fd, struct buf *rest, struct err *err)
{
	for (;;) {
		char *end = rest->len ? memmem(rest->data, rest->len, "\r\n\r\n", 4) : NULL;
		if (end) {
			bool upgraded = rest->len > 12 && memcmp(rest->data + 8, " 101", 4) == 0;
			char line[128];
			snprintf(line, sizeof(line), "%.*s", (int)strcspn(rest->data, "\r"),
				rest->data);
			buf_consume(rest, (size_t)(end + 4 - rest->data));
			return upgraded ? 0
					: err_set(err, -EPROTO, "the streaming server: %s", line);
		}
		char data[1024];
		ssize_t n = recv(fd, data, sizeof(data), 0);
		if (n <= 0 || rest->len + (size_t)n > HEADERS_MAX)
			return err_set(err, -EPROTO, "the streaming server gave no answer");
		if (buf_append(rest, data, (size_t)n) < 0)
			return err_nomem(err);
	}
}

int upgrade(const char *url, const char *method, const char *headers, int *ret_fd, struct buf *rest,
	struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	const char *path;
	int r = connect_url(url, &fd, &path, err);
	if (r < 0)
		return r;
	_cleanup_free_ char *request = str_printf("%s %s HTTP/1.1\r\nHost: bulkhead\r\n"
						  "Connection: Upgrade\r\n%s\r\n",
		method, path, headers);
	if (!request)
		return err_nomem(err);
	r = fd_write_all(fd, request, strlen(request), err);
	if (r == 0)
		r = read_headers(fd, rest, err);
	if (r == 0)
		*ret_fd = TAKE_FD(fd);
	return r;
}
