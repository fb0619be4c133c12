#include "cri-server/stream/websocket.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <wslay/wslay.h>

#include "common/fd.h"

#define MESSAGE_BYTES_MAX (256u << 10)
#define SEND_BYTES_MAX    32768
#define CLOSE_SIGNAL      255

struct websocket {
	enum websocket_mode mode;
	unsigned n_channels;
	websocket_write_fn write;
	void *userdata;
	const struct stream_handler *handler;
	void *session;
	wslay_event_context_ptr wslay;
	const uint8_t *in; /* what wslay is to read */
	size_t in_len;
	int result;
	struct err err;
};

static ssize_t on_recv(
	wslay_event_context_ptr wslay, uint8_t *buf, size_t len, int flags, void *userdata)
{
	struct websocket *ws = userdata;
	(void)flags;
	if (!ws->in_len) {
		wslay_event_set_error(wslay, WSLAY_ERR_WOULDBLOCK);
		return -1;
	}
	size_t n = len < ws->in_len ? len : ws->in_len;
	memcpy(buf, ws->in, n);
	ws->in += n;
	ws->in_len -= n;
	return (ssize_t)n;
}

static ssize_t on_send(
	wslay_event_context_ptr wslay, const uint8_t *data, size_t len, int flags, void *userdata)
{
	struct websocket *ws = userdata;
	(void)wslay;
	(void)flags;
	ws->write(ws->userdata, data, len);
	return (ssize_t)len;
}

static void refuse(struct websocket *ws, uint16_t code, const char *reason)
{
	ws->result = err_set(&ws->err, -EPROTO, "%s", reason);
	wslay_event_queue_close(ws->wslay, code, (const uint8_t *)reason, strlen(reason));
}

static void take_message(struct websocket *ws, uint8_t channel, const uint8_t *data, size_t len)
{
	if (channel == CLOSE_SIGNAL && ws->mode == WEBSOCKET_CHANNELS_BINARY) {
		if (len != 1 || data[0] >= ws->n_channels)
			refuse(ws, WSLAY_CODE_POLICY_VIOLATION, "a close signal of no channel");
		else
			ws->handler->on_end(ws->session, data[0], false);
		return;
	}
	if (channel >= ws->n_channels)
		refuse(ws, WSLAY_CODE_POLICY_VIOLATION, "a message of an unknown channel");
	else if (len)
		ws->handler->on_data(ws->session, channel, data, len);
}

static void take_base64(struct websocket *ws, const uint8_t *text, size_t len)
{
	_cleanup_free_ uint8_t *data = malloc(len);
	size_t padding = 0;
	int n = -1;
	if (data && len > 1 && (len - 1) % 4 == 0)
		n = EVP_DecodeBlock(data, text + 1, (int)len - 1);
	while (padding < 2 && len > 1 + padding && text[len - 1 - padding] == '=')
		padding++;
	if (len == 1)
		n = 0;
	if (n < (int)padding)
		refuse(ws, WSLAY_CODE_INVALID_FRAME_PAYLOAD_DATA, "a message that is not base64");
	else
		take_message(ws, (uint8_t)(text[0] - '0'), data, (size_t)n - (n ? padding : 0));
}

static void on_message(wslay_event_context_ptr wslay, const struct wslay_event_on_msg_recv_arg *arg,
	void *userdata)
{
	struct websocket *ws = userdata;
	(void)wslay;
	if (wslay_is_ctrl_frame(arg->opcode) || ws->result != 0)
		return; /* wslay answers pings and closing */
	if (ws->mode == WEBSOCKET_TUNNEL) {
		if (arg->msg_length)
			ws->handler->on_data(ws->session, 0, arg->msg, arg->msg_length);
	} else if (arg->msg_length) {
		if (ws->mode == WEBSOCKET_CHANNELS_BASE64)
			take_base64(ws, arg->msg, arg->msg_length);
		else
			take_message(ws, arg->msg[0], arg->msg + 1, arg->msg_length - 1);
	}
}

int websocket_new(enum websocket_mode mode, websocket_write_fn write, void *userdata,
	const struct stream_handler *handler, void *session, struct websocket **ret,
	struct err *err)
{
	const struct wslay_event_callbacks callbacks = {.recv_callback = on_recv,
		.send_callback = on_send,
		.on_msg_recv_callback = on_message};
	struct websocket *ws = calloc(1, sizeof(*ws));
	if (!ws)
		return err_nomem(err);
	ws->mode = mode;
	ws->n_channels = WEBSOCKET_CHANNELS;
	ws->write = write;
	ws->userdata = userdata;
	ws->handler = handler;
	ws->session = session;
	if (wslay_event_context_server_init(&ws->wslay, &callbacks, ws) != 0) {
		free(ws);
		return err_nomem(err);
	}
	wslay_event_config_set_max_recv_msg_length(ws->wslay, MESSAGE_BYTES_MAX);
	*ret = ws;
	return 0;
}

void websocket_set_channels(struct websocket *ws, unsigned n)
{
	ws->n_channels = n;
}

struct websocket *websocket_free(struct websocket *ws)
{
	if (!ws)
		return NULL;
	wslay_event_context_free(ws->wslay);
	free(ws);
	return NULL;
}

int websocket_feed(struct websocket *ws, const void *data, size_t len, struct err *err)
{
	ws->in = data;
	ws->in_len = len;
	/* Read once more when all is taken: what is complete is only then passed on. */
	while (ws->result == 0 && wslay_event_want_read(ws->wslay)) {
		size_t before = ws->in_len;
		int r = wslay_event_recv(ws->wslay);
		if (r != 0 && ws->result == 0)
			ws->result = err_set(&ws->err, r == WSLAY_ERR_NOMEM ? -ENOMEM : -EPROTO,
				"wslay: error %d", r);
		if (!ws->in_len || ws->in_len == before)
			break;
	}
	wslay_event_send(ws->wslay);
	if (ws->result == 0 && wslay_event_get_close_received(ws->wslay)) {
		uint16_t code = wslay_event_get_status_code_received(ws->wslay);
		return code == WSLAY_CODE_ABNORMAL_CLOSURE ? -EPROTO : 1;
	}
	/* It refuses by itself what breaks RFC 6455. */
	if (ws->result == 0 && wslay_event_get_close_sent(ws->wslay))
		ws->result = err_set(&ws->err, -EPROTO, "a frame that breaks the protocol");
	return ws->result < 0 ? err_set(err, ws->result, "WebSocket: %s", ws->err.msg) : 0;
}

static void send_message(struct websocket *ws, uint32_t channel, const uint8_t *data, size_t len)
{
	uint8_t text[1 + (SEND_BYTES_MAX + 2) / 3 * 4 + 1];
	struct wslay_event_msg message = {.opcode = WSLAY_BINARY_FRAME, .msg = text};
	if (ws->mode == WEBSOCKET_TUNNEL) {
		message.msg = data;
		message.msg_length = len;
	} else if (ws->mode == WEBSOCKET_CHANNELS_BASE64) {
		message.opcode = WSLAY_TEXT_FRAME;
		text[0] = (uint8_t)('0' + channel);
		message.msg_length = 1 + (size_t)EVP_EncodeBlock(text + 1, data, (int)len);
	} else {
		text[0] = (uint8_t)channel;
		memcpy(text + 1, data, len);
		message.msg_length = 1 + len;
	}
	wslay_event_queue_msg(ws->wslay, &message);
	wslay_event_send(ws->wslay);
}

void websocket_send(struct websocket *ws, uint32_t channel, const void *data, size_t len)
{
	const uint8_t *bytes = len ? data : (const uint8_t *)"";
	do {
		size_t n = len < SEND_BYTES_MAX ? len : SEND_BYTES_MAX;
		send_message(ws, channel, bytes, n);
		bytes += n;
		len -= n;
	} while (len);
}

void websocket_close(struct websocket *ws)
{
	wslay_event_queue_close(ws->wslay, WSLAY_CODE_NORMAL_CLOSURE, NULL, 0);
	wslay_event_send(ws->wslay);
}

void websocket_accept(const char *key, char accept[WEBSOCKET_ACCEPT])
{
	char text[256];
	uint8_t digest[SHA_DIGEST_LENGTH];
	snprintf(text, sizeof(text), "%.64s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
	SHA1((const uint8_t *)text, strlen(text), digest);
	EVP_EncodeBlock((uint8_t *)accept, digest, sizeof(digest));
}
