/*
 * Clients that mean harm, over real connections: each is cut off, the server's memory stays, and a
 * session that runs beside them hears nothing of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include "common/fd.h"
#include "cri-server/stream/server_fixture.h"
#include "cri-server/stream/spdy.h"
#include "cri-server/stream/spdy_dictionary.h"

#define ROUNDS     20
#define MEMORY_MIB 32 /* may be gained, also by a sanitizer; an attack means 64 or more */
#define BOMB_BYTES (64u << 20)
/* The bystander is silent through all attacks, which take a sanitizer minutes. */
#define SILENCE_MS 3600000

struct fixture {
	struct stream_server *server;
	struct target bystander;
	int bystander_fd;
};

static unsigned memory_mib(void)
{
	unsigned long pages = 0;
	FILE *statm = fopen("/proc/self/statm", "re");
	assert_non_null(statm);
	assert_int_equal(fscanf(statm, "%*u %lu", &pages), 1);
	fclose(statm);
	return (unsigned)(pages * (unsigned long)sysconf(_SC_PAGESIZE) >> 20);
}

static int setup(void **state)
{
	static struct fixture fixture;
	fixture = (struct fixture){.bystander = {.command = "cat"}};
	fixture.server = fixture_start(NULL, NULL, SILENCE_MS, 60000);
	fixture.bystander_fd = fixture_websocket(fixture.server, &fixture.bystander, false);
	*state = &fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;
	char out[64];
	fixture_send(fixture->bystander_fd, "\0undisturbed", 12);
	fixture_send(fixture->bystander_fd, "\xff\0", 2);
	fixture_read_channel(fixture->bystander_fd, 1, out, sizeof(out));
	bool undisturbed = strcmp(out, "undisturbed") == 0;
	fixture->bystander_fd = fd_close(fixture->bystander_fd);
	fixture->server = stream_server_stop(fixture->server);
	return undisturbed ? 0 : -1;
}

static void send_all(int fd, const void *data, size_t len)
{
	/* The server may have hung up before the end. */
	while (len) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
		if (n <= 0)
			return;
		data = (const char *)data + n;
		len -= (size_t)n;
	}
}

/* The connection ends, whatever is said before. */
static void expect_end(int fd)
{
	char data[4096];
	struct pollfd readable = {.fd = fd, .events = POLLIN};
	do
		assert_int_equal(poll(&readable, 1, FIXTURE_WAIT_MS), 1);
	while (recv(fd, data, sizeof(data), 0) > 0);
}

/*
 * In turns, each with a session of its own, whose target ends. What the first one takes is also
 * what the test itself does.
 */
static void attack(const struct fixture *fixture, const char *headers, const void *data, size_t len)
{
	unsigned before = UINT_MAX - MEMORY_MIB;
	for (int i = 0; i < ROUNDS; i++) {
		char answer[2048];
		struct target target = {.command = "cat"};
		_cleanup_free_ char *url = fixture_url(fixture->server, &target, false);
		_cleanup_close_ int fd = fixture_request(url, headers, answer, sizeof(answer));
		assert_non_null(strstr(answer, "101 Switching"));
		send_all(fd, data, len);
		expect_end(fd);
		fixture_await(&target.ended);
		assert_true(memory_mib() < before + MEMORY_MIB);
		if (i == 0)
			before = memory_mib();
	}
}

/* A SYN_STREAM whose headers are 64 MiB once inflated; announces announced bytes, or its length. */
static size_t make_bomb(uint8_t *frame, size_t size, uint32_t announced)
{
	static uint8_t zeros[65536];
	z_stream zlib = {0};
	assert_int_equal(deflateInit(&zlib, Z_BEST_COMPRESSION), Z_OK);
	deflateSetDictionary(&zlib, spdy_dictionary, sizeof(spdy_dictionary));
	zlib.next_out = frame + 18;
	zlib.avail_out = (unsigned)(size - 18);
	for (unsigned sent = 0; sent < BOMB_BYTES; sent += sizeof(zeros)) {
		zlib.next_in = zeros;
		zlib.avail_in = sizeof(zeros);
		assert_int_equal(deflate(&zlib, Z_NO_FLUSH), Z_OK);
	}
	assert_int_equal(deflate(&zlib, Z_SYNC_FLUSH), Z_OK);
	size_t len = size - zlib.avail_out;
	deflateEnd(&zlib);
	const uint32_t words[] = {
		htonl(0x80030001), htonl(announced ? announced : (uint32_t)len - 8), htonl(1), 0};
	memcpy(frame, words, sizeof(words));
	memset(frame + 16, 0, 2);
	return len;
}

static void a_bomb_in_spdy_headers(void **state)
{
	static uint8_t frame[1u << 20];
	size_t len = make_bomb(frame, sizeof(frame), 0);
	assert_true(len > 32768 && len < sizeof(frame));
	attack(*state, FIXTURE_SPDY, frame, len);
	/* As much of it as a frame may have. */
	len = make_bomb(frame, sizeof(frame), 16384);
	attack(*state, FIXTURE_SPDY, frame, len);
}

static void nonsense_instead_of_spdy(void **state)
{
	static uint8_t frame[1u << 16];
	memset(frame, 0xff, sizeof(frame));
	attack(*state, FIXTURE_SPDY, frame, sizeof(frame));
}

static void messages_without_end(void **state)
{
	/* The first fragment of a message, again and again: 16 MiB that never become one. */
	static uint8_t frames[16u << 20];
	const uint8_t head[] = {0x02, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0};
	memcpy(frames, head, sizeof(head));
	attack(*state, FIXTURE_WEBSOCKET, frames, sizeof(frames));
	/* One frame that announces 2^62 bytes. */
	frames[2] = 0x40;
	attack(*state, FIXTURE_WEBSOCKET, frames, sizeof(frames));
}

/* ---- streams that come again ---- */

struct spdy_client {
	int fd;
	struct spdy *spdy;
	uint32_t awaited;
	bool refused; /* the awaited one */
};

static void on_write(void *userdata, const void *data, size_t len)
{
	send_all(((struct spdy_client *)userdata)->fd, data, len);
}

static void on_data(void *userdata, uint32_t id, const void *data, size_t len)
{
	const struct spdy_client *client = userdata;
	(void)data;
	spdy_took(client->spdy, id, len);
}

static void on_end(void *userdata, uint32_t id, bool reset)
{
	struct spdy_client *client = userdata;
	client->refused |= reset && id == client->awaited;
}

static void on_room(void *userdata)
{
	(void)userdata;
}

static uint32_t open_stream(const struct spdy_client *client, const char *type)
{
	const struct stream_open open = {type, "", ""};
	uint32_t id;
	assert_int_equal(spdy_open(client->spdy, &open, false, &id, NULL), 0);
	return id;
}

static void await_refusal(struct spdy_client *client)
{
	while (!client->refused) {
		char data[4096];
		struct pollfd readable = {.fd = client->fd, .events = POLLIN};
		assert_int_equal(poll(&readable, 1, FIXTURE_WAIT_MS), 1);
		ssize_t n = recv(client->fd, data, sizeof(data), 0);
		assert_true(n > 0);
		assert_int_equal(spdy_feed(client->spdy, data, (size_t)n, NULL), 0);
	}
}

static const char *const types[] = {"error", "stdin", "stdout", "stderr"};

/* A process is started once, and each of its streams has one end at the client's. */
static void a_stream_that_comes_again(const struct fixture *fixture, const char *type)
{
	static const struct stream_handler handler = {
		.on_data = on_data, .on_end = on_end, .on_room = on_room};
	struct target target = {.command = "cat"};
	struct spdy_client client = {.fd = -EBADF};
	char answer[2048];
	uint32_t first = 0;
	_cleanup_free_ char *url = fixture_url(fixture->server, &target, false);
	client.fd = fixture_request(url, FIXTURE_SPDY, answer, sizeof(answer));
	assert_int_equal(
		spdy_new_client(on_write, &client, &handler, &client, &client.spdy, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		uint32_t id = open_stream(&client, types[i]);
		first = strcmp(types[i], type) == 0 ? id : first;
	}
	spdy_reset(client.spdy, first);
	client.awaited = open_stream(&client, type);
	await_refusal(&client);
	fd_close(client.fd);
	fixture_await(&target.ended);
	spdy_free(client.spdy);
	assert_int_equal(atomic_load(&target.starts), 1);
}

static void streams_that_come_again(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		a_stream_that_comes_again(*state, types[i]);
}

/* ---- clients that go away before they are answered ---- */

#define HASTY 64

/*
 * A connection that is reset after its request was read and before the answer is sent becomes no
 * session; what its token stood for ends all the same. Many at once, so that it happens to some:
 * the server learns of their requests together, and comes to most of them when they are gone.
 */
static void clients_that_do_not_wait_for_the_answer(void **state)
{
	static struct target targets[HASTY];
	const struct linger reset = {.l_onoff = 1};
	const struct fixture *fixture = *state;
	for (int round = 0; round < ROUNDS; round++) {
		char *urls[HASTY], answer[2048];
		int fds[HASTY];
		for (int i = 0; i < HASTY; i++) {
			targets[i] = (struct target){.command = "true"};
			urls[i] = fixture_url(fixture->server, &targets[i], false);
		}
		for (int i = 0; i < HASTY; i++)
			fds[i] = fixture_ask(urls[i], FIXTURE_SPDY);
		for (int i = 0; i < HASTY; i++) {
			setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
			fd_close(fds[i]);
		}
		for (int i = 0; i < HASTY; i++) {
			/* Its token is still good where nothing was read of the request. */
			int fd = fixture_request(urls[i], FIXTURE_SPDY, answer, sizeof(answer));
			fd_close(fd);
			fixture_await(&targets[i].ended);
			free(urls[i]);
		}
	}
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_bomb_in_spdy_headers, setup, teardown),
		cmocka_unit_test_setup_teardown(nonsense_instead_of_spdy, setup, teardown),
		cmocka_unit_test_setup_teardown(messages_without_end, setup, teardown),
		cmocka_unit_test_setup_teardown(streams_that_come_again, setup, teardown),
		cmocka_unit_test_setup_teardown(
			clients_that_do_not_wait_for_the_answer, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
