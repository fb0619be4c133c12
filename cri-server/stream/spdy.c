#include "cri-server/stream/spdy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/fd.h"
#include "cri-server/stream/spdy_dictionary.h"
#include "cri-server/stream/spdy_internal.h"

#define VERSION             3
#define HEADER_BYTES        8
#define CONTROL_BYTES_MAX   16384 /* of a control frame's payload */
#define FRAME_BYTES_MAX     32768 /* of a data frame that we send */
#define WINDOW_BYTES        65536 /* initial, both ways */
#define ROOM_BYTES          (1u << 20)
#define CLIENT_WINDOW_BYTES (1u << 20) /* more for the connection, at its start */
#define ID_MASK             0x7fffffffu

enum { SYN_STREAM = 1, SYN_REPLY, RST_STREAM, SETTINGS, PING = 6, GOAWAY, HEADERS, WINDOW_UPDATE };
enum { FLAG_FIN = 1 };
enum { RST_PROTOCOL_ERROR = 1, RST_INVALID_STREAM, RST_REFUSED_STREAM, RST_CANCEL = 5 };
enum { SETTINGS_INITIAL_WINDOW = 7 };

struct stream {
	LIST_ENTRY(stream) link;
	uint32_t id;
	bool read_ended; /* the client's half */
	bool sent_end;   /* ours */
	int64_t window;  /* what the client takes: counted always, heeded when `flow` is set */
	size_t taken;    /* of the client's bytes, not announced yet */
};

struct spdy {
	spdy_write_fn write;
	void *userdata;
	const struct stream_handler *handler;
	void *session;

	z_stream inflater, deflater;
	LIST_HEAD(stream_list, stream) streams;
	unsigned n_streams;
	uint32_t last_id;
	bool client; /* which side this is */
	bool flow;   /* the other side does flow control */
	bool over;
	int64_t initial_window;
	int64_t window; /* the connection's */
	size_t taken;

	/* The frame that comes in: a control frame is gathered, data is passed on as it comes. */
	uint8_t header[HEADER_BYTES];
	size_t header_len;
	size_t left; /* of its payload */
	uint8_t payload[CONTROL_BYTES_MAX];
	size_t payload_len;
	struct spdy_headers headers;
};

static void put_u32(uint8_t *to, uint32_t value)
{
	value = htonl(value);
	memcpy(to, &value, sizeof(value));
}

static uint32_t get_u32(const uint8_t *from)
{
	uint32_t value;
	memcpy(&value, from, sizeof(value));
	return ntohl(value);
}

static void write_control(
	struct spdy *spdy, uint16_t type, uint8_t flags, const uint8_t *payload, size_t len)
{
	uint8_t header[HEADER_BYTES];
	put_u32(header, 0x80000000u | VERSION << 16 | type);
	put_u32(header + 4, (uint32_t)flags << 24 | (uint32_t)len);
	spdy->write(spdy->userdata, header, sizeof(header));
	spdy->write(spdy->userdata, payload, len);
}

static void write_pair(struct spdy *spdy, uint16_t type, uint32_t first, uint32_t second)
{
	uint8_t payload[8];
	put_u32(payload, first);
	put_u32(payload + 4, second);
	write_control(spdy, type, 0, payload, sizeof(payload));
}

static void write_data(struct spdy *spdy, uint32_t id, uint8_t flags, const void *data, size_t len)
{
	uint8_t header[HEADER_BYTES];
	put_u32(header, id);
	put_u32(header + 4, (uint32_t)flags << 24 | (uint32_t)len);
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
	spdy->initial_window = spdy->window = WINDOW_BYTES;
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
	write_pair(*ret, WINDOW_UPDATE, 0, CLIENT_WINDOW_BYTES);
	return 0;
}

static struct stream *find(const struct spdy *spdy, uint32_t id)
{
	struct stream *stream;
	LIST_FOREACH(stream, &spdy->streams, link)
		if (stream->id == id)
			return stream;
	return NULL;
}

static void drop(struct spdy *spdy, struct stream *stream)
{
	LIST_REMOVE(stream, link);
	spdy->n_streams--;
	free(stream);
}

static void drop_when_closed(struct spdy *spdy, struct stream *stream)
{
	if (stream->read_ended && stream->sent_end)
		drop(spdy, stream);
}

struct spdy *spdy_free(struct spdy *spdy)
{
	if (!spdy)
		return NULL;
	while (!LIST_EMPTY(&spdy->streams))
		drop(spdy, LIST_FIRST(&spdy->streams));
	inflateEnd(&spdy->inflater);
	deflateEnd(&spdy->deflater);
	free(spdy);
	return NULL;
}

size_t spdy_room(const struct spdy *spdy, uint32_t id)
{
	const struct stream *stream = find(spdy, id);
	if (!stream || stream->sent_end || spdy->over)
		return 0;
	if (!spdy->flow)
		return ROOM_BYTES;
	int64_t room = stream->window < spdy->window ? stream->window : spdy->window;
	return room > 0 ? (size_t)room : 0;
}

void spdy_send(struct spdy *spdy, uint32_t id, const void *data, size_t len)
{
	struct stream *stream = find(spdy, id);
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
	struct stream *stream = find(spdy, id);
	if (!stream || stream->sent_end || spdy->over)
		return;
	stream->sent_end = true;
	write_data(spdy, id, FLAG_FIN, NULL, 0);
	drop_when_closed(spdy, stream);
}

void spdy_reset(struct spdy *spdy, uint32_t id)
{
	struct stream *stream = find(spdy, id);
	if (!stream || spdy->over)
		return;
	write_pair(spdy, RST_STREAM, id, RST_CANCEL);
	drop(spdy, stream);
}

/* In halves of the window, so that small reads do not each cost a frame. */
static void announce(struct spdy *spdy, uint32_t id, size_t *taken, size_t len)
{
	*taken += len;
	if (*taken < WINDOW_BYTES / 2)
		return;
	write_pair(spdy, WINDOW_UPDATE, id, (uint32_t)*taken);
	*taken = 0;
}

void spdy_took(struct spdy *spdy, uint32_t id, size_t len)
{
	struct stream *stream = find(spdy, id);
	if (spdy->over)
		return;
	if (stream && !stream->read_ended)
		announce(spdy, id, &stream->taken, len);
}

static void goaway(struct spdy *spdy, uint32_t status)
{
	if (!spdy->over)
		write_pair(spdy, GOAWAY, spdy->last_id, status);
	spdy->over = true;
}

void spdy_goaway(struct spdy *spdy)
{
	goaway(spdy, 0);
}

static int reply(struct spdy *spdy, uint32_t id, struct err *err)
{
	uint8_t payload[4 + 256];
	put_u32(payload, id);
	size_t len = spdy_headers_deflate(&spdy->deflater, NULL, payload + 4, sizeof(payload) - 4);
	if (!len)
		return err_nomem(err);
	write_control(spdy, SYN_REPLY, 0, payload, 4 + len);
	return 0;
}

static struct stream *add_stream(struct spdy *spdy, uint32_t id)
{
	struct stream *stream =
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
	if (spdy->over || id > ID_MASK || spdy->n_streams >= SPDY_STREAMS_MAX)
		return err_set(err, -EAGAIN, "no further stream in this connection");
	put_u32(payload, id);
	size_t len =
		spdy_headers_deflate(&spdy->deflater, open, payload + 10, sizeof(payload) - 10);
	struct stream *stream = len ? add_stream(spdy, id) : NULL;
	if (!stream)
		return err_nomem(err);
	spdy->last_id = id;
	stream->sent_end = silent;
	write_control(spdy, SYN_STREAM, silent ? FLAG_FIN : 0, payload, 10 + len);
	*ret_id = id;
	return 0;
}

static void end_by_client(struct spdy *spdy, struct stream *stream, bool reset)
{
	uint32_t id = stream->id;
	stream->read_ended = true;
	if (reset)
		drop(spdy, stream);
	else
		drop_when_closed(spdy, stream);
	spdy->handler->on_end(spdy->session, id, reset);
}

static int on_syn_stream(struct spdy *spdy, uint8_t flags, struct err *err)
{
	if (spdy->client)
		return err_set(err, -EPROTO, "a stream that the server opens");
	if (spdy->payload_len < 10)
		return err_set(err, -EPROTO, "a SYN_STREAM that is cut off");
	uint32_t id = get_u32(spdy->payload) & ID_MASK;
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
	struct stream *stream = add_stream(spdy, id);
	if (!stream) {
		write_pair(spdy, RST_STREAM, id, RST_REFUSED_STREAM);
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
	stream = find(spdy, id);
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
		put_u32(payload, 1);
		put_u32(payload + 4, SETTINGS_INITIAL_WINDOW);
		put_u32(payload + 8, WINDOW_BYTES);
		write_control(spdy, SETTINGS, 0, payload, sizeof(payload));
	}
	spdy->flow = true;
}

static int on_settings(struct spdy *spdy, struct err *err)
{
	size_t n = spdy->payload_len >= 4 ? get_u32(spdy->payload) : 0;
	if (spdy->payload_len < 4 || n > (spdy->payload_len - 4) / 8)
		return err_set(err, -EPROTO, "SETTINGS that are cut off");
	for (size_t i = 0; i < n; i++) {
		const uint8_t *entry = spdy->payload + 4 + 8 * i;
		if ((get_u32(entry) & 0xffffff) != SETTINGS_INITIAL_WINDOW)
			continue;
		int64_t window = get_u32(entry + 4) & ID_MASK;
		int64_t delta = window - spdy->initial_window;
		struct stream *stream;
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
	uint32_t id = get_u32(spdy->payload) & ID_MASK;
	int64_t delta = get_u32(spdy->payload + 4) & ID_MASK;
	struct stream *stream = find(spdy, id);
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
	struct stream *stream = find(spdy, get_u32(spdy->payload) & ID_MASK);
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
	/* A client's own are odd, a server's even; the others answer ours, of which none are. */
	if ((get_u32(spdy->payload) % 2 == 1) != spdy->client)
		write_control(spdy, PING, 0, spdy->payload, 4);
	return 0;
}

static int on_control(struct spdy *spdy, struct err *err)
{
	switch (get_u32(spdy->header) & 0xffff) {
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
	default: /* GOAWAY too: who says it closes when it is done */
		return 0;
	}
}

/* A frame's header is complete: what comes, and how much of it. */
static int begin_frame(struct spdy *spdy, struct err *err)
{
	uint32_t first = get_u32(spdy->header);
	spdy->left = get_u32(spdy->header + 4) & 0xffffff;
	spdy->payload_len = 0;
	if (!(first & 0x80000000u)) {
		if (first > spdy->last_id || first == 0)
			return err_set(
				err, -EPROTO, "data of stream %u, which was never opened", first);
		return 0;
	}
	if ((first >> 16 & 0x7fff) != VERSION)
		return err_set(err, -EPROTO, "a frame of version %u", first >> 16 & 0x7fff);
	if (spdy->left > CONTROL_BYTES_MAX)
		return err_set(err, -EPROTO, "a control frame of %zu bytes", spdy->left);
	return 0;
}

static void take_data(struct spdy *spdy, const uint8_t *data, size_t len)
{
	uint32_t id = get_u32(spdy->header);
	struct stream *stream = find(spdy, id);
	/*
	 * Of the connection's window they are taken as they come: what is kept of a stream is
	 * bounded by the stream's own, and one that is not read holds up no other.
	 */
	announce(spdy, 0, &spdy->taken, len);
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
	struct stream *stream = find(spdy, get_u32(spdy->header));
	if (stream && !stream->read_ended && (spdy->header[4] & FLAG_FIN))
		end_by_client(spdy, stream, false);
	return 0;
}

/* Takes some of the bytes; returns how many, or an error. */
static ssize_t feed_some(struct spdy *spdy, const uint8_t *data, size_t len, struct err *err)
{
	if (spdy->header_len < HEADER_BYTES) {
		size_t n = HEADER_BYTES - spdy->header_len;
		n = n < len ? n : len;
		memcpy(spdy->header + spdy->header_len, data, n);
		spdy->header_len += n;
		int r = 0;
		if (spdy->header_len == HEADER_BYTES) {
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
			goaway(spdy, RST_PROTOCOL_ERROR);
			err_wrap(err, "SPDY");
			return (int)n;
		}
		data = (const char *)data + n;
		len -= (size_t)n;
	}
	return 0;
}
