/*
 * Links of a pod's namespace, changed.
 */
#include "network/interface.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netlink/route/link.h>
#include <string.h>

#include "common/fd.h"
#include "network/netlink.h"

/* What drivers/net/tun.c leaves of 64 KiB beside an Ethernet header. */
#define TAP_MTU_MAX (65535 - 14)

/*
 * A tap's own MTU, which bounds no frame that is redirected to it or comes from it. The kernel
 * takes less for one than for other links.
 */
static uint32_t tap_mtu(uint32_t mtu)
{
	return mtu < TAP_MTU_MAX ? mtu : TAP_MTU_MAX;
}

int interface_move(struct nl_sock *sock, const char *name, const struct interface_place *place,
	struct err *err)
{
	_cleanup_(link_putp) struct rtnl_link *link = rtnl_link_alloc();
	_cleanup_(link_putp) struct rtnl_link *change = rtnl_link_alloc();
	int index, r;

	if (!link || !change)
		return err_nomem(err);
	index = netlink_link_index(sock, name, err);
	if (index < 0)
		return index;
	rtnl_link_set_ifindex(link, index);
	rtnl_link_set_ns_fd(change, place->netns_fd);
	rtnl_link_set_name(change, place->name);
	rtnl_link_set_mtu(change, tap_mtu(place->mtu));
	r = rtnl_link_change(sock, link, change, 0);
	if (r < 0)
		return netlink_error(err, r, "move '%s' into the pod as '%s' with MTU %u", name,
			place->name, place->mtu);
	return 0;
}

int interface_set(
	struct nl_sock *sock, int index, const struct interface_change *wanted, struct err *err)
{
	_cleanup_(link_putp) struct rtnl_link *link = rtnl_link_alloc();
	_cleanup_(link_putp) struct rtnl_link *change = rtnl_link_alloc();
	int r;

	if (!link || !change)
		return err_nomem(err);
	rtnl_link_set_ifindex(link, index);
	if (wanted->alias)
		rtnl_link_set_ifalias(change, wanted->alias);
	if (wanted->mtu)
		rtnl_link_set_mtu(change, tap_mtu(wanted->mtu));
	if (wanted->up)
		rtnl_link_set_flags(change, IFF_UP);
	r = rtnl_link_change(sock, link, change, 0);
	return r < 0 ? netlink_error(err, r, "change link %d", index) : 0;
}

int interface_up(struct nl_sock *sock, int index, struct err *err)
{
	return interface_set(sock, index, &(struct interface_change){.up = true}, err);
}

static int set_sysctl(
	const char *family, const char *name, const char *key, const char *value, struct err *err)
{
	_cleanup_free_ char *path = str_printf("/proc/sys/net/%s/conf/%s/%s", family, name, key);
	_cleanup_close_ int fd = -EBADF;

	if (!path)
		return err_nomem(err);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return 0; /* a kernel without IPv6 */
	if (fd < 0)
		return err_errno(err, "open %s", path);
	return fd_write_all(fd, value, strlen(value), err);
}

/*
 * The CNI interface has the guest's MAC and addresses, IPv6 link-local included, and its stack is
 * deaf once redirection is on: it answers no ARP or neighbour solicitation, and the guest's
 * duplicate address detection does not meet it. (A macvtap leaves it multicast: ARP is switched
 * off, and to a solicitation it gives the guest's own answer once more.) What could still leave it
 * are frames that timers send: router solicitations stop with accept_ra, duplicate address
 * detection after a change of carrier with dad_transmits. Multicast listener reports remain; they
 * name groups that the guest is in as well. Addresses stay, as plugins' CHECK looks for them.
 */
int interface_quieten(const char *name, bool silent, struct err *err)
{
	int r;

	if (silent)
		return set_sysctl("ipv6", name, "disable_ipv6", "1", err);
	r = set_sysctl("ipv6", name, "accept_ra", "0", err);
	if (r < 0)
		return r;
	r = set_sysctl("ipv6", name, "dad_transmits", "0", err);
	if (r < 0)
		return r;
	return set_sysctl("ipv4", name, "arp_ignore", "8", err);
}
