/*
 * The frames that come in. A control frame is gathered and then acted on, data is passed on as it
 * comes.
 */
#include <errno.h>
#include <sys/types.h>

#include "cri-server/stream/spdy_internal.h"

enum { SETTINGS_INITIAL_WINDOW = 7 };

static int reply(struct spdy *spdy, uint32_t id, struct err *err)
{
	uint8_t payload[4 + 256];
	spdy_put_u32(payload, id);
	size_t len = spdy_headers_deflate(&spdy->deflater, NULL, payload + 4, sizeof(payload) - 4);
	if (!len)
		return err_nomem(err);
	spdy_write_control(spdy, SYN_REPLY, 0, payload, 4 + len);
	return 0;
}

static void end_by_client(struct spdy *spdy, struct spdy_stream *stream, bool reset)
{
	uint32_t id = stream->id;
	stream->read_ended = true;
	if (reset)
		spdy_drop(spdy, stream);
	else
		spdy_drop_when_closed(spdy, stream);
	spdy->handler->on_end(spdy->session, id, reset);
}

static int on_syn_stream(struct spdy *spdy, uint8_t flags, struct err *err)
{
	if (spdy->client)
		return err_set(err, -EPROTO, "a stream that the server opens");
	if (spdy->payload_len < 10)
		return err_set(err, -EPROTO, "a SYN_STREAM that is cut off");
	uint32_t id = spdy_get_u32(spdy->payload) & SPDY_ID_MASK;
	if (id % 2 == 0 || id <= spdy->last_id)
		return err_set(err, -EPROTO, "a stream with the number %u", id);
	spdy->last_id = id;
	struct stream_open open;
	int r = spdy_headers_inflate(
		&spdy->inflater, spdy->payload + 10, spdy->payload_len - 10, &spdy->headers, err);
	if (r == 0)
		r = spdy_headers_parse(&spdy->headers, &open, err);
	if (r < 0)
		return r;
	struct spdy_stream *stream = spdy->leaving ? NULL : spdy_add(spdy, id);
	if (!stream) {
		spdy_write_pair(spdy, RST_STREAM, id, RST_REFUSED_STREAM);
		return 0;
	}
	r = reply(spdy, id, err);
	if (r < 0)
		return r;
	if (spdy->handler->on_open(spdy->session, id, &open) < 0) {
		spdy_reset(spdy, id);
		return 0;
	}
	/* The handler may have reset it. */
	stream = spdy_find(spdy, id);
	if (stream && (flags & FLAG_FIN))
		end_by_client(spdy, stream, false);
	return 0;
}

static void allow(int64_t *window, int64_t delta)
{
	*window += delta;
}

/*
 * The other side does flow control. A client that does is told at once that this server does too,
 * so that it heeds our windows from its first byte.
 */
static void see_flow(struct spdy *spdy)
{
	uint8_t payload[12];
	if (!spdy->flow && !spdy->client) {
		spdy_put_u32(payload, 1);
		spdy_put_u32(payload + 4, SETTINGS_INITIAL_WINDOW);
		spdy_put_u32(payload + 8, SPDY_WINDOW_BYTES);
		spdy_write_control(spdy, SETTINGS, 0, payload, sizeof(payload));
	}
	spdy->flow = true;
}

static int on_settings(struct spdy *spdy, struct err *err)
{
	size_t n = spdy->payload_len >= 4 ? spdy_get_u32(spdy->payload) : 0;
	if (spdy->payload_len < 4 || n > (spdy->payload_len - 4) / 8)
		return err_set(err, -EPROTO, "SETTINGS that are cut off");
	for (size_t i = 0; i < n; i++) {
		const uint8_t *entry = spdy->payload + 4 + 8 * i;
		if ((spdy_get_u32(entry) & 0xffffff) != SETTINGS_INITIAL_WINDOW)
			continue;
		int64_t window = spdy_get_u32(entry + 4) & SPDY_ID_MASK;
		int64_t delta = window - spdy->initial_window;
		struct spdy_stream *stream;
		LIST_FOREACH(stream, &spdy->streams, link)
			allow(&stream->window, delta);
		spdy->initial_window = window;
		see_flow(spdy);
	}
	spdy->handler->on_room(spdy->session);
	return 0;
}

static int on_window_update(struct spdy *spdy, struct err *err)
{
	if (spdy->payload_len != 8)
		return err_set(err, -EPROTO, "a WINDOW_UPDATE of %zu bytes", spdy->payload_len);
	uint32_t id = spdy_get_u32(spdy->payload) & SPDY_ID_MASK;
	int64_t delta = spdy_get_u32(spdy->payload + 4) & SPDY_ID_MASK;
	struct spdy_stream *stream = spdy_find(spdy, id);
	int64_t *window = id == 0 ? &spdy->window : stream ? &stream->window : NULL;
	if (!window)
		return 0; /* of a stream that has just ended */
	if (!delta || *window + delta > INT32_MAX)
		return err_set(err, -EPROTO, "a window out of bounds");
	allow(window, delta);
	see_flow(spdy);
	spdy->handler->on_room(spdy->session);
	return 0;
}

static int on_rst_stream(struct spdy *spdy, struct err *err)
{
	if (spdy->payload_len != 8)
		return err_set(err, -EPROTO, "a RST_STREAM of %zu bytes", spdy->payload_len);
	struct spdy_stream *stream = spdy_find(spdy, spdy_get_u32(spdy->payload) & SPDY_ID_MASK);
	if (stream)
		end_by_client(spdy, stream, true);
	return 0;
}

/* Nothing that we use; but the zlib stream of one who opens streams must not miss a block. */
static int on_headers(struct spdy *spdy, struct err *err)
{
	if (spdy->client)
		return 0;
	if (spdy->payload_len < 4)
		return err_set(err, -EPROTO, "HEADERS that are cut off");
	return spdy_headers_inflate(
		&spdy->inflater, spdy->payload + 4, spdy->payload_len - 4, &spdy->headers, err);
}

static int on_ping(struct spdy *spdy, struct err *err)
{
	if (spdy->payload_len != 4)
		return err_set(err, -EPROTO, "a PING of %zu bytes", spdy->payload_len);
	/* A client's own are odd, a server's even; the others answer ours. */
	if ((spdy_get_u32(spdy->payload) % 2 == 1) != spdy->client)
		spdy_write_control(spdy, PING, 0, spdy->payload, 4);
	return 0;
}

/*
 * Who says it begins no stream any more, nor has one begun, and closes when those that run have
 * ended.
 */
static int on_goaway(struct spdy *spdy, struct err *err)
{
	if (spdy->payload_len != 8)
		return err_set(err, -EPROTO, "a GOAWAY of %zu bytes", spdy->payload_len);
	spdy->leaving = true;
	return 0;
}

static int on_control(struct spdy *spdy, struct err *err)
{
	switch (spdy_get_u32(spdy->header) & 0xffff) {
	case SYN_STREAM:
		return on_syn_stream(spdy, spdy->header[4], err);
	case RST_STREAM:
		return on_rst_stream(spdy, err);
	case SETTINGS:
		return on_settings(spdy, err);
	case PING:
		return on_ping(spdy, err);
	case HEADERS:
	case SYN_REPLY:
		return on_headers(spdy, err);
	case WINDOW_UPDATE:
		return on_window_update(spdy, err);
	case GOAWAY:
		return on_goaway(spdy, err);
	default:
		return 0;
	}
}

/* A frame's header is complete: what comes, and how much of it. */
static int begin_frame(struct spdy *spdy, struct err *err)
{
	uint32_t first = spdy_get_u32(spdy->header);
	spdy->left = spdy_get_u32(spdy->header + 4) & 0xffffff;
	spdy->payload_len = 0;
	if (!(first & 0x80000000u)) {
		if (first > spdy->last_id || first == 0)
			return err_set(
				err, -EPROTO, "data of stream %u, which was never opened", first);
		return 0;
	}
	if ((first >> 16 & 0x7fff) != SPDY_VERSION)
		return err_set(err, -EPROTO, "a frame of version %u", first >> 16 & 0x7fff);
	if (spdy->left > SPDY_CONTROL_BYTES_MAX)
		return err_set(err, -EPROTO, "a control frame of %zu bytes", spdy->left);
	return 0;
}

static void take_data(struct spdy *spdy, const uint8_t *data, size_t len)
{
	uint32_t id = spdy_get_u32(spdy->header);
	struct spdy_stream *stream = spdy_find(spdy, id);
	/*
	 * Of the connection's window they are taken as they come: what is kept of a stream is
	 * bounded by the stream's own, and one that is not read holds up no other.
	 */
	spdy_announce(spdy, 0, &spdy->taken, len);
	if (len && stream && !stream->read_ended)
		spdy->handler->on_data(spdy->session, id, data, len);
	else if (len)
		spdy_took(spdy, id, len);
}

static int end_frame(struct spdy *spdy, struct err *err)
{
	spdy->header_len = 0;
	if (spdy->header[0] & 0x80)
		return on_control(spdy, err);
	struct spdy_stream *stream = spdy_find(spdy, spdy_get_u32(spdy->header));
	if (stream && !stream->read_ended && (spdy->header[4] & FLAG_FIN))
		end_by_client(spdy, stream, false);
	return 0;
}

/* Takes some of the bytes; returns how many, or an error. */
static ssize_t feed_some(struct spdy *spdy, const uint8_t *data, size_t len, struct err *err)
{
	if (spdy->header_len < SPDY_HEADER_BYTES) {
		size_t n = SPDY_HEADER_BYTES - spdy->header_len;
		n = n < len ? n : len;
		memcpy(spdy->header + spdy->header_len, data, n);
		spdy->header_len += n;
		int r = 0;
		if (spdy->header_len == SPDY_HEADER_BYTES) {
			r = begin_frame(spdy, err);
			if (r == 0 && !spdy->left)
				r = end_frame(spdy, err);
		}
		return r < 0 ? r : (ssize_t)n;
	}
	size_t n = spdy->left < len ? spdy->left : len;
	if (spdy->header[0] & 0x80) {
		memcpy(spdy->payload + spdy->payload_len, data, n);
		spdy->payload_len += n;
	} else {
		take_data(spdy, data, n);
	}
	spdy->left -= n;
	int r = spdy->left ? 0 : end_frame(spdy, err);
	return r < 0 ? r : (ssize_t)n;
}

int spdy_feed(struct spdy *spdy, const void *data, size_t len, struct err *err)
{
	while (len && !spdy->over) {
		ssize_t n = feed_some(spdy, data, len, err);
		if (n < 0) {
			spdy_goaway_with(spdy, RST_PROTOCOL_ERROR);
			err_wrap(err, "SPDY");
			return (int)n;
		}
		data = (const char *)data + n;
		len -= (size_t)n;
	}
	return 0;
}
