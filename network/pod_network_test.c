#include "network/pod_network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "common/loop.h"
#include "network/internal.h"
#include "network/netns.h"
#include "network/testing.h"

#define PLUGIN_DIR "/usr/lib/cni"
#define NOBODY     65534
#define WAIT_S     30

/* A bridge with IPv4 and IPv6, host ports, and DNS; "%s" is where host-local keeps its leases. */
#define BRIDGE_CONFLIST                                                                            \
	"{\"cniVersion\": \"%s\", \"name\": \"bhtest\", \"plugins\": ["                            \
	"{\"type\": \"bridge\", \"bridge\": \"bhtest0\", \"isGateway\": true, \"ipMasq\": true,"   \
	" \"mtu\": 1400, \"dns\": {\"nameservers\": [\"10.213.9.9\"], \"search\": "                \
	"[\"a.example\"]},"                                                                        \
	" \"ipam\": {\"type\": \"host-local\", \"dataDir\": \"%s/leases\","                        \
	"  \"ranges\": [[{\"subnet\": \"10.213.0.0/24\"}], [{\"subnet\": \"fd13::/64\"}]],"        \
	"  \"routes\": [{\"dst\": \"0.0.0.0/0\"}, {\"dst\": \"::/0\"}]}},"                         \
	"{\"type\": \"portmap\", \"capabilities\": {\"portMappings\": true}}]}"

#define PTP_CONF                                                                                   \
	"{\"cniVersion\": \"%s\", \"name\": \"bhptp\", \"type\": \"ptp\", \"mtu\": 1300,"          \
	" \"ipam\": {\"type\": \"host-local\", \"dataDir\": \"%s/leases\","                        \
	"  \"ranges\": [[{\"subnet\": \"10.213.1.0/24\"}]],"                                       \
	"  \"routes\": [{\"dst\": \"0.0.0.0/0\"}]}}"

/* Gives the pod's address away and then fails: what the plugins before it did is undone. */
#define FAILING_PLUGIN                                                                             \
	"#!/bin/sh\n[ \"$CNI_COMMAND\" = DEL ] && exit 0\n"                                        \
	"echo '{\"code\": 7, \"msg\": \"no such luck\"}'; exit 1\n"

#define BROKEN_PLUGIN "#!/bin/sh\necho '{\"code\": 7, \"msg\": \"no such luck\"}'; exit 1\n"

/* Passes on the result, which ends what it reads; but cannot take it back yet. */
#define STUCK_PLUGIN                                                                               \
	"#!/bin/sh\n"                                                                              \
	"[ \"$CNI_COMMAND\" = ADD ] && exec sed 's/.*\"prevResult\"://; s/}$//'\n"                 \
	"echo '{\"code\": 11, \"msg\": \"later\"}'; exit 1\n"

/* Passes on the result, and makes one more interface, in the same subnets. */
#define TWIN_PLUGIN                                                                                \
	"#!/bin/sh\n"                                                                              \
	"[ \"$CNI_COMMAND\" = ADD ] || exit 0\n"                                                   \
	"nsenter --net=$CNI_NETNS /bin/sh -e -c \""                                                \
	"ip link add eth1 type veth peer name twin netns $$; ip link set eth1 up;"                 \
	"ip address add 10.213.0.77/24 dev eth1; ip address add fd13::77/64 dev eth1;"             \
	"ip route append default dev eth1\" >&2 || exit 1\n"                                       \
	"exec sed 's/.*\"prevResult\"://; s/}$//'\n"

/* Likewise, one whose address has others at its other end than in its own subnet. */
#define PEER_PLUGIN                                                                                \
	"#!/bin/sh\n"                                                                              \
	"[ \"$CNI_COMMAND\" = ADD ] || exit 0\n"                                                   \
	"nsenter --net=$CNI_NETNS /bin/sh -e -c \""                                                \
	"ip link add eth1 type veth peer name far netns $$; ip link set eth1 up;"                  \
	"ip address add 10.213.5.2 peer 10.213.6.0/24 dev eth1;"                                   \
	"ip address add 10.213.7.2 peer 10.213.7.1/24 dev eth1;"                                   \
	"ip route add 10.98.0.0/16 via inet6 fe80::9 dev eth1\" >&2 || exit 1\n"                   \
	"exec sed 's/.*\"prevResult\"://; s/}$//'\n"

/* Likewise, one that is made of another, as the plugin bond does it. */
#define MASTER_PLUGIN                                                                              \
	"#!/bin/sh\n"                                                                              \
	"[ \"$CNI_COMMAND\" = ADD ] || exit 0\n"                                                   \
	"nsenter --net=$CNI_NETNS /bin/sh -e -c \""                                                \
	"ip link add part0 type veth peer name twin netns $$; ip link add master0 type bridge;"    \
	"ip link set part0 master master0; ip link set part0 up; ip link set master0 up;"          \
	"ip address add 10.213.4.7/24 dev master0\" >&2 || exit 1\n"                               \
	"ip link set twin up\n"                                                                    \
	"exec sed 's/.*\"prevResult\"://; s/}$//'\n"

#define PTP_LARGE_CONF                                                                             \
	"{\"cniVersion\": \"%s\", \"name\": \"bhptp\", \"type\": \"ptp\", \"mtu\": 65535,"         \
	" \"ipam\": {\"type\": \"host-local\", \"dataDir\": \"%s/leases\","                        \
	"  \"ranges\": [[{\"subnet\": \"10.213.1.0/24\"}]]}}"

#define HOST_DEVICE_CONF                                                                           \
	"{\"cniVersion\": \"%s\", \"name\": \"bhdevice\", \"type\": \"host-device\","              \
	" \"device\": \"bhdev0\", \"ipam\": {\"type\": \"static\","                                \
	"  \"addresses\": [{\"address\": \"10.213.3.2/24\"}]}}"

struct room {
	char *dir;
	char *conf;
	char *bin; /* plugins of the test's own, found before the real ones */
	struct net *net;
};

static bool is_isolated;

static const struct net_port_mapping http_port = {
	.protocol = NET_TCP, .container_port = 80, .host_port = 18080};

static struct net_pod_spec pod_spec(const char *id)
{
	return (struct net_pod_spec){.id = id,
		.name = "web",
		.namespace = "default",
		.uid = "u-1",
		.capabilities = {.ports = &http_port, .n_ports = 1}};
}

static void write_config(
	struct room *room, const char *name, const char *format, const char *version)
{
	char text[2048];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	(void)snprintf(text, sizeof(text), format, version, room->dir);
#pragma GCC diagnostic pop
	testing_write(room->conf, name, text, 0644);
}

static int set_up(void **state)
{
	struct room *room = calloc(1, sizeof(*room));
	_cleanup_free_ char *cache = NULL, *netns = NULL, *bins = NULL;
	struct err err = ERR_INIT;

	assert_non_null(room);
	room->dir = testing_dir();
	room->conf = str_printf("%s/conf", room->dir);
	room->bin = str_printf("%s/bin", room->dir);
	bins = str_printf("%s:" PLUGIN_DIR, room->bin);
	cache = str_printf("%s/cache", room->dir);
	netns = str_printf("%s/netns", room->dir);
	assert_true(room->conf && room->bin && bins && cache && netns);
	assert_int_equal(mkdir(room->bin, 0755), 0);
	assert_int_equal(mkdir(room->conf, 0755), 0);
	assert_int_equal(net_open(&(struct net_config){.conf_dir = room->conf,
					  .bin_dirs = bins,
					  .cache_dir = cache,
					  .netns_dir = netns,
					  .plugin_timeout_ms = 60000},
				 &room->net, &err),
		0);
	*state = room;
	return 0;
}

static int tear_down(void **state)
{
	struct room *room = *state;

	net_close(room->net);
	testing_dir_remove(room->dir);
	free(room->conf);
	free(room->bin);
	free(room);
	return 0;
}

/* For tests that run plugins: skips where they cannot. */
static void need_plugins(void)
{
	if (!is_isolated || access(PLUGIN_DIR "/bridge", X_OK) < 0) {
		print_message("skipped: needs root and the CNI plugins in " PLUGIN_DIR "\n");
		skip();
	}
}

static struct net_pod_info *must_set_up(struct room *room, const char *id)
{
	struct net_pod_spec spec = pod_spec(id);
	struct net_pod_info *info = NULL;
	struct err err = ERR_INIT;

	if (net_pod_setup(room->net, &spec, &info, &err) < 0)
		fail_msg("%s", err.msg);
	return info;
}

static void must_tear_down(struct room *room, const char *id)
{
	struct err err = ERR_INIT;

	if (net_pod_teardown(room->net, id, &err) < 0)
		fail_msg("%s", err.msg);
}

/*
 * All that a pod could leave behind: links, rules, and our files and mounts, as one text. Others'
 * mounts come and go here too: the kernel takes a mount away everywhere when its file is unlinked
 * anywhere.
 */
static char *snapshot(const struct room *room)
{
	_cleanup_free_ char *script = str_printf(
		"cd %s && find cache netns leases -type f ! -name lock ! -name 'last_reserved*';"
		" cut -d: -f1 /proc/net/dev | sort; cut -d' ' -f5 /proc/self/mountinfo | grep -F "
		"\"$PWD/\";"
		" iptables-save | grep -v '^[#:]'; ip6tables-save | grep -v '^[#:]'",
		room->dir);
	const char *const argv[] = {"/bin/sh", "-c", script, NULL};

	return testing_output(argv);
}

static bool has_route(
	const struct net_interface *interface, const char *destination, const char *gateway)
{
	size_t i;

	for (i = 0; i < interface->n_routes; i++)
		if (!strcmp(interface->routes[i].destination, destination) &&
			!strcmp(interface->routes[i].gateway, gateway))
			return true;
	return false;
}

static void test_bridge(void **state)
{
	struct room *room = *state;
	struct net_interface *eth0;
	struct net_pod_info *info;
	unsigned int mac[6];
	char *name;

	need_plugins();
	write_config(room, "10-bridge.conflist", BRIDGE_CONFLIST, "1.0.0");
	name = net_name(room->net);
	assert_string_equal(name, "bhtest");
	free(name);
	info = must_set_up(room, "pod1");
	assert_int_equal(info->n_interfaces, 1);
	eth0 = &info->interfaces[0];
	assert_string_equal(eth0->name, "eth0");
	assert_int_equal(eth0->mtu, 1400);
	assert_int_equal(sscanf(eth0->mac, "%x:%x:%x:%x:%x:%x", &mac[0], &mac[1], &mac[2], &mac[3],
				 &mac[4], &mac[5]),
		6);
	assert_int_equal(eth0->n_addresses, 2);
	assert_string_equal(eth0->addresses[0], "10.213.0.2/24");
	assert_string_equal(eth0->addresses[1], "fd13::2/64");
	assert_int_equal(eth0->n_routes, 2);
	assert_true(has_route(eth0, "0.0.0.0/0", "10.213.0.1"));
	assert_true(has_route(eth0, "::/0", "fd13::1"));
	assert_string_equal(info->ips[0], "10.213.0.2");
	assert_string_equal(info->ips[1], "fd13::2");
	assert_null(info->ips[2]);
	assert_string_equal(info->dns_servers[0], "10.213.9.9");
	assert_null(info->dns_servers[1]);
	assert_string_equal(info->dns_searches[0], "a.example");
	assert_null(info->dns_options[0]);
	net_pod_info_free(info);
	must_tear_down(room, "pod1");
}

/* The older form of results ends up the same. */
static void test_old_version(void **state)
{
	struct room *room = *state;
	struct net_pod_info *info;

	need_plugins();
	write_config(room, "10-bridge.conflist", BRIDGE_CONFLIST, "0.3.1");
	info = must_set_up(room, "pod1");
	assert_string_equal(info->interfaces[0].addresses[0], "10.213.0.2/24");
	assert_string_equal(info->ips[0], "10.213.0.2");
	net_pod_info_free(info);
	must_tear_down(room, "pod1");
}

/* ptp removes the connected route: the guest must not get it back with the address. */
static void test_ptp(void **state)
{
	struct room *room = *state;
	struct net_interface *eth0;
	struct net_pod_info *info;

	need_plugins();
	write_config(room, "10-ptp.conf", PTP_CONF, "1.0.0");
	info = must_set_up(room, "pod1");
	eth0 = &info->interfaces[0];
	assert_int_equal(eth0->mtu, 1300);
	assert_string_equal(eth0->addresses[0], "10.213.1.2/32");
	assert_int_equal(eth0->n_routes, 3);
	assert_string_equal(eth0->routes[0].destination, "10.213.1.1/32");
	assert_string_equal(eth0->routes[0].gateway, "");
	assert_true(has_route(eth0, "10.213.1.0/24", "10.213.1.1"));
	assert_true(has_route(eth0, "0.0.0.0/0", "10.213.1.1"));
	net_pod_info_free(info);
	must_tear_down(room, "pod1");
}

/* The first pod makes what all pods share; another then comes and goes without a trace. */
static void test_leaves_nothing(void **state)
{
	_cleanup_free_ char *before = NULL, *during = NULL, *after = NULL;
	struct room *room = *state;

	need_plugins();
	write_config(room, "10-bridge.conflist", BRIDGE_CONFLIST, "1.0.0");
	net_pod_info_free(must_set_up(room, "pod1"));
	must_tear_down(room, "pod1");
	before = snapshot(room);
	net_pod_info_free(must_set_up(room, "pod2"));
	during = snapshot(room);
	assert_non_null(strstr(during, "cache/pod2.json"));
	assert_non_null(strstr(during, "netns/bh-pod2"));
	assert_non_null(strstr(during, "--dport 18080"));
	must_tear_down(room, "pod2");
	after = snapshot(room);
	assert_string_equal(before, after);
	must_tear_down(room, "pod2");
}

static int listen_on_80(void *userdata, struct err *err)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80)};
	int *fd = userdata;

	*fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*fd < 0 || bind(*fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
		listen(*fd, 1) < 0)
		return err_errno(err, "listen");
	return 0;
}

static void test_host_port(void **state)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(18080)};
	_cleanup_close_ int netns = -EBADF, listener = -EBADF, client = -EBADF;
	struct room *room = *state;
	struct net_pod_info *info;
	struct err err = ERR_INIT;

	need_plugins();
	write_config(room, "10-bridge.conflist", BRIDGE_CONFLIST, "1.0.0");
	info = must_set_up(room, "pod1");
	assert_int_equal(netns_open(info->netns, &netns, &err), 0);
	assert_int_equal(netns_call(netns, listen_on_80, &listener, &err), 0);
	client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(inet_pton(AF_INET, "10.213.0.1", &address.sin_addr), 1);
	assert_int_equal(connect(client, (struct sockaddr *)&address, sizeof(address)), 0);
	net_pod_info_free(info);
	must_tear_down(room, "pod1");
}

/* The bridge configuration with one more plugin at the end, which is this script. */
static void write_config_with_plugin(struct room *room, const char *type, const char *script)
{
	_cleanup_free_ char *config = str_printf(BRIDGE_CONFLIST, "1.0.0", room->dir);
	_cleanup_free_ char *longer = NULL;

	assert_non_null(config);
	*strrchr(config, ']') = '\0';
	longer = str_printf("%s, {\"type\": \"%s\"}]}", config, type);
	assert_non_null(longer);
	testing_write(room->conf, "00-first.conflist", longer, 0644);
	testing_write(room->bin, type, script, 0755);
}

/* Routes of both that differ in nothing but their link. */
static void test_two_interfaces_of_one_subnet(void **state)
{
	struct room *room = *state;
	struct net_interface *eth1;
	struct net_pod_info *info;

	need_plugins();
	write_config_with_plugin(room, "twin", TWIN_PLUGIN);
	info = must_set_up(room, "pod1");
	assert_int_equal(info->n_interfaces, 2);
	assert_string_equal(info->interfaces[0].addresses[0], "10.213.0.2/24");
	assert_true(has_route(&info->interfaces[0], "0.0.0.0/0", "10.213.0.1"));
	eth1 = &info->interfaces[1];
	assert_string_equal(eth1->name, "eth1");
	assert_int_equal(eth1->n_addresses, 2);
	assert_string_equal(eth1->addresses[0], "10.213.0.77/24");
	assert_string_equal(eth1->addresses[1], "fd13::77/64");
	assert_true(has_route(eth1, "0.0.0.0/0", ""));
	net_pod_info_free(info);
	must_tear_down(room, "pod1");
}

/* The kernel's route to the other end is no part of such an address in the guest; gateways may be
 * of IPv6 for IPv4. */
static void test_unusual_routes(void **state)
{
	struct room *room = *state;
	struct net_interface *eth1;
	struct net_pod_info *info;

	need_plugins();
	write_config_with_plugin(room, "peer", PEER_PLUGIN);
	info = must_set_up(room, "pod1");
	assert_int_equal(info->n_interfaces, 2);
	/* Those of addresses in their own subnets come with these. */
	assert_int_equal(info->interfaces[0].n_routes, 2);
	eth1 = &info->interfaces[1];
	assert_int_equal(eth1->n_addresses, 2);
	assert_string_equal(eth1->addresses[0], "10.213.5.2/32");
	assert_string_equal(eth1->addresses[1], "10.213.7.2/24");
	assert_int_equal(eth1->n_routes, 2);
	assert_true(has_route(eth1, "10.213.6.0/24", ""));
	assert_true(has_route(eth1, "10.98.0.0/16", "fe80::9"));
	net_pod_info_free(info);
	must_tear_down(room, "pod1");
}

static void test_failed_add_is_undone(void **state)
{
	_cleanup_free_ char *before = NULL, *after = NULL;
	struct net_pod_spec spec = pod_spec("pod2");
	struct net_pod_info *info = NULL;
	struct room *room = *state;
	struct err err = ERR_INIT;

	need_plugins();
	write_config(room, "10-bridge.conflist", BRIDGE_CONFLIST, "1.0.0");
	net_pod_info_free(must_set_up(room, "pod1"));
	must_tear_down(room, "pod1");
	before = snapshot(room);
	write_config_with_plugin(room, "unlucky", FAILING_PLUGIN);
	assert_int_equal(net_pod_setup(room->net, &spec, &info, &err), -EIO);
	assert_string_equal(err.msg, "CNI plugin 'unlucky' ADD: error 7: \"no such luck\"");
	assert_null(info);
	after = snapshot(room);
	assert_string_equal(before, after);
}

static void test_failed_undo_can_be_repeated(void **state)
{
	struct net_pod_spec spec = pod_spec("pod1");
	struct room *room = *state;
	_cleanup_free_ char *cache = str_printf("%s/cache/pod1.json", room->dir);
	_cleanup_free_ char *netns = str_printf("%s/netns/bh-pod1", room->dir);
	struct net_pod_info *info = NULL;
	struct err err = ERR_INIT;

	need_plugins();
	write_config_with_plugin(room, "broken", BROKEN_PLUGIN);
	assert_int_equal(net_pod_setup(room->net, &spec, &info, &err), -EIO);
	assert_string_equal(err.msg, "CNI plugin 'broken' ADD: error 7: \"no such luck\"");
	assert_int_equal(access(cache, F_OK), 0);
	assert_int_equal(access(netns, F_OK), 0);
	testing_write(room->bin, "broken", "#!/bin/sh\n", 0755);
	must_tear_down(room, "pod1");
	assert_int_equal(access(cache, F_OK), -1);
	assert_int_equal(access(netns, F_OK), -1);
}

/* What DEL needs stays until it has succeeded. */
static void test_failed_del_can_be_repeated(void **state)
{
	struct room *room = *state;
	_cleanup_free_ char *cache = str_printf("%s/cache/pod1.json", room->dir);
	_cleanup_free_ char *netns = str_printf("%s/netns/bh-pod1", room->dir);
	struct err err = ERR_INIT;

	need_plugins();
	write_config_with_plugin(room, "stuck", STUCK_PLUGIN);
	net_pod_info_free(must_set_up(room, "pod1"));
	assert_int_equal(net_pod_teardown(room->net, "pod1", &err), -EAGAIN);
	assert_string_equal(err.msg, "CNI plugin 'stuck' DEL: error 11: later");
	assert_int_equal(access(cache, F_OK), 0);
	assert_int_equal(access(netns, F_OK), 0);
	assert_int_equal(net_pod_abandon(room->net, "pod1", &err), 0);
	assert_int_equal(access(cache, F_OK), 0);
	assert_int_equal(access(netns, F_OK), -1);
	testing_write(room->bin, "stuck", "#!/bin/sh\n", 0755);
	must_tear_down(room, "pod1");
	assert_int_equal(access(cache, F_OK), -1);
	assert_int_equal(access(netns, F_OK), -1);
}

/*
 * DEL works from the cache: the configuration may be another by then, and the namespace gone.
 * (bridge then leaves its masquerading rule: it learns the address from the link. After a reboot
 * there is none.)
 */
static void test_teardown_without_configuration(void **state)
{
	_cleanup_free_ char *before = NULL, *after = NULL, *config = NULL;
	struct net_pod_info *info;
	struct room *room = *state;
	struct err err = ERR_INIT;

	need_plugins();
	write_config(room, "10-bridge.conflist", BRIDGE_CONFLIST, "1.0.0");
	info = must_set_up(room, "pod1");
	before = snapshot(room);
	assert_non_null(strstr(before, "--dport 18080"));
	assert_non_null(strstr(before, "10.213.0.2\n"));
	config = str_printf("%s/10-bridge.conflist", room->conf);
	assert_int_equal(unlink(config), 0);
	assert_int_equal(netns_delete(info->netns, &err), 0);
	net_pod_info_free(info);
	must_tear_down(room, "pod1");
	after = snapshot(room);
	assert_null(strstr(after, "--dport 18080"));
	assert_null(strstr(after, "10.213.0.2\n"));
	assert_null(strstr(after, "cache/pod1"));
	assert_null(strstr(after, "bh-pod1"));
}

/* DEL without the namespace is for one that is gone: what plugins made for it would be lost. */
static void test_namespace_that_cannot_be_opened(void **state)
{
	struct room *room = *state;
	_cleanup_free_ char *cache = str_printf("%s/cache/pod1.json", room->dir);
	_cleanup_free_ char *netns = str_printf("%s/netns/bh-pod1", room->dir);
	struct err err = ERR_INIT;

	need_plugins();
	write_config(room, "10-bridge.conflist", BRIDGE_CONFLIST, "1.0.0");
	net_pod_info_free(must_set_up(room, "pod1"));
	assert_int_equal(netns_delete(netns, &err), 0);
	assert_int_equal(symlink("/proc/self/ns/net", netns), 0);
	assert_int_equal(net_pod_teardown(room->net, "pod1", &err), -ELOOP);
	assert_int_equal(access(cache, F_OK), 0);
	assert_int_equal(unlink(netns), 0);
	must_tear_down(room, "pod1");
	assert_int_equal(access(cache, F_OK), -1);
}

/* As after a crash between the steps of net_pod_setup(). */
static void test_teardown_of_half_a_pod(void **state)
{
	struct room *room = *state;
	_cleanup_free_ char *netns = str_printf("%s/netns", room->dir);
	_cleanup_free_ char *path = str_printf("%s/bh-pod1", netns);
	struct err err = ERR_INIT;

	if (!is_isolated) {
		print_message("skipped: needs root\n");
		skip();
	}
	must_tear_down(room, "pod1");
	assert_int_equal(mkdir(netns, 0755), 0);
	testing_write(netns, "bh-pod1", "", 0);
	must_tear_down(room, "pod1");
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(netns_create(netns, "bh-pod1", &err), 0);
	must_tear_down(room, "pod1");
	assert_int_equal(access(path, F_OK), -1);
}

/* Another user, as QEMU's is, waits for nothing but a lock that it may not have. */
static pid_t start_lock_holder(const char *dir, int *ret_ready)
{
	int ready[2];
	pid_t pid;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int fd = setgid(NOBODY) == 0 && setuid(NOBODY) == 0
				 ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
				 : -EBADF;

		if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || (fd >= 0 && flock(fd, LOCK_EX) < 0))
			_exit(1);
		close(ready[1]);
		pause();
		_exit(0);
	}
	close(ready[1]);
	*ret_ready = ready[0];
	return pid;
}

static void test_nobody_else_can_lock(void **state)
{
	struct room *room = *state;
	_cleanup_free_ char *netns = str_printf("%s/netns", room->dir);
	_cleanup_close_ int ready = -EBADF;
	struct err err = ERR_INIT;
	char byte;
	pid_t pid;

	if (!is_isolated) {
		print_message("skipped: needs root\n");
		skip();
	}
	assert_int_equal(chmod(room->dir, 0711), 0);
	assert_int_equal(netns_create(netns, "bh-pod1", &err), 0);
	pid = start_lock_holder(netns, &ready);
	assert_int_equal(read(ready, &byte, 1), 0);
	alarm(WAIT_S); /* one that waits for ever fails */
	assert_int_equal(netns_create(netns, "bh-pod2", &err), 0);
	alarm(0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	must_tear_down(room, "pod1");
	must_tear_down(room, "pod2");
}

static int count_pod(void *userdata, const char *id)
{
	int *seen = userdata;

	*seen |= !strcmp(id, "cached") ? 1 : !strcmp(id, "named") ? 2 : 4;
	return 0;
}

static void test_each_pod(void **state)
{
	struct room *room = *state;
	_cleanup_free_ char *netns = str_printf("%s/netns", room->dir);
	_cleanup_free_ char *cache = str_printf("%s/cache", room->dir);
	struct err err = ERR_INIT;
	int seen = 0;

	assert_int_equal(net_each_pod(room->net, count_pod, &seen, &err), 0);
	assert_int_equal(seen, 0);
	assert_int_equal(mkdir(netns, 0755), 0);
	/* Another bulkheadd's: its cache is elsewhere. */
	testing_write(netns, "bh-named", "", 0);
	testing_write(netns, "somebody", "", 0);
	testing_write(netns, "bh-Not_ours", "", 0);
	testing_write(cache, "cached.json", "{}", 0600);
	testing_write(cache, "cached.json.tmp", "{}", 0600);
	assert_int_equal(net_each_pod(room->net, count_pod, &seen, &err), 0);
	assert_int_equal(seen, 1);
}

static void test_damaged_cache(void **state)
{
	struct room *room = *state;
	_cleanup_free_ char *cache = str_printf("%s/cache", room->dir);
	_cleanup_free_ char *path = str_printf("%s/cache/pod1.json", room->dir);
	struct err err = ERR_INIT;

	testing_write(cache, "pod1.json", "{\"format\": 1}", 0600);
	assert_int_equal(net_pod_teardown(room->net, "pod1", &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "pod1.json is damaged"));
	/* What a power failure leaves of a file that was not waited for. */
	testing_write(cache, "pod1.json", "", 0600);
	must_tear_down(room, "pod1");
	assert_int_equal(access(path, F_OK), -1);
}

static void test_ids(void **state)
{
	static const char *const bad[] = {"", "../x", "a/b", "A", "a b", "a\n",
		"0123456789012345678901234567890123456789012345678901234567890123x"};
	struct room *room = *state;
	struct net_pod_info *info = NULL;
	struct err err = ERR_INIT;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		struct net_pod_spec spec = pod_spec(bad[i]);

		assert_int_equal(net_pod_setup(room->net, &spec, &info, &err), -EINVAL);
		assert_int_equal(net_pod_teardown(room->net, bad[i], &err), -EINVAL);
	}
}

static void test_setup_twice(void **state)
{
	struct net_pod_spec spec = pod_spec("pod1");
	struct net_pod_info *info = NULL;
	struct room *room = *state;
	struct err err = ERR_INIT;

	need_plugins();
	write_config(room, "10-bridge.conflist", BRIDGE_CONFLIST, "1.0.0");
	net_pod_info_free(must_set_up(room, "pod1"));
	assert_int_equal(net_pod_setup(room->net, &spec, &info, &err), -EEXIST);
	must_tear_down(room, "pod1");
}

static void check_versions(struct room *room)
{
	_cleanup_free_ char *script =
		str_printf("#!/bin/sh\necho $CNI_COMMAND >>%s/log\ncat >&2\n"
			   "echo '{\"supportedVersions\": [\"0.4.0\", \"1.0.0\"]}'\n",
			room->dir);
	_cleanup_free_ char *log = str_printf("%s/log", room->dir), *text = NULL;
	struct err err = ERR_INIT;

	testing_write(room->bin, "nosuch", script, 0755);
	for (int i = 0; i < 3; i++)
		assert_int_equal(net_check(room->net, &err), 0);
	/* Asked once. */
	assert_int_equal(fd_read_file(log, 4096, &text, NULL, &err), 0);
	assert_string_equal(text, "VERSION\n");
	testing_write(room->bin, "nosuch",
		"#!/bin/sh\necho '{\"supportedVersions\": [\"0.4.0\"]}'\n", 0755);
	assert_int_equal(net_check(room->net, &err), 1);
	assert_non_null(strstr(err.msg, "CNI plugin 'nosuch' does not speak version 1.0.0"));
	testing_write(room->bin, "nosuch",
		"#!/bin/sh\necho '{\"code\": 50, \"msg\": \"asleep\"}'; exit 1\n", 0755);
}

/* Of a configuration's versions the latest that its plugins speak. */
static void test_versions(void **state)
{
	struct net_pod_spec spec = pod_spec("pod1");
	struct net_pod_info *info = NULL;
	struct room *room = *state;
	_cleanup_free_ char *script =
		str_printf("#!/bin/sh\n{ echo $CNI_COMMAND; cat; echo; } >>%s/log\n"
			   "[ $CNI_COMMAND = ADD ] && exit 1\n"
			   "echo '{\"supportedVersions\": [\"0.4.0\", \"1.0.0\"]}'\n",
			room->dir);
	_cleanup_free_ char *log = str_printf("%s/log", room->dir), *text = NULL;
	struct err err = ERR_INIT;

	testing_write(room->bin, "old", script, 0755);
	testing_write(room->conf, "10-x.conflist",
		"{\"name\": \"n\", \"cniVersion\": \"0.4.0\", \"cniVersions\": [\"0.4.0\", "
		"\"1.0.0\", \"1.1.0\"], \"plugins\": [{\"type\": \"old\"}]}",
		0644);
	assert_int_equal(net_pod_setup(room->net, &spec, &info, &err), -EIO);
	assert_int_equal(net_check(room->net, &err), 0);
	assert_int_equal(fd_read_file(log, 4096, &text, NULL, &err), 0);
	assert_non_null(
		strstr(text, "ADD\n{\"type\":\"old\",\"name\":\"n\",\"cniVersion\":\"1.0.0\"}"));
	/* Asked once for each. */
	assert_ptr_equal(strstr(text, "VERSION"), text);
	assert_null(strstr(strstr(text, "ADD"), "VERSION"));
	testing_write(
		room->bin, "old", "#!/bin/sh\necho '{\"supportedVersions\": [\"0.3.1\"]}'\n", 0755);
	assert_int_equal(net_check(room->net, &err), 1);
	assert_non_null(strstr(err.msg, "'old' does not speak version 1.1.0"));
}

static void test_check(void **state)
{
	struct room *room = *state;
	struct err err = ERR_INIT;

	assert_int_equal(net_check(room->net, &err), 1);
	assert_non_null(strstr(err.msg, "no CNI configuration in"));
	assert_null(net_name(room->net));
	testing_write(room->conf, "10-x.conflist", "{\n\"name\": \"n\",\n oops}", 0644);
	assert_int_equal(net_check(room->net, &err), 1);
	assert_non_null(strstr(err.msg, "10-x.conflist:3:"));
	testing_write(room->conf, "10-x.conflist",
		"{\"name\": \"n\", \"cniVersion\": \"1.0.0\", \"type\": \"nosuch\"}", 0644);
	assert_int_equal(net_check(room->net, &err), 1);
	assert_non_null(strstr(err.msg, "CNI plugin 'nosuch' not found in /tmp/"));
	/* A plugin of the newest specification may say that it is not ready; older ones are not
	 * asked. */
	testing_write(room->bin, "nosuch",
		"#!/bin/sh\necho '{\"code\": 50, \"msg\": \"asleep\"}'; exit 1\n", 0755);
	assert_int_equal(net_check(room->net, &err), 0);
	check_versions(room);
	testing_write(room->conf, "10-x.conflist",
		"{\"name\": \"n\", \"cniVersion\": \"1.1.0\", \"type\": \"nosuch\"}", 0644);
	assert_int_equal(net_check(room->net, &err), 1);
	assert_non_null(strstr(err.msg, "STATUS: error 50: asleep"));
	if (access(PLUGIN_DIR "/ptp", X_OK) < 0)
		return;
	write_config(room, "00-ptp.conf", PTP_CONF, "1.0.0");
	assert_int_equal(net_check(room->net, &err), 0);
	if (access(PLUGIN_DIR "/firewall", X_OK) < 0)
		return;
	/* Of Debian's plugins this one began with 0.4.0. */
	testing_write(room->conf, "00-a.conf",
		"{\"name\": \"n\", \"cniVersion\": \"0.3.1\", \"type\": \"firewall\"}", 0644);
	assert_int_equal(net_check(room->net, &err), 1);
	assert_non_null(strstr(err.msg, "'firewall' does not speak version 0.3.1"));
}

/* GC is told of the pods that are known, and has the configuration in force. */
static void test_collect(void **state)
{
	struct room *room = *state;
	_cleanup_free_ char *cache = str_printf("%s/cache", room->dir);
	_cleanup_free_ char *log = str_printf("%s/log", room->dir), *text = NULL;
	_cleanup_free_ char *script =
		str_printf("#!/bin/sh\n{ echo $CNI_COMMAND; cat; } >>%s\n", log);
	struct err err = ERR_INIT;

	assert_true(cache && log && script);
	assert_int_equal(net_collect(room->net, &err), 0);
	testing_write(cache, "pod1.json", "{}", 0600);
	testing_write(room->bin, "keeper", script, 0755);
	testing_write(room->conf, "10-x.conf",
		"{\"name\": \"n\", \"cniVersion\": \"1.1.0\", \"type\": \"keeper\"}", 0644);
	assert_int_equal(net_collect(room->net, &err), 0);
	assert_int_equal(fd_read_file(log, 4096, &text, NULL, &err), 0);
	assert_string_equal(text,
		"GC\n{\"name\":\"n\",\"cniVersion\":\"1.1.0\",\"type\":\"keeper\","
		"\"cni.dev/valid-attachments\":[{\"containerID\":\"pod1\",\"ifname\":\"eth0\"}],"
		"\"cni.dev/attachments\":[{\"containerID\":\"pod1\",\"ifname\":\"eth0\"}]}");
}

/* Frames between the machine's side of the tap and the other end of the CNI interface, both ways.
 */
static void exchange_frames(int tap, const struct net_interface *eth0)
{
	static const size_t sizes[] = {60, 1300 + ETH_HLEN};
	_cleanup_close_ int host = -EBADF;
	unsigned char frame[2048], guest_mac[6], host_mac[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	size_t i;

	for (i = 0; i < sizeof(guest_mac); i++)
		guest_mac[i] = (unsigned char)strtoul(eth0->mac + 3 * i, NULL, 16);
	host = testing_packet_socket("bhtest0");
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		testing_frame(frame, sizes[i], host_mac, (unsigned char)(i + 1));
		memcpy(frame + ETH_ALEN, guest_mac, ETH_ALEN);
		assert_int_equal(write(tap, frame, sizes[i]), sizes[i]);
		assert_true(testing_expect_frame(host, frame, sizes[i]));
		testing_frame(frame, sizes[i], guest_mac, (unsigned char)(i + 100));
		assert_int_equal(write(host, frame, sizes[i]), sizes[i]);
		assert_true(testing_expect_frame(tap, frame, sizes[i]));
	}
}

/* Whether the tap's link goes away, which the kernel does in its own time. */
static bool is_cut_off(int tap)
{
	static const unsigned char frame[60];
	int i;

	for (i = 0; i < 1500; i++) {
		if (write(tap, frame, sizeof(frame)) < 0 && errno == EBADFD)
			return true;
		usleep(20000);
	}
	return false;
}

/* The machine holds its tap open; the namespace goes all the same. */
static void test_attach_tap(void **state)
{
	_cleanup_close_ int tap = -EBADF;
	char name[NET_TAP_NAME_SIZE];
	struct room *room = *state;
	struct net_pod_info *info;
	struct err err = ERR_INIT;

	need_plugins();
	write_config(room, "10-bridge.conflist", BRIDGE_CONFLIST, "1.0.0");
	info = must_set_up(room, "pod1");
	net_tap_name("pod1", 0, name);
	tap = testing_tap(name, false);
	if (net_pod_attach_tap(room->net, "pod1", info, 0, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(if_nametoindex(name), 0);
	exchange_frames(tap, &info->interfaces[0]);
	assert_int_equal(net_pod_attach_tap(room->net, "pod1", info, 0, &err), -ENODEV);
	assert_int_equal(net_pod_attach_tap(room->net, "pod1", info, 1, &err), -EINVAL);
	must_tear_down(room, "pod1");
	assert_true(is_cut_off(tap));
	net_pod_info_free(info);
}

/* A veth may have a larger MTU than a tap, by which frames of that size pass all the same. */
static void test_largest_mtu(void **state)
{
	static const char *const find_veth[] = {
		"sed", "-n", "s/^ *\\(veth[^:]*\\):.*/\\1/p", "/proc/net/dev", NULL};
	static const unsigned char all[ETH_ALEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	static unsigned char frame[65536];
	_cleanup_close_ int tap = -EBADF, host = -EBADF;
	char name[NET_TAP_NAME_SIZE];
	struct room *room = *state;
	struct net_pod_info *info;
	struct err err = ERR_INIT;

	need_plugins();
	write_config(room, "10-ptp.conf", PTP_LARGE_CONF, "1.0.0");
	info = must_set_up(room, "pod1");
	assert_int_equal(info->interfaces[0].mtu, 65535);
	net_tap_name("pod1", 0, name);
	tap = testing_tap(name, false);
	if (net_pod_attach_tap(room->net, "pod1", info, 0, &err) < 0)
		fail_msg("%s", err.msg);
	_cleanup_free_ char *veth = testing_output(find_veth);
	veth[strcspn(veth, "\n")] = '\0';
	host = testing_packet_socket(veth);
	testing_frame(frame, sizeof(frame), all, 1);
	assert_int_equal(write(tap, frame, sizeof(frame)), sizeof(frame));
	assert_true(testing_expect_frame(host, frame, sizeof(frame)));
	testing_frame(frame, sizeof(frame), all, 2);
	assert_int_equal(write(host, frame, sizeof(frame)), sizeof(frame));
	assert_true(testing_expect_frame(tap, frame, sizeof(frame)));
	must_tear_down(room, "pod1");
	net_pod_info_free(info);
}

/* Frames of what an interface is made of are that interface's. */
static void test_interface_of_parts(void **state)
{
	static const unsigned char all[ETH_ALEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	_cleanup_close_ int tap = -EBADF, far = -EBADF;
	char name[NET_TAP_NAME_SIZE];
	unsigned char frame[100];
	struct room *room = *state;
	struct net_pod_info *info;
	struct err err = ERR_INIT;

	need_plugins();
	write_config_with_plugin(room, "master", MASTER_PLUGIN);
	info = must_set_up(room, "pod1");
	assert_int_equal(info->n_interfaces, 2);
	assert_string_equal(info->interfaces[1].name, "master0");
	assert_string_equal(info->interfaces[1].addresses[0], "10.213.4.7/24");
	net_tap_name("pod1", 1, name);
	tap = testing_tap(name, false);
	if (net_pod_attach_tap(room->net, "pod1", info, 1, &err) < 0)
		fail_msg("%s", err.msg);
	far = testing_packet_socket("twin");
	testing_frame(frame, sizeof(frame), all, 1);
	assert_int_equal(write(far, frame, sizeof(frame)), sizeof(frame));
	assert_true(testing_expect_frame(tap, frame, sizeof(frame)));
	testing_frame(frame, sizeof(frame), all, 2);
	assert_int_equal(write(tap, frame, sizeof(frame)), sizeof(frame));
	assert_true(testing_expect_frame(far, frame, sizeof(frame)));
	must_tear_down(room, "pod1");
	net_pod_info_free(info);
}

static int remove_taps_without_descriptors(const char *id)
{
	struct rlimit limit, none;
	struct err err = ERR_INIT;
	int r;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){.rlim_cur = 0, .rlim_max = limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	r = net_remove_taps(id, &err);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	return r;
}

/* As after a crash before the tap was attached: it must not stay on what DEL gives back. */
static void test_teardown_removes_a_tap(void **state)
{
	static const char *const veth[] = {
		"ip", "link", "add", "bhdev0", "type", "veth", "peer", "name", "bhdev1", NULL};
	char name[NET_TAP_NAME_SIZE];
	struct room *room = *state;
	struct net_pod_info *info;

	need_plugins();
	write_config(room, "10-device.conf", HOST_DEVICE_CONF, "1.0.0");
	free(testing_output(veth));
	info = must_set_up(room, "pod1");
	net_tap_name("pod1", 0, name);
	_cleanup_free_ char *netns = str_printf("--net=%s", info->netns);
	_cleanup_free_ char *own = str_printf("%d", getpid());
	const char *const macvtap[] = {"nsenter", netns, "ip", "link", "add", "link", "eth0",
		"name", name, "netns", own, "type", "macvtap", "mode", "passthru", NULL};
	free(testing_output(macvtap));
	assert_int_not_equal(if_nametoindex(name), 0);
	net_pod_info_free(info);
	assert_true(remove_taps_without_descriptors("pod1") < 0);
	must_tear_down(room, "pod1");
	assert_int_not_equal(if_nametoindex("bhdev0"), 0);
	assert_int_equal(if_nametoindex(name), 0);
}

/* BULKHEAD_NETWORK_CYCLES: so many pods one after the other, of which nothing may be left. */
static void test_cycles(void **state)
{
	const char *asked = getenv("BULKHEAD_NETWORK_CYCLES");
	int cycles = asked ? atoi(asked) : 3;
	_cleanup_free_ char *before = NULL, *after = NULL;
	struct room *room = *state;

	need_plugins();
	write_config(room, "10-bridge.conflist", BRIDGE_CONFLIST, "1.0.0");
	for (int i = 0; i <= cycles; i++) {
		_cleanup_free_ char *id = str_printf("pod%d", i);

		net_pod_info_free(must_set_up(room, id));
		must_tear_down(room, id);
		if (i == 0)
			before = snapshot(room);
	}
	after = snapshot(room);
	assert_string_equal(before, after);
}

static int open_net(struct room *room)
{
	_cleanup_free_ char *cache = str_printf("%s/cache", room->dir);
	_cleanup_free_ char *netns = str_printf("%s/netns", room->dir);
	struct err err = ERR_INIT;

	assert_true(cache && netns);
	return net_open(&(struct net_config){.conf_dir = room->conf,
				.bin_dirs = PLUGIN_DIR,
				.cache_dir = cache,
				.netns_dir = netns,
				.plugin_timeout_ms = 60000},
		&room->net, &err);
}

static bool is_mount_point(const struct room *room)
{
	_cleanup_free_ char *script = str_printf(
		"cut -d' ' -f5 /proc/self/mountinfo | grep -c -x %s/netns || true", room->dir);
	const char *const argv[] = {"/bin/sh", "-c", script, NULL};
	_cleanup_free_ char *count = testing_output(argv);

	return count && count[0] != '0';
}

static void test_close_leaves_no_mount_but_of_pods(void **state)
{
	struct room *room = *state;

	need_plugins();
	write_config(room, "10-bridge.conflist", BRIDGE_CONFLIST, "1.0.0");
	net_pod_info_free(must_set_up(room, "stays"));
	room->net = net_close(room->net);
	assert_true(is_mount_point(room));

	assert_int_equal(open_net(room), 0);
	must_tear_down(room, "stays");
	room->net = net_close(room->net);
	assert_false(is_mount_point(room));
}

int main(void)
{
#define POD_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		POD_TEST(test_bridge),
		POD_TEST(test_old_version),
		POD_TEST(test_ptp),
		POD_TEST(test_two_interfaces_of_one_subnet),
		POD_TEST(test_leaves_nothing),
		POD_TEST(test_host_port),
		POD_TEST(test_unusual_routes),
		POD_TEST(test_failed_add_is_undone),
		POD_TEST(test_failed_undo_can_be_repeated),
		POD_TEST(test_failed_del_can_be_repeated),
		POD_TEST(test_teardown_without_configuration),
		POD_TEST(test_namespace_that_cannot_be_opened),
		POD_TEST(test_teardown_of_half_a_pod),
		POD_TEST(test_nobody_else_can_lock),
		POD_TEST(test_each_pod),
		POD_TEST(test_damaged_cache),
		POD_TEST(test_ids),
		POD_TEST(test_setup_twice),
		POD_TEST(test_versions),
		POD_TEST(test_check),
		POD_TEST(test_collect),
		POD_TEST(test_attach_tap),
		POD_TEST(test_largest_mtu),
		POD_TEST(test_interface_of_parts),
		POD_TEST(test_teardown_removes_a_tap),
		POD_TEST(test_cycles),
		POD_TEST(test_close_leaves_no_mount_but_of_pods),
	};

	is_isolated = testing_isolate();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
