/*
 * The pod network: tap devices, traffic control, CNI. The kernel's part is tried for real, in a
 * network namespace that a child process has for itself and that ends with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <netlink/netlink.h>
#include <netlink/socket.h>

#include "common/fd.h"
#include "cri-server/cli/check.h"
#include "network/antispoof.h"
#include "network/cni_config.h"
#include "network/redirect.h"

static int make_tap(const char *name, int *ret_fd, struct err *err)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	_cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, "open /dev/net/tun");
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		return err_errno(err, "make a tap device");
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int make_macvtap(struct nl_sock *sock, struct err *err)
{
	_cleanup_close_ int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	const struct interface_place place = {own, "a", 1500};
	if (own < 0)
		return err_errno(err, "open /proc/self/ns/net");
	return redirect_macvtap.make(sock, (int)if_nametoindex("b"), &place, err);
}

/* A tap "a" joined to an interface "b", which is a tap too, as a pod's are. */
static int wire(struct nl_sock *sock, enum net_redirect kind, bool antispoof, struct err *err)
{
	const struct net_interface any = {
		.mac = "02:00:00:00:00:01", .addresses = {"192.0.2.1/24"}, .n_addresses = 1};
	struct redirect_tap tap = {0};
	int r = kind == NET_REDIRECT_MACVTAP ? make_macvtap(sock, err) : 0;
	if (r == 0)
		r = redirect_find_tap(sock, "a", &tap, err);
	if (r == 0)
		r = tap.redirect->join(sock, (int)if_nametoindex("b"), tap.link, err);
	return r == 0 && antispoof ? antispoof_attach(sock, &tap, &any, err) : r;
}

/* In the child. */
static int try_wiring(enum net_redirect kind, bool antispoof, struct err *err)
{
	_cleanup_close_ int a = -EBADF, b = -EBADF;
	if (unshare(CLONE_NEWNET) < 0)
		return err_errno(err, "make a network namespace");
	int r = make_tap("b", &b, err);
	if (r == 0 && kind == NET_REDIRECT_TCFILTER)
		r = make_tap("a", &a, err);
	if (r < 0)
		return r;
	struct nl_sock *sock = nl_socket_alloc();
	if (!sock || nl_connect(sock, NETLINK_ROUTE) < 0)
		return err_set(err, -EIO, "open a netlink socket");
	r = wire(sock, kind, antispoof, err);
	nl_socket_free(sock);
	return r;
}

static void check_wiring(struct check *check, bool antispoof)
{
	const bool macvtap = strcmp(check->config->network.redirect, "macvtap") == 0;
	const char *remedy =
		antispoof ? "modprobe cls_bpf (or build it into the kernel, which needs "
			    "CONFIG_BPF_SYSCALL and to be Linux 5.7 or later); or "
			    "network.antispoof: false, where "
			    "no guest is to be mistrusted"
		: macvtap
			? "modprobe macvtap (or build it into the kernel), with a devtmpfs on /dev"
			: "modprobe tun sch_ingress cls_u32 act_mirred (or build "
			  "them into the kernel)";
	const char *what = antispoof ? "antispoof" : "redirection";
	struct err err = ERR_INIT;
	int pipe_fds[2];
	if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
		check_report(check, FINDING_MISSING, what, NULL, "pipe: %s", strerror(errno));
		return;
	}
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		int r = try_wiring(
			macvtap ? NET_REDIRECT_MACVTAP : NET_REDIRECT_TCFILTER, antispoof, &err);
		if (r < 0)
			fd_write_all(pipe_fds[1], err.msg, strlen(err.msg), NULL);
		_exit(r < 0);
	}
	close(pipe_fds[1]);
	ssize_t n = pid < 0 ? 0 : read(pipe_fds[0], err.msg, sizeof(err.msg) - 1);
	close(pipe_fds[0]);
	err.msg[n > 0 ? n : 0] = '\0';
	int status = -1;
	if (pid > 0)
		waitpid(pid, &status, 0);
	if (status == 0)
		check_report(check, FINDING_OK, what, NULL,
			antispoof ? "guests send under their own addresses only, nothing "
				    "above the MTU, by cls_bpf and eBPF"
			: macvtap ? "macvtaps over interfaces, in passthru mode"
				  : "taps joined by tc ingress, u32 and mirred");
	else
		check_report(check, FINDING_MISSING, what, remedy, "%s",
			err.msg[0] ? err.msg : "the trial did not run");
}

/* As the next pod would have it. */
static void check_cni(struct check *check)
{
	const struct config_network *c = &check->config->network;
	_cleanup_(cni_config_freep) struct cni_config *config = NULL;
	struct err err = ERR_INIT;
	if (cni_config_load(c->conf_dir, &config, &err) < 0) {
		check_report(check, FINDING_MISSING, "cni config", NULL, "%s", err.msg);
		return;
	}
	check_report(check, FINDING_OK, "cni config", NULL, "network '%s', in %s", config->name,
		c->conf_dir);
	if (cni_config_check_plugins(config, c->bin_dirs, &err) < 0)
		check_report(check, FINDING_MISSING, "cni plugins", NULL, "%s", err.msg);
	else
		check_report(check, FINDING_OK, "cni plugins", NULL, "in %s", c->bin_dirs);
}

void check_network(struct check *check)
{
	check_wiring(check, false);
	if (*check->config->network.antispoof)
		check_wiring(check, true);
	else
		check_report(check, FINDING_WARN, "antispoof", "network.antispoof: true",
			"guests may send under others' addresses: so the configuration says");
	check_cni(check);
}
