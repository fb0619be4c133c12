/*
 * What our libnl callers share: a route socket, and libnl's errors in ours.
 *
 * A socket belongs to the network namespace of the thread that opened it, for its whole life, and
 * is used by one thread at a time.
 */
#pragma once

#include <netlink/netlink.h>
#include <netlink/route/link.h>
#include <netlink/route/route.h>

#include "common/err.h"

int netlink_open(struct nl_sock **ret, struct err *err);
struct nl_sock *netlink_close(struct nl_sock *sock);

static inline void netlink_closep(struct nl_sock **sock)
{
	*sock = netlink_close(*sock);
}

static inline void link_putp(struct rtnl_link **link)
{
	rtnl_link_put(*link);
}

/* Fills err with the text and libnl's own for rc (negative); returns the errno that fits. */
int netlink_error(struct err *err, int rc, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The link of the name, which the caller puts. -ENODEV: there is none. */
int netlink_link(struct nl_sock *sock, const char *name, struct rtnl_link **ret, struct err *err);

/* The index of a link; -ENODEV when there is none of that name. */
int netlink_link_index(struct nl_sock *sock, const char *name, struct err *err);

/*
 * All routes of the namespace, in the kernel's order. Not by libnl's cache, in which one replaces
 * the others of its table, destination and metric, whatever their links are.
 */
struct netlink_routes {
	struct rtnl_route **items;
	size_t n;
};
/* On failure there is nothing to be done. */
int netlink_routes_read(struct nl_sock *sock, struct netlink_routes *ret, struct err *err);
void netlink_routes_done(struct netlink_routes *routes);
