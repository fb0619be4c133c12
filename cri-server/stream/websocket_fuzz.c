/* Bytes of a WebSocket client; the first byte chooses the mode and the size of the pieces. */
#include <stdlib.h>

#include "cri-server/stream/websocket.h"

struct fuzz {
	struct websocket *websocket;
	uint32_t ended;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_write(void *userdata, const void *data, size_t len)
{
	(void)userdata;
	(void)data;
	(void)len;
}

static void on_data(void *userdata, uint32_t channel, const void *data, size_t len)
{
	struct fuzz *fuzz = userdata;
	if (channel >= WEBSOCKET_CHANNELS || !len)
		abort();
	websocket_send(fuzz->websocket, channel, data, len);
}

static void on_end(void *userdata, uint32_t channel, bool reset)
{
	struct fuzz *fuzz = userdata;
	if (channel >= WEBSOCKET_CHANNELS || reset)
		abort();
	fuzz->ended = channel;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct stream_handler handler = {.on_data = on_data, .on_end = on_end};
	struct fuzz fuzz = {.ended = 0};
	if (size < 1 || websocket_new(data[0] % 3, on_write, &fuzz, &handler, &fuzz,
				&fuzz.websocket, NULL) < 0)
		return 0;
	size_t piece = data[0] / 3 ? data[0] / 3 : size;
	for (size_t at = 1; at < size; at += piece) {
		size_t len = size - at < piece ? size - at : piece;
		if (websocket_feed(fuzz.websocket, data + at, len, NULL) != 0)
			break;
	}
	websocket_free(fuzz.websocket);
	return 0;
}
