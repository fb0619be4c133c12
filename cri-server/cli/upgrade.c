#include "cri-server/cli/upgrade.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/fd.h"

#define HEADERS_MAX 8192

/* Reads up to the end of the answer's headers. */
static int read_headers(struct link *link, struct buf *rest, struct err *err)
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
		char data[LINK_READ_BYTES];
		ssize_t n = link_recv_wait(link, data, sizeof(data));
		if (n <= 0 || rest->len > HEADERS_MAX)
			return err_set(err, -EPROTO, "the streaming server gave no answer");
		if (buf_append(rest, data, (size_t)n) < 0)
			return err_nomem(err);
	}
}

int upgrade(const struct upgrade *upgrade, struct link **ret, struct buf *rest, struct err *err)
{
	struct link *link = NULL;
	const char *path;
	int r = link_open(upgrade->url, upgrade->ca, &link, &path, err);
	if (r < 0)
		return r;
	_cleanup_free_ char *request = str_printf("%s %s HTTP/1.1\r\nHost: bulkhead\r\n"
						  "Connection: Upgrade\r\n%s\r\n",
		upgrade->method, path, upgrade->headers);
	r = request ? link_send_all(link, request, strlen(request), err) : err_nomem(err);
	if (r == 0)
		r = read_headers(link, rest, err);
	if (r < 0)
		link_free(link);
	else
		*ret = link;
	return r;
}
