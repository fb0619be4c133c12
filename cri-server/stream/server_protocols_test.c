/* Each protocol of exec and attach, as it is agreed upon, and what its streams then carry. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <openssl/evp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/stream/server_fixture.h"
#include "cri-server/stream/spdy.h"

#define STATUS_TEXT "command terminated with non-zero exit code: exit status 7"
#define STATUS_JSON "{\"reason\":\"ExitCode\",\"message\":\"7\"}"

enum { IN, OUT, ERR, STATUS, CHANNELS };

/* What came, ended by NUL. */
struct received {
	char text[CHANNELS][1024];
};

static struct target make_target(void)
{
	return (struct target){.command = "cat; echo problem >&2; exit 7"};
}

static void check(const struct received *received, bool status_is_json)
{
	assert_string_equal(received->text[OUT], "word");
	assert_string_equal(received->text[ERR], "problem\n");
	if (status_is_json)
		assert_non_null(strstr(received->text[STATUS], STATUS_JSON));
	else
		assert_string_equal(received->text[STATUS], STATUS_TEXT);
}

static void append(char text[1024], const void *data, size_t len)
{
	size_t had = strlen(text);
	assert_true(had + len < 1024);
	memcpy(text + had, data, len);
	text[had + len] = '\0';
}

/* ---- SPDY ---- */

struct spdy_client {
	int fd;
	uint32_t ids[CHANNELS];
	bool over;        /* the error stream is */
	unsigned refused; /* streams that nobody asked for */
	struct received received;
};

static void on_write(void *userdata, const void *data, size_t len)
{
	const struct spdy_client *client = userdata;
	/* The server closes when it has said all: what is acknowledged then, nobody takes. */
	(void)!send(client->fd, data, len, MSG_NOSIGNAL);
}

static void on_data(void *userdata, uint32_t id, const void *data, size_t len)
{
	struct spdy_client *client = userdata;
	for (int i = 0; i < CHANNELS; i++)
		if (client->ids[i] == id)
			append(client->received.text[i], data, len);
}

static void on_end(void *userdata, uint32_t id, bool reset)
{
	struct spdy_client *client = userdata;
	for (int i = 0; i < CHANNELS && reset; i++)
		assert_int_not_equal(client->ids[i], id);
	client->refused += reset;
	client->over |= id == client->ids[STATUS];
}

static void on_room(void *userdata)
{
	(void)userdata;
}

static const struct stream_handler handler = {
	.on_data = on_data, .on_end = on_end, .on_room = on_room};

static void talk_spdy(struct spdy_client *client)
{
	static const char *const names[CHANNELS] = {"stdin", "stdout", "stderr", "error"};
	struct spdy *spdy;
	uint32_t unwanted;
	assert_int_equal(spdy_new_client(on_write, client, &handler, client, &spdy, NULL), 0);
	for (int i = CHANNELS - 1; i >= 0; i--) {
		const struct stream_open open = {names[i], "", ""};
		assert_int_equal(spdy_open(spdy, &open, i != IN, &client->ids[i], NULL), 0);
		/* A second one of the kind, and one of none. */
		const struct stream_open other = {i == OUT ? "nonsense" : names[i], "", ""};
		if (i != IN)
			assert_int_equal(spdy_open(spdy, &other, false, &unwanted, NULL), 0);
	}
	spdy_send(spdy, client->ids[IN], "word", 4);
	spdy_end(spdy, client->ids[IN]);
	while (!client->over) {
		char data[4096];
		ssize_t n = recv(client->fd, data, sizeof(data), 0);
		assert_true(n > 0);
		assert_int_equal(spdy_feed(spdy, data, (size_t)n, NULL), 0);
	}
	assert_int_equal(client->refused, CHANNELS - 1);
	spdy_free(spdy);
}

/* chosen NULL: refused. */
static void try_spdy(const char *offered, const char *chosen, bool status_is_json)
{
	struct target target = make_target();
	struct spdy_client client = {.fd = -EBADF};
	char answer[2048];
	struct stream_server *server = fixture_start(NULL, NULL, 60000, 60000);
	_cleanup_free_ char *url = fixture_url(server, &target, false);
	_cleanup_free_ char *headers =
		str_printf("Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n%s", offered);
	client.fd = fixture_request(url, headers, answer, sizeof(answer));
	if (chosen) {
		_cleanup_free_ char *line = str_printf("X-Stream-Protocol-Version: %s\r\n", chosen);
		assert_non_null(strcasestr(answer, line));
		talk_spdy(&client);
		check(&client.received, status_is_json);
	} else {
		assert_non_null(strstr(answer, " 403 "));
	}
	close(client.fd);
	fixture_await(&target.ended);
	stream_server_stop(server);
}

#define OFFER(name) "X-Stream-Protocol-Version: " name "\r\n"

static void spdy_versions(void **state)
{
	(void)state;
	try_spdy(OFFER("channel.k8s.io"), "channel.k8s.io", false);
	try_spdy(OFFER("v2.channel.k8s.io"), "v2.channel.k8s.io", false);
	try_spdy(OFFER("v3.channel.k8s.io"), "v3.channel.k8s.io", false);
	try_spdy(OFFER("v4.channel.k8s.io"), "v4.channel.k8s.io", true);
	/* The client's order is its preference's; what is not known is passed over. */
	try_spdy(OFFER("v9.channel.k8s.io") OFFER("v4.channel.k8s.io") OFFER("channel.k8s.io"),
		"v4.channel.k8s.io", true);
	try_spdy(OFFER("v9.channel.k8s.io"), NULL, false);
}

/* ---- WebSocket ---- */

static void decode(char *text)
{
	unsigned char bytes[1024];
	size_t len = strlen(text), padding = len ? strlen(strchrnul(text, '=')) : 0;
	int n = EVP_DecodeBlock(bytes, (const unsigned char *)text, (int)len);
	assert_true(n >= (int)padding);
	memcpy(text, bytes, (size_t)n - padding);
	text[(size_t)n - padding] = '\0';
}

/* All messages up to the close frame; one of base64 is text, and decoded on its own. */
static void read_messages(int fd, bool base64, struct received *received)
{
	for (;;) {
		uint8_t head[2], more[2];
		char data[1024] = "";
		assert_int_equal(fd_read_exact(fd, head, 2, NULL), 0);
		size_t len = head[1];
		if (len == 126) {
			assert_int_equal(fd_read_exact(fd, more, 2, NULL), 0);
			len = (size_t)more[0] << 8 | more[1];
		}
		assert_true(len < sizeof(data));
		assert_int_equal(fd_read_exact(fd, data, len, NULL), 0);
		if (head[0] == 0x88)
			return;
		assert_int_equal(head[0], base64 ? 0x81 : 0x82);
		unsigned channel = (unsigned)data[0] - (base64 ? '0' : 0);
		assert_in_range(channel, OUT, STATUS);
		if (base64)
			decode(data + 1);
		append(received->text[channel], data + 1, base64 ? strlen(data + 1) : len - 1);
	}
}

static void send_stdin(int fd, bool base64, bool closes)
{
	uint8_t text[] = "\x81\x89\0\0\0\0"
			 "0d29yZA==";
	if (base64)
		assert_int_equal(fd_write_all(fd, text, sizeof(text) - 1, NULL), 0);
	else
		fixture_send(fd, "\0word", 5);
	if (closes && !base64)
		fixture_send(fd, "\xff\0", 2);
}

static void try_websocket(const char *offered, const char *chosen, bool base64, bool status_is_json)
{
	const bool closes = strstr(chosen, "v5.") != NULL;
	/* Up to v4 nothing says that stdin ends. */
	struct target target = {.command = closes && !base64
						   ? make_target().command
						   : "head -c 4; echo problem >&2; exit 7"};
	struct received received = {.text = {""}};
	char answer[2048];
	struct stream_server *server = fixture_start(NULL, NULL, 60000, 60000);
	_cleanup_free_ char *url = fixture_url(server, &target, false);
	_cleanup_free_ char *headers = str_printf("Connection: Upgrade\r\nUpgrade: websocket\r\n"
						  "Sec-WebSocket-Version: 13\r\n"
						  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
						  "Sec-WebSocket-Protocol: %s\r\n",
		offered);
	_cleanup_free_ char *line = str_printf("Sec-WebSocket-Protocol: %s\r\n", chosen);
	int fd = fixture_request(url, headers, answer, sizeof(answer));
	assert_non_null(strcasestr(answer, line));
	send_stdin(fd, base64, closes);
	read_messages(fd, base64, &received);
	check(&received, status_is_json);
	close(fd);
	fixture_await(&target.ended);
	stream_server_stop(server);
}

static void websocket_versions(void **state)
{
	(void)state;
	try_websocket("v5.channel.k8s.io", "v5.channel.k8s.io", false, true);
	try_websocket("v4.channel.k8s.io", "v4.channel.k8s.io", false, true);
	try_websocket("channel.k8s.io", "channel.k8s.io", false, false);
	try_websocket("v5.base64.channel.k8s.io", "v5.base64.channel.k8s.io", true, true);
	try_websocket("v4.base64.channel.k8s.io", "v4.base64.channel.k8s.io", true, true);
	try_websocket("base64.channel.k8s.io", "base64.channel.k8s.io", true, false);
	try_websocket("v9.channel.k8s.io, v4.channel.k8s.io, channel.k8s.io", "v4.channel.k8s.io",
		false, true);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(spdy_versions),
		cmocka_unit_test(websocket_versions),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
