#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/tc_act/tc_mirred.h>
#include <netlink/route/act/mirred.h>
#include <netlink/route/classifier.h>
#include <netlink/route/cls/u32.h>
#include <netlink/route/qdisc.h>

#include "common/fd.h"
#include "network/netlink.h"
#include "network/redirect.h"

#define INGRESS 0xffff0000u

static void qdisc_putp(struct rtnl_qdisc **qdisc)
{
	rtnl_qdisc_put(*qdisc);
}

static void cls_putp(struct rtnl_cls **cls)
{
	rtnl_cls_put(*cls);
}

static void act_putp(struct rtnl_act **act)
{
	rtnl_act_put(*act);
}

static struct rtnl_qdisc *ingress_of(int link)
{
	struct rtnl_qdisc *qdisc = rtnl_qdisc_alloc();

	if (!qdisc)
		return NULL;
	rtnl_tc_set_ifindex(TC_CAST(qdisc), link);
	rtnl_tc_set_parent(TC_CAST(qdisc), TC_H_INGRESS);
	rtnl_tc_set_handle(TC_CAST(qdisc), INGRESS);
	if (rtnl_tc_set_kind(TC_CAST(qdisc), "ingress") < 0) {
		rtnl_qdisc_put(qdisc);
		return NULL;
	}
	return qdisc;
}

static int add_ingress(struct nl_sock *sock, int link, struct err *err)
{
	_cleanup_(qdisc_putp) struct rtnl_qdisc *qdisc = ingress_of(link);
	int r;

	if (!qdisc)
		return err_nomem(err);
	r = rtnl_qdisc_add(sock, qdisc, NLM_F_CREATE | NLM_F_EXCL);
	if (r < 0)
		return netlink_error(err, r, "add an ingress qdisc to link %d", link);
	return 0;
}

static void remove_ingress(struct nl_sock *sock, int link)
{
	_cleanup_(qdisc_putp) struct rtnl_qdisc *qdisc = ingress_of(link);

	if (qdisc)
		(void)rtnl_qdisc_delete(sock, qdisc);
}

static struct rtnl_act *redirect_to(int link)
{
	struct rtnl_act *act = rtnl_act_alloc();

	if (!act)
		return NULL;
	if (rtnl_tc_set_kind(TC_CAST(act), "mirred") < 0 ||
		rtnl_mirred_set_action(act, TCA_EGRESS_REDIR) < 0 ||
		rtnl_mirred_set_policy(act, TC_ACT_STOLEN) < 0 ||
		rtnl_mirred_set_ifindex(act, (uint32_t)link) < 0) {
		rtnl_act_put(act);
		return NULL;
	}
	return act;
}

static int add_filter(struct nl_sock *sock, int from, int to, struct err *err)
{
	_cleanup_(cls_putp) struct rtnl_cls *cls = rtnl_cls_alloc();
	_cleanup_(act_putp) struct rtnl_act *act = redirect_to(to);
	int r;

	if (!cls || !act)
		return err_nomem(err);
	rtnl_tc_set_ifindex(TC_CAST(cls), from);
	rtnl_tc_set_parent(TC_CAST(cls), INGRESS);
	rtnl_cls_set_prio(cls, REDIRECT_PRIORITY);
	rtnl_cls_set_protocol(cls, ETH_P_ALL);
	/* No bit of the first byte has to have any value: every frame matches. */
	if (rtnl_tc_set_kind(TC_CAST(cls), "u32") < 0 ||
		rtnl_u32_add_key_uint8(cls, 0, 0, 0, 0) < 0 || rtnl_u32_set_cls_terminal(cls) < 0 ||
		rtnl_u32_add_action(cls, act) < 0)
		return err_nomem(err);
	r = rtnl_cls_add(sock, cls, NLM_F_CREATE | NLM_F_EXCL);
	if (r < 0)
		return netlink_error(err, r, "redirect link %d to link %d", from, to);
	return 0;
}

static int redirect_one_way(struct nl_sock *sock, int from, int to, struct err *err)
{
	int r;

	r = add_ingress(sock, from, err);
	if (r < 0)
		return r;
	r = add_filter(sock, from, to, err);
	if (r < 0)
		remove_ingress(sock, from);
	return r;
}

static int join(struct nl_sock *sock, int link_a, int link_b, struct err *err)
{
	int r;

	r = redirect_one_way(sock, link_a, link_b, err);
	if (r < 0)
		return r;
	r = redirect_one_way(sock, link_b, link_a, err);
	if (r < 0)
		remove_ingress(sock, link_a);
	return r;
}

const struct redirect redirect_tcfilter = {
	.kind = "tun",
	.guard = INGRESS,
	.join = join,
};
