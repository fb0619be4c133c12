#include "network/redirect.h"

#include <errno.h>
#include <netlink/route/link.h>
#include <string.h>

#include "common/fd.h"
#include "network/netlink.h"

static const struct redirect *const redirects[] = {
	[NET_REDIRECT_TCFILTER] = &redirect_tcfilter,
	[NET_REDIRECT_MACVTAP] = &redirect_macvtap,
};

const struct redirect *redirect_of(enum net_redirect redirect)
{
	return redirects[redirect];
}

const struct redirect *redirect_of_kind(const char *kind)
{
	size_t i;

	for (i = 0; kind && i < ARRAY_SIZE(redirects); i++)
		if (strcmp(redirects[i]->kind, kind) == 0)
			return redirects[i];
	return NULL;
}

int redirect_find_tap(
	struct nl_sock *sock, const char *name, struct redirect_tap *ret, struct err *err)
{
	struct rtnl_link *link;
	int r;

	r = netlink_link(sock, name, &link, err);
	if (r < 0)
		return r;
	ret->redirect = redirect_of_kind(rtnl_link_get_type(link));
	ret->link = rtnl_link_get_ifindex(link);
	rtnl_link_put(link);
	return ret->redirect ? 0 : err_set(err, -EINVAL, "the interface '%s' is no tap", name);
}
