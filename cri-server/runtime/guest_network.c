#include "cri-server/runtime/guest_network.h"

#include <stdlib.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"
#include "network/watch.h"

/* A pod waits so long at its end for a guest that is slow to answer. */
#define UPDATE_MS 5000

struct network_follower {
	struct sandbox *sandbox;
	struct machine *machine; /* a reference */
	struct net_watch *watch;
};

struct guest_interfaces *guest_interfaces_free(struct guest_interfaces *guest)
{
	if (!guest)
		return NULL;
	free(guest->routes);
	free(guest->route_pointers);
	free(guest->neighbors);
	free(guest->neighbor_pointers);
	free(guest);
	return NULL;
}

static void guest_interfaces_freep(struct guest_interfaces **guest)
{
	*guest = guest_interfaces_free(*guest);
}

static int allocate(struct guest_interfaces *g, const struct net_interface *interfaces, size_t n,
	struct err *err)
{
	size_t n_routes = 0, n_neighbors = 0;
	for (size_t i = 0; i < n; i++) {
		n_routes += interfaces[i].n_routes;
		n_neighbors += interfaces[i].n_neighbors;
	}
	g->routes = calloc(n_routes + 1, sizeof(*g->routes));
	g->route_pointers = calloc(n_routes + 1, sizeof(*g->route_pointers));
	g->neighbors = calloc(n_neighbors + 1, sizeof(*g->neighbors));
	g->neighbor_pointers = calloc(n_neighbors + 1, sizeof(*g->neighbor_pointers));
	if (!g->routes || !g->route_pointers || !g->neighbors || !g->neighbor_pointers)
		return err_nomem(err);
	return 0;
}

int guest_interfaces_new(const char *sandbox_id, struct net_interface *interfaces, size_t n,
	struct guest_interfaces **ret, struct err *err)
{
	_cleanup_(guest_interfaces_freep) struct guest_interfaces *g = calloc(1, sizeof(*g));
	size_t routes = 0, neighbors = 0;
	int r = g ? allocate(g, interfaces, n, err) : err_nomem(err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		struct net_interface *from = &interfaces[i];
		if (!from->name[0])
			continue;
		Bulkhead__Agent__Interface *to = g->pointers[g->n++] = &g->interfaces[i];
		bulkhead__agent__interface__init(to);
		machine_nic_mac(sandbox_id, i, g->macs[i]);
		to->device_mac = g->macs[i];
		to->name = from->name;
		to->mac = from->mac;
		to->mtu = from->mtu;
		to->down = from->down;
		to->addresses = g->addresses[i];
		to->n_addresses = from->n_addresses;
		for (size_t a = 0; a < from->n_addresses; a++)
			g->addresses[i][a] = from->addresses[a];
		to->routes = g->route_pointers + routes;
		to->n_routes = from->n_routes;
		for (size_t k = 0; k < from->n_routes; k++, routes++) {
			Bulkhead__Agent__Route *route = g->route_pointers[routes] =
				&g->routes[routes];
			bulkhead__agent__route__init(route);
			route->destination = from->routes[k].destination;
			route->gateway = from->routes[k].gateway;
			route->metric = from->routes[k].metric;
			route->mtu = from->routes[k].mtu;
			route->source = from->routes[k].source;
		}
		to->neighbors = g->neighbor_pointers + neighbors;
		to->n_neighbors = from->n_neighbors;
		for (size_t k = 0; k < from->n_neighbors; k++, neighbors++) {
			Bulkhead__Agent__Neighbor *neighbor = g->neighbor_pointers[neighbors] =
				&g->neighbors[neighbors];
			bulkhead__agent__neighbor__init(neighbor);
			neighbor->address = from->neighbors[k].address;
			neighbor->mac = from->neighbors[k].mac;
		}
	}
	*ret = TAKE_PTR(g);
	return 0;
}

/*
 * After the guest: it learns the rest even where this fails. One that is set down says so itself.
 */
static int set_links(const struct network_follower *follower,
	const struct net_interface *interfaces, size_t n, struct err *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < n; i++) {
		char mac[18];
		machine_nic_mac(follower->sandbox->id, i, mac);
		if (interfaces[i].name[0])
			r = hv_vm_set_link(
				follower->machine->vm, mac, !interfaces[i].no_carrier, err);
	}
	return r;
}

/* On a thread of the watch. */
static int tell_guest(void *userdata, struct net_interface *interfaces, size_t n, struct err *err)
{
	struct network_follower *follower = userdata;
	_cleanup_(guest_interfaces_freep) struct guest_interfaces *guest = NULL;
	Bulkhead__Agent__UpdateInterfacesRequest request =
		BULKHEAD__AGENT__UPDATE_INTERFACES_REQUEST__INIT;
	int r = guest_interfaces_new(follower->sandbox->id, interfaces, n, &guest, err);
	if (r < 0)
		return r;
	request.interfaces = guest->pointers;
	request.n_interfaces = guest->n;
	r = agent_call(
		follower->machine->agent, "UpdateInterfaces", &request.base, UPDATE_MS, NULL, err);
	if (r == 0)
		log_event(follower->sandbox->runtime->log, LOG_LEVEL_DEBUG,
			"guest has the interfaces' changes", "pod", follower->sandbox->id, NULL);
	return r < 0 ? r : set_links(follower, interfaces, n, err);
}

static void on_trouble(void *userdata, const struct err *err)
{
	struct network_follower *follower = userdata;
	if (err)
		log_event(follower->sandbox->runtime->log, LOG_LEVEL_WARNING,
			"network changes not followed; trying again", "pod", follower->sandbox->id,
			"err", err->msg, NULL);
	else
		log_event(follower->sandbox->runtime->log, LOG_LEVEL_INFO,
			"network changes followed again", "pod", follower->sandbox->id, NULL);
}

static int start(
	struct network_follower *follower, const struct net_pod_info *known, struct err *err)
{
	struct runtime *rt = follower->sandbox->runtime;
	const struct net_watch_options options = {
		.netns = follower->sandbox->record->netns,
		.antispoof = *rt->config->network.antispoof,
		.known = known,
		.changed = tell_guest,
		.trouble = on_trouble,
		.userdata = follower,
	};
	return net_watch_new(rt->watcher, &options, &follower->watch, err);
}

void network_follow(
	struct sandbox *sandbox, struct machine *machine, const struct net_pod_info *known)
{
	struct network_follower *follower = calloc(1, sizeof(*follower));
	struct err err = ERR_INIT;
	int r = follower ? 0 : err_nomem(&err);
	if (r == 0) {
		follower->sandbox = sandbox;
		follower->machine = machine_ref(machine);
		r = start(follower, known, &err);
	}
	if (r < 0) {
		log_event(sandbox->runtime->log, LOG_LEVEL_WARNING,
			"changes of the network will not be followed", "pod", sandbox->id, "err",
			err.msg, NULL);
		follower = network_follower_free(follower);
	}
	sandbox->follower = follower;
}

struct network_follower *network_follower_free(struct network_follower *follower)
{
	if (!follower)
		return NULL;
	net_watch_free(follower->watch);
	machine_unref(follower->machine);
	free(follower);
	return NULL;
}
