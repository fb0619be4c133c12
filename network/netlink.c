#include "network/netlink.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <netlink/route/link.h>
#include <netlink/route/route.h>
#include <netlink/route/rtnl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

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

struct reading {
	struct netlink_routes *routes;
	bool failed; /* memory was out */
};

static void keep_route(struct nl_object *object, void *userdata)
{
	struct reading *reading = userdata;
	struct netlink_routes *routes = reading->routes;
	struct rtnl_route **items = reallocarray(routes->items, routes->n + 1, sizeof(*items));

	if (!items) {
		reading->failed = true;
		return;
	}
	nl_object_get(object);
	routes->items = items;
	items[routes->n++] = (struct rtnl_route *)object;
}

static int on_route(struct nl_msg *msg, void *userdata)
{
	int r = nl_msg_parse(msg, keep_route, userdata);

	return r < 0 ? r : NL_OK;
}

static int read_routes_once(struct nl_sock *sock, struct reading *reading)
{
	struct nl_cb *own = nl_socket_get_cb(sock), *cb = nl_cb_clone(own);
	int r;

	nl_cb_put(own);
	if (!cb)
		return -NLE_NOMEM;
	nl_cb_set(cb, NL_CB_VALID, NL_CB_CUSTOM, on_route, reading);
	r = nl_rtgen_request(sock, RTM_GETROUTE, AF_UNSPEC, NLM_F_DUMP);
	if (r >= 0)
		r = nl_recvmsgs(sock, cb);
	nl_cb_put(cb);
	return r >= 0 && reading->failed ? -NLE_NOMEM : r;
}

int netlink_routes_read(struct nl_sock *sock, struct netlink_routes *ret, struct err *err)
{
	struct netlink_routes routes = {.items = NULL};
	int r;

	/* One that changes meanwhile may have been left out, or be there twice. */
	do {
		netlink_routes_done(&routes);
		r = read_routes_once(sock, &(struct reading){.routes = &routes});
	} while (r == -NLE_DUMP_INTR);
	if (r < 0) {
		netlink_routes_done(&routes);
		return netlink_error(err, r, "list the pod's routes");
	}
	*ret = routes;
	return 0;
}

void netlink_routes_done(struct netlink_routes *routes)
{
	size_t i;

	for (i = 0; i < routes->n; i++)
		rtnl_route_put(routes->items[i]);
	free(routes->items);
	*routes = (struct netlink_routes){.items = NULL};
}
