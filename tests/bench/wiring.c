#include "tests/bench/wiring.h"

#include <errno.h>
#include <string.h>

#include "common/fd.h"
#include "common/spawn.h"
#include "network/interface.h"
#include "network/netlink.h"
#include "network/netns.h"
#include "network/pod_network.h"

#define UNWIRE_MS 20000

static int run(const struct wiring *wiring, const char *what, const char *pod, const char *netns,
	struct err *err)
{
	char tap[NET_TAP_NAME_SIZE];
	const char *const argv[] = {wiring->program, what, netns, tap, NULL};
	struct spawn_result result = SPAWN_RESULT_INIT(4096);
	const struct spawn_options options = {
		.argv = argv, .timeout_ms = UNWIRE_MS, .cancel_fd = -EBADF, .netns_fd = -EBADF};
	int r;

	net_tap_name(pod, 0, tap);
	r = spawn_check(&options, &result, err);
	spawn_result_done(&result);
	return r;
}

int wiring_remove(const struct wiring *wiring, const char *pod, const char *netns, struct err *err)
{
	return run(wiring, "remove", pod, netns, err);
}

/* On a thread in the pod's namespace. */
static int read_interfaces(void *userdata, struct err *err)
{
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	struct net_pod_info *info = userdata;
	int r = netlink_open(&sock, err);

	return r < 0 ? r
		     : interfaces_read(sock, "eth0", &info->interfaces, &info->n_interfaces, err);
}

static int attach(const struct wiring *wiring, const char *pod, const char *netns,
	const struct net_pod_info *info, struct err *err)
{
	_cleanup_free_ char *dir = strndup(netns, strlen(netns) - strlen(strrchr(netns, '/')));
	const struct net_config config = {.conf_dir = wiring->dir,
		.bin_dirs = wiring->dir,
		.cache_dir = wiring->dir,
		.netns_dir = dir,
		.redirect = NET_REDIRECT_TCFILTER,
		.antispoof = true};
	struct net *net;
	int r = dir ? net_open(&config, &net, err) : err_nomem(err);

	if (r < 0)
		return r;
	r = net_pod_attach_tap(net, pod, info, 0, err);
	net_close(net);
	return r;
}

int wiring_restore(const struct wiring *wiring, const char *pod, const char *netns, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	struct net_pod_info info = {.interfaces = NULL};
	int r = run(wiring, "restore", pod, netns, err);

	if (r == 0)
		r = netns_open(netns, &fd, err);
	if (r == 0)
		r = netns_call(fd, read_interfaces, &info, err);
	if (r == 0)
		r = attach(wiring, pod, netns, &info, err);
	interfaces_free(info.interfaces, info.n_interfaces);
	return r;
}
