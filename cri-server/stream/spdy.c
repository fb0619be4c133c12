#include "cri-server/stream/spdy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/stream/spdy_dictionary.h"
#include "cri-server/stream/spdy_internal.h"

#define FRAME_BYTES_MAX     32768 /* of a data frame that we send */
#define ROOM_BYTES          (1u << 20)
#define CLIENT_WINDOW_BYTES (1u << 20) /* more for the connection, at its start */

void spdy_write_control(
	struct spdy *spdy, enum spdy_type type, uint8_t flags, const uint8_t *payload, size_t len)
{
	uint8_t header[SPDY_HEADER_BYTES];
	spdy_put_u32(header, 0x80000000u | SPDY_VERSION << 16 | type);
	spdy_put_u32(header + 4, (uint32_t)flags << 24 | (uint32_t)len);
	spdy->write(spdy->userdata, header, sizeof(header));
	spdy->write(spdy->userdata, payload, len);
}

void spdy_write_pair(struct spdy *spdy, enum spdy_type type, uint32_t first, uint32_t second)
{
	uint8_t payload[8];
	spdy_put_u32(payload, first);
	spdy_put_u32(payload + 4, second);
	spdy_write_control(spdy, type, 0, payload, sizeof(payload));
}

static void write_data(struct spdy *spdy, uint32_t id, uint8_t flags, const void *data, size_t len)
{
	uint8_t header[SPDY_HEADER_BYTES];
	spdy_put_u32(header, id);
	spdy_put_u32(header + 4, (uint32_t)flags << 24 | (uint32_t)len);
	spdy->write(spdy->userdata, header, sizeof(header));
	if (len)
		spdy->write(spdy->userdata, data, len);
}

int spdy_new(spdy_write_fn write, void *userdata, const struct stream_handler *handler,
	void *session, struct spdy **ret, struct err *err)
{
	struct spdy *spdy = calloc(1, sizeof(*spdy));
	if (!spdy)
		return err_nomem(err);
	spdy->write = write;
	spdy->userdata = userdata;
	spdy->handler = handler;
	spdy->session = session;
	spdy->initial_window = spdy->window = SPDY_WINDOW_BYTES;
	LIST_INIT(&spdy->streams);
	/* A small window and little memory: header blocks are short. */
	bool ok = inflateInit(&spdy->inflater) == Z_OK;
	if (ok && deflateInit2(&spdy->deflater, Z_BEST_SPEED, Z_DEFLATED, 11, 1,
			  Z_DEFAULT_STRATEGY) != Z_OK) {
		inflateEnd(&spdy->inflater);
		ok = false;
	}
	if (!ok) {
		free(spdy);
		return err_nomem(err);
	}
	deflateSetDictionary(&spdy->deflater, spdy_dictionary, sizeof(spdy_dictionary));
	*ret = spdy;
	return 0;
}

int spdy_new_client(spdy_write_fn write, void *userdata, const struct stream_handler *handler,
	void *session, struct spdy **ret, struct err *err)
{
	int r = spdy_new(write, userdata, handler, session, ret, err);
	if (r < 0)
		return r;
	(*ret)->client = true;
	/* The streams' windows bound what one may have us keep, so the connection's need not. */
	spdy_write_pair(*ret, WINDOW_UPDATE, 0, CLIENT_WINDOW_BYTES);
	return 0;
}

struct spdy_stream *spdy_find(const struct spdy *spdy, uint32_t id)
{
	struct spdy_stream *stream;
	LIST_FOREACH(stream, &spdy->streams, link)
		if (stream->id == id)
			return stream;
	return NULL;
}

void spdy_drop(struct spdy *spdy, struct spdy_stream *stream)
{
	LIST_REMOVE(stream, link);
	spdy->n_streams--;
	free(stream);
}

void spdy_drop_when_closed(struct spdy *spdy, struct spdy_stream *stream)
{
	if (stream->read_ended && stream->sent_end)
		spdy_drop(spdy, stream);
}

struct spdy *spdy_free(struct spdy *spdy)
{
	if (!spdy)
		return NULL;
	while (!LIST_EMPTY(&spdy->streams))
		spdy_drop(spdy, LIST_FIRST(&spdy->streams));
	inflateEnd(&spdy->inflater);
	deflateEnd(&spdy->deflater);
	free(spdy);
	return NULL;
}

size_t spdy_room(const struct spdy *spdy, uint32_t id)
{
	const struct spdy_stream *stream = spdy_find(spdy, id);
	if (!stream || stream->sent_end || spdy->over)
		return 0;
	if (!spdy->flow)
		return ROOM_BYTES;
	int64_t room = stream->window < spdy->window ? stream->window : spdy->window;
	return room > 0 ? (size_t)room : 0;
}

void spdy_send(struct spdy *spdy, uint32_t id, const void *data, size_t len)
{
	struct spdy_stream *stream = spdy_find(spdy, id);
	if (!stream || stream->sent_end || spdy->over)
		return;
	stream->window -= (int64_t)len;
	spdy->window -= (int64_t)len;
	while (len) {
		size_t n = len < FRAME_BYTES_MAX ? len : FRAME_BYTES_MAX;
		write_data(spdy, id, 0, data, n);
		data = (const char *)data + n;
		len -= n;
	}
}

void spdy_end(struct spdy *spdy, uint32_t id)
{
	struct spdy_stream *stream = spdy_find(spdy, id);
	if (!stream || stream->sent_end || spdy->over)
		return;
	stream->sent_end = true;
	write_data(spdy, id, FLAG_FIN, NULL, 0);
	spdy_drop_when_closed(spdy, stream);
}

void spdy_reset(struct spdy *spdy, uint32_t id)
{
	struct spdy_stream *stream = spdy_find(spdy, id);
	if (!stream || spdy->over)
		return;
	spdy_write_pair(spdy, RST_STREAM, id, RST_CANCEL);
	spdy_drop(spdy, stream);
}

void spdy_announce(struct spdy *spdy, uint32_t id, size_t *taken, size_t len)
{
	*taken += len;
	if (*taken < SPDY_WINDOW_BYTES / 2)
		return;
	spdy_write_pair(spdy, WINDOW_UPDATE, id, (uint32_t)*taken);
	*taken = 0;
}

void spdy_took(struct spdy *spdy, uint32_t id, size_t len)
{
	struct spdy_stream *stream = spdy_find(spdy, id);
	if (spdy->over)
		return;
	if (stream && !stream->read_ended)
		spdy_announce(spdy, id, &stream->taken, len);
}

void spdy_ping(struct spdy *spdy)
{
	static const uint8_t id[4] = {0, 0, 0, 1};
	spdy_write_control(spdy, PING, 0, id, sizeof(id));
}

void spdy_goaway_with(struct spdy *spdy, uint32_t status)
{
	if (!spdy->over)
		spdy_write_pair(spdy, GOAWAY, spdy->last_id, status);
	spdy->over = true;
}

void spdy_goaway(struct spdy *spdy)
{
	spdy_goaway_with(spdy, 0);
}

struct spdy_stream *spdy_add(struct spdy *spdy, uint32_t id)
{
	struct spdy_stream *stream =
		spdy->n_streams < SPDY_STREAMS_MAX ? calloc(1, sizeof(*stream)) : NULL;
	if (!stream)
		return NULL;
	stream->id = id;
	stream->window = spdy->initial_window;
	LIST_INSERT_HEAD(&spdy->streams, stream, link);
	spdy->n_streams++;
	return stream;
}

int spdy_open(struct spdy *spdy, const struct stream_open *open, bool silent, uint32_t *ret_id,
	struct err *err)
{
	uint8_t payload[10 + SPDY_OPEN_BYTES_MAX] = {0};
	uint32_t id = spdy->last_id ? spdy->last_id + 2 : 1;
	if (spdy->over || spdy->leaving || id > SPDY_ID_MASK || spdy->n_streams >= SPDY_STREAMS_MAX)
		return err_set(err, -EAGAIN, "no further stream in this connection");
	spdy_put_u32(payload, id);
	size_t len =
		spdy_headers_deflate(&spdy->deflater, open, payload + 10, sizeof(payload) - 10);
	struct spdy_stream *stream = len ? spdy_add(spdy, id) : NULL;
	if (!stream)
		return err_nomem(err);
	spdy->last_id = id;
	stream->sent_end = silent;
	spdy_write_control(spdy, SYN_STREAM, silent ? FLAG_FIN : 0, payload, 10 + len);
	*ret_id = id;
	return 0;
}
