/* Forwarded ports over real connections; the pod is a socket of the test's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/stream/server_fixture.h"
#include "cri-server/stream/spdy.h"

#define PORT      "80"
#define TEXT_SIZE 1024

struct pod {
	atomic_bool dialled, let; /* the dial begins, and may go on */
	int refuses;              /* with this; 0: not */
	uint16_t refused_port;    /* only this; 0: all */
	int fd;                   /* its end of the connection */
	_Atomic uint16_t port;
	atomic_bool connected;
	atomic_bool ended;
};

static int pod_dial(void *userdata, uint16_t port, int *ret_fd, struct err *err)
{
	struct pod *pod = userdata;
	int pair[2];
	pod->port = port;
	atomic_store(&pod->dialled, true);
	while (!atomic_load(&pod->let))
		usleep(1000);
	if (pod->refuses && (!pod->refused_port || pod->refused_port == port))
		return err_set(err, pod->refuses, "the port says no");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_errno(err, "socketpair");
	pod->fd = pair[1];
	*ret_fd = pair[0];
	atomic_store(&pod->connected, true);
	return 0;
}

static void pod_end(void *userdata)
{
	atomic_store(&((struct pod *)userdata)->ended, true);
}

static const struct stream_ops pod_ops = {.dial = pod_dial, .end = pod_end};

struct stream {
	uint32_t id;
	char text[TEXT_SIZE]; /* what came */
	bool ended, reset;
};

struct client {
	struct stream_server *server;
	int fd;
	struct spdy *spdy;
	struct stream error, data;
};

static void on_write(void *userdata, const void *data, size_t len)
{
	const struct client *client = userdata;
	assert_int_equal(send(client->fd, data, len, MSG_NOSIGNAL), len);
}

static struct stream *find(struct client *client, uint32_t id)
{
	return id == client->error.id ? &client->error : &client->data;
}

static void on_data(void *userdata, uint32_t id, const void *data, size_t len)
{
	struct stream *stream = find(userdata, id);
	size_t had = strlen(stream->text);
	assert_int_equal(stream->id, id);
	assert_true(had + len < sizeof(stream->text));
	memcpy(stream->text + had, data, len);
	stream->text[had + len] = '\0';
}

static void on_end(void *userdata, uint32_t id, bool reset)
{
	struct stream *stream = find(userdata, id);
	assert_int_equal(stream->id, id);
	*(reset ? &stream->reset : &stream->ended) = true;
}

static void on_room(void *userdata)
{
	(void)userdata;
}

static const struct stream_handler handler = {
	.on_data = on_data, .on_end = on_end, .on_room = on_room};

static void begin(struct client *client, struct pod *pod, unsigned creation_ms)
{
	const struct timeval patience = {.tv_sec = FIXTURE_WAIT_MS / 1000};
	const struct stream_request request = {
		.kind = STREAM_FORWARD, .ops = &pod_ops, .target = pod, .pod = "pod"};
	char answer[2048];
	*client = (struct client){.server = fixture_start(NULL, NULL, 60000, creation_ms)};
	_cleanup_free_ char *url = NULL;
	assert_int_equal(stream_server_url(client->server, &request, &url, NULL), 0);
	client->fd = fixture_request(url,
		"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
		"X-Stream-Protocol-Version: portforward.k8s.io\r\n",
		answer, sizeof(answer));
	assert_non_null(strstr(answer, "101 Switching"));
	setsockopt(client->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	assert_int_equal(
		spdy_new_client(on_write, client, &handler, client, &client->spdy, NULL), 0);
}

static void finish(struct client *client, struct pod *pod)
{
	client->fd = fd_close(client->fd);
	fixture_await(&pod->ended);
	spdy_free(client->spdy);
	stream_server_stop(client->server);
	if (atomic_load(&pod->connected))
		fd_close(pod->fd);
}

static void open_stream(struct client *client, struct stream *stream, const char *type)
{
	const struct stream_open open = {.type = type, .port = PORT, .request_id = "1"};
	*stream = (struct stream){.id = 0};
	assert_int_equal(spdy_open(client->spdy, &open, false, &stream->id, NULL), 0);
}

/* In kubectl's order. */
static void open_pair(struct client *client)
{
	open_stream(client, &client->error, "error");
	open_stream(client, &client->data, "data");
}

static void read_until(struct client *client, const bool *flag)
{
	while (!*flag) {
		char data[4096];
		ssize_t n = recv(client->fd, data, sizeof(data), 0);
		assert_true(n > 0);
		assert_int_equal(spdy_feed(client->spdy, data, (size_t)n, NULL), 0);
	}
}

/* Bytes, and their end, that are there before the pair is, or the connection. */
static void what_comes_early_waits_for_the_connection(void **state)
{
	struct pod pod = {.refuses = 0};
	struct client client;
	char text[8] = "";
	(void)state;
	begin(&client, &pod, 60000);
	open_stream(&client, &client.data, "data");
	spdy_send(client.spdy, client.data.id, "ear", 3);
	open_stream(&client, &client.error, "error");
	fixture_await(&pod.dialled);
	spdy_send(client.spdy, client.data.id, "ly", 2);
	spdy_end(client.spdy, client.data.id);
	atomic_store(&pod.let, true);
	fixture_await(&pod.connected);
	assert_int_equal(pod.port, 80);
	assert_int_equal(fd_read_exact(pod.fd, text, 5, NULL), 0);
	assert_string_equal(text, "early");
	assert_int_equal(read(pod.fd, text, 1), 0);
	assert_int_equal(fd_write_all(pod.fd, "answer", 6, NULL), 0);
	shutdown(pod.fd, SHUT_WR);
	read_until(&client, &client.error.ended);
	read_until(&client, &client.data.ended);
	assert_string_equal(client.data.text, "answer");
	assert_string_equal(client.error.text, "");
	assert_false(client.data.reset);
	finish(&client, &pod);
}

static void a_client_that_does_not_wait(void **state)
{
	struct pod pod = {.refuses = 0};
	struct client client;
	char byte;
	(void)state;
	begin(&client, &pod, 60000);
	open_pair(&client);
	fixture_await(&pod.dialled);
	spdy_reset(client.spdy, client.data.id);
	/* Who waits for the error stream's end, as kubectl does, has it at once. */
	read_until(&client, &client.error.ended);
	assert_string_equal(client.error.text, "");
	/* What was dialled is closed. */
	atomic_store(&pod.let, true);
	fixture_await(&pod.connected);
	assert_int_equal(read(pod.fd, &byte, 1), 0);
	finish(&client, &pod);
}

static void a_port_that_refuses(void **state)
{
	struct pod pod = {.refuses = -ECONNREFUSED};
	struct client client;
	(void)state;
	begin(&client, &pod, 60000);
	atomic_store(&pod.let, true);
	open_pair(&client);
	read_until(&client, &client.data.reset);
	assert_true(client.error.ended);
	assert_string_equal(
		client.error.text, "error forwarding port " PORT " to pod pod: the port says no");
	finish(&client, &pod);
}

static void a_stream_that_stays_alone_times_out(void **state)
{
	struct pod pod = {.refuses = 0};
	struct client client;
	(void)state;
	begin(&client, &pod, 300);
	open_stream(&client, &client.error, "error");
	read_until(&client, &client.error.ended);
	assert_string_equal(client.error.text, "timed out waiting for streams");
	assert_false(atomic_load(&pod.dialled));
	finish(&client, &pod);
}

/* What runs goes on to its end. */
static void after_a_goaway_no_stream_is_opened(void **state)
{
	static const uint8_t goaway[16] = {0x80, 3, 0, 7, 0, 0, 0, 8};
	struct pod pod = {.refuses = 0};
	struct client client;
	struct stream running;
	(void)state;
	begin(&client, &pod, 60000);
	atomic_store(&pod.let, true);
	open_pair(&client);
	fixture_await(&pod.connected);
	assert_int_equal(fd_write_all(client.fd, goaway, sizeof(goaway), NULL), 0);
	running = client.error;
	open_stream(&client, &client.error, "error");
	read_until(&client, &client.error.reset);
	client.error = running;
	assert_int_equal(fd_write_all(pod.fd, "on", 2, NULL), 0);
	shutdown(pod.fd, SHUT_RDWR);
	read_until(&client, &client.error.ended);
	read_until(&client, &client.data.ended);
	assert_string_equal(client.data.text, "on");
	finish(&client, &pod);
}

/* ---- WebSocket with channels: two for each port, no streams ---- */

static const uint16_t two_ports[] = {80, 0x1f90};

static int begin_websocket(struct stream_server **ret_server, struct pod *pod, unsigned n_ports,
	const char *protocols, char answer[2048])
{
	struct stream_request request = {
		.kind = STREAM_FORWARD, .ops = &pod_ops, .target = pod, .pod = "pod"};
	_cleanup_free_ char *headers = str_printf("Connection: Upgrade\r\nUpgrade: websocket\r\n"
						  "Sec-WebSocket-Version: 13\r\n"
						  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
						  "%s",
		protocols);
	_cleanup_free_ char *url = NULL;
	memcpy(request.ports, two_ports, sizeof(two_ports));
	request.n_ports = n_ports;
	*ret_server = fixture_start(NULL, NULL, 60000, 60000);
	assert_int_equal(stream_server_url(*ret_server, &request, &url, NULL), 0);
	return fixture_request(url, headers, answer, 2048);
}

static void finish_websocket(struct stream_server *server, struct pod *pod, int fd)
{
	fd_close(fd);
	fixture_await(&pod->ended);
	stream_server_stop(server);
	if (atomic_load(&pod->connected))
		fd_close(pod->fd);
}

#define PROTOCOLS "Sec-WebSocket-Protocol: "

/* As the clients of Python, JavaScript and Rust do. What such a client sends has no end of its own.
 */
static void a_websocket_forwards_the_ports_that_the_call_named(void **state)
{
	struct pod pod = {.refuses = 0};
	struct stream_server *server;
	char answer[2048], text[TEXT_SIZE] = "";
	(void)state;
	int fd = begin_websocket(
		&server, &pod, 1, PROTOCOLS "v5.channel.k8s.io, v4.channel.k8s.io\r\n", answer);
	assert_non_null(strstr(answer, PROTOCOLS "v4.channel.k8s.io\r\n"));
	fixture_send(fd, "\0early", 6);
	atomic_store(&pod.let, true);
	fixture_await(&pod.connected);
	assert_int_equal(pod.port, 80);
	fixture_send(fd, "\0 late", 6);
	assert_int_equal(fd_read_exact(pod.fd, text, 10, NULL), 0);
	assert_string_equal(text, "early late");
	assert_int_equal(fd_write_all(pod.fd, "answer", 6, NULL), 0);
	/* It says no more, and so there is nothing more to wait for. */
	shutdown(pod.fd, SHUT_WR);
	fixture_read_channel(fd, 0, text, sizeof(text));
	assert_memory_equal(text, "P\0answer", 9);
	finish_websocket(server, &pod, fd);
}

static void a_websocket_is_told_of_a_port_that_refuses(void **state)
{
	static const char why[] = "error forwarding port 8080 to pod pod: the port says no";
	struct pod pod = {.refuses = -ECONNREFUSED, .refused_port = 8080};
	struct stream_server *server;
	char answer[2048], text[TEXT_SIZE];
	(void)state;
	int fd = begin_websocket(&server, &pod, 2, "", answer);
	assert_non_null(strstr(answer, "101 Switching"));
	atomic_store(&pod.let, true);
	/* The other one goes on, to its own end. */
	fixture_await(&pod.connected);
	fixture_send(fd, "\0on", 3);
	assert_int_equal(fd_read_exact(pod.fd, text, 2, NULL), 0);
	shutdown(pod.fd, SHUT_WR);
	fixture_read_channel(fd, 3, text, sizeof(text));
	assert_memory_equal(text, "\x90\x1f", 2);
	assert_string_equal(text + 2, why);
	finish_websocket(server, &pod, fd);
}

static void a_websocket_without_ports_ends(void **state)
{
	struct pod pod = {.refuses = 0};
	struct stream_server *server;
	char answer[2048], text[TEXT_SIZE];
	(void)state;
	int fd =
		begin_websocket(&server, &pod, 0, PROTOCOLS "v4.base64.channel.k8s.io\r\n", answer);
	assert_non_null(strstr(answer, PROTOCOLS "v4.base64.channel.k8s.io\r\n"));
	fixture_read_channel(fd, '0', text, sizeof(text));
	assert_string_equal(text, "");
	assert_false(atomic_load(&pod.dialled));
	finish_websocket(server, &pod, fd);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_comes_early_waits_for_the_connection),
		cmocka_unit_test(a_client_that_does_not_wait),
		cmocka_unit_test(a_port_that_refuses),
		cmocka_unit_test(a_stream_that_stays_alone_times_out),
		cmocka_unit_test(after_a_goaway_no_stream_is_opened),
		cmocka_unit_test(a_websocket_forwards_the_ports_that_the_call_named),
		cmocka_unit_test(a_websocket_is_told_of_a_port_that_refuses),
		cmocka_unit_test(a_websocket_without_ports_ends),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
