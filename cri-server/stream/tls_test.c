/* TLS in front of the streaming server, over real connections. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <openssl/ssl.h>
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

static SSL *secure_connect(SSL_CTX *context, unsigned port)
{
	SSL *ssl = SSL_new(context);
	assert_non_null(ssl);
	assert_int_equal(SSL_set_fd(ssl, fixture_connect(port)), 1);
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
	SSL *ssl = secure_connect(context, port);
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
	fixture_await(&sayer->has_fd);
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

/* It pings while it reads, when nobody is there any more who would hear it. */
static void what_was_said_before_the_end_arrives(void **state)
{
	static const uint8_t ping[] = {0x89, 0x80, 0, 0, 0, 0};
	static char out[65536];
	struct secure s;
	struct sayer sayer = {.fd = -EBADF};
	struct ev_loop *loop;
	struct tls *tls;
	pthread_t thread;
	unsigned port;
	size_t got = 0;
	(void)state;
	make_secure(&s);
	int listener = fixture_listen(&port);
	assert_int_equal(ev_loop_new(&loop, NULL), 0);
	const struct tls_config config = {.loop = loop,
		.certificate = s.certificate,
		.key = s.key,
		.handshake_ms = 60000,
		.finish_ms = 60000,
		.take = on_taken,
		.userdata = &sayer};
	assert_int_equal(tls_new(&config, listener, &tls, NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, run_loop, loop), 0);
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());
	SSL *ssl = secure_connect(context, port);
	say_all(&sayer);
	for (int n = 1; n > 0; got += n > 0 ? (size_t)n : 0) {
		if (SSL_write(ssl, ping, sizeof(ping)) <= 0)
			break;
		n = SSL_read(ssl, out, sizeof(out));
	}
	assert_int_equal(got, sayer.said);
	close(SSL_get_fd(ssl));
	SSL_free(ssl);
	SSL_CTX_free(context);
	ev_loop_stop(loop);
	pthread_join(thread, NULL);
	tls_free(tls);
	ev_loop_free(loop);
	secure_done(&s);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exec_through_tls),
		cmocka_unit_test(a_client_that_vanishes_while_it_is_held_ends_it),
		cmocka_unit_test(what_was_said_before_the_end_arrives),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
