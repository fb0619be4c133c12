#include "agent/server.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#include "agent/key.h"
#include "agent/methods.h"
#include "agent/proto/ports.h"
#include "agent/stream.h"
#include "common/fd.h"
#include "common/listener.h"

/* The host has one control connection; a second one is its successor after a restart. */
#define CONNECTIONS_MAX 4
/* Connections that have not said the key yet, and what one of them may send. */
#define STRANGERS_MAX      64
#define STRANGER_BYTES_MAX 1024
#define PEERS_MAX          (CONNECTIONS_MAX + STRANGERS_MAX)
/* Of which the agent knows that they were asked for; failures without end are told apart no more.
 */
#define INTERFACES_MAX 256

struct peer {
	struct ttrpc_conn *conn;
	bool admitted; /* it has said the key */
};

struct server {
	struct server_state state; /* first: the methods' userdata */
	struct server_ops ops;
	uint64_t boot_ns;
	int control_fd;
	struct ev_listener *control;
	struct stream_listener *streams;
	struct events *events;
	struct ttrpc_service service;
	struct key key;
	struct peer peers[PEERS_MAX]; /* oldest first */
	unsigned n_peers;
	struct ttrpc_call *configuring;
	/*
	 * What the interfaces were last configured to be, and since then what calls that failed may
	 * have made of them; what a call is about to make them.
	 */
	Bulkhead__Agent__UpdateInterfacesRequest *interfaces, *wanted;
};

static struct peer *find_peer(struct server *server, const struct ttrpc_conn *conn)
{
	for (unsigned i = 0; i < server->n_peers; i++)
		if (server->peers[i].conn == conn)
			return &server->peers[i];
	return NULL;
}

static int server_admit(
	void *userdata, const struct ttrpc_conn *conn, const char *method, struct err *err)
{
	const struct peer *peer = find_peer(userdata, conn);
	if (strcmp(method, "Hello") == 0 || (peer && peer->admitted))
		return 0;
	return err_set(err, -EACCES, "%s: a Hello with the machine's key comes first", method);
}

static void forget_peer(struct server *server, unsigned i)
{
	memmove(server->peers + i, server->peers + i + 1,
		(server->n_peers - i - 1) * sizeof(server->peers[0]));
	server->n_peers--;
}

static void drop_peer(struct server *server, unsigned i)
{
	ttrpc_conn_free(server->peers[i].conn);
	forget_peer(server, i);
}

/* One more of a kind comes in: the oldest of as many as there may be makes room. */
static void make_room(struct server *server, bool admitted, unsigned max)
{
	unsigned oldest = 0, n = 0;
	for (unsigned i = server->n_peers; i-- > 0;)
		if (server->peers[i].admitted == admitted) {
			oldest = i;
			n++;
		}
	if (n == max)
		drop_peer(server, oldest);
}

static void admit_peer(struct server *server, struct ttrpc_conn *conn)
{
	const struct peer *peer = find_peer(server, conn);
	if (!peer || peer->admitted)
		return;
	make_room(server, true, CONNECTIONS_MAX);
	find_peer(server, conn)->admitted = true;
	ttrpc_conn_bound(conn, TTRPC_PAYLOAD_MAX);
}

static int take_key(struct server *server, const struct ttrpc_call *call,
	const Bulkhead__Agent__HelloRequest *request, struct err *err)
{
	int r = key_offer(&server->key, &request->key, err);
	if (r == 0)
		admit_peer(server, ttrpc_call_conn(call));
	return r;
}

/*
 * At first to what the host says. In a guest that runs that is late by as long as it was on its
 * way, and AdjustClock, which measures it, has set the clock better: it is not to go back.
 */
static int set_clock(struct server *server, int64_t realtime_ns, struct err *err)
{
	int64_t now;
	if (server->state.configured) {
		int r = server->ops.adjust_clock(0, &now, err);
		if (r < 0 || llabs(realtime_ns - now) < CLOCK_STEP_NS)
			return r;
	}
	return server->ops.set_clock(realtime_ns, err);
}

static void method_hello(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server *server = userdata;
	const Bulkhead__Agent__HelloRequest *request = (const void *)msg;
	struct err err = ERR_INIT;
	struct utsname names;
	int r = 0;
	if (request->version < AGENT_PROTOCOL_KEY)
		r = err_set(&err, -EPROTO,
			"the host speaks version %u of the protocol, this agent %d to %d",
			request->version, AGENT_PROTOCOL_KEY, AGENT_PROTOCOL_VERSION);
	else
		r = take_key(server, call, request, &err);
	if (r == 0 && request->realtime_ns < 0)
		r = err_set(
			&err, -EINVAL, "a clock before 1970: %" PRId64 " ns", request->realtime_ns);
	else if (r == 0 && request->realtime_ns)
		r = set_clock(server, request->realtime_ns, &err);
	if (r == 0 && uname(&names) < 0)
		r = err_errno(&err, "uname");
	if (r < 0) {
		ttrpc_fail(call, &err);
		return;
	}
	Bulkhead__Agent__HelloResponse response = BULKHEAD__AGENT__HELLO_RESPONSE__INIT;
	response.version = request->version < AGENT_PROTOCOL_VERSION ? request->version
								     : AGENT_PROTOCOL_VERSION;
	response.kernel_release = names.release;
	response.boot_ns = server->boot_ns;
	response.configured = server->state.configured;
	ttrpc_reply(call, &response.base);
}

static void method_adjust_clock(
	void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	const struct server *server = userdata;
	const Bulkhead__Agent__AdjustClockRequest *request = (const void *)msg;
	Bulkhead__Agent__AdjustClockResponse response =
		BULKHEAD__AGENT__ADJUST_CLOCK_RESPONSE__INIT;
	struct err err = ERR_INIT;
	if (server->ops.adjust_clock(request->by_ns, &response.realtime_ns, &err) < 0)
		ttrpc_fail(call, &err);
	else
		ttrpc_reply(call, &response.base);
}

static void free_interfaces(Bulkhead__Agent__UpdateInterfacesRequest *interfaces)
{
	if (interfaces)
		bulkhead__agent__update_interfaces_request__free_unpacked(interfaces, NULL);
}

/* The job is over: what was wanted is so, or is forgotten. */
static void settle_interfaces(struct server *server, bool done)
{
	if (done) {
		free_interfaces(server->interfaces);
		server->interfaces = TAKE_PTR(server->wanted);
	}
	free_interfaces(TAKE_PTR(server->wanted));
}

static bool is_known(const Bulkhead__Agent__UpdateInterfacesRequest *known,
	const Bulkhead__Agent__Interface *interface)
{
	size_t len = bulkhead__agent__interface__get_packed_size(interface);
	_cleanup_free_ uint8_t *packed = malloc(2 * len + 1);
	bool found = false;
	if (packed)
		bulkhead__agent__interface__pack(interface, packed);
	for (size_t i = 0; packed && !found && i < known->n_interfaces; i++) {
		const Bulkhead__Agent__Interface *other = known->interfaces[i];
		if (bulkhead__agent__interface__get_packed_size(other) != len)
			continue;
		bulkhead__agent__interface__pack(other, packed + len);
		found = memcmp(packed, packed + len, len) == 0;
	}
	return found;
}

/* The job failed on its way. What it had done by then is the next one's to undo. */
static void note_attempt(struct server *server)
{
	Bulkhead__Agent__UpdateInterfacesRequest *known = server->interfaces,
						 *wanted = server->wanted;
	size_t n = known->n_interfaces + wanted->n_interfaces;
	Bulkhead__Agent__Interface **all =
		n > INTERFACES_MAX ? NULL : realloc(known->interfaces, (n + 1) * sizeof(*all));
	if (!all)
		return;
	known->interfaces = all;
	for (size_t i = wanted->n_interfaces; i-- > 0;) {
		if (is_known(known, wanted->interfaces[i]))
			continue;
		all[known->n_interfaces++] = wanted->interfaces[i];
		wanted->interfaces[i] = wanted->interfaces[--wanted->n_interfaces];
	}
}

/* A job that makes the interfaces so; one at a time. Its end settles them. */
static int start_job(struct server *server, const Bulkhead__Agent__UpdateInterfacesRequest *wanted,
	job_fn job, void *arg, job_done_fn done, struct err *err)
{
	if (server->configuring)
		return err_set(err, -EAGAIN, "the interfaces are being configured");
	server->wanted = (void *)message_copy(&wanted->base);
	if (!server->wanted)
		return err_nomem(err);
	int r = job_start(
		server->state.reaper, "configure the interfaces", job, arg, done, server, err);
	if (r < 0)
		settle_interfaces(server, false);
	return r;
}

struct configuration {
	const struct server *server;
	const Bulkhead__Agent__ConfigureSandboxRequest *request;
};

static int configure_job(void *arg, struct err *err)
{
	const struct configuration *configuration = arg;
	return configuration->server->ops.configure(configuration->request, err);
}

static void on_configured(void *userdata, const struct err *err)
{
	struct server *server = userdata;
	struct ttrpc_call *call = TAKE_PTR(server->configuring);
	settle_interfaces(server, err->code >= 0);
	if (err->code < 0) {
		ttrpc_fail(call, err);
		return;
	}
	server->state.configured = true;
	Bulkhead__Agent__ConfigureSandboxResponse response =
		BULKHEAD__AGENT__CONFIGURE_SANDBOX_RESPONSE__INIT;
	ttrpc_reply(call, &response.base);
}

/* Once: a configuration that is repeated after a failure finds them. */
static int enter_namespaces(struct server *server,
	const Bulkhead__Agent__ConfigureSandboxRequest *request, struct err *err)
{
	if (!request->user_namespace || server->state.ids.userns >= 0)
		return 0;
	return server->ops.enter(request, &server->state.ids, err);
}

static void method_configure_sandbox(
	void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server *server = userdata;
	struct configuration configuration = {.server = server, .request = (const void *)msg};
	Bulkhead__Agent__UpdateInterfacesRequest interfaces =
		BULKHEAD__AGENT__UPDATE_INTERFACES_REQUEST__INIT;
	interfaces.interfaces = configuration.request->interfaces;
	interfaces.n_interfaces = configuration.request->n_interfaces;
	struct err err = ERR_INIT;
	int r;
	if (server->state.configured)
		r = err_set(&err, -EEXIST, "the sandbox is configured already");
	else
		r = enter_namespaces(server, configuration.request, &err);
	if (r == 0)
		r = start_job(
			server, &interfaces, configure_job, &configuration, on_configured, &err);
	if (r < 0)
		ttrpc_fail(call, &err);
	else
		server->configuring = call;
}

static int update_job(void *arg, struct err *err)
{
	const struct server *server = arg;
	return server->ops.update(server->interfaces, server->wanted, err);
}

static void on_updated(void *userdata, const struct err *err)
{
	struct server *server = userdata;
	struct ttrpc_call *call = TAKE_PTR(server->configuring);
	if (err->code < 0)
		note_attempt(server);
	settle_interfaces(server, err->code >= 0);
	if (err->code < 0) {
		ttrpc_fail(call, err);
		return;
	}
	Bulkhead__Agent__UpdateInterfacesResponse response =
		BULKHEAD__AGENT__UPDATE_INTERFACES_RESPONSE__INIT;
	ttrpc_reply(call, &response.base);
}

static void method_update_interfaces(
	void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server *server = userdata;
	struct err err = ERR_INIT;
	int r;
	if (!server->state.configured)
		r = err_set(&err, -EBADFD, "the sandbox is not configured");
	else
		r = start_job(server, (const void *)msg, update_job, server, on_updated, &err);
	if (r < 0)
		ttrpc_fail(call, &err);
	else
		server->configuring = call;
}

static void method_next_events(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server *server = userdata;
	events_serve(server->events, call, (const void *)msg);
}

static void method_power_off(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server *server = userdata;
	(void)msg;
	Bulkhead__Agent__PowerOffResponse response = BULKHEAD__AGENT__POWER_OFF_RESPONSE__INIT;
	ttrpc_reply(call, &response.base);
	server->ops.power_off(server->ops.userdata);
}

static const struct ttrpc_method methods[] = {
	{"Hello", method_hello},
	{"AdjustClock", method_adjust_clock},
	{"ConfigureSandbox", method_configure_sandbox},
	{"UpdateInterfaces", method_update_interfaces},
	{"CreateContainer", method_create_container},
	{"StartContainer", method_start_container},
	{"SignalProcess", method_signal_process},
	{"RemoveContainer", method_remove_container},
	{"Exec", method_exec},
	{"RemoveProcess", method_remove_process},
	{"ResizeTerminal", method_resize_terminal},
	{"ListContainers", method_list_containers},
	{"GrowMachine", method_grow_machine},
	{"Stats", method_stats},
	{"UpdateResources", method_update_resources},
	{"NextEvents", method_next_events},
	{"MakeVolume", method_make_volume},
	{"WriteVolume", method_write_volume},
	{"RemoveVolumes", method_remove_volumes},
	{"PowerOff", method_power_off},

};

static void server_on_close(void *userdata, struct ttrpc_conn *conn)
{
	struct server *server = userdata;
	const struct peer *peer = find_peer(server, conn);
	if (peer)
		forget_peer(server, (unsigned)(peer - server->peers));
}

static void server_on_connection(void *userdata, int fd)
{
	struct server *server = userdata;
	struct ttrpc_conn *conn;
	if (ttrpc_conn_new(server->state.loop, fd, &server->service, &conn, NULL) < 0)
		return;
	ttrpc_conn_bound(conn, STRANGER_BYTES_MAX);
	make_room(server, false, STRANGERS_MAX);
	server->peers[server->n_peers++] = (struct peer){.conn = conn};
}

static struct stdio *server_lookup(
	void *userdata, const Bulkhead__Agent__StreamOpen *open, struct err *err)
{
	struct server *server = userdata;
	struct process *process;
	if (registry_find(&server->state.registry, open->container_id, open->process_id, &process,
		    err) < 0)
		return NULL;
	if (process->removing) {
		err_set(err, -ENOENT, "the container is being removed");
		return NULL;
	}
	return process->stdio;
}

static void server_freep(struct server **server)
{
	server_free(*server);
}

static int server_listen(struct server *server, int stream_fd, struct err *err)
{
	int r = stream_listener_new(server->state.loop, stream_fd, &server->key, server_lookup,
		server, &server->streams, err);
	if (r == 0)
		r = ev_listener_new(server->state.loop, server->control_fd, server_on_connection,
			server, &server->control, err);
	return r;
}

int server_new(const struct server_options *options, struct server **ret, struct err *err)
{
	_cleanup_close_ int stream_fd = options->stream_fd;
	_cleanup_close_ int control_fd = options->control_fd;
	_cleanup_(server_freep) struct server *server = calloc(1, sizeof(*server));
	if (!server)
		return err_nomem(err);
	*server = (struct server){
		.state = {.loop = options->loop, .reaper = options->reaper, .ids = IDS_INIT},
		.ops = options->ops,
		.boot_ns = options->boot_ns,
		.control_fd = TAKE_FD(control_fd),
		.service = {.descriptor = &bulkhead__agent__agent__descriptor,
			.methods = methods,
			.n_methods = ARRAY_SIZE(methods),
			.userdata = server,
			.admit = server_admit,
			.on_close = server_on_close},
	};
	TAILQ_INIT(&server->state.volume_calls);
	int r = events_new(options->loop, &server->events, err);
	if (r < 0)
		return r;
	server->state.registry = (struct registry){.loop = options->loop, .events = server->events};
	r = server_listen(server, TAKE_FD(stream_fd), err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(server);
	return 0;
}

struct server *server_free(struct server *server)
{
	if (!server)
		return NULL;
	ev_listener_free(server->control);
	fd_close(server->control_fd);
	stream_listener_free(server->streams);
	while (server->n_peers)
		drop_peer(server, 0);
	settle_interfaces(server, false);
	free_interfaces(server->interfaces);
	registry_done(&server->state.registry);
	events_free(server->events);
	container_host_free(server->state.host);
	free(server);
	return NULL;
}
