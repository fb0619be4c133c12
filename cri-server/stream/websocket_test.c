/* WebSocket messages by hand: channels in their forms, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/fd.h"
#include "cri-server/stream/websocket.h"

struct client {
	struct websocket *websocket;
	struct buf out;
	struct buf received;
	uint32_t channel, ended;
};

static void on_write(void *userdata, const void *data, size_t len)
{
	buf_append(&((struct client *)userdata)->out, data, len);
}

static void on_data(void *userdata, uint32_t channel, const void *data, size_t len)
{
	struct client *client = userdata;
	client->channel = channel;
	buf_append(&client->received, data, len);
}

static void on_end(void *userdata, uint32_t channel, bool reset)
{
	struct client *client = userdata;
	assert_false(reset);
	client->ended = channel;
}

static const struct stream_handler handler = {.on_data = on_data, .on_end = on_end};

static void begin(struct client *client, enum websocket_mode mode)
{
	*client = (struct client){
		.out = buf_init(1u << 20), .received = buf_init(1u << 20), .ended = UINT32_MAX};
	assert_int_equal(
		websocket_new(mode, on_write, client, &handler, client, &client->websocket, NULL),
		0);
}

static void finish(struct client *client)
{
	websocket_free(client->websocket);
	buf_done(&client->out);
	buf_done(&client->received);
}

/* One frame, masked as a client's must be (with zeros, so that it stays readable). */
static int frame(
	struct client *client, uint8_t opcode, const void *data, size_t len, struct err *err)
{
	_cleanup_free_ uint8_t *bytes = calloc(1, len + 14);
	size_t n = 2;
	bytes[0] = opcode;
	if (len < 126) {
		bytes[1] = (uint8_t)(0x80 | len);
	} else {
		bytes[1] = 0x80 | 127;
		for (int i = 0; i < 8; i++)
			bytes[n++] = (uint8_t)((uint64_t)len >> (56 - 8 * i));
	}
	n += 4;
	memcpy(bytes + n, data, len);
	return websocket_feed(client->websocket, bytes, n + len, err);
}

enum { TEXT = 0x81, BINARY = 0x82, CLOSE = 0x88, PING = 0x89 };

static void the_accept_of_the_rfc(void **state)
{
	char accept[WEBSOCKET_ACCEPT];
	(void)state;
	websocket_accept("dGhlIHNhbXBsZSBub25jZQ==", accept);
	assert_string_equal(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

static void binary_channels(void **state)
{
	struct client client;
	(void)state;
	begin(&client, WEBSOCKET_CHANNELS_BINARY);
	assert_int_equal(frame(&client, BINARY, "\0hello", 6, NULL), 0);
	assert_int_equal(client.channel, 0);
	assert_string_equal(buf_string(&client.received), "hello");
	/* In two pieces, and a ping between them. */
	assert_int_equal(frame(&client, 0x02, "\4{", 2, NULL), 0);
	assert_int_equal(frame(&client, PING, "p", 1, NULL), 0);
	assert_int_equal(frame(&client, 0x80, "}", 1, NULL), 0);
	assert_int_equal(client.channel, 4);
	assert_string_equal(buf_string(&client.received), "hello{}");
	assert_memory_equal(client.out.data, "\x8a\1p", 3);
	websocket_send(client.websocket, 1, "out", 3);
	assert_memory_equal(client.out.data + 3, "\x82\4\1out", 6);
	assert_int_equal(frame(&client, BINARY, "\xff\0", 2, NULL), 0);
	assert_int_equal(client.ended, 0);
	finish(&client);
}

static void base64_channels(void **state)
{
	struct client client;
	struct err err = ERR_INIT;
	(void)state;
	begin(&client, WEBSOCKET_CHANNELS_BASE64);
	assert_int_equal(frame(&client, TEXT, "0aGVsbG8=", 9, NULL), 0);
	assert_int_equal(frame(&client, TEXT, "0eHl6", 5, NULL), 0);
	assert_int_equal(frame(&client, TEXT, "0eA==", 5, NULL), 0);
	assert_int_equal(frame(&client, TEXT, "0", 1, NULL), 0);
	assert_string_equal(buf_string(&client.received), "helloxyzx");
	websocket_send(client.websocket, 2, "hi", 2);
	assert_memory_equal(client.out.data,
		"\x81\5"
		"2aGk=",
		7);
	assert_int_equal(frame(&client, TEXT, "0a?==", 5, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "base64"));
	finish(&client);
}

static void a_tunnel_has_no_channels(void **state)
{
	struct client client;
	(void)state;
	begin(&client, WEBSOCKET_TUNNEL);
	assert_int_equal(frame(&client, BINARY, "\x80\x03", 2, NULL), 0);
	assert_int_equal(client.received.len, 2);
	websocket_send(client.websocket, 0, "abc", 3);
	assert_memory_equal(client.out.data, "\x82\3abc", 5);
	finish(&client);
}

static void refuses(const void *bytes, size_t len)
{
	struct client client;
	begin(&client, WEBSOCKET_CHANNELS_BINARY);
	assert_int_equal(websocket_feed(client.websocket, bytes, len, NULL), -EPROTO);
	assert_true(client.out.len >= 4);
	assert_int_equal((uint8_t)client.out.data[0], CLOSE);
	finish(&client);
}

static void what_breaks_the_protocol(void **state)
{
	(void)state;
	refuses("\x82\x82\0\0\0\0\5x", 8);                  /* channel 5 */
	refuses("\x82\x82\0\0\0\0\xff\x07", 8);             /* the end of channel 7 */
	refuses("\x82\x81\0\0\0\0\xff", 7);                 /* the end of none */
	refuses("\xc2\x81\0\0\0\0x", 7);                    /* a reserved bit */
	refuses("\x83\x81\0\0\0\0x", 7);                    /* no such opcode */
	refuses("\x81\x81\0\0\0\0\xff", 7);                 /* text that is not UTF-8 */
	refuses("\x82\xff\0\0\0\0\x10\0\0\0\0\0\0\0x", 15); /* a message of 256 MiB */
	refuses("\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0x", 15);
}

static void the_client_closes(void **state)
{
	struct client client;
	(void)state;
	begin(&client, WEBSOCKET_CHANNELS_BINARY);
	assert_int_equal(frame(&client, CLOSE, "\x03\xe8", 2, NULL), 1);
	assert_memory_equal(client.out.data, "\x88\2\x03\xe8", 4);
	finish(&client);
}

static void large_messages_are_cut(void **state)
{
	struct client client;
	(void)state;
	begin(&client, WEBSOCKET_CHANNELS_BINARY);
	_cleanup_free_ uint8_t *data = calloc(1, 200000);
	assert_int_equal(frame(&client, BINARY, data, 200000, NULL), 0);
	assert_int_equal(client.received.len, 199999);
	websocket_send(client.websocket, 1, data, 100000);
	assert_int_equal(client.out.len, 100000 + 4 * (4 + 1));
	finish(&client);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_accept_of_the_rfc),
		cmocka_unit_test(binary_channels),
		cmocka_unit_test(base64_channels),
		cmocka_unit_test(a_tunnel_has_no_channels),
		cmocka_unit_test(what_breaks_the_protocol),
		cmocka_unit_test(the_client_closes),
		cmocka_unit_test(large_messages_are_cut),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
