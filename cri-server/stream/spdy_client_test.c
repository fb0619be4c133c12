/* The client's side of SPDY against the server's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/buf.h"
#include "common/fd.h"
#include "cri-server/stream/spdy.h"

#define KEPT_MAX (8u << 20)

struct side {
	struct spdy *spdy;
	struct buf out; /* for the other side */
	char opened[128];
	size_t received;
	uint32_t ended, reset, last;
};

struct pair {
	struct side client, server;
};

static void on_write(void *userdata, const void *data, size_t len)
{
	struct side *side = userdata;
	assert_int_equal(buf_append(&side->out, data, len), 0);
}

static int on_open(void *userdata, uint32_t id, const struct stream_open *open)
{
	struct side *side = userdata;
	snprintf(side->opened, sizeof(side->opened), "%u %s %s %s", id, open->type, open->port,
		open->request_id);
	return strcmp(open->port, "9") == 0 ? -EINVAL : 0;
}

static void on_data(void *userdata, uint32_t id, const void *data, size_t len)
{
	struct side *side = userdata;
	(void)data;
	side->last = id;
	side->received += len;
}

static void on_end(void *userdata, uint32_t id, bool reset)
{
	struct side *side = userdata;
	*(reset ? &side->reset : &side->ended) = id;
}

static void on_room(void *userdata)
{
	(void)userdata;
}

static const struct stream_handler handler = {
	.on_open = on_open, .on_data = on_data, .on_end = on_end, .on_room = on_room};

static void pass(struct side *from, struct side *to)
{
	assert_int_equal(spdy_feed(to->spdy, from->out.data, from->out.len, NULL), 0);
	from->out.len = 0;
}

static void exchange(struct pair *pair)
{
	while (pair->client.out.len || pair->server.out.len) {
		pass(&pair->client, &pair->server);
		pass(&pair->server, &pair->client);
	}
}

static int setup(void **state)
{
	struct pair *pair = calloc(1, sizeof(*pair));
	pair->client.out = buf_init(KEPT_MAX);
	pair->server.out = buf_init(KEPT_MAX);
	*state = pair;
	int r = spdy_new_client(
		on_write, &pair->client, &handler, &pair->client, &pair->client.spdy, NULL);
	return r < 0 ? r
		     : spdy_new(on_write, &pair->server, &handler, &pair->server,
			       &pair->server.spdy, NULL);
}

static int teardown(void **state)
{
	struct pair *pair = *state;
	spdy_free(pair->client.spdy);
	spdy_free(pair->server.spdy);
	buf_done(&pair->client.out);
	buf_done(&pair->server.out);
	free(pair);
	return 0;
}

static uint32_t open_stream(struct pair *pair, const char *type, const char *port, bool silent)
{
	const struct stream_open open = {.type = type, .port = port, .request_id = "5"};
	uint32_t id = 0;
	assert_int_equal(spdy_open(pair->client.spdy, &open, silent, &id, NULL), 0);
	exchange(pair);
	return id;
}

static void streams_open_carry_and_end(void **state)
{
	struct pair *pair = *state;
	assert_int_equal(open_stream(pair, "error", "80", true), 1);
	assert_string_equal(pair->server.opened, "1 error 80 5");
	assert_int_equal(pair->server.ended, 1); /* it was opened silent */
	assert_int_equal(open_stream(pair, "data", "80", false), 3);
	assert_string_equal(pair->server.opened, "3 data 80 5");

	spdy_send(pair->client.spdy, 3, "hello", 5);
	spdy_send(pair->server.spdy, 1, "why", 3);
	spdy_end(pair->server.spdy, 1);
	exchange(pair);
	assert_int_equal(pair->server.received, 5);
	assert_int_equal(pair->client.received, 3);
	assert_int_equal(pair->client.last, 1);
	assert_int_equal(pair->client.ended, 1);

	spdy_end(pair->client.spdy, 3);
	exchange(pair);
	assert_int_equal(pair->server.ended, 3);
	assert_int_equal(spdy_room(pair->client.spdy, 3), 0);
	spdy_send(pair->server.spdy, 3, "last", 4); /* only one half is closed */
	spdy_reset(pair->server.spdy, 3);
	exchange(pair);
	assert_int_equal(pair->client.received, 7);
	assert_int_equal(pair->client.reset, 3);
}

static void a_refused_stream_is_reset(void **state)
{
	struct pair *pair = *state;
	uint32_t id = open_stream(pair, "data", "9", false);
	assert_int_equal(pair->client.reset, id);
}

/* What one stream does not take is its window; another goes on. */
static void a_stream_that_is_not_read_holds_only_itself(void **state)
{
	static const char data[65536];
	struct pair *pair = *state;
	uint32_t stuck = open_stream(pair, "data", "80", false);
	uint32_t other = open_stream(pair, "data", "81", false);
	size_t sent = 0, room;
	while ((room = spdy_room(pair->server.spdy, stuck)) > 0) {
		spdy_send(pair->server.spdy, stuck, data, room);
		sent += room;
		exchange(pair);
	}
	assert_int_equal(sent, 65536);
	for (size_t i = 0; i < 100; i++) {
		room = spdy_room(pair->server.spdy, other);
		assert_true(room > 0);
		spdy_send(pair->server.spdy, other, data, room);
		exchange(pair);
		spdy_took(pair->client.spdy, other, room);
		exchange(pair);
	}
	spdy_took(pair->client.spdy, stuck, sent);
	exchange(pair);
	assert_int_equal(spdy_room(pair->server.spdy, stuck), 65536);
}

static void the_servers_window_is_heeded(void **state)
{
	static const char data[40000];
	struct pair *pair = *state;
	uint32_t id = open_stream(pair, "data", "80", false);
	assert_int_equal(spdy_room(pair->client.spdy, id), 65536); /* from the first byte on */
	spdy_send(pair->client.spdy, id, data, sizeof(data));
	exchange(pair);
	assert_int_equal(spdy_room(pair->client.spdy, id), 65536 - sizeof(data));
	spdy_took(pair->server.spdy, id, sizeof(data));
	exchange(pair);
	size_t room = spdy_room(pair->client.spdy, id);
	assert_in_range(room, 32768, 65536);
	spdy_send(pair->client.spdy, id, data, sizeof(data));
	assert_int_equal(spdy_room(pair->client.spdy, id), room - sizeof(data));
}

static void streams_are_bounded_and_headers_too(void **state)
{
	struct pair *pair = *state;
	char text[600];
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	struct stream_open open = {.type = "data", .port = text, .request_id = "1"};
	uint32_t id;
	assert_true(spdy_open(pair->client.spdy, &open, false, &id, NULL) < 0);
	for (unsigned i = 0; i < SPDY_STREAMS_MAX; i++)
		open_stream(pair, "data", "80", false);
	open.port = "80";
	assert_int_equal(spdy_open(pair->client.spdy, &open, false, &id, NULL), -EAGAIN);
}

static void a_server_opens_no_streams(void **state)
{
	static const unsigned char syn[] = {
		0x80, 3, 0, 1, 0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0};
	struct pair *pair = *state;
	struct err err = ERR_INIT;
	assert_int_equal(spdy_feed(pair->client.spdy, syn, sizeof(syn), &err), -EPROTO);
}

/* What runs is still its own; no stream is begun. */
static void a_server_that_says_goaway_is_asked_for_no_more(void **state)
{
	struct pair *pair = *state;
	const struct stream_open open = {.type = "data", .port = "80", .request_id = "6"};
	uint32_t id = open_stream(pair, "data", "80", false), other;
	spdy_send(pair->server.spdy, id, "last", 4);
	spdy_end(pair->server.spdy, id);
	spdy_goaway(pair->server.spdy);
	exchange(pair);
	assert_int_equal(pair->client.received, 4);
	assert_int_equal(pair->client.ended, id);
	assert_int_equal(spdy_open(pair->client.spdy, &open, false, &other, NULL), -EAGAIN);
	assert_true(spdy_room(pair->client.spdy, id) > 0);
}

static void a_ping_is_answered_once(void **state)
{
	struct pair *pair = *state;
	exchange(pair); /* what both begin with */
	spdy_ping(pair->client.spdy);
	size_t len = pair->client.out.len;
	pass(&pair->client, &pair->server);
	assert_int_equal(pair->server.out.len, len);
	pass(&pair->server, &pair->client);
	assert_int_equal(pair->client.out.len, 0);
}

#define PAIR_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		PAIR_TEST(streams_open_carry_and_end),
		PAIR_TEST(a_refused_stream_is_reset),
		PAIR_TEST(a_stream_that_is_not_read_holds_only_itself),
		PAIR_TEST(the_servers_window_is_heeded),
		PAIR_TEST(streams_are_bounded_and_headers_too),
		PAIR_TEST(a_server_opens_no_streams),
		PAIR_TEST(a_server_that_says_goaway_is_asked_for_no_more),
		PAIR_TEST(a_ping_is_answered_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
