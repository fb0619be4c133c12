#include "network/watch.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/buf.h"
#include "common/fd.h"
#include "common/loop.h"
#include "network/antispoof.h"
#include "network/interface.h"
#include "network/netlink.h"
#include "network/netns.h"
#include "network/redirect.h"

#define SETTLE_MS    100  /* changes come in groups: an address, then its route */
#define REST_MS      1000 /* between two readings of one pod */
#define RETRY_MS     3000
#define READS_MAX    64 /* at once; what is left wakes us again */
#define STATE_MAX    (1u << 20)
#define RECEIVE_SIZE 8192

struct net_watcher {
	struct ev_loop *loop;
	pthread_t thread;
};

struct reading {
	struct net_interface *interfaces;
	size_t n;
	bool antispoof;
};

/*
 * The loop's thread alone has it once it was posted; but while `telling`, the reading, `told` and
 * `err` are the teller's.
 */
struct net_watch {
	struct net_watcher *watcher;
	struct net_watch_options options; /* without netns and known */
	int netns;
	struct nl_sock *sock;
	struct ev_source *io, *timer;
	char *state; /* what tap and guest have, as text; NULL: not known */
	bool pending, failing, ended;
	uint64_t read_ms; /* when it was read last */
	pthread_t teller;
	char *telling; /* the state that the guest is being told; NULL: none */
	struct reading reading;
	int told;
	struct err err; /* of begin() and of the teller */
	int result;
	sem_t done;
};

/* ---- the namespace ---- */

static int open_in_netns(void *userdata, struct err *err)
{
	struct net_watch *watch = userdata;
	int r;

	r = netlink_open(&watch->sock, err);
	if (r < 0)
		return r;
	r = nl_socket_add_memberships(watch->sock, RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR,
		RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, RTNLGRP_NEIGH, 0);
	if (r < 0)
		return netlink_error(err, r, "listen to the pod's namespace");
	return 0;
}

/* The filter before all: what the guest has no right to any more goes first. */
static int follow(struct nl_sock *sock, const struct reading *reading, size_t i, struct err *err)
{
	const struct net_interface *interface = &reading->interfaces[i];
	const struct interface_change change = {.mtu = interface->mtu};
	char name[IFNAMSIZ];
	struct redirect_tap tap;
	int r;

	if (!interface->name[0])
		return 0;
	(void)snprintf(name, sizeof(name), INTERFACE_TAP "%u", (unsigned int)i);
	r = redirect_find_tap(sock, name, &tap, err);
	if (r == 0 && reading->antispoof)
		r = antispoof_attach(sock, &tap, interface, err);
	return r < 0 ? r : interface_set(sock, tap.link, &change, err);
}

static int read_in_netns(void *userdata, struct err *err)
{
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	struct reading *reading = userdata;
	int r;

	r = netlink_open(&sock, err);
	if (r == 0)
		r = interfaces_read_joined(sock, &reading->interfaces, &reading->n, err);
	return r;
}

static int follow_in_netns(void *userdata, struct err *err)
{
	_cleanup_(netlink_closep) struct nl_sock *sock = NULL;
	const struct reading *reading = userdata;
	size_t i;
	int r;

	r = netlink_open(&sock, err);
	for (i = 0; r == 0 && i < reading->n; i++)
		r = follow(sock, reading, i, err);
	return r;
}

/* ---- what is compared ---- */

static int describe_one(struct buf *out, const struct net_interface *interface)
{
	size_t i;
	int r;

	r = buf_printf(out, "%s %s %u %d %d\n", interface->name, interface->mac, interface->mtu,
		interface->down, interface->no_carrier);
	for (i = 0; r == 0 && i < interface->n_addresses; i++)
		r = buf_printf(out, "a %s\n", interface->addresses[i]);
	for (i = 0; r == 0 && i < interface->n_routes; i++)
		r = buf_printf(out, "r %s %s %u %u %s\n", interface->routes[i].destination,
			interface->routes[i].gateway, interface->routes[i].metric,
			interface->routes[i].mtu, interface->routes[i].source);
	for (i = 0; r == 0 && i < interface->n_neighbors; i++)
		r = buf_printf(out, "n %s %s\n", interface->neighbors[i].address,
			interface->neighbors[i].mac);
	return r;
}

static char *describe(const struct net_interface *interfaces, size_t n)
{
	struct buf out = buf_init(STATE_MAX);
	char *text = NULL;
	size_t i;
	int r = 0;

	for (i = 0; r == 0 && i < n; i++)
		r = describe_one(&out, &interfaces[i]);
	if (r == 0)
		text = strdup(out.len ? buf_string(&out) : "");
	buf_done(&out);
	return text;
}

/* ---- the loop's thread ---- */

static void settle(struct net_watch *watch, int r, const struct err *err)
{
	if ((r < 0) != watch->failing)
		watch->options.trouble(watch->options.userdata, r < 0 ? err : NULL);
	watch->failing = r < 0;
	if (r < 0) {
		watch->pending = true;
		ev_timer_set(watch->timer, RETRY_MS);
	}
}

static void wait_for_rest(struct net_watch *watch)
{
	uint64_t since = ev_now_ms() - watch->read_ms;

	ev_timer_set(watch->timer, since + SETTLE_MS >= REST_MS ? SETTLE_MS : REST_MS - since);
}

static void drop_reading(struct net_watch *watch)
{
	interfaces_free(watch->reading.interfaces, watch->reading.n);
	watch->reading = (struct reading){.antispoof = watch->options.antispoof};
}

static void on_told(void *userdata)
{
	struct net_watch *watch = userdata;

	pthread_join(watch->teller, NULL);
	drop_reading(watch);
	if (watch->told == 0) {
		free(watch->state);
		watch->state = TAKE_PTR(watch->telling);
	}
	free(TAKE_PTR(watch->telling));
	if (watch->ended) {
		sem_post(&watch->done);
		return;
	}
	settle(watch, watch->told, &watch->err);
	if (watch->told == 0 && watch->pending)
		wait_for_rest(watch);
}

/* A job cannot be lost: without the memory for one it is tried again. */
static void must_post(struct net_watch *watch, ev_fn fn)
{
	while (ev_post(watch->watcher->loop, fn, watch) < 0)
		sched_yield();
}

static void *tell(void *userdata)
{
	struct net_watch *watch = userdata;

	watch->told = watch->options.changed(
		watch->options.userdata, watch->reading.interfaces, watch->reading.n, &watch->err);
	must_post(watch, on_told);
	return NULL;
}

/* Takes the state. */
static int begin_telling(struct net_watch *watch, char *state, struct err *err)
{
	int r;

	watch->telling = state;
	r = pthread_create(&watch->teller, NULL, tell, watch);
	if (r == 0)
		return 0;
	free(TAKE_PTR(watch->telling));
	return err_set(err, -r, "start a thread: %s", strerror(r));
}

static int update(struct net_watch *watch, struct err *err)
{
	_cleanup_free_ char *state = NULL;
	int r;

	r = netns_call(watch->netns, read_in_netns, &watch->reading, err);
	if (r < 0)
		return r;
	state = describe(watch->reading.interfaces, watch->reading.n);
	if (!state)
		return err_nomem(err);
	if (watch->state && strcmp(state, watch->state) == 0)
		return 0;
	/* From here on it may have been done in part: to go back is a change too. */
	free(TAKE_PTR(watch->state));
	r = netns_call(watch->netns, follow_in_netns, &watch->reading, err);
	return r < 0 ? r : begin_telling(watch, TAKE_PTR(state), err);
}

static void on_timer(void *userdata)
{
	struct net_watch *watch = userdata;
	struct err err = ERR_INIT;
	int r;

	watch->pending = false;
	watch->read_ms = ev_now_ms();
	r = update(watch, &err);
	if (watch->telling)
		return; /* on_told() goes on */
	drop_reading(watch);
	settle(watch, r, &err);
}

static void on_notification(void *userdata, uint32_t events)
{
	struct net_watch *watch = userdata;
	char buffer[RECEIVE_SIZE];
	int i;

	(void)events;
	/* ENOBUFS, that some were lost, is a notification too. */
	for (i = 0; i < READS_MAX; i++)
		if (recv(nl_socket_get_fd(watch->sock), buffer, sizeof(buffer), MSG_DONTWAIT) < 0 &&
			errno == EAGAIN)
			break;
	if (watch->pending)
		return;
	watch->pending = true;
	if (!watch->telling)
		wait_for_rest(watch);
}

static void begin(void *userdata)
{
	struct net_watch *watch = userdata;
	struct ev_loop *loop = watch->watcher->loop;
	struct err *err = &watch->err;
	/* Also what is known may have changed before we listened. */
	int r = ev_timer_new(loop, 0, on_timer, watch, &watch->timer, err);

	watch->pending = true;
	if (r == 0)
		r = ev_io_new(loop, nl_socket_get_fd(watch->sock), EPOLLIN, on_notification, watch,
			&watch->io, err);
	watch->result = r;
	sem_post(&watch->done);
}

static void end(void *userdata)
{
	struct net_watch *watch = userdata;

	watch->io = ev_source_free(watch->io);
	watch->timer = ev_source_free(watch->timer);
	watch->ended = true;
	if (!watch->telling)
		sem_post(&watch->done);
}

static void *run(void *userdata)
{
	struct net_watcher *watcher = userdata;

	(void)ev_loop_run(watcher->loop, NULL);
	return NULL;
}

/* ---- any thread ---- */

int net_watcher_new(struct net_watcher **ret, struct err *err)
{
	struct net_watcher *watcher = calloc(1, sizeof(*watcher));
	int r;

	if (!watcher)
		return err_nomem(err);
	r = ev_loop_new(&watcher->loop, err);
	if (r == 0) {
		r = -pthread_create(&watcher->thread, NULL, run, watcher);
		if (r < 0) {
			err_set(err, r, "start a thread: %s", strerror(-r));
			ev_loop_free(watcher->loop);
		}
	}
	if (r < 0) {
		free(watcher);
		return r;
	}
	*ret = watcher;
	return 0;
}

struct net_watcher *net_watcher_free(struct net_watcher *watcher)
{
	if (!watcher)
		return NULL;
	ev_loop_stop(watcher->loop);
	pthread_join(watcher->thread, NULL);
	ev_loop_free(watcher->loop);
	free(watcher);
	return NULL;
}

static void on_loop(struct net_watch *watch, ev_fn fn)
{
	must_post(watch, fn);
	while (sem_wait(&watch->done) < 0)
		;
}

static void dispose(struct net_watch *watch)
{
	netlink_close(watch->sock);
	fd_close(watch->netns);
	sem_destroy(&watch->done);
	free(watch->state);
	free(watch);
}

int net_watch_new(struct net_watcher *watcher, const struct net_watch_options *options,
	struct net_watch **ret, struct err *err)
{
	struct net_watch *watch = calloc(1, sizeof(*watch));
	int r;

	if (!watch)
		return err_nomem(err);
	watch->watcher = watcher;
	watch->options = *options;
	watch->reading.antispoof = options->antispoof;
	watch->netns = -EBADF;
	sem_init(&watch->done, 0, 0);
	r = netns_open(options->netns, &watch->netns, err);
	if (r == 0)
		r = netns_call(watch->netns, open_in_netns, watch, err);
	if (r == 0 && options->known) {
		watch->state = describe(options->known->interfaces, options->known->n_interfaces);
		if (!watch->state)
			r = err_nomem(err);
	}
	if (r == 0) {
		on_loop(watch, begin);
		r = watch->result;
		if (r < 0) {
			on_loop(watch, end);
			*err = watch->err;
		}
	}
	if (r < 0) {
		dispose(watch);
		return r;
	}
	*ret = watch;
	return 0;
}

struct net_watch *net_watch_free(struct net_watch *watch)
{
	if (!watch)
		return NULL;
	on_loop(watch, end);
	dispose(watch);
	return NULL;
}
