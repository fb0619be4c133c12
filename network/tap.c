/*
 * The taps of a pod's machine: made where the machine does not make them, taken into the pod's
 * namespace, and joined to the interfaces there.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netlink/route/link.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/fd.h"
#include "network/antispoof.h"
#include "network/interface.h"
#include "network/internal.h"
#include "network/netlink.h"
#include "network/netns.h"
#include "network/redirect.h"

struct tap_job {
	const struct net_interface *interface;
	bool antispoof;
	char tap[IFNAMSIZ];
};

/* On a thread in the pod's namespace, the tap being there. */
static int join_tap(void *userdata, struct err *err)
{
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	const struct tap_job *job = userdata;
	struct interface_change change;
	struct redirect_tap tap;
	int interface, r;

	r = netlink_open(&sock, err);
	if (r < 0)
		return r;
	interface = netlink_link_index(sock, job->interface->name, err);
	if (interface < 0)
		return interface;
	r = redirect_find_tap(sock, job->tap, &tap, err);
	if (r < 0)
		return r;
	r = interface_quieten(job->tap, true, err);
	if (r < 0)
		return r;
	r = interface_quieten(job->interface->name, false, err);
	if (r < 0)
		return r;
	r = tap.redirect->join(sock, interface, tap.link, err);
	if (r < 0)
		return r;
	if (job->antispoof)
		r = antispoof_attach(sock, &tap, job->interface, err);
	if (r < 0)
		return r;
	change = (struct interface_change){.alias = job->interface->name, .up = true};
	return interface_set(sock, tap.link, &change, err);
}

static int find_netns(struct net *net, const char *id, const struct net_pod_info *info,
	size_t interface, int *ret_fd, struct err *err)
{
	_cleanup_free_ char *path = net_netns_path(net, id);

	if (!path)
		return err_nomem(err);
	if (interface >= info->n_interfaces)
		return err_set(err, -EINVAL, "pod %s has no interface %zu", id, interface);
	return netns_open(path, ret_fd, err);
}

void net_tap_name(const char *id, size_t n, char name[NET_TAP_NAME_SIZE])
{
	(void)snprintf(name, NET_TAP_NAME_SIZE, "bh%.10s%zx", id, n % NET_INTERFACES_MAX);
}

bool net_makes_taps(const struct net *net)
{
	return net->redirect->make;
}

struct make_job {
	const struct redirect *redirect;
	const struct net_interface *interface;
	struct interface_place place;
};

/* On a thread in the pod's namespace. */
static int make_tap(void *userdata, struct err *err)
{
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	const struct make_job *job = userdata;
	int r;

	r = netlink_open(&sock, err);
	if (r == 0)
		r = netlink_link_index(sock, job->interface->name, err);
	return r < 0 ? r : job->redirect->make(sock, r, &job->place, err);
}

/*
 * The machine finds the tap by /dev/tap<index>. Namespaces number their links each for itself, but
 * share these names: it must be this tap's.
 */
static int check_node(const char *name, struct err *err)
{
	const unsigned int index = if_nametoindex(name);
	_cleanup_free_ char *device =
		str_printf("/sys/class/net/%s/macvtap/tap%u/dev", name, index);
	_cleanup_free_ char *node = str_printf("/dev/tap%u", index);
	_cleanup_free_ char *text = NULL;
	unsigned int major_number, minor_number;
	struct stat st;
	size_t len;
	int r;

	if (!device || !node)
		return err_nomem(err);
	r = fd_read_file(device, 64, &text, &len, err);
	if (r < 0)
		return r;
	if (sscanf(text, "%u:%u", &major_number, &minor_number) != 2)
		return err_set(err, -EBADMSG, "%s is no device's number", device);
	if (stat(node, &st) < 0)
		return err_errno(err, "a macvtap needs a devtmpfs on /dev: look at %s", node);
	if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(major_number, minor_number))
		return err_set(err, -EEXIST, "%s is another namespace's tap", node);
	return 0;
}

int net_pod_make_tap(struct net *net, const char *id, const struct net_pod_info *info,
	size_t interface, struct err *err)
{
	_cleanup_close_ int netns = -EBADF, own = -EBADF;
	char name[NET_TAP_NAME_SIZE];
	struct make_job job;
	int r;

	r = find_netns(net, id, info, interface, &netns, err);
	if (r < 0)
		return r;
	own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (own < 0)
		return err_errno(err, "open our own network namespace");
	net_tap_name(id, interface, name);
	job.redirect = net->redirect;
	job.interface = &info->interfaces[interface];
	job.place = (struct interface_place){own, name, job.interface->mtu};
	r = netns_call(netns, make_tap, &job, err);
	if (r == 0)
		r = check_node(name, err);
	if (r < 0)
		err_wrap(err, "make a tap for %s", job.interface->name);
	return r;
}

int net_pod_attach_tap(struct net *net, const char *id, const struct net_pod_info *info,
	size_t interface, struct err *err)
{
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	_cleanup_close_ int netns = -EBADF;
	char name[NET_TAP_NAME_SIZE];
	struct interface_place place;
	struct tap_job job;
	int r;

	r = find_netns(net, id, info, interface, &netns, err);
	if (r < 0)
		return r;
	r = netlink_open(&sock, err);
	if (r < 0)
		return r;
	job.interface = &info->interfaces[interface];
	job.antispoof = net->antispoof;
	(void)snprintf(job.tap, sizeof(job.tap), INTERFACE_TAP "%u", (unsigned int)interface);
	place = (struct interface_place){netns, job.tap, info->interfaces[interface].mtu};
	net_tap_name(id, interface, name);
	r = interface_move(sock, name, &place, err);
	if (r < 0)
		return r;
	r = netns_call(netns, join_tap, &job, err);
	if (r < 0)
		err_wrap(err, "join %s to the machine's tap", job.interface->name);
	return r;
}

static int remove_tap(struct nl_sock *sock, const char *name, struct err *err)
{
	struct redirect_tap tap;
	struct rtnl_link *link;
	int r;

	r = redirect_find_tap(sock, name, &tap, err);
	if (r == -ENODEV || (r == 0 && !tap.redirect->make))
		return 0;
	if (r < 0)
		return r;
	link = rtnl_link_alloc();
	if (!link)
		return err_nomem(err);
	rtnl_link_set_ifindex(link, tap.link);
	r = rtnl_link_delete(sock, link);
	rtnl_link_put(link);
	return r < 0 && r != -NLE_NODEV ? netlink_error(err, r, "remove '%s'", name) : 0;
}

/* One that cannot be looked for is not taken for gone: if_nametoindex(3) says 0 for both. */
int net_remove_taps(const char *id, struct err *err)
{
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	char name[NET_TAP_NAME_SIZE];
	size_t i;
	int r;

	r = netlink_open(&sock, err);
	for (i = 0; r == 0 && i < NET_INTERFACES_MAX; i++) {
		net_tap_name(id, i, name);
		r = remove_tap(sock, name, err);
	}
	return r;
}
