/*
 * A macvtap in passthru mode has its interface's MAC and gets all unicast that arrives there. Its
 * frames leave by the interface without passing an ingress hook; they do pass the macvtap's own
 * egress.
 */
#include <errno.h>
#include <linux/pkt_sched.h>
#include <net/if.h>
#include <netlink/route/link.h>
#include <netlink/route/link/macvtap.h>
#include <netlink/route/qdisc.h>

#include "common/fd.h"
#include "network/netlink.h"
#include "network/redirect.h"

#define EGRESS TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)

static void qdisc_putp(struct rtnl_qdisc **qdisc)
{
	rtnl_qdisc_put(*qdisc);
}

static int make(
	struct nl_sock *sock, int interface, const struct interface_place *place, struct err *err)
{
	_cleanup_(link_putp) struct rtnl_link *link = rtnl_link_macvtap_alloc();
	int r;

	if (!link || rtnl_link_macvtap_set_mode(link, rtnl_link_macvtap_str2mode("passthru")) < 0)
		return err_nomem(err);
	rtnl_link_set_link(link, interface);
	rtnl_link_set_ns_fd(link, place->netns_fd);
	rtnl_link_set_name(link, place->name);
	rtnl_link_set_mtu(link, place->mtu);
	r = rtnl_link_add(sock, link, NLM_F_CREATE | NLM_F_EXCL);
	if (r == -NLE_OPNOTSUPP)
		return err_set(err, -EOPNOTSUPP,
			"the kernel has no macvtap (CONFIG_MACVTAP); without it, network.redirect "
			"must be tcfilter");
	if (r == -NLE_INVAL || r == -NLE_BUSY)
		return err_set(err, -EINVAL,
			"a macvtap takes a whole interface, which one of the plugins macvlan or "
			"ipvlan is not: for it, network.redirect must be tcfilter");
	return r < 0 ? netlink_error(err, r, "make a macvtap over link %d", interface) : 0;
}

/* Without all groups it would get the multicast alone that the host's kernel thinks it listens to.
 */
static int take_all_groups(struct nl_sock *sock, int tap, struct err *err)
{
	_cleanup_(link_putp) struct rtnl_link *link = rtnl_link_alloc();
	_cleanup_(link_putp) struct rtnl_link *change = rtnl_link_alloc();
	int r;

	if (!link || !change)
		return err_nomem(err);
	rtnl_link_set_ifindex(link, tap);
	rtnl_link_set_flags(change, IFF_ALLMULTI);
	r = rtnl_link_change(sock, link, change, 0);
	return r < 0 ? netlink_error(err, r, "let link %d take all multicast", tap) : 0;
}

static int join(struct nl_sock *sock, int interface, int tap, struct err *err)
{
	_cleanup_(qdisc_putp) struct rtnl_qdisc *qdisc = rtnl_qdisc_alloc();
	int r;

	(void)interface; /* the tap is over it since it was made */
	if (!qdisc || rtnl_tc_set_kind(TC_CAST(qdisc), "clsact") < 0)
		return err_nomem(err);
	rtnl_tc_set_ifindex(TC_CAST(qdisc), tap);
	rtnl_tc_set_parent(TC_CAST(qdisc), TC_H_CLSACT);
	rtnl_tc_set_handle(TC_CAST(qdisc), TC_H_MAKE(TC_H_CLSACT, 0));
	r = take_all_groups(sock, tap, err);
	if (r < 0)
		return r;
	r = rtnl_qdisc_add(sock, qdisc, NLM_F_CREATE | NLM_F_EXCL);
	return r < 0 ? netlink_error(err, r, "add a clsact qdisc to link %d", tap) : 0;
}

const struct redirect redirect_macvtap = {
	.kind = "macvtap",
	.guard = EGRESS,
	.goes_on = true,
	.make = make,
	.join = join,
};
