/*
 * The server's life: its socket, the thread that accepts connections and hands them to gRPC, the
 * thread that polls the completion queue, start and stop.
 *
 * The socket is ours and not gRPC's, which would remove one that a living server uses, and make its
 * file with whatever the umask allows. What happens to a call is in call.c.
 */
#include "cri-server/rpc/server.h"

#include <assert.h>
#include <errno.h>
#include <grpc/grpc.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"
#include "cri-server/rpc/call.h"

/* Calls that wait for a worker, and the bytes of their requests. */
#define BACKLOG_CALLS 1024
#define BACKLOG_BYTES ((size_t)64 << 20)
/* A burst of calls costs threads for so long. */
#define WORKER_IDLE_MS 30000
/* How long to wait when descriptors or memory are out before accepting again. */
#define ACCEPT_PAUSE_MS 100

struct rpc_server {
	struct rpc_transport transport;
	grpc_server_credentials *credentials;
	struct rpc_tag shut_down_tag;
	pthread_t poller;
	bool poller_runs;

	char *socket_path;
	int listen_fd;
	struct stat socket_stat; /* to tell our socket file from a successor's */
	int stop_fd;             /* eventfd that ends the accepting thread */
	pthread_t accepter;
	bool accepter_runs;
};

static void *poll_queue(void *arg)
{
	struct rpc_server *server = arg;
	for (;;) {
		grpc_event event = grpc_completion_queue_next(
			server->transport.queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
		if (event.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
		struct rpc_tag *tag = event.tag;
		assert(atomic_load_explicit(&tag->given, memory_order_acquire));
		tag->fn(tag, event.success);
	}
}

static void on_shut_down(struct rpc_tag *tag, bool ok)
{
	struct rpc_transport *transport = tag->owner;
	(void)ok;
	pthread_mutex_lock(&transport->lock);
	transport->shut_down = true;
	pthread_cond_broadcast(&transport->changed);
	pthread_mutex_unlock(&transport->lock);
}

static void *accept_connections(void *arg)
{
	struct rpc_server *server = arg;
	struct pollfd fds[] = {
		{.fd = server->stop_fd, .events = POLLIN},
		{.fd = server->listen_fd, .events = POLLIN},
	};
	while (poll(fds, 2, -1) >= 0 || errno == EINTR) {
		if (fds[0].revents)
			return NULL;
		int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			grpc_server_add_channel_from_fd(
				server->transport.server, fd, server->credentials);
		else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			poll(fds, 1, ACCEPT_PAUSE_MS);
	}
	return NULL;
}

/* gRPC's side; whatever was made stays in *server for server_free(). */
static int open_transport(struct rpc_server *server, const struct rpc_server_config *config,
	const struct rpc_service *services, size_t n_services, struct err *err)
{
	struct rpc_transport *t = &server->transport;
	t->log = config->log;
	t->userdata = config->userdata;
	pthread_mutex_init(&t->lock, NULL);
	ev_cond_init(&t->changed);

	int r = rpc_dispatch_new(services, n_services, &t->dispatch, err);
	if (r < 0)
		return r;

	grpc_arg args[] = {
		{.type = GRPC_ARG_INTEGER,
			.key = (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
			.value.integer = RPC_MESSAGE_MAX},
		{.type = GRPC_ARG_INTEGER,
			.key = (char *)GRPC_ARG_MAX_SEND_MESSAGE_LENGTH,
			.value.integer = RPC_MESSAGE_MAX},
		/* No compression: what a message unpacks to would be known too late. */
		{.type = GRPC_ARG_INTEGER,
			.key = (char *)GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET,
			.value.integer = 1 << GRPC_COMPRESS_NONE},
		/* Statistics that nobody reads. */
		{.type = GRPC_ARG_INTEGER,
			.key = (char *)GRPC_ARG_ENABLE_CHANNELZ,
			.value.integer = 0},
	};
	grpc_channel_args channel_args = {.num_args = ARRAY_SIZE(args), .args = args};
	t->server = grpc_server_create(&channel_args, NULL);
	t->queue = grpc_completion_queue_create_for_next(NULL);
	server->credentials = grpc_insecure_server_credentials_create();
	server->shut_down_tag = (struct rpc_tag){.fn = on_shut_down, .owner = t};
	grpc_server_register_completion_queue(t->server, t->queue, NULL);

	const struct rpc_pool_limits limits = {.workers = config->workers,
		.jobs = BACKLOG_CALLS,
		.bytes = BACKLOG_BYTES,
		.idle_ms = WORKER_IDLE_MS};
	return rpc_pool_new(&limits, rpc_call_run, &t->pool, err);
}

static int open_socket(struct rpc_server *server, const char *path, struct err *err)
{
	server->socket_path = strdup(path);
	if (!server->socket_path)
		return err_nomem(err);
	server->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (server->stop_fd < 0)
		return err_errno(err, "make an eventfd");
	int r = fd_unix_listen(path, 0600, &server->listen_fd, err);
	if (r < 0)
		return r;
	if (stat(path, &server->socket_stat) < 0)
		return err_errno(err, "look at %s", path);
	return 0;
}

static int start_thread(
	pthread_t *thread, void *(*fn)(void *), void *arg, const char *name, struct err *err)
{
	int r = pthread_create(thread, NULL, fn, arg);
	if (r != 0)
		return err_set(err, -r, "start thread %s: %s", name, strerror(r));
	pthread_setname_np(*thread, name);
	return 0;
}

static int start(struct rpc_server *server, struct err *err)
{
	int r = start_thread(&server->poller, poll_queue, server, "rpc-poll", err);
	if (r < 0)
		return r;
	server->poller_runs = true;
	grpc_server_start(server->transport.server);
	rpc_call_wait(&server->transport);
	r = start_thread(&server->accepter, accept_connections, server, "rpc-accept", err);
	if (r < 0)
		return r;
	server->accepter_runs = true;
	return 0;
}

int rpc_server_start(const struct rpc_server_config *config, const struct rpc_service *services,
	size_t n_services, struct rpc_server **ret, struct err *err)
{
	struct rpc_server *server = calloc(1, sizeof(*server));
	if (!server)
		return err_nomem(err);
	server->listen_fd = -EBADF;
	server->stop_fd = -EBADF;

	/* Signals are main's affair: neither our threads nor gRPC's may take them. */
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	grpc_init();
	int r = open_transport(server, config, services, n_services, err);
	if (r == 0)
		r = open_socket(server, config->socket_path, err);
	if (r == 0)
		r = start(server, err);
	pthread_sigmask(SIG_SETMASK, &before, NULL);

	if (r < 0) {
		rpc_server_stop(server, 0);
		return r;
	}
	*ret = server;
	return 0;
}

static void close_socket(struct rpc_server *server)
{
	if (server->accepter_runs) {
		eventfd_write(server->stop_fd, 1);
		pthread_join(server->accepter, NULL);
	}
	struct stat st;
	if (server->listen_fd >= 0 && stat(server->socket_path, &st) == 0 &&
		st.st_dev == server->socket_stat.st_dev && st.st_ino == server->socket_stat.st_ino)
		unlink(server->socket_path);
	fd_close(server->listen_fd);
	fd_close(server->stop_fd);
	free(server->socket_path);
}

/* Waits until gRPC has shut down and no call is left; false when the time was up first. */
static bool wait_quiet(struct rpc_transport *t, uint64_t until_ms)
{
	int r = 0;
	pthread_mutex_lock(&t->lock);
	while ((!t->shut_down || t->n_calls > 0) && r != ETIMEDOUT)
		r = ev_cond_wait(&t->changed, &t->lock, until_ms);
	bool quiet = t->shut_down && t->n_calls == 0;
	pthread_mutex_unlock(&t->lock);
	return quiet;
}

static void drain(struct rpc_server *server, uint64_t grace_ms)
{
	struct rpc_transport *t = &server->transport;
	const uint64_t until_ms = ev_now_ms() + grace_ms;
	atomic_store_explicit(&server->shut_down_tag.given, true, memory_order_release);
	grpc_server_shutdown_and_notify(t->server, t->queue, &server->shut_down_tag);
	if (!wait_quiet(t, until_ms)) {
		/* Ends connections too, the idle ones of clients that do not answer included. */
		grpc_server_cancel_all_calls(t->server);
		wait_quiet(t, EV_NEVER);
	}
}

struct rpc_server *rpc_server_stop(struct rpc_server *server, uint64_t grace_ms)
{
	if (!server)
		return NULL;
	struct rpc_transport *t = &server->transport;

	close_socket(server);
	if (server->poller_runs)
		drain(server, grace_ms);
	rpc_pool_free(t->pool);
	if (t->queue)
		grpc_completion_queue_shutdown(t->queue);
	if (server->poller_runs)
		pthread_join(server->poller, NULL);
	if (t->server)
		grpc_server_destroy(t->server);
	if (t->queue)
		grpc_completion_queue_destroy(t->queue);
	if (server->credentials)
		grpc_server_credentials_release(server->credentials);
	grpc_shutdown();
	rpc_dispatch_free(t->dispatch);
	pthread_cond_destroy(&t->changed);
	pthread_mutex_destroy(&t->lock);
	free(server);
	return NULL;
}
