/* TLS in front of the streaming server, over real connections. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"
#include "common/spawn.h"
#include "cri-server/stream/server_fixture.h"
#include "cri-server/stream/tls.h"

static void make_certificate(const char *certificate, const char *key)
{
	const char *const argv[] = {"openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
		"-days", "1", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate, NULL};
	const struct spawn_options options = {.argv = argv, .timeout_ms = 60000};
	struct spawn_result result = SPAWN_RESULT_INIT(65536);
	struct err err = ERR_INIT;
	if (spawn_check(&options, &result, &err) < 0)
		fail_msg("%s", err.msg);
	spawn_result_done(&result);
}

/* A server with a certificate, which is in a directory of its own. */
struct secure {
	char dir[32];
	char *certificate, *key;
	struct stream_server *server;
};

static void make_secure(struct secure *s)
{
	strcpy(s->dir, "/tmp/stream-test.XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	s->certificate = str_printf("%s/cert", s->dir);
	s->key = str_printf("%s/key", s->dir);
	make_certificate(s->certificate, s->key);
}

static void secure_done(struct secure *s)
{
	fd_remove_tree(s->dir, NULL);
	free(s->certificate);
	free(s->key);
}

static void secure_start(struct secure *s)
{
	make_secure(s);
	s->server = fixture_start(s->certificate, s->key, 60000, 60000);
}

static void secure_stop(struct secure *s)
{
	stream_server_stop(s->server);
	secure_done(s);
}

/* Through openssl's client: the upgrade too. */
static void exec_through_tls(void **state)
{
	struct target target = {.command = "echo through TLS"};
	struct secure s;
	(void)state;
	secure_start(&s);
	_cleanup_free_ char *url = fixture_url(s.server, &target, false);
	assert_int_equal(strncmp(url, "https://127.0.0.1:", 18), 0);
	const char *path = strchr(url + 18, '/');
	_cleanup_free_ char *address = str_printf("%.*s", (int)(path - url - 8), url + 8);
	_cleanup_free_ char *request =
		str_printf("GET %s HTTP/1.1\r\nHost: x\r\n" FIXTURE_WEBSOCKET "\r\n", path);
	const char *const argv[] = {"openssl", "s_client", "-quiet", "-verify_return_error",
		"-CAfile", s.certificate, "-connect", address, NULL};
	const struct spawn_options options = {.argv = argv,
		.stdin_data = request,
		.stdin_len = strlen(request),
		.timeout_ms = FIXTURE_WAIT_MS};
	struct spawn_result result = SPAWN_RESULT_INIT(65536);
	struct err err = ERR_INIT;
	if (spawn_run(&options, &result, &err) < 0)
		fail_msg("%s", err.msg);
	assert_non_null(memmem(result.out.data, result.out.len, "101 Switching", 13));
	assert_non_null(memmem(result.out.data, result.out.len, "through TLS", 11));
	spawn_result_done(&result);
	fixture_await(&target.ended);
	secure_stop(&s);
}

static SSL *secure_connect(SSL_CTX *context, unsigned port, int takes)
{
	SSL *ssl = SSL_new(context);
	assert_non_null(ssl);
	assert_int_equal(SSL_set_fd(ssl, fixture_connect(port, takes)), 1);
	assert_int_equal(SSL_connect(ssl), 1);
	return ssl;
}

/* The handshakes, HTTP's too; the connection does not block afterwards. */
static SSL *secure_websocket(struct secure *s, struct target *target, SSL_CTX *context)
{
	char answer[2048] = "";
	unsigned port;
	int path, len = 0;
	_cleanup_free_ char *url = fixture_url(s->server, target, false);
	assert_int_equal(sscanf(url, "https://127.0.0.1:%u%n", &port, &path), 1);
	_cleanup_free_ char *request =
		str_printf("GET %s HTTP/1.1\r\nHost: x\r\n" FIXTURE_WEBSOCKET "\r\n", url + path);
	SSL *ssl = secure_connect(context, port, 0);
	assert_true(SSL_write(ssl, request, (int)strlen(request)) > 0);
	while (!strstr(answer, "\r\n\r\n") && len + 1 < (int)sizeof(answer) &&
		SSL_read(ssl, answer + len, 1) == 1)
		answer[++len] = '\0';
	assert_non_null(strstr(answer, "101 Switching"));
	assert_int_equal(fd_set_nonblock(SSL_get_fd(ssl), NULL), 0);
	return ssl;
}

static void a_client_that_vanishes_while_it_is_held_ends_it(void **state)
{
	struct target target = {.command = "exec sleep 1000"};
	uint8_t message[FIXTURE_MESSAGE];
	size_t len = fixture_message(message);
	struct secure s;
	(void)state;
	secure_start(&s);
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());
	SSL *ssl = secure_websocket(&s, &target, context);
	while (SSL_write(ssl, message, (int)len) > 0 || !fixture_is_held(SSL_get_fd(ssl)))
		;
	assert_false(atomic_load(&target.ended));
	fixture_break(SSL_get_fd(ssl));
	SSL_free(ssl);
	SSL_CTX_free(context);
	fixture_await(&target.ended);
	secure_stop(&s);
}

/* What a connection is handed on to: says as much as goes out, then closes. */
struct sayer {
	int fd;
	atomic_bool has_fd;
	size_t said;
};

static bool on_taken(void *userdata, int fd)
{
	struct sayer *sayer = userdata;
	sayer->fd = fd;
	atomic_store(&sayer->has_fd, true);
	return true;
}

static void say_all(struct sayer *sayer)
{
	static const char words[65536];
	while (!fixture_is_held(sayer->fd)) {
		ssize_t n = send(sayer->fd, words, sizeof(words), MSG_DONTWAIT | MSG_NOSIGNAL);
		assert_true(n > 0 || errno == EAGAIN);
		sayer->said += n > 0 ? (size_t)n : 0;
	}
	close(sayer->fd);
}

static void *run_loop(void *userdata)
{
	ev_loop_run(userdata, NULL);
	return NULL;
}

/* The layer alone, on a loop of its own, and a client's connection. */
struct bare {
	struct secure secure;
	struct sayer sayer;
	struct ev_loop *loop;
	struct tls *tls;
	pthread_t thread;
	SSL_CTX *context;
	SSL *ssl;
};

/* The client's side takes so many bytes by itself; 0: as it likes. */
static void bare_start(struct bare *b, unsigned handshake_ms, int takes)
{
	unsigned port;
	make_secure(&b->secure);
	int listener = fixture_listen(&port);
	assert_int_equal(ev_loop_new(&b->loop, NULL), 0);
	const struct tls_config config = {.loop = b->loop,
		.certificate = b->secure.certificate,
		.key = b->secure.key,
		.handshake_ms = handshake_ms,
		.finish_ms = 2 * FIXTURE_WAIT_MS,
		.take = on_taken,
		.userdata = &b->sayer};
	assert_int_equal(tls_new(&config, listener, &b->tls, NULL), 0);
	assert_int_equal(pthread_create(&b->thread, NULL, run_loop, b->loop), 0);
	b->context = SSL_CTX_new(TLS_client_method());
	b->ssl = secure_connect(b->context, port, takes);
	fixture_await(&b->sayer.has_fd);
}

static void bare_stop(struct bare *b)
{
	close(SSL_get_fd(b->ssl));
	SSL_free(b->ssl);
	SSL_CTX_free(b->context);
	ev_loop_stop(b->loop);
	pthread_join(b->thread, NULL);
	tls_free(b->tls);
	ev_loop_free(b->loop);
	secure_done(&b->secure);
}

/* It pings while it reads, when nobody is there any more who would hear it. */
static void what_was_said_before_the_end_arrives(void **state)
{
	static const uint8_t ping[] = {0x89, 0x80, 0, 0, 0, 0};
	static char out[65536];
	struct bare b = {.sayer.fd = -EBADF};
	size_t got = 0;
	(void)state;
	bare_start(&b, 60000, 0);
	say_all(&b.sayer);
	for (int n = 1; n > 0; got += n > 0 ? (size_t)n : 0) {
		if (SSL_write(b.ssl, ping, sizeof(ping)) <= 0)
			break;
		n = SSL_read(b.ssl, out, sizeof(out));
	}
	assert_int_equal(got, b.sayer.said);
	bare_stop(&b);
}

/* Who has no token gets no more than an answer of HTTP's, and no hours to take it. */
static void an_answer_is_not_waited_for(void **state)
{
	static const char answer[8192];
	struct bare b = {.sayer.fd = -EBADF};
	char byte;
	(void)state;
	bare_start(&b, 3000, 2048);
	assert_int_equal(fd_write_all(b.sayer.fd, answer, sizeof(answer), NULL), 0);
	shutdown(b.sayer.fd, SHUT_WR);
	struct pollfd p = {.fd = b.sayer.fd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, FIXTURE_WAIT_MS), 1);
	assert_int_equal(recv(b.sayer.fd, &byte, 1, 0), 0);
	close(b.sayer.fd);
	bare_stop(&b);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exec_through_tls),
		cmocka_unit_test(a_client_that_vanishes_while_it_is_held_ends_it),
		cmocka_unit_test(an_answer_is_not_waited_for),
		cmocka_unit_test(what_was_said_before_the_end_arrives),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
