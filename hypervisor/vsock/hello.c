#include "hypervisor/vsock/hello.h"

#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

static bool parse(const char *line, size_t len, uint32_t *ret_port)
{
	static const char word[] = "CONNECT ";
	size_t at = sizeof(word) - 1;
	/* Ten digits are the most that a port has. */
	if (len <= at || len > at + 10 || memcmp(line, word, at) != 0)
		return false;
	uint64_t port = 0;
	for (; at < len; at++) {
		if (line[at] < '0' || line[at] > '9')
			return false;
		port = port * 10 + (uint64_t)(line[at] - '0');
	}
	if (port >= VMADDR_PORT_ANY)
		return false;
	*ret_port = (uint32_t)port;
	return true;
}

int vs_hello_read(int fd, char line[VS_HELLO_MAX], size_t *len, uint32_t *ret_port)
{
	/* Only as far as the line goes: what follows belongs to the stream. */
	ssize_t got = recv(fd, line + *len, VS_HELLO_MAX - *len, MSG_PEEK | MSG_DONTWAIT);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 1 : -errno;
	if (got == 0)
		return -ENODATA;
	const char *end = memchr(line + *len, '\n', (size_t)got);
	size_t take = end ? (size_t)(end + 1 - (line + *len)) : (size_t)got;
	got = recv(fd, line + *len, take, MSG_DONTWAIT);
	if (got < 0 || (size_t)got != take)
		return -EIO;
	*len += take;
	if (end)
		return parse(line, *len - 1, ret_port) ? 0 : -EPROTO;
	return *len < VS_HELLO_MAX ? 1 : -EPROTO;
}
