/* SPDY frames by hand: what a client may send, what it may not, and the bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "common/buf.h"
#include "common/fd.h"
#include "cri-server/stream/spdy.h"
#include "cri-server/stream/spdy_dictionary.h"

#define OUT_MAX (16u << 20)

struct client {
	struct spdy *spdy;
	z_stream deflater;
	struct buf out; /* what the server wrote */
	char type[32], port[32], request_id[32];
	uint32_t opened, ended, reset;
	size_t received;
	unsigned rooms;
	int refuse;
};

static void on_write(void *userdata, const void *data, size_t len)
{
	struct client *client = userdata;
	assert_int_equal(buf_append(&client->out, data, len), 0);
}

static int on_open(void *userdata, uint32_t id, const struct stream_open *open)
{
	struct client *client = userdata;
	client->opened = id;
	snprintf(client->type, sizeof(client->type), "%s", open->type);
	snprintf(client->port, sizeof(client->port), "%s", open->port);
	snprintf(client->request_id, sizeof(client->request_id), "%s", open->request_id);
	return client->refuse;
}

static void on_data(void *userdata, uint32_t id, const void *data, size_t len)
{
	struct client *client = userdata;
	(void)id;
	(void)data;
	client->received += len;
}

static void on_end(void *userdata, uint32_t id, bool reset)
{
	struct client *client = userdata;
	*(reset ? &client->reset : &client->ended) = id;
}

static void on_room(void *userdata)
{
	((struct client *)userdata)->rooms++;
}

static const struct stream_handler handler = {
	.on_open = on_open, .on_data = on_data, .on_end = on_end, .on_room = on_room};

static int setup(void **state)
{
	struct client *client = calloc(1, sizeof(*client));
	client->out = buf_init(OUT_MAX);
	*state = client;
	deflateInit(&client->deflater, Z_DEFAULT_COMPRESSION);
	deflateSetDictionary(&client->deflater, spdy_dictionary, sizeof(spdy_dictionary));
	return spdy_new(on_write, client, &handler, client, &client->spdy, NULL);
}

static int teardown(void **state)
{
	struct client *client = *state;
	spdy_free(client->spdy);
	deflateEnd(&client->deflater);
	buf_done(&client->out);
	free(client);
	return 0;
}

static void put(uint8_t *to, uint32_t value)
{
	value = htonl(value);
	memcpy(to, &value, sizeof(value));
}

static uint32_t get(const char *from)
{
	uint32_t value;
	memcpy(&value, from, sizeof(value));
	return ntohl(value);
}

static int control(
	struct client *client, unsigned type, unsigned flags, const void *data, size_t len)
{
	_cleanup_free_ uint8_t *frame = malloc(8 + len);
	put(frame, 0x80030000u | type);
	put(frame + 4, flags << 24 | (uint32_t)len);
	if (len)
		memcpy(frame + 8, data, len);
	return spdy_feed(client->spdy, frame, 8 + len, NULL);
}

static int data_frame(struct client *client, uint32_t id, unsigned flags, size_t len)
{
	_cleanup_free_ uint8_t *frame = calloc(1, 8 + len);
	put(frame, id);
	put(frame + 4, flags << 24 | (uint32_t)len);
	return spdy_feed(client->spdy, frame, 8 + len, NULL);
}

static size_t text(uint8_t *to, const char *value)
{
	put(to, (uint32_t)strlen(value));
	memcpy(to + 4, value, strlen(value));
	return 4 + strlen(value);
}

/* A header block of pairs, deflated as the connection's next. */
static size_t block(
	struct client *client, const uint8_t *plain, size_t len, uint8_t *out, size_t size)
{
	client->deflater.next_in = (uint8_t *)plain;
	client->deflater.avail_in = (unsigned)len;
	client->deflater.next_out = out;
	client->deflater.avail_out = (unsigned)size;
	deflate(&client->deflater, Z_SYNC_FLUSH);
	return size - client->deflater.avail_out;
}

static int open_stream(struct client *client, uint32_t id, unsigned flags)
{
	uint8_t plain[512], frame[1024] = {0};
	size_t len = 4;
	put(plain, 3);
	len += text(plain + len, "streamtype");
	len += text(plain + len, "data");
	len += text(plain + len, "Port");
	len += text(plain + len, "8080");
	len += text(plain + len, "requestid");
	len += text(plain + len, "7");
	put(frame, id);
	len = block(client, plain, len, frame + 10, sizeof(frame) - 10);
	return control(client, 1, flags, frame, 10 + len);
}

/* Finds the n-th control frame of the type in what the server wrote; NULL: none. */
static const char *written(struct client *client, unsigned type, unsigned n)
{
	for (size_t at = 0; at + 8 <= client->out.len;) {
		const char *frame = client->out.data + at;
		if ((get(frame) & 0x80000000u) && (get(frame) & 0xffff) == type && n-- == 0)
			return frame + 8;
		at += 8 + (get(frame + 4) & 0xffffff);
	}
	return NULL;
}

static void opens_and_ends(void **state)
{
	struct client *client = *state;
	assert_int_equal(open_stream(client, 1, 0), 0);
	assert_int_equal(client->opened, 1);
	assert_string_equal(client->type, "data");
	assert_string_equal(client->port, "8080");
	assert_string_equal(client->request_id, "7");
	assert_non_null(written(client, 2, 0));
	assert_int_equal(data_frame(client, 1, 0, 1000), 0);
	assert_int_equal(client->received, 1000);
	assert_int_equal(data_frame(client, 1, 1, 24), 0);
	assert_int_equal(client->received, 1024);
	assert_int_equal(client->ended, 1);
	/* Our half is open still. */
	assert_true(spdy_room(client->spdy, 1) > 0);
	spdy_send(client->spdy, 1, "x", 1);
	spdy_end(client->spdy, 1);
	assert_int_equal(spdy_room(client->spdy, 1), 0);
	/* The second block continues the first one's compression. */
	assert_int_equal(open_stream(client, 3, 1), 0);
	assert_int_equal(client->ended, 3);
}

static void bytes_may_come_one_by_one(void **state)
{
	struct client *client = *state;
	uint8_t plain[64], frame[256] = {0};
	put(plain, 1);
	size_t len = 4 + text(plain + 4, "streamtype");
	len += text(plain + len, "error");
	put(frame, 0x80030001u);
	put(frame + 8, 5);
	len = block(client, plain, len, frame + 18, sizeof(frame) - 18);
	put(frame + 4, (uint32_t)len + 10);
	for (size_t i = 0; i < 18 + len; i++)
		assert_int_equal(spdy_feed(client->spdy, frame + i, 1, NULL), 0);
	assert_int_equal(client->opened, 5);
	assert_string_equal(client->type, "error");
}

static void ping_is_answered(void **state)
{
	struct client *client = *state;
	uint8_t id[4];
	put(id, 77);
	assert_int_equal(control(client, 6, 0, id, 4), 0);
	assert_int_equal(get(written(client, 6, 0)), 77);
	put(id, 78); /* would be the answer to one of ours */
	assert_int_equal(control(client, 6, 0, id, 4), 0);
	assert_null(written(client, 6, 1));
}

static void the_clients_window_binds_once_it_has_one(void **state)
{
	struct client *client = *state;
	static const char data[65536];
	uint8_t update[8];
	open_stream(client, 1, 0);
	spdy_send(client->spdy, 1, data, 60000);
	put(update, 1);
	put(update + 4, 100);
	assert_int_equal(control(client, 9, 0, update, 8), 0);
	assert_int_equal(spdy_room(client->spdy, 1), 65536 - 60000);
	assert_int_equal(client->rooms, 1);
	put(update, 0); /* the connection's */
	put(update + 4, 50000);
	assert_int_equal(control(client, 9, 0, update, 8), 0);
	assert_int_equal(spdy_room(client->spdy, 1), 65536 - 60000 + 100);
	/* A smaller initial window, for streams that are open too: the room is negative then. */
	uint8_t settings[12];
	put(settings, 1);
	put(settings + 4, 7);
	put(settings + 8, 1000);
	assert_int_equal(control(client, 4, 0, settings, 12), 0);
	assert_int_equal(spdy_room(client->spdy, 1), 0);
	put(update + 4, 0x7fffffff);
	assert_int_equal(control(client, 9, 0, update, 8), -EPROTO);
}

static void what_was_taken_is_announced(void **state)
{
	struct client *client = *state;
	open_stream(client, 1, 0);
	data_frame(client, 1, 0, 40000);
	assert_int_equal(get(written(client, 9, 0)), 0); /* the connection's, as they come */
	assert_int_equal(get(written(client, 9, 0) + 4), 40000);
	assert_null(written(client, 9, 1));
	spdy_took(client->spdy, 1, 40000);
	assert_int_equal(get(written(client, 9, 1)), 1);
	assert_int_equal(get(written(client, 9, 1) + 4), 40000);
}

static void a_bomb_is_refused(void **state)
{
	struct client *client = *state;
	size_t len = 8u << 20;
	_cleanup_free_ uint8_t *zeros = calloc(1, len);
	_cleanup_free_ uint8_t *frame = calloc(1, 65536);
	put(frame, 1);
	len = block(client, zeros, len, frame + 10, 65536 - 10);
	assert_true(len < 16000);
	assert_int_equal(control(client, 1, 0, frame, 10 + len), -EPROTO);
	assert_non_null(written(client, 7, 0));
	assert_int_equal(client->opened, 0);
}

static void improper_frames_end_the_connection(void **state)
{
	static const struct {
		uint32_t first, second;
		const char *payload;
		size_t len;
	} frames[] = {
		{0x80020001u, 0, NULL, 0},                       /* version 2 */
		{0x80030001u, 0x00ffffffu, NULL, 0},             /* larger than may be */
		{0x80030001u, 4, "\0\0\0\1", 4},                 /* cut off */
		{0x80030001u, 12, "\0\0\0\1\0\0\0\0\0\0xx", 12}, /* no zlib */
		{0x80030003u, 4, "\0\0\0\1", 4},                 /* RST_STREAM of 4 bytes */
		{0x80030004u, 4, "\0\0\0\7", 4},                 /* SETTINGS without entries */
		{0x80030006u, 0, NULL, 0},                       /* PING without a number */
		{0x80030007u, 4, "\0\0\0\0", 4},                 /* GOAWAY without a status */
		{0x80030009u, 8, "\0\0\0\0\0\0\0\0", 8},         /* a window's change by 0 */
		{0x00000001u, 1, "x", 1},                        /* data of no stream */
		{0x00000000u, 1, "x", 1},
	};
	for (size_t i = 0; i < ARRAY_SIZE(frames); i++) {
		setup(state);
		struct client *client = *state;
		struct err err = ERR_INIT;
		uint8_t frame[32];
		put(frame, frames[i].first);
		put(frame + 4, frames[i].second);
		if (frames[i].len)
			memcpy(frame + 8, frames[i].payload, frames[i].len);
		if (spdy_feed(client->spdy, frame, 8 + frames[i].len, &err) != -EPROTO)
			fail_msg("frame %zu was taken", i);
		assert_non_null(written(client, 7, 0));
		teardown(state);
	}
}

static void numbers_of_streams_rise(void **state)
{
	struct client *client = *state;
	assert_int_equal(open_stream(client, 5, 0), 0);
	assert_int_equal(open_stream(client, 3, 0), -EPROTO);
}

static void streams_at_once_are_bounded(void **state)
{
	struct client *client = *state;
	for (uint32_t i = 0; i < SPDY_STREAMS_MAX; i++)
		assert_int_equal(open_stream(client, 2 * i + 1, 0), 0);
	assert_null(written(client, 3, 0));
	assert_int_equal(open_stream(client, 2 * SPDY_STREAMS_MAX + 1, 0), 0);
	assert_int_equal(get(written(client, 3, 0)), 2 * SPDY_STREAMS_MAX + 1);
	/* What ends makes room. */
	data_frame(client, 1, 1, 0);
	spdy_end(client->spdy, 1);
	client->opened = 0;
	assert_int_equal(open_stream(client, 2 * SPDY_STREAMS_MAX + 3, 0), 0);
	assert_int_equal(client->opened, 2 * SPDY_STREAMS_MAX + 3);
}

static void a_stream_that_the_session_refuses_is_reset(void **state)
{
	struct client *client = *state;
	client->refuse = -EINVAL;
	assert_int_equal(open_stream(client, 1, 0), 0);
	assert_int_equal(get(written(client, 3, 0)), 1);
	assert_int_equal(data_frame(client, 1, 0, 10), 0); /* under way meanwhile */
	assert_int_equal(client->received, 0);
}

/* What runs goes on to its end. */
static void a_client_that_says_goaway_opens_no_more(void **state)
{
	struct client *client = *state;
	const uint8_t leaves[8] = {0};
	open_stream(client, 1, 0);
	assert_int_equal(control(client, 7, 0, leaves, sizeof(leaves)), 0);
	assert_int_equal(open_stream(client, 3, 0), 0);
	assert_int_equal(client->opened, 1);
	assert_int_equal(get(written(client, 3, 0)), 3);
	assert_int_equal(get(written(client, 3, 0) + 4), 3); /* refused */

	assert_int_equal(data_frame(client, 1, 0, 1000), 0);
	assert_int_equal(client->received, 1000);
	client->out.len = 0;
	spdy_send(client->spdy, 1, "x", 1);
	assert_int_equal(client->out.len, 9);
	assert_int_equal(data_frame(client, 1, 1, 0), 0);
	assert_int_equal(client->ended, 1);
	spdy_end(client->spdy, 1);
	assert_int_equal(client->out.len, 9 + 8);
	assert_null(written(client, 7, 0)); /* the connection is the client's to close */
}

static void reset_by_the_client(void **state)
{
	struct client *client = *state;
	uint8_t reset[8];
	open_stream(client, 1, 0);
	put(reset, 1);
	put(reset + 4, 5);
	assert_int_equal(control(client, 3, 0, reset, 8), 0);
	assert_int_equal(client->reset, 1);
	assert_int_equal(spdy_room(client->spdy, 1), 0);
}

#define SPDY_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SPDY_TEST(opens_and_ends),
		SPDY_TEST(bytes_may_come_one_by_one),
		SPDY_TEST(ping_is_answered),
		SPDY_TEST(the_clients_window_binds_once_it_has_one),
		SPDY_TEST(what_was_taken_is_announced),
		SPDY_TEST(a_bomb_is_refused),
		cmocka_unit_test(improper_frames_end_the_connection),
		SPDY_TEST(numbers_of_streams_rise),
		SPDY_TEST(streams_at_once_are_bounded),
		SPDY_TEST(a_stream_that_the_session_refuses_is_reset),
		SPDY_TEST(reset_by_the_client),
		SPDY_TEST(a_client_that_says_goaway_opens_no_more),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
