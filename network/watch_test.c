/*
 * A namespace with an interface and a tap joined to it, changed by `ip`: what a watch tells of it.
 * Takes root: skips otherwise.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"
#include "network/interface.h"
#include "network/netlink.h"
#include "network/netns.h"
#include "network/redirect.h"
#include "network/testing.h"
#include "network/watch.h"

#define WAIT_MS 30000
#define STEP_MS 20

static bool is_isolated;

/* What the watch said last; one pod. */
struct heard {
	pthread_mutex_t lock;
	unsigned calls, troubles;
	bool refuse;
	char addresses[256], routes[256], sources[256], neighbors[256], mac[18];
	uint32_t mtu, route_mtu;
	unsigned down, gone, no_carrier;
};

struct room {
	char *dir;
	char *netns;
	int tap;
	struct net_watcher *watcher;
	struct heard heard;
};

static void append(char out[256], const char *text)
{
	size_t len = strlen(out);

	(void)snprintf(out + len, 256 - len, "%s ", text);
}

static int on_changed(void *userdata, struct net_interface *interfaces, size_t n, struct err *err)
{
	struct heard *heard = userdata;
	int r = 0;

	pthread_mutex_lock(&heard->lock);
	if (heard->refuse)
		r = err_set(err, -EIO, "refused");
	heard->calls++;
	assert(n == 1);
	heard->gone = !interfaces->name[0];
	heard->mtu = interfaces->mtu;
	heard->down = interfaces->down;
	heard->no_carrier = interfaces->no_carrier;
	heard->addresses[0] = heard->routes[0] = heard->sources[0] = heard->neighbors[0] = '\0';
	for (size_t i = 0; i < interfaces->n_addresses && i < 4; i++)
		append(heard->addresses, interfaces->addresses[i]);
	for (size_t i = 0; i < interfaces->n_routes && i < 4; i++) {
		append(heard->routes, interfaces->routes[i].destination);
		append(heard->sources, interfaces->routes[i].source);
		heard->route_mtu = interfaces->routes[i].mtu;
	}
	for (size_t i = 0; i < interfaces->n_neighbors && i < 4; i++)
		append(heard->neighbors, interfaces->neighbors[i].address);
	pthread_mutex_unlock(&heard->lock);
	return r;
}

static void on_trouble(void *userdata, const struct err *err)
{
	struct heard *heard = userdata;

	pthread_mutex_lock(&heard->lock);
	heard->troubles += err ? 1 : 100;
	pthread_mutex_unlock(&heard->lock);
}

/* Runs a shell script in the namespace. */
static void inside(const struct room *room, const char *script)
{
	_cleanup_free_ char *option = str_printf("--net=%s", room->netns);
	const char *const argv[] = {"nsenter", option, "/bin/sh", "-e", "-c", script, NULL};

	free(testing_output(argv));
}

static int make_tap(void *userdata, struct err *err)
{
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	struct room *room = userdata;
	int interface, tap;

	room->tap = testing_tap("tap0", false);
	assert_int_equal(netlink_open(&sock, err), 0);
	interface = netlink_link_index(sock, "eth0", err);
	tap = netlink_link_index(sock, "tap0", err);
	assert_int_equal(redirect_tcfilter.join(sock, interface, tap, err), 0);
	return interface_set(
		sock, tap, &(struct interface_change){.alias = "eth0", .up = true}, err);
}

static int set_up(void **state)
{
	struct room *room = calloc(1, sizeof(*room));
	_cleanup_close_ int fd = -EBADF;
	struct err err = ERR_INIT;

	*state = room;
	if (!is_isolated)
		return 0;
	pthread_mutex_init(&room->heard.lock, NULL);
	room->dir = testing_dir();
	room->netns = str_printf("%s/pod", room->dir);
	assert_int_equal(netns_create(room->dir, "pod", &err), 0);
	assert_int_equal(netns_open(room->netns, &fd, &err), 0);
	inside(room, "ip link add eth0 type veth peer name far; ip link set far up;"
		     "ip link set eth0 up; ip address add 10.1.0.2/24 dev eth0");
	assert_int_equal(netns_call(fd, make_tap, room, &err), 0);
	assert_int_equal(net_watcher_new(&room->watcher, &err), 0);
	return 0;
}

static int tear_down(void **state)
{
	struct room *room = *state;

	if (is_isolated) {
		net_watcher_free(room->watcher);
		close(room->tap);
		netns_delete(room->netns, NULL);
		netns_release_dir(room->dir);
		testing_dir_remove(room->dir);
		free(room->netns);
	}
	free(room);
	return 0;
}

static struct net_watch *must_watch(struct room *room, const struct net_pod_info *known)
{
	const struct net_watch_options options = {.netns = room->netns,
		.antispoof = true,
		.known = known,
		.changed = on_changed,
		.trouble = on_trouble,
		.userdata = &room->heard};
	struct net_watch *watch = NULL;
	struct err err = ERR_INIT;

	if (net_watch_new(room->watcher, &options, &watch, &err) < 0)
		fail_msg("%s", err.msg);
	return watch;
}

/* Until a field is the text. */
static void expect(struct room *room, const char *field, const char *text)
{
	bool same = false;

	for (int ms = 0; ms < WAIT_MS && !same; ms += STEP_MS) {
		usleep(STEP_MS * 1000);
		pthread_mutex_lock(&room->heard.lock);
		same = room->heard.calls > 0 && strcmp(field, text) == 0;
		pthread_mutex_unlock(&room->heard.lock);
	}
	if (!same)
		fail_msg("'%s' instead of '%s'", field, text);
}

static void expect_number(struct room *room, const unsigned *number, unsigned least, unsigned most)
{
	bool enough = false;

	for (int ms = 0; ms < WAIT_MS && !enough; ms += STEP_MS) {
		usleep(STEP_MS * 1000);
		pthread_mutex_lock(&room->heard.lock);
		enough = *number >= least && *number <= most;
		pthread_mutex_unlock(&room->heard.lock);
	}
	assert_true(enough);
}

static unsigned calls(struct heard *heard)
{
	pthread_mutex_lock(&heard->lock);
	unsigned n = heard->calls;
	pthread_mutex_unlock(&heard->lock);
	return n;
}

static void test_changes(void **state)
{
	struct room *room = *state;
	struct heard *heard = &room->heard;

	if (!is_isolated)
		skip();
	struct net_watch *watch = must_watch(room, NULL);
	/* What the guest has is not known: it is told. */
	expect(room, heard->addresses, "10.1.0.2/24 ");
	inside(room, "ip address add 10.2.0.2/24 dev eth0");
	expect(room, heard->addresses, "10.1.0.2/24 10.2.0.2/24 ");
	inside(room, "ip route add 10.9.0.0/16 via 10.2.0.1");
	expect(room, heard->routes, "10.9.0.0/16 ");
	inside(room, "ip route change 10.9.0.0/16 via 10.2.0.1 src 10.2.0.2 mtu 1200");
	expect(room, heard->sources, "10.2.0.2 ");
	expect_number(room, &heard->route_mtu, 1200, 1200);
	/* The guest may not have that of another interface. */
	inside(room,
		"ip link add eth1 type veth peer name far1; ip address add 10.3.0.2/24 dev eth1;"
		"ip route change 10.9.0.0/16 via 10.2.0.1 src 10.3.0.2 mtu 1300");
	expect_number(room, &heard->route_mtu, 1300, 1300);
	expect(room, heard->sources, " ");
	inside(room, "ip neighbor add 10.2.0.1 lladdr 02:00:00:00:00:01 dev eth0");
	expect(room, heard->neighbors, "10.2.0.1 ");
	inside(room, "ip address del 10.2.0.2/24 dev eth0");
	expect(room, heard->addresses, "10.1.0.2/24 ");
	inside(room, "ip link set eth0 mtu 1600");
	expect_number(room, &heard->mtu, 1600, 1600);
	inside(room, "ip link show tap0 | grep -q 'mtu 1600'");
	/* Two filters, however often they were put there. */
	inside(room, "[ $(tc filter show dev tap0 parent ffff: | grep -c 'bpf .*handle') = 2 ]");
	inside(room, "ip link set far down");
	expect_number(room, &heard->no_carrier, 1, 1);
	inside(room, "ip link set far up");
	expect_number(room, &heard->no_carrier, 0, 0);
	inside(room, "ip link set eth0 down");
	expect(room, heard->routes, "");
	expect_number(room, &heard->down, 1, 1);
	expect_number(room, &heard->no_carrier, 0, 0);
	net_watch_free(watch);
}

static void test_what_is_known_is_not_told(void **state)
{
	struct room *room = *state;

	if (!is_isolated)
		skip();
	char mac[18] = "";
	_cleanup_free_ char *option = str_printf("--net=%s", room->netns);
	const char *const argv[] = {"nsenter", option, "sh", "-c",
		"ip -o link show eth0 | sed 's/.*ether \\([^ ]*\\) .*/\\1/'", NULL};
	_cleanup_free_ char *output = testing_output(argv);
	snprintf(mac, sizeof(mac), "%.17s", output);
	struct net_interface eth0 = {
		.name = "eth0", .mtu = 1500, .addresses = {"10.1.0.2/24"}, .n_addresses = 1};
	memcpy(eth0.mac, mac, sizeof(eth0.mac));
	const struct net_pod_info known = {.interfaces = &eth0, .n_interfaces = 1};
	struct net_watch *watch = must_watch(room, &known);
	/* What it tells first is a change that comes after. */
	inside(room, "ip address add 10.2.0.2/24 dev eth0");
	expect(room, room->heard.addresses, "10.1.0.2/24 10.2.0.2/24 ");
	assert_int_equal(calls(&room->heard), 1);
	net_watch_free(watch);
}

/* Hundreds of changes are a few readings; the last state is what is told in the end. */
static void test_storm(void **state)
{
	struct room *room = *state;

	if (!is_isolated)
		skip();
	struct net_watch *watch = must_watch(room, NULL);
	expect(room, room->heard.addresses, "10.1.0.2/24 ");
	uint64_t begin = ev_now_ms();
	inside(room, "i=0; { while [ $i -lt 300 ]; do echo address add 10.3.0.1/24 dev eth0;"
		     "echo address del 10.3.0.1/24 dev eth0; i=$((i + 1)); done;"
		     "echo address add 10.4.0.1/24 dev eth0; } | ip -batch -");
	expect(room, room->heard.addresses, "10.1.0.2/24 10.4.0.1/24 ");
	assert_true(calls(&room->heard) <= 2 + (ev_now_ms() - begin) / 1000 + 1);
	net_watch_free(watch);
}

static void test_failure_is_repeated(void **state)
{
	struct room *room = *state;
	struct heard *heard = &room->heard;

	if (!is_isolated)
		skip();
	heard->refuse = true;
	struct net_watch *watch = must_watch(room, NULL);
	/* Told of once, tried again and again. */
	expect_number(room, &heard->calls, 2, UINT_MAX);
	pthread_mutex_lock(&heard->lock);
	assert_int_equal(heard->troubles, 1);
	heard->refuse = false;
	pthread_mutex_unlock(&heard->lock);
	expect_number(room, &heard->troubles, 101, 101);
	/* The interface vanishes, which is no failure. */
	inside(room, "ip link delete eth0");
	expect_number(room, &heard->gone, 1, 1);
	pthread_mutex_lock(&heard->lock);
	assert_int_equal(heard->troubles, 101);
	pthread_mutex_unlock(&heard->lock);
	net_watch_free(watch);
	struct err err = ERR_INIT;
	const struct net_watch_options nowhere = {.netns = "/nowhere"};
	assert_int_equal(net_watch_new(room->watcher, &nowhere, &watch, &err), -ENOENT);
}

/* What could not be told is taken back before it is tried again: tap and guest have been there. */
static void test_back_after_failure(void **state)
{
	struct room *room = *state;
	struct heard *heard = &room->heard;

	if (!is_isolated)
		skip();
	struct net_watch *watch = must_watch(room, NULL);
	expect_number(room, &heard->mtu, 1500, 1500);
	pthread_mutex_lock(&heard->lock);
	heard->refuse = true;
	pthread_mutex_unlock(&heard->lock);
	inside(room, "ip link set eth0 mtu 1400");
	expect_number(room, &heard->troubles, 1, 1);
	inside(room, "ip link show tap0 | grep -q 'mtu 1400'; ip link set eth0 mtu 1500");
	pthread_mutex_lock(&heard->lock);
	heard->refuse = false;
	pthread_mutex_unlock(&heard->lock);
	expect_number(room, &heard->troubles, 101, 101);
	expect_number(room, &heard->mtu, 1500, 1500);
	inside(room, "ip link show tap0 | grep -q 'mtu 1500'");
	net_watch_free(watch);
}

/* A guest that does not answer, until the test lets it. */
struct mute {
	sem_t asked, answer;
	atomic_int calls;
};

static int on_changed_mute(
	void *userdata, struct net_interface *interfaces, size_t n, struct err *err)
{
	struct mute *mute = userdata;

	(void)interfaces;
	(void)n;
	(void)err;
	atomic_fetch_add(&mute->calls, 1);
	sem_post(&mute->asked);
	sem_wait(&mute->answer);
	return 0;
}

static void *free_watch(void *watch)
{
	return net_watch_free(watch);
}

static void test_mute_guest_keeps_no_other_waiting(void **state)
{
	struct room *room = *state;
	struct heard *heard = &room->heard;
	struct net_watch *mute_watch = NULL, *watch;
	struct err err = ERR_INIT;
	struct mute mute;
	pthread_t thread;

	if (!is_isolated)
		skip();
	sem_init(&mute.asked, 0, 0);
	sem_init(&mute.answer, 0, 0);
	atomic_init(&mute.calls, 0);
	const struct net_watch_options options = {.netns = room->netns,
		.changed = on_changed_mute,
		.trouble = on_trouble,
		.userdata = &mute};
	assert_int_equal(net_watch_new(room->watcher, &options, &mute_watch, &err), 0);
	sem_wait(&mute.asked);
	watch = must_watch(room, NULL);
	expect(room, heard->addresses, "10.1.0.2/24 ");
	inside(room, "ip address add 10.2.0.2/24 dev eth0");
	expect(room, heard->addresses, "10.1.0.2/24 10.2.0.2/24 ");
	/* Asked once so far; when it answers, it hears what came meanwhile. */
	assert_int_equal(atomic_load(&mute.calls), 1);
	sem_post(&mute.answer);
	sem_wait(&mute.asked);
	assert_int_equal(atomic_load(&mute.calls), 2);
	/* A watch that is removed meanwhile waits for the answer, alone. */
	assert_int_equal(pthread_create(&thread, NULL, free_watch, mute_watch), 0);
	inside(room, "ip address del 10.2.0.2/24 dev eth0");
	expect(room, heard->addresses, "10.1.0.2/24 ");
	sem_post(&mute.answer);
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&mute.calls), 2);
	net_watch_free(watch);
}

int main(void)
{
#define WATCH_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		WATCH_TEST(test_changes),
		WATCH_TEST(test_what_is_known_is_not_told),
		WATCH_TEST(test_storm),
		WATCH_TEST(test_failure_is_repeated),
		WATCH_TEST(test_back_after_failure),
		WATCH_TEST(test_mute_guest_keeps_no_other_waiting),
	};

	is_isolated = testing_isolate();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
