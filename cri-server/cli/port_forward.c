/* port-forward: local ports that lead into a pod, through the streaming server, as kubectl does. */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/ports.h"
#include "cri-server/cli/refs.h"
#include "cri-server/cli/tunnel.h"
#include "cri-server/cli/upgrade.h"

#define PORTS_MAX     64
#define ADDRESSES_MAX 16
#define LISTENERS_MAX (PORTS_MAX * ADDRESSES_MAX)
#define RETRY_MS      500
#define GIVE_UP_MS    120000 /* a connection that is lost does not come back */

static const int signals[] = {SIGINT, SIGTERM};

struct forwarder;

struct listener {
	struct forwarder *forwarder;
	int fd;
	struct ev_source *io;
	struct port_pair ports;
};

struct address {
	const char *text;
	bool optional; /* one of localhost's two */
};

struct forwarder {
	struct cli *cli;
	char *pod;
	struct ev_loop *loop;
	struct tunnel *tunnel;
	struct ev_source *retry;
	uint64_t lost_ms; /* 0: it is not */
	struct ev_source *interrupts[2];
	struct port_pair ports[PORTS_MAX];
	size_t n_ports;
	struct address addresses[ADDRESSES_MAX];
	size_t n_addresses;
	struct listener listeners[LISTENERS_MAX];
	size_t n_listeners;
	bool full; /* the listeners wait */
	struct err err;
};

static void stop(struct forwarder *f, const struct err *err)
{
	if (err && !f->err.code)
		f->err = *err;
	ev_loop_stop(f->loop);
}

static void on_interrupt(void *userdata, const struct signalfd_siginfo *info)
{
	(void)info;
	stop(userdata, NULL);
}

static void listen_all(struct forwarder *f, bool on)
{
	f->full = !on;
	for (size_t i = 0; i < f->n_listeners; i++)
		ev_io_set(f->listeners[i].io, on ? EPOLLIN : 0);
}

static void on_error(void *userdata, uint16_t local, uint16_t remote, const char *text)
{
	(void)userdata;
	cli_note("an error occurred forwarding %u -> %u: %s", local, remote, text);
}

static void on_room(void *userdata)
{
	struct forwarder *f = userdata;
	if (f->full && !f->lost_ms)
		listen_all(f, true);
}

static void on_lost(void *userdata, const struct err *err)
{
	struct forwarder *f = userdata;
	cli_note("%s; connecting again", err->msg);
	f->lost_ms = ev_now_ms();
	listen_all(f, false);
	ev_timer_set(f->retry, 0);
}

static const struct tunnel_events events = {
	.on_error = on_error, .on_room = on_room, .on_lost = on_lost};

static void end_at_once(int signo)
{
	(void)signo;
	_exit(EXIT_SUCCESS);
}

/* Where the loop does not run, which takes them as events. */
static void let_interrupt(bool on)
{
	sigset_t set;
	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaddset(&set, signals[i]);
	sigprocmask(on ? SIG_UNBLOCK : SIG_BLOCK, &set, NULL);
}

static int open_tunnel(struct forwarder *f, struct err *err)
{
	Runtime__V1__PortForwardRequest request = RUNTIME__V1__PORT_FORWARD_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__PortForwardResponse *response = NULL;
	int32_t ports[PORTS_MAX];
	request.pod_sandbox_id = f->pod;
	request.port = ports;
	for (; request.n_port < f->n_ports; request.n_port++)
		ports[request.n_port] = f->ports[request.n_port].remote;
	int r = cli_call(
		f->cli, CLI_RUNTIME, "PortForward", &request.base, CLI_SHORT_MS, &response, err);
	if (r < 0)
		return r;
	struct link *link = NULL;
	struct buf rest = buf_init(1u << 20);
	const struct upgrade open = {.url = response->url,
		.ca = f->cli->tls_ca,
		.method = "POST",
		.headers = "Upgrade: SPDY/3.1\r\n"
			   "X-Stream-Protocol-Version: portforward.k8s.io\r\n"};
	r = upgrade(&open, &link, &rest, err);
	if (r == 0)
		r = tunnel_new(f->loop, link, &rest, &events, f, &f->tunnel, err);
	buf_done(&rest);
	return r;
}

/* The runtime may have been started anew: it is asked as by a new client. */
static int connect_anew(struct forwarder *f, bool *ret_hopeless, struct err *err)
{
	rpc_client_free(f->cli->client);
	f->cli->client = NULL;
	int r = cli_connect(f->cli, err);
	if (r < 0)
		return r;
	r = open_tunnel(f, err);
	*ret_hopeless = r == -ENOENT; /* the pod is gone */
	return r;
}

/* May wait for an answer that does not come: what interrupts it then ends the process. */
static int open_again(struct forwarder *f, bool *ret_hopeless, struct err *err)
{
	let_interrupt(true);
	int r = connect_anew(f, ret_hopeless, err);
	let_interrupt(false);
	return r;
}

static void on_retry(void *userdata)
{
	struct forwarder *f = userdata;
	struct err err = ERR_INIT;
	bool hopeless = false;
	f->tunnel = tunnel_free(f->tunnel);
	if (open_again(f, &hopeless, &err) == 0) {
		cli_note("connected again");
		f->lost_ms = 0;
		listen_all(f, true);
	} else if (hopeless || ev_now_ms() - f->lost_ms >= GIVE_UP_MS) {
		stop(f, &err);
	} else {
		ev_timer_set(f->retry, RETRY_MS);
	}
}

static void on_connection(void *userdata, uint32_t ready)
{
	struct listener *l = userdata;
	struct forwarder *f = l->forwarder;
	struct err err = ERR_INIT;
	(void)ready;
	if (f->lost_ms)
		return;
	int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
		return;
	if (fd < 0 && tunnel_connections(f->tunnel) > 0) { /* out of descriptors: some come back */
		listen_all(f, false);
		return;
	}
	if (fd < 0) {
		err_errno(&err, "accept a connection");
		stop(f, &err);
		return;
	}
	printf("Handling connection for %u\n", l->ports.local);
	fflush(stdout);
	if (tunnel_connect(f->tunnel, fd, l->ports.local, l->ports.remote, &err) < 0)
		cli_note("%s", err.msg);
	if (tunnel_connections(f->tunnel) == TUNNEL_CONNECTIONS_MAX)
		listen_all(f, false);
}

/* A socket address of an IPv4 or IPv6 address as text; its length, 0 for what is none. */
static socklen_t make_address(const char *text, uint16_t port, struct sockaddr_storage *ret)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;
	memset(ret, 0, sizeof(*ret));
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		return sizeof(*v4);
	}
	if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		return sizeof(*v6);
	}
	return 0;
}

/* *port: 0 for any, then set to the one that it became. */
static int open_listener(const char *text, uint16_t *port, int *ret_fd, struct err *err)
{
	struct sockaddr_storage address;
	const int on = 1;
	socklen_t len = make_address(text, *port, &address);
	_cleanup_close_ int fd =
		socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(err, "socket for %s", text);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (address.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, SOMAXCONN) < 0 ||
		getsockname(fd, (struct sockaddr *)&address, &len) < 0)
		return err_errno(err, "listen on port %u of %s", *port, text);
	/* The port stands at the same place for both families. */
	*port = ntohs(((struct sockaddr_in *)&address)->sin_port);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int add_listener(
	struct forwarder *f, const char *address, struct port_pair ports, struct err *err)
{
	struct listener *l = &f->listeners[f->n_listeners];
	*l = (struct listener){.forwarder = f, .fd = -EBADF, .ports = ports};
	int r = open_listener(address, &l->ports.local, &l->fd, err);
	if (r == 0)
		r = ev_io_new(f->loop, l->fd, EPOLLIN, on_connection, l, &l->io, err);
	if (r < 0) {
		l->fd = fd_close(l->fd);
		return r;
	}
	f->n_listeners++;
	bool v6 = strchr(address, ':') != NULL;
	printf("Forwarding from %s%s%s:%u -> %u\n", v6 ? "[" : "", address, v6 ? "]" : "",
		l->ports.local, l->ports.remote);
	fflush(stdout);
	return 0;
}

/* On every address; of localhost's two one is enough, on a host without IPv6 say. */
static int listen_port(struct forwarder *f, struct port_pair ports, struct err *err)
{
	bool any = false;
	int optional_failed = 0;
	for (size_t i = 0; i < f->n_addresses; i++) {
		const struct address *address = &f->addresses[i];
		int r = add_listener(f, address->text, ports, err);
		if (r < 0 && !address->optional)
			return r;
		optional_failed = r < 0 ? r : optional_failed;
		if (r == 0) { /* what was chosen for the first is for all */
			ports.local = f->listeners[f->n_listeners - 1].ports.local;
			any = true;
		}
	}
	return any ? 0 : optional_failed;
}

static int take_addresses(struct forwarder *f, const struct option_list *given, struct err *err)
{
	static const struct address localhost[] = {{"127.0.0.1", true}, {"::1", true}};
	struct option_list names = *given;
	if (!names.n)
		names.items[names.n++] = "localhost";
	for (size_t i = 0; i < names.n; i++) {
		struct sockaddr_storage ignored;
		bool both = strcmp(names.items[i], "localhost") == 0;
		if (f->n_addresses + 2 > ADDRESSES_MAX)
			return err_set(err, -EINVAL, "--address: more than %d", ADDRESSES_MAX);
		if (both) {
			f->addresses[f->n_addresses++] = localhost[0];
			f->addresses[f->n_addresses++] = localhost[1];
		} else if (make_address(names.items[i], 0, &ignored)) {
			f->addresses[f->n_addresses++] = (struct address){names.items[i], false};
		} else {
			return err_set(err, -EINVAL,
				"--address: '%s' is neither an IP address nor localhost",
				names.items[i]);
		}
	}
	return 0;
}

static int take_ports(struct forwarder *f, char **args, struct err *err)
{
	for (; *args; args++) {
		if (f->n_ports == PORTS_MAX)
			return err_set(err, -EINVAL, "more than %d ports", PORTS_MAX);
		int r = port_pair_parse(*args, &f->ports[f->n_ports], err);
		if (r < 0)
			return r;
		f->n_ports++;
	}
	return 0;
}

static int begin(struct forwarder *f, struct err *err)
{
	int r = ev_timer_new(f->loop, EV_NEVER, on_retry, f, &f->retry, err);
	if (r == 0)
		r = open_tunnel(f, err);
	for (size_t i = 0; r == 0 && i < f->n_ports; i++)
		r = listen_port(f, f->ports[i], err);
	return r;
}

static int forward(struct forwarder *f, const char *wanted, struct err *err)
{
	int r = ev_loop_new(&f->loop, err);
	/* Before gRPC makes its threads, which inherit what is blocked. */
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(signals); i++) {
		signal(signals[i], end_at_once);
		r = ev_signal_new(f->loop, signals[i], on_interrupt, f, &f->interrupts[i], err);
	}
	if (r == 0)
		r = cli_find_pod(f->cli, wanted, &f->pod, err);
	if (r == 0)
		r = begin(f, err);
	if (r == 0)
		r = ev_loop_run(f->loop, err);
	if (r == 0 && f->err.code)
		r = err_set(err, f->err.code, "%s", f->err.msg);
	for (size_t i = 0; i < f->n_listeners; i++) {
		ev_source_free(f->listeners[i].io);
		fd_close(f->listeners[i].fd);
	}
	tunnel_free(f->tunnel);
	ev_source_free(f->retry);
	free(f->pod);
	ev_loop_free(f->loop);
	return r;
}

int command_port_forward(struct cli *cli, char **args)
{
	struct option_list addresses = {.n = 0};
	const struct option_row rows[] = {
		{"address", 0, OPTION_LIST, &addresses, "ADDRESS",
			"where to listen (default localhost, both families); may be repeated"},
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 2, SIZE_MAX, &exit_code))
		return exit_code;
	struct err err = ERR_INIT;
	_cleanup_free_ struct forwarder *f = calloc(1, sizeof(*f));
	if (!f)
		return cli_no_memory();
	f->cli = cli;
	int r = take_ports(f, args + 1, &err);
	if (r == 0)
		r = take_addresses(f, &addresses, &err);
	if (r == 0)
		r = forward(f, args[0], &err);
	return r < 0 ? cli_fail(&err) : EXIT_SUCCESS;
}
