/*
 * Configures links in network and UTS namespaces of its own, which needs root: skips otherwise, and
 * where the kernel has no veth.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "agent/netconf.h"
#include "agent/rtnetlink.h"
#include "common/fd.h"
#include "common/spawn.h"

#define MAC_A "02:00:00:00:00:0a"
#define MAC_B "02:00:00:00:00:0b"

static bool in_namespaces;

/* The output of a shell command, which succeeds; the caller frees it. */
static char *shell(const char *script)
{
	const char *argv[] = {"sh", "-c", script, NULL};
	struct spawn_result result = SPAWN_RESULT_INIT(65536);
	struct spawn_options options = {
		.argv = argv, .timeout_ms = 60000, .cancel_fd = -1, .netns_fd = -1};
	struct err err = ERR_INIT;
	if (spawn_check(&options, &result, &err) < 0)
		fail_msg("%s: %s", script, err.msg);
	char *text = strdup(buf_string(&result.out));
	spawn_result_done(&result);
	return text;
}

static void assert_shell(const char *script, const char *expected)
{
	_cleanup_free_ char *text = shell(script);
	assert_string_equal(text, expected);
}

static int setup(void **state)
{
	(void)state;
	if (geteuid() != 0 || unshare(CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWNS) < 0 ||
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return 0;
	/* NOLINTNEXTLINE(cert-env33-c): constants */
	in_namespaces = system("ip link add wrong0 type veth peer name wrong1 2>/dev/null && "
			       "ip link set wrong0 address " MAC_A " && "
			       "ip link set wrong1 address " MAC_B) == 0;
	return 0;
}

static void need_namespaces(void)
{
	if (!in_namespaces)
		skip();
}

static void init_interface(
	Bulkhead__Agent__Interface *interface, const char *device_mac, const char *name)
{
	bulkhead__agent__interface__init(interface);
	interface->device_mac = (char *)device_mac;
	interface->name = (char *)name;
}

static void init_route(Bulkhead__Agent__Route *route, const char *destination, const char *gateway)
{
	bulkhead__agent__route__init(route);
	route->destination = (char *)destination;
	route->gateway = (char *)gateway;
}

static void init_neighbor(Bulkhead__Agent__Neighbor *neighbor, const char *address, const char *mac)
{
	bulkhead__agent__neighbor__init(neighbor);
	neighbor->address = (char *)address;
	neighbor->mac = (char *)mac;
}

/* The names that the NICs have are each other's wish. */
static void test_interfaces(void **state)
{
	(void)state;
	need_namespaces();
	struct err err = ERR_INIT;
	char *addresses[] = {(char *)"10.1.2.3/32", (char *)"fd00:1::3/64"};
	Bulkhead__Agent__Route routes[4];
	for (size_t i = 0; i < ARRAY_SIZE(routes); i++)
		bulkhead__agent__route__init(&routes[i]);
	routes[0].destination = (char *)"0.0.0.0/0";
	routes[0].gateway = (char *)"169.254.1.1";
	routes[1].destination = (char *)"10.9.8.7/16";
	routes[1].metric = 77;
	routes[1].mtu = 1300;
	routes[1].source = (char *)"10.1.2.3";
	routes[2].destination = (char *)"::/0";
	routes[2].gateway = (char *)"fe80::1";
	routes[2].mtu = 1290;
	routes[3].destination = (char *)"10.6.0.0/16";
	routes[3].gateway = (char *)"fe80::1";
	Bulkhead__Agent__Route *pointers[] = {&routes[0], &routes[1], &routes[2], &routes[3]};
	Bulkhead__Agent__Interface a, b;
	init_interface(&a, MAC_A, "wrong1");
	init_interface(&b, MAC_B, "wrong0");
	a.mac = (char *)"02:00:00:00:00:aa";
	a.mtu = 1400;
	a.n_addresses = 2;
	a.addresses = addresses;
	a.n_routes = 4;
	a.routes = pointers;
	Bulkhead__Agent__Interface *interfaces[] = {&a, &b};
	Bulkhead__Agent__ConfigureSandboxRequest request =
		BULKHEAD__AGENT__CONFIGURE_SANDBOX_REQUEST__INIT;
	request.n_interfaces = 2;
	request.interfaces = interfaces;
	if (netconf_interfaces(&request, &err) < 0)
		fail_msg("%s", err.msg);

	assert_shell("ip -o link show dev wrong1 | grep -c 'mtu 1400.*02:00:00:00:00:aa'", "1\n");
	assert_shell("ip -o link show dev wrong0 | grep -c " MAC_B, "1\n");
	assert_shell("ip -o link show dev lo | grep -c 'LOOPBACK,UP'", "1\n");
	assert_shell("ip -4 route show default",
		"default via 169.254.1.1 dev wrong1 proto static onlink \n");
	assert_shell("ip -4 route show 10.9.0.0/16", "10.9.0.0/16 dev wrong1 proto static scope "
						     "link src 10.1.2.3 metric 77 mtu 1300 \n");
	assert_shell("ip -4 route show 10.6.0.0/16",
		"10.6.0.0/16 via inet6 fe80::1 dev wrong1 proto static onlink \n");
	assert_shell(
		"ip -6 route show default | grep -c 'via fe80::1 dev wrong1.* mtu 1290'", "1\n");
	assert_shell(
		"ip -6 addr show dev wrong1 | grep -c 'fd00:1::3/64 scope global nodad'", "1\n");
	assert_shell("cat /proc/sys/net/ipv6/conf/wrong1/accept_ra", "0\n");
}

/* After test_interfaces(): what was asked for changes; what somebody else added stays. */
static void test_update(void **state)
{
	(void)state;
	need_namespaces();
	struct err err = ERR_INIT;
	char *addresses[] = {(char *)"10.1.2.3/32", (char *)"fd00:1::3/64"};
	char *later[] = {(char *)"fd00:1::3/64", (char *)"10.7.0.1/24", (char *)"10.7.0.2/24"};
	Bulkhead__Agent__Route was, is, other;
	init_route(&was, "10.9.0.0/16", "");
	was.metric = 77;
	init_route(&other, "10.6.0.0/16", "fe80::1");
	init_route(&is, "10.8.0.0/16", "10.7.0.254");
	Bulkhead__Agent__Route *was_routes[] = {&was, &other}, *is_routes[] = {&is};
	Bulkhead__Agent__Neighbor neighbor;
	init_neighbor(&neighbor, "10.7.0.254", "02:00:00:00:00:fe");
	Bulkhead__Agent__Neighbor *neighbors[] = {&neighbor};
	Bulkhead__Agent__Interface a, b;
	init_interface(&a, MAC_A, "wrong1");
	a.mac = (char *)"02:00:00:00:00:aa";
	a.mtu = 1400;
	a.addresses = addresses;
	a.n_addresses = 2;
	a.routes = was_routes;
	a.n_routes = 2;
	b = a;
	b.mtu = 1300;
	b.mac = (char *)"02:00:00:00:00:ab";
	b.addresses = later;
	b.n_addresses = 3;
	b.routes = is_routes;
	b.n_routes = 1;
	b.neighbors = neighbors;
	b.n_neighbors = 1;
	Bulkhead__Agent__Interface *before[] = {&a}, *after[] = {&b};
	Bulkhead__Agent__UpdateInterfacesRequest
		from = BULKHEAD__AGENT__UPDATE_INTERFACES_REQUEST__INIT,
		to = from;
	from.n_interfaces = to.n_interfaces = 1;
	from.interfaces = before;
	to.interfaces = after;
	free(shell("ip address add 10.77.0.1/24 dev wrong1"));
	if (netconf_update(&from, &to, &err) < 0)
		fail_msg("%s", err.msg);
	assert_shell("ip -o link show dev wrong1 | grep -c 'mtu 1300.*02:00:00:00:00:ab'", "1\n");
	assert_shell("ip -o -4 addr show dev wrong1 | awk '{print $4}'",
		"10.77.0.1/24\n10.7.0.1/24\n10.7.0.2/24\n");
	assert_shell("ip -4 route show 10.9.0.0/16; ip -4 route show 10.6.0.0/16", "");
	assert_shell("ip -4 route show 10.8.0.0/16",
		"10.8.0.0/16 via 10.7.0.254 dev wrong1 proto static onlink \n");
	assert_shell("ip neigh show dev wrong1 nud permanent",
		"10.7.0.254 lladdr 02:00:00:00:00:fe PERMANENT \n");
	/* The first address of a network takes the others with it. */
	later[1] = later[2];
	b.n_addresses = 2;
	char *all[] = {(char *)"fd00:1::3/64", (char *)"10.7.0.1/24", (char *)"10.7.0.2/24"};
	a = b;
	a.addresses = all;
	a.n_addresses = 3;
	b.n_neighbors = 0;
	assert_int_equal(netconf_update(&from, &to, &err), 0);
	assert_shell(
		"ip -o -4 addr show dev wrong1 | awk '{print $4}'", "10.77.0.1/24\n10.7.0.2/24\n");
	assert_shell("ip -4 route show 10.8.0.0/16",
		"10.8.0.0/16 via 10.7.0.254 dev wrong1 proto static onlink \n");
	assert_shell("ip neigh show dev wrong1 nud permanent", "");
	a = b; /* a route becomes another */
	was = is;
	was.mtu = 1250;
	was.source = (char *)"10.7.0.2";
	b.routes = was_routes;
	assert_int_equal(netconf_update(&from, &to, &err), 0);
	assert_shell("ip -4 route show 10.8.0.0/16 | grep -c 'src 10.7.0.2.*mtu 1250'", "1\n");
	a = b;
	b.down = true;
	assert_int_equal(netconf_update(&from, &to, &err), 0);
	assert_shell("ip -o link show dev wrong1 up", "");
	b.down = false;
	assert_int_equal(netconf_update(&from, &to, &err), 0);
	assert_shell("ip -4 route show 10.8.0.0/16 | wc -l", "1\n");
	b.name = (char *)"none0";
	assert_int_equal(netconf_update(&from, &to, &err), -ENODEV);
}

/*
 * After test_update(): a change that failed on its way is taken back. Of what it brought nothing
 * stays, though nobody knows how far it came.
 */
static void test_update_after_failure(void **state)
{
	(void)state;
	need_namespaces();
	struct err err = ERR_INIT;
	char *addresses[] = {(char *)"10.7.0.2/24"}, *others[] = {(char *)"10.6.0.2/24"};
	Bulkhead__Agent__Interface was, tried, absent;
	init_interface(&was, MAC_A, "wrong1");
	was.mac = (char *)"02:00:00:00:00:ab";
	was.mtu = 1300;
	was.addresses = addresses;
	was.n_addresses = 1;
	tried = was;
	tried.mac = (char *)"02:00:00:00:00:ac";
	tried.mtu = 1350;
	tried.addresses = others;
	init_interface(&absent, MAC_B, "none0");
	Bulkhead__Agent__Interface *before[] = {&was, &absent}, *after[] = {&tried, &absent};
	Bulkhead__Agent__Interface *may_be[] = {&tried, &absent, &was, &absent};
	Bulkhead__Agent__UpdateInterfacesRequest
		from = BULKHEAD__AGENT__UPDATE_INTERFACES_REQUEST__INIT,
		to = from;
	from.n_interfaces = to.n_interfaces = 2;
	from.interfaces = before;
	to.interfaces = after;
	assert_int_equal(netconf_update(&from, &to, &err), -ENODEV);
	assert_shell("ip -o link show dev wrong1 | grep -c 'mtu 1350.*02:00:00:00:00:ac'", "1\n");
	from.interfaces = may_be;
	from.n_interfaces = ARRAY_SIZE(may_be);
	to.interfaces = before;
	to.n_interfaces = 1;
	assert_int_equal(netconf_update(&from, &to, &err), 0);
	assert_shell("ip -o link show dev wrong1 | grep -c 'mtu 1300.*02:00:00:00:00:ab'", "1\n");
	assert_shell(
		"ip -o -4 addr show dev wrong1 | awk '{print $4}'", "10.77.0.1/24\n10.7.0.2/24\n");
}

static void test_interface_errors(void **state)
{
	(void)state;
	need_namespaces();
	struct err err = ERR_INIT;
	Bulkhead__Agent__Interface interface;
	Bulkhead__Agent__Interface *interfaces[] = {&interface};
	Bulkhead__Agent__ConfigureSandboxRequest request =
		BULKHEAD__AGENT__CONFIGURE_SANDBOX_REQUEST__INIT;
	request.n_interfaces = 1;
	request.interfaces = interfaces;
	init_interface(&interface, "02:00:00:00:00:ff", "eth0");
	assert_int_equal(netconf_interfaces(&request, &err), -ENODEV);
	assert_non_null(strstr(err.msg, "02:00:00:00:00:ff"));
	init_interface(&interface, "02:00:00", "eth0");
	assert_int_equal(netconf_interfaces(&request, &err), -EINVAL);
	init_interface(&interface, MAC_B, "a/b");
	assert_int_equal(netconf_interfaces(&request, &err), -EINVAL);
	char *addresses[] = {(char *)"10.0.0.300/8"};
	init_interface(&interface, MAC_B, "wrong0");
	interface.n_addresses = 1;
	interface.addresses = addresses;
	assert_int_equal(netconf_interfaces(&request, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "10.0.0.300/8"));
}

static void test_sysctls(void **state)
{
	(void)state;
	need_namespaces();
	struct err err = ERR_INIT;
	Bulkhead__Agent__Sysctl sysctl = BULKHEAD__AGENT__SYSCTL__INIT;
	Bulkhead__Agent__Sysctl *sysctls[] = {&sysctl};
	Bulkhead__Agent__ConfigureSandboxRequest request =
		BULKHEAD__AGENT__CONFIGURE_SANDBOX_REQUEST__INIT;
	request.n_sysctls = 1;
	request.sysctls = sysctls;
	assert_int_equal(netconf_sysctls(&(Bulkhead__Agent__ConfigureSandboxRequest)
						 BULKHEAD__AGENT__CONFIGURE_SANDBOX_REQUEST__INIT,
				 &err),
		0);
	assert_shell("cat /proc/sys/net/ipv4/ping_group_range", "0\t2147483647\n");
	assert_shell("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0\n");
	sysctl.key = (char *)"net.ipv4.ip_default_ttl";
	sysctl.value = (char *)"77";
	assert_int_equal(netconf_sysctls(&request, &err), 0);
	assert_shell("cat /proc/sys/net/ipv4/ip_default_ttl", "77\n");
	sysctl.key = (char *)"net/ipv4/ip_default_ttl";
	sysctl.value = (char *)"78";
	assert_int_equal(netconf_sysctls(&request, &err), 0);
	assert_shell("cat /proc/sys/net/ipv4/ip_default_ttl", "78\n");
	sysctl.value = (char *)"many";
	assert_int_equal(netconf_sysctls(&request, &err), -EINVAL);
	sysctl.key = (char *)"net.no.such";
	assert_int_equal(netconf_sysctls(&request, &err), -ENOENT);
	static const char *const bad[] = {"", "/net", "net/../kernel", "..", "net..ipv4", ".net"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		sysctl.key = (char *)bad[i];
		assert_int_equal(netconf_sysctls(&request, &err), -EINVAL);
	}
}

static void assert_file(const char *directory, const char *name, const char *expected)
{
	char path[128];
	_cleanup_free_ char *text = NULL;
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	assert_int_equal(fd_read_file(path, 65536, &text, NULL, NULL), 0);
	assert_non_null(strstr(text, expected));
}

/* Containers may write them, and what they do is nobody's account once they have ended. */
static void assert_limited(const char *directory)
{
	_cleanup_free_ char *script = str_printf(
		"dd if=/dev/zero of=%s/hosts bs=64k count=64 2>&1 | grep -o 'No space.*'",
		directory);
	assert_non_null(script);
	assert_shell(script, "No space left on device\n");
}

static void test_names(void **state)
{
	(void)state;
	need_namespaces();
	struct err err = ERR_INIT;
	char directory[] = "/tmp/netconf-test.XXXXXX";
	assert_non_null(mkdtemp(directory));
	char *servers[] = {(char *)"10.96.0.10", (char *)"fd00::10"};
	char *searches[] = {(char *)"a.local", (char *)"b.local"};
	char *options[] = {(char *)"ndots:5"};
	char *addresses[] = {(char *)"10.1.2.3/24"};
	Bulkhead__Agent__Dns dns = BULKHEAD__AGENT__DNS__INIT;
	dns.n_servers = 2;
	dns.servers = servers;
	dns.n_searches = 2;
	dns.searches = searches;
	dns.n_options = 1;
	dns.options = options;
	Bulkhead__Agent__Interface interface;
	init_interface(&interface, MAC_A, "eth0");
	interface.n_addresses = 1;
	interface.addresses = addresses;
	Bulkhead__Agent__Interface *interfaces[] = {&interface};
	Bulkhead__Agent__ConfigureSandboxRequest request =
		BULKHEAD__AGENT__CONFIGURE_SANDBOX_REQUEST__INIT;
	request.hostname = (char *)"a-pod";
	request.dns = &dns;
	request.n_interfaces = 1;
	request.interfaces = interfaces;
	assert_int_equal(netconf_names(&request, directory, &err), 0);
	assert_file(directory, "resolv.conf",
		"nameserver 10.96.0.10\nnameserver fd00::10\nsearch a.local b.local\n"
		"options ndots:5\n");
	assert_file(directory, "hosts", "127.0.0.1\tlocalhost\n");
	assert_file(directory, "hosts", "\n10.1.2.3\ta-pod\n");
	assert_file(directory, "hostname", "a-pod\n");
	char name[65];
	assert_int_equal(gethostname(name, sizeof(name)), 0);
	assert_string_equal(name, "a-pod");
	searches[1] = (char *)"evil\nnameserver 1.2.3.4";
	assert_int_equal(netconf_names(&request, directory, &err), -EINVAL);
	request.hostname = (char *)"two words";
	assert_int_equal(netconf_names(&request, directory, &err), -EINVAL);
	assert_limited(directory);
	umount2(directory, MNT_DETACH);
	assert_int_equal(fd_remove_tree(directory, &err), 0);
}

static void test_parsing(void **state)
{
	(void)state;
	struct rtnl_prefix prefix;
	uint8_t mac[RTNL_MAC_BYTES];
	assert_int_equal(rtnl_prefix_parse("10.1.2.3/24", &prefix, NULL), 0);
	assert_int_equal(prefix.length, 24);
	assert_int_equal(rtnl_prefix_parse("::/0", &prefix, NULL), 0);
	assert_int_equal(prefix.length, 0);
	assert_int_equal(rtnl_prefix_parse("fe80::1", &prefix, NULL), 0);
	assert_int_equal(prefix.length, 128);
	static const char *const bad[] = {"", "/", "1.2.3.4/", "1.2.3.4/33", "1.2.3.4/-1",
		"1.2.3.4/8x", "1.2.3/8", "::1/129", "g::/8", "1.2.3.4 /8"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(rtnl_prefix_parse(bad[i], &prefix, NULL), -EINVAL);
	assert_int_equal(rtnl_mac_parse("02:aB:00:00:ff:01", mac, NULL), 0);
	assert_int_equal(mac[1], 0xab);
	static const char *const bad_macs[] = {
		"", "02:00:00:00:00", "02:00:00:00:00:0", "02:00:00:00:00:001", "2:0:0:0:0:0"};
	for (size_t i = 0; i < ARRAY_SIZE(bad_macs); i++)
		assert_int_equal(rtnl_mac_parse(bad_macs[i], mac, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parsing),
		cmocka_unit_test(test_interfaces),
		cmocka_unit_test(test_update),
		cmocka_unit_test(test_update_after_failure),
		cmocka_unit_test(test_interface_errors),
		cmocka_unit_test(test_sysctls),
		cmocka_unit_test(test_names),
	};
	return cmocka_run_group_tests(tests, setup, NULL);
}
