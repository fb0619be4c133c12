#include "network/antispoof.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <stdint.h>

#include "common/fd.h"
#include "network/netlink.h"
#include "network/offloads.h"
#include "network/redirect.h"

#define PRIORITY_REST (REDIRECT_PRIORITY_GUARD + 1)

/* Of one priority; the kernel asks the one that came last first. */
#define HANDLE          1
#define HANDLE_OFFLOADS 2

/* One classifier `bpf` of a hook. */
struct filter {
	int link;
	uint32_t hook, priority, handle, flags;
	const char *name;
	const struct sock_filter *program; /* NULL: fd is one of eBPF */
	size_t n;
	int fd;
};

static int put_program(struct nl_msg *msg, const struct filter *filter)
{
	int r;

	if (!filter->program)
		return nla_put_u32(msg, TCA_BPF_FD, (uint32_t)filter->fd);
	r = nla_put_u16(msg, TCA_BPF_OPS_LEN, (uint16_t)filter->n);
	return r < 0 ? r
		     : nla_put(msg, TCA_BPF_OPS, (int)(filter->n * sizeof(*filter->program)),
			       filter->program);
}

/* libnl knows no cls_bpf: the message is composed here. */
static int fill_message(struct nl_msg *msg, const struct filter *filter)
{
	const struct tcmsg header = {
		.tcm_family = AF_UNSPEC,
		.tcm_ifindex = filter->link,
		.tcm_handle = filter->handle, /* one of ours is replaced */
		.tcm_parent = filter->hook,
		.tcm_info = TC_H_MAKE(filter->priority << 16, htons(ETH_P_ALL)),
	};
	struct nlattr *options;

	if (nlmsg_append(msg, (void *)&header, sizeof(header), NLMSG_ALIGNTO) < 0 ||
		nla_put_string(msg, TCA_KIND, "bpf") < 0)
		return -ENOMEM;
	options = nla_nest_start(msg, TCA_OPTIONS);
	if (!options || nla_put_u32(msg, TCA_BPF_FLAGS, filter->flags) < 0 ||
		nla_put_string(msg, TCA_BPF_NAME, filter->name) < 0 || put_program(msg, filter) < 0)
		return -ENOMEM;
	nla_nest_end(msg, options);
	return 0;
}

static void msg_freep(struct nl_msg **msg)
{
	nlmsg_free(*msg);
}

static int put_filter(struct nl_sock *sock, const struct filter *filter, struct err *err)
{
	_cleanup_(msg_freep) struct nl_msg *msg = NULL;
	int r;

	msg = nlmsg_alloc_size(filter->n * sizeof(*filter->program) + 512);
	if (!msg || !nlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, RTM_NEWTFILTER, 0,
			    NLM_F_CREATE | NLM_F_REPLACE))
		return err_nomem(err);
	if (fill_message(msg, filter) < 0)
		return err_nomem(err);
	r = nl_send_sync(sock, TAKE_PTR(msg));
	if (r == -NLE_OBJ_NOTFOUND || r == -NLE_OPNOTSUPP)
		return err_set(err, -EOPNOTSUPP,
			"filter what the guest sends: the kernel has no classifier 'bpf' "
			"(CONFIG_NET_CLS_BPF); without it, network.antispoof must be false");
	if (r < 0)
		return netlink_error(
			err, r, "filter what the guest sends on link %d", filter->link);
	return 0;
}

static int attach_offloads(
	struct nl_sock *sock, const struct redirect_tap *tap, uint32_t mtu, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	int r;

	r = offloads_load(mtu, &fd, err);
	if (r < 0)
		return r;
	return put_filter(sock,
		&(struct filter){.link = tap->link,
			.hook = tap->redirect->guard,
			.priority = REDIRECT_PRIORITY_GUARD,
			.handle = HANDLE_OFFLOADS,
			.flags = TCA_BPF_FLAG_ACT_DIRECT,
			.name = "offloads",
			.fd = fd},
		err);
}

/*
 * Where frames go on by themselves, the program's filter takes the good ones, and one behind it
 * drops the rest; else the program drops, and the good ones are the redirection's.
 */
int antispoof_attach(struct nl_sock *sock, const struct redirect_tap *tap,
	const struct net_interface *interface, struct err *err)
{
	static const struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, TC_ACT_SHOT);
	const bool rest = tap->redirect->goes_on;
	_cleanup_free_ struct sock_filter *program =
		calloc(ANTISPOOF_INSTRUCTIONS_MAX, sizeof(*program));
	struct filter filter = {.link = tap->link,
		.hook = tap->redirect->guard,
		.priority = PRIORITY_REST,
		.handle = HANDLE,
		.flags = TCA_BPF_FLAG_ACT_DIRECT,
		.name = "rest",
		.program = &drop,
		.n = 1};
	int r = 0;

	if (!program)
		return err_nomem(err);
	if (rest)
		r = put_filter(sock, &filter, err);
	if (r < 0)
		return r;
	r = antispoof_program(interface, rest ? 0 : TC_ACT_SHOT, program, &filter.n, err);
	if (r < 0)
		return r;
	filter.priority = REDIRECT_PRIORITY_GUARD;
	filter.flags = rest ? 0 : TCA_BPF_FLAG_ACT_DIRECT;
	filter.name = "antispoof";
	filter.program = program;
	r = put_filter(sock, &filter, err);
	return r < 0 ? r : attach_offloads(sock, tap, interface->mtu, err);
}
