#include "cri-server/cli/ports.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Digits only, so that strtoul() takes no sign and no space. */
static int parse_port(const char *text, size_t len, uint16_t *ret)
{
	if (len == 0 || len > 5 || strspn(text, "0123456789") < len)
		return -EINVAL;
	unsigned long port = strtoul(text, NULL, 10);
	*ret = (uint16_t)port;
	return port > UINT16_MAX ? -EINVAL : 0;
}

int port_pair_parse(const char *text, struct port_pair *ret, struct err *err)
{
	struct port_pair pair = {0};
	const char *colon = strchr(text, ':');
	const char *remote = colon ? colon + 1 : text;
	int r = parse_port(remote, strlen(remote), &pair.remote);
	if (r == 0 && colon && colon > text)
		r = parse_port(text, (size_t)(colon - text), &pair.local);
	else if (r == 0 && !colon)
		pair.local = pair.remote;
	if (r < 0 || !pair.remote)
		return err_set(err, -EINVAL, "'%s' is not [LOCAL:]REMOTE, two ports", text);
	*ret = pair;
	return 0;
}
