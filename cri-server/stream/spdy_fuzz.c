/* Bytes of a SPDY client, in pieces of a size that the first byte says. */
#include <stdlib.h>
#include <string.h>

#include "cri-server/stream/spdy.h"

#define OUT_BYTES_MAX (64u << 20)

struct fuzz {
	struct spdy *spdy;
	size_t out;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_write(void *userdata, const void *data, size_t len)
{
	struct fuzz *fuzz = userdata;
	(void)data;
	fuzz->out += len;
	if (fuzz->out > OUT_BYTES_MAX)
		abort();
}

static int on_open(void *userdata, uint32_t id, const struct stream_open *open)
{
	(void)userdata;
	(void)id;
	return strcmp(open->type, "refuse") == 0 ? -1 : 0;
}

/* Answers as a session does, so that windows and ends are gone through. */
static void on_data(void *userdata, uint32_t id, const void *data, size_t len)
{
	struct fuzz *fuzz = userdata;
	size_t room = spdy_room(fuzz->spdy, id);
	spdy_send(fuzz->spdy, id, data, len < room ? len : room);
	spdy_took(fuzz->spdy, id, len);
}

static void on_end(void *userdata, uint32_t id, bool reset)
{
	struct fuzz *fuzz = userdata;
	if (!reset)
		spdy_end(fuzz->spdy, id);
}

static void on_room(void *userdata)
{
	(void)userdata;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct stream_handler handler = {
		.on_open = on_open, .on_data = on_data, .on_end = on_end, .on_room = on_room};
	struct fuzz fuzz = {.out = 0};
	if (size < 1 || spdy_new(on_write, &fuzz, &handler, &fuzz, &fuzz.spdy, NULL) < 0)
		return 0;
	size_t piece = data[0] ? data[0] : size;
	for (size_t at = 1; at < size; at += piece) {
		size_t len = size - at < piece ? size - at : piece;
		if (spdy_feed(fuzz.spdy, data + at, len, NULL) < 0)
			break;
	}
	spdy_free(fuzz.spdy);
	return 0;
}
