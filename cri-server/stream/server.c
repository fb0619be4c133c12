#include "cri-server/stream/stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cri-server/stream/handshake.h"
#include "cri-server/stream/session.h"
#include "cri-server/stream/tls.h"
#include "cri-server/stream/tokens.h"
#include "cri-server/stream/wire.h"

#define CONNECTIONS_MAX  12000
#define CONNECTION_BYTES 16384 /* of a request's headers, among others */
#define HANDSHAKE_MS     10000 /* from the connection to the end of its request */
#define LOOK_MS          1000

/* A connection that has not become a session. */
struct connection {
	TAILQ_ENTRY(connection) link;
	int fd;
	uint64_t until_ms;
	struct upgrade *upgrade; /* under way; NULL: none. libmicrohttpd's thread alone */
};

struct stream_server {
	struct sessions sessions;
	pthread_t thread;
	bool runs; /* the thread */
	struct ev_source *timer;
	struct tokens *tokens;
	struct MHD_Daemon *daemon;
	struct tls *tls; /* NULL: the HTTP server listens itself */
	const char *scheme;
	char address[64];
	uint16_t port;
	const struct log *log;

	pthread_mutex_t lock;                                /* protects what follows */
	TAILQ_HEAD(connection_list, connection) connections; /* oldest first */
	bool stops;
};

/*
 * An upgrade that is under way, from the handshake's answer to the socket. Where the client goes
 * away in between, libmicrohttpd never calls on_upgrade(): it ends with the connection.
 */
struct upgrade {
	struct stream_server *server;
	struct stream_request request;
	enum peer_kind kind;
	unsigned protocol;
};

static void release(void *connection)
{
	MHD_upgrade_action(connection, MHD_UPGRADE_ACTION_CLOSE);
}

static struct connection *connection_of(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	return info ? info->socket_context : NULL;
}

static void on_upgrade(void *userdata, struct MHD_Connection *connection, void *con_cls,
	const char *extra, size_t extra_len, MHD_socket fd,
	struct MHD_UpgradeResponseHandle *handle)
{
	struct upgrade *upgrade = userdata;
	struct stream_server *server = upgrade->server;
	(void)con_cls;
	const struct session_client client = {.kind = upgrade->kind,
		.protocol = upgrade->protocol,
		.fd = fd,
		.early = extra,
		.early_len = extra_len,
		.release = release,
		.connection = handle};
	struct err err = ERR_INIT;
	struct connection *c = connection_of(connection);
	c->upgrade = NULL;
	pthread_mutex_lock(&server->lock);
	c->fd = -EBADF; /* no deadline any more */
	if (server->stops) {
		upgrade->request.ops->end(upgrade->request.target);
		release(handle);
	} else if (session_new(&server->sessions, &upgrade->request, &client, &err) < 0) {
		log_event(server->log, LOG_LEVEL_WARNING, "streaming session refused", "err",
			err.msg, NULL);
	}
	pthread_mutex_unlock(&server->lock);
	free(upgrade);
}

static enum MHD_Result answer_text(
	struct MHD_Connection *connection, const struct handshake_answer *answer)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(
		strlen(answer->text), (void *)answer->text, MHD_RESPMEM_PERSISTENT);
	if (!response)
		return MHD_NO;
	for (unsigned i = 0; i < answer->n_headers; i++)
		MHD_add_response_header(
			response, answer->headers[i].name, answer->headers[i].value);
	MHD_add_response_header(response, "Connection", "close");
	enum MHD_Result result = MHD_queue_response(connection, answer->status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result answer_upgrade(struct stream_server *server,
	struct MHD_Connection *connection, const struct stream_request *request,
	const struct handshake_answer *answer)
{
	struct connection *c = connection_of(connection);
	struct upgrade *upgrade = c ? calloc(1, sizeof(*upgrade)) : NULL;
	struct MHD_Response *response =
		upgrade ? MHD_create_response_for_upgrade(on_upgrade, upgrade) : NULL;
	enum MHD_Result result = MHD_NO;
	if (response) {
		*upgrade = (struct upgrade){server, *request, answer->kind, answer->protocol};
		for (unsigned i = 0; i < answer->n_headers; i++)
			MHD_add_response_header(
				response, answer->headers[i].name, answer->headers[i].value);
		c->upgrade = upgrade;
		result = MHD_queue_response(connection, 101, response);
		MHD_destroy_response(response);
	}
	if (result == MHD_NO) {
		if (c)
			c->upgrade = NULL;
		free(upgrade);
		request->ops->end(request->target);
	}
	return result;
}

struct header_search {
	const char *name;
	unsigned skip;
	const char *found;
};

static enum MHD_Result on_header(
	void *userdata, enum MHD_ValueKind kind, const char *name, const char *value)
{
	struct header_search *search = userdata;
	(void)kind;
	if (strcasecmp(name, search->name) != 0 || search->skip-- > 0)
		return MHD_YES;
	search->found = value;
	return MHD_NO;
}

static const char *header(void *userdata, const char *name, unsigned n)
{
	struct header_search search = {.name = name, .skip = n};
	MHD_get_connection_values(userdata, MHD_HEADER_KIND, on_header, &search);
	return search.found;
}

/* "/exec/TOKEN": hands over what the token stands for. */
static bool take_request(struct stream_server *server, const char *url, struct stream_request *ret)
{
	static const char *const paths[] = {"/exec/", "/attach/", "/portforward/"};
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		size_t len = strlen(paths[i]);
		if (strncmp(url, paths[i], len) == 0)
			return tokens_take(
				server->tokens, ev_now_ms(), (enum stream_kind)i, url + len, ret);
	}
	return false;
}

/* NOLINTNEXTLINE(readability-function-size): libmicrohttpd's signature */
static enum MHD_Result on_request(void *userdata, struct MHD_Connection *connection,
	const char *url, const char *method, const char *version, const char *upload,
	size_t *upload_len, void **con_cls)
{
	struct stream_server *server = userdata;
	struct stream_request request;
	struct handshake_answer answer = {.status = 0};
	(void)version;
	(void)upload;
	if (!*con_cls) { /* the headers: libmicrohttpd calls again after the body */
		*con_cls = server;
		return MHD_YES;
	}
	if (*upload_len)
		return MHD_NO;
	if (strcmp(method, "GET") != 0 && strcmp(method, "POST") != 0) {
		answer.status = 405;
		answer.text = "only GET and POST are allowed\n";
	} else if (!take_request(server, url, &request)) {
		answer.status = 404;
		answer.text = "no such request, or it was served before, or its time is over\n";
	}
	if (answer.status)
		return answer_text(connection, &answer);
	const struct handshake_request handshake_request = {
		.header = header, .userdata = connection, .kind = request.kind};
	handshake(&handshake_request, &answer);
	if (answer.status == 101)
		return answer_upgrade(server, connection, &request, &answer);
	request.ops->end(request.target);
	return answer_text(connection, &answer);
}

/* Until it is upgraded a connection has a deadline of its own: bytes that drip do not renew it. */
static void watch_connection(struct stream_server *server, int fd, void **socket_context)
{
	struct connection *c = calloc(1, sizeof(*c));
	wire_keep_alive(fd);
	*socket_context = c;
	if (!c)
		return;
	c->fd = fd;
	c->until_ms = ev_now_ms() + HANDSHAKE_MS;
	pthread_mutex_lock(&server->lock);
	TAILQ_INSERT_TAIL(&server->connections, c, link);
	pthread_mutex_unlock(&server->lock);
}

static void on_connection(void *userdata, struct MHD_Connection *connection, void **socket_context,
	enum MHD_ConnectionNotificationCode code)
{
	struct stream_server *server = userdata;
	struct connection *c = *socket_context;
	if (code == MHD_CONNECTION_NOTIFY_STARTED) {
		const union MHD_ConnectionInfo *info =
			MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
		watch_connection(server, info->connect_fd, socket_context);
	} else if (c) {
		pthread_mutex_lock(&server->lock);
		TAILQ_REMOVE(&server->connections, c, link);
		pthread_mutex_unlock(&server->lock);
		if (c->upgrade)
			c->upgrade->request.ops->end(c->upgrade->request.target);
		free(c->upgrade);
		free(c);
		*socket_context = NULL;
	}
}

static void close_late(struct stream_server *server)
{
	struct connection *c;
	uint64_t now = ev_now_ms();
	pthread_mutex_lock(&server->lock);
	TAILQ_FOREACH(c, &server->connections, link) {
		if (c->until_ms > now)
			break;
		if (c->fd >= 0)
			shutdown(c->fd, SHUT_RDWR);
		c->fd = -EBADF;
	}
	pthread_mutex_unlock(&server->lock);
}

static void on_timer(void *userdata)
{
	struct stream_server *server = userdata;
	tokens_expire(server->tokens, ev_now_ms());
	close_late(server);
	ev_timer_set(server->timer, LOOK_MS);
}

static void *loop_main(void *userdata)
{
	struct stream_server *server = userdata;
	ev_loop_run(server->sessions.loop, NULL);
	return NULL;
}

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static int parse_address(const struct stream_config *config, union address *address,
	socklen_t *ret_len, struct err *err)
{
	*address = (union address){.v6 = {.sin6_family = AF_UNSPEC}};
	if (inet_pton(AF_INET, config->address, &address->v4.sin_addr) == 1) {
		address->v4.sin_family = AF_INET;
		address->v4.sin_port = htons(config->port);
		*ret_len = sizeof(address->v4);
		return 0;
	}
	if (inet_pton(AF_INET6, config->address, &address->v6.sin6_addr) == 1) {
		address->v6.sin6_family = AF_INET6;
		address->v6.sin6_port = htons(config->port);
		*ret_len = sizeof(address->v6);
		return 0;
	}
	return err_set(
		err, -EINVAL, "streaming.address '%s' is not an IP address", config->address);
}

static int listen_socket(struct stream_server *server, const struct stream_config *config,
	int *ret_fd, struct err *err)
{
	union address address;
	socklen_t len;
	int on = 1;
	int r = parse_address(config, &address, &len, err);
	if (r < 0)
		return r;
	_cleanup_close_ int fd =
		socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(err, "make the streaming server's socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, &address.any, len) < 0 || listen(fd, SOMAXCONN) < 0)
		return err_errno(err, "listen on streaming.address %s, streaming.port %u",
			config->address, config->port);
	if (getsockname(fd, &address.any, &len) < 0)
		return err_errno(err, "find the streaming server's port");
	bool v6 = address.any.sa_family == AF_INET6;
	server->port = ntohs(v6 ? address.v6.sin6_port : address.v4.sin_port);
	snprintf(server->address, sizeof(server->address), v6 ? "[%s]" : "%s", config->address);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static bool on_decrypted(void *userdata, int fd)
{
	struct stream_server *server = userdata;
	const struct sockaddr_un address = {.sun_family = AF_UNIX};
	return MHD_add_connection(server->daemon, fd, (const struct sockaddr *)&address,
		       sizeof(address.sun_family)) == MHD_YES;
}

/* Takes the socket on success. */
static int start_tls(
	struct stream_server *server, const struct stream_config *config, int fd, struct err *err)
{
	const struct tls_config tls = {.loop = server->sessions.loop,
		.certificate = config->tls_certificate,
		.key = config->tls_key,
		.handshake_ms = HANDSHAKE_MS,
		.finish_ms = config->idle_timeout_ms,
		.take = on_decrypted,
		.userdata = server};
	server->scheme = "https";
	return tls_new(&tls, fd, &server->tls, err);
}

/* libmicrohttpd tells of every client that breaks off: nothing that anybody acts on. */
static void on_http_log(void *userdata, const char *format, va_list ap)
	__attribute__((format(printf, 2, 0)));
static void on_http_log(void *userdata, const char *format, va_list ap)
{
	const struct stream_server *server = userdata;
	char text[512];
	vsnprintf(text, sizeof(text), format, ap);
	text[strcspn(text, "\n")] = '\0';
	log_event(server->log, LOG_LEVEL_DEBUG, "streaming connection", "err", text, NULL);
}

static int start_http(
	struct stream_server *server, const struct stream_config *config, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	int r = listen_socket(server, config, &fd, err);
	server->scheme = "http";
	if (r == 0 && config->tls_certificate) {
		r = start_tls(server, config, fd, err);
		if (r == 0)
			TAKE_FD(fd);
	}
	if (r < 0)
		return r;
	struct MHD_OptionItem options[] = {
		{MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX, NULL},
		{MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_BYTES, NULL},
		{MHD_OPTION_CONNECTION_TIMEOUT, HANDSHAKE_MS / 1000, NULL},
		{MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, server},
		{server->tls ? MHD_OPTION_END : MHD_OPTION_LISTEN_SOCKET, fd, NULL},
		{MHD_OPTION_END, 0, NULL},
	};
	unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_UPGRADE | MHD_USE_ERROR_LOG;
	if (server->tls)
		flags |= MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ITC;
	server->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, server,
		MHD_OPTION_EXTERNAL_LOGGER, on_http_log, server, MHD_OPTION_ARRAY, options,
		MHD_OPTION_END);
	if (!server->daemon)
		return err_set(err, -EINVAL, "start the streaming server");
	TAKE_FD(fd);
	return 0;
}

static int make_loop(struct stream_server *server, struct err *err)
{
	int r = ev_loop_new(&server->sessions.loop, err);
	return r < 0 ? r
		     : ev_timer_new(server->sessions.loop, LOOK_MS, on_timer, server,
			       &server->timer, err);
}

static int start_loop(struct stream_server *server, struct err *err)
{
	int r = pthread_create(&server->thread, NULL, loop_main, server);
	server->runs = r == 0;
	return r ? err_set(err, -r, "start the streaming thread: %s", strerror(r)) : 0;
}

int stream_server_start(
	const struct stream_config *config, struct stream_server **ret, struct err *err)
{
	struct stream_server *server = calloc(1, sizeof(*server));
	if (!server)
		return err_nomem(err);
	server->log = server->sessions.log = config->log;
	server->sessions.idle_timeout_ms = config->idle_timeout_ms;
	server->sessions.creation_timeout_ms = config->creation_timeout_ms;
	LIST_INIT(&server->sessions.list);
	TAILQ_INIT(&server->connections);
	pthread_mutex_init(&server->lock, NULL);
	pthread_mutex_init(&server->sessions.lock, NULL);
	pthread_cond_init(&server->sessions.none, NULL);
	int r = tokens_new(&server->tokens, err);
	if (r == 0)
		r = make_loop(server, err);
	if (r == 0)
		r = start_http(server, config, err);
	if (r == 0)
		r = start_loop(server, err);
	if (r < 0) {
		stream_server_stop(server);
		return r;
	}
	*ret = server;
	return 0;
}

static void end_all(void *userdata)
{
	struct stream_server *server = userdata;
	struct session *session;
	LIST_FOREACH(session, &server->sessions.list, link)
		session_drop(session);
}

static void wait_for_sessions(struct sessions *sessions)
{
	pthread_mutex_lock(&sessions->lock);
	while (sessions->n || sessions->threads)
		pthread_cond_wait(&sessions->none, &sessions->lock);
	pthread_mutex_unlock(&sessions->lock);
}

struct stream_server *stream_server_stop(struct stream_server *server)
{
	if (!server)
		return NULL;
	pthread_mutex_lock(&server->lock);
	server->stops = true;
	pthread_mutex_unlock(&server->lock);
	if (server->runs) {
		while (ev_post(server->sessions.loop, end_all, server) < 0)
			usleep(LOOK_MS);
		wait_for_sessions(&server->sessions);
		ev_loop_stop(server->sessions.loop);
		pthread_join(server->thread, NULL);
	}
	tls_free(server->tls);
	/* It must not have upgraded sockets left when it stops. */
	if (server->daemon)
		MHD_stop_daemon(server->daemon);
	ev_source_free(server->timer);
	ev_loop_free(server->sessions.loop);
	tokens_free(server->tokens);
	pthread_cond_destroy(&server->sessions.none);
	pthread_mutex_destroy(&server->sessions.lock);
	pthread_mutex_destroy(&server->lock);
	free(server);
	return NULL;
}

int stream_server_url(struct stream_server *server, const struct stream_request *request,
	char **ret_url, struct err *err)
{
	static const char *const paths[] = {"exec", "attach", "portforward"};
	char token[TOKEN_LENGTH + 1];
	int r = tokens_add(server->tokens, ev_now_ms(), request, token, err);
	if (r < 0) {
		request->ops->end(request->target);
		return r;
	}
	*ret_url = str_printf("%s://%s:%u/%s/%s", server->scheme, server->address, server->port,
		paths[request->kind], token);
	return *ret_url ? 0 : err_nomem(err); /* the token expires */
}
