#include "network/netlink.h"

#include <errno.h>
#include <netlink/route/link.h>
#include <stdarg.h>
#include <stdio.h>

int netlink_open(struct nl_sock **ret, struct err *err)
{
	struct nl_sock *sock;
	int r;

	sock = nl_socket_alloc();
	if (!sock)
		return err_nomem(err);
	r = nl_connect(sock, NETLINK_ROUTE);
	if (r < 0) {
		netlink_close(sock);
		return netlink_error(err, r, "open a route netlink socket");
	}
	*ret = sock;
	return 0;
}

struct nl_sock *netlink_close(struct nl_sock *sock)
{
	if (sock)
		nl_socket_free(sock);
	return NULL;
}

/* libnl turns errno into codes of its own, several to one; back where a caller could care. */
static int netlink_errno(int rc)
{
	switch (-rc) {
	case NLE_NOMEM:
		return -ENOMEM;
	case NLE_NODEV:
		return -ENODEV;
	case NLE_OBJ_NOTFOUND:
		return -ENOENT;
	case NLE_EXIST:
		return -EEXIST;
	case NLE_PERM:
		return -EPERM;
	case NLE_BUSY:
		return -EBUSY;
	default:
		return -EIO;
	}
}

int netlink_error(struct err *err, int rc, const char *fmt, ...)
{
	char what[256];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return err_set(err, netlink_errno(rc), "%s: %s", what, nl_geterror(rc));
}

int netlink_link(struct nl_sock *sock, const char *name, struct rtnl_link **ret, struct err *err)
{
	int r = rtnl_link_get_kernel(sock, 0, name, ret);

	if (r == -NLE_OBJ_NOTFOUND || r == -NLE_NODEV)
		return err_set(err, -ENODEV, "no network interface '%s'", name);
	return r < 0 ? netlink_error(err, r, "look up network interface '%s'", name) : 0;
}

int netlink_link_index(struct nl_sock *sock, const char *name, struct err *err)
{
	struct rtnl_link *link;
	int index, r;

	r = netlink_link(sock, name, &link, err);
	if (r < 0)
		return r;
	index = rtnl_link_get_ifindex(link);
	rtnl_link_put(link);
	return index;
}
