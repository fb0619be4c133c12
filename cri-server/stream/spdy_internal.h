/*
 * What spdy.c (the streams, and what is sent), spdy_receive.c (the frames that come in) and
 * spdy_headers.c (header blocks) share.
 */
#pragma once

#include <arpa/inet.h>
#include <string.h>
#include <sys/queue.h>
#include <zlib.h>

#include "cri-server/stream/spdy.h"

#define SPDY_VERSION           3
#define SPDY_HEADER_BYTES      8
#define SPDY_CONTROL_BYTES_MAX 16384 /* of a control frame's payload */
#define SPDY_WINDOW_BYTES      65536 /* initial, both ways */
#define SPDY_ID_MASK           0x7fffffffu
#define SPDY_HEADERS_BYTES_MAX 16384 /* inflated */

enum spdy_type {
	SYN_STREAM = 1,
	SYN_REPLY,
	RST_STREAM,
	SETTINGS,
	PING = 6,
	GOAWAY,
	HEADERS,
	WINDOW_UPDATE
};
enum { FLAG_FIN = 1 };
enum { RST_PROTOCOL_ERROR = 1, RST_INVALID_STREAM, RST_REFUSED_STREAM, RST_CANCEL = 5 };

struct spdy_stream {
	LIST_ENTRY(spdy_stream) link;
	uint32_t id;
	bool read_ended; /* the client's half */
	bool sent_end;   /* ours */
	int64_t window;  /* what the client takes: counted always, heeded when `flow` is set */
	size_t taken;    /* of the client's bytes, not announced yet */
};

/* One header block: the inflated bytes, in which names and values are ended by NUL. */
struct spdy_headers {
	uint8_t data[SPDY_HEADERS_BYTES_MAX + 1];
	size_t len;
};

struct spdy {
	spdy_write_fn write;
	void *userdata;
	const struct stream_handler *handler;
	void *session;

	z_stream inflater, deflater;
	LIST_HEAD(spdy_stream_list, spdy_stream) streams;
	unsigned n_streams;
	uint32_t last_id;
	bool client;  /* which side this is */
	bool flow;    /* the other side does flow control */
	bool leaving; /* the other side said GOAWAY: no stream is opened any more */
	bool over;
	int64_t initial_window;
	int64_t window; /* the connection's */
	size_t taken;

	/* The frame that comes in: a control frame is gathered, data is passed on as it comes. */
	uint8_t header[SPDY_HEADER_BYTES];
	size_t header_len;
	size_t left; /* of its payload */
	uint8_t payload[SPDY_CONTROL_BYTES_MAX];
	size_t payload_len;
	struct spdy_headers headers;
};

static inline void spdy_put_u32(uint8_t *to, uint32_t value)
{
	value = htonl(value);
	memcpy(to, &value, sizeof(value));
}

static inline uint32_t spdy_get_u32(const uint8_t *from)
{
	uint32_t value;
	memcpy(&value, from, sizeof(value));
	return ntohl(value);
}

/* ---- spdy.c ---- */

void spdy_write_control(
	struct spdy *spdy, enum spdy_type type, uint8_t flags, const uint8_t *payload, size_t len);
/* One whose payload is two numbers. */
void spdy_write_pair(struct spdy *spdy, enum spdy_type type, uint32_t first, uint32_t second);
/* NULL: none of that id. */
struct spdy_stream *spdy_find(const struct spdy *spdy, uint32_t id);
/* NULL: there are too many, or memory is out. */
struct spdy_stream *spdy_add(struct spdy *spdy, uint32_t id);
void spdy_drop(struct spdy *spdy, struct spdy_stream *stream);
void spdy_drop_when_closed(struct spdy *spdy, struct spdy_stream *stream);
/* len more were taken; said in halves of the window, so that small reads do not each cost a frame.
 */
void spdy_announce(struct spdy *spdy, uint32_t id, size_t *taken, size_t len);
void spdy_goaway_with(struct spdy *spdy, uint32_t status);

/* ---- spdy_headers.c ---- */

/*
 * Inflates a block, which continues the connection's zlib stream, and checks its form. -EPROTO:
 * broken, or larger than a bomb is let.
 */
int spdy_headers_inflate(z_stream *zlib, const uint8_t *data, size_t len,
	struct spdy_headers *headers, struct err *err);
/* Fills in the headers that handler.h names; they point into `headers`. -EPROTO. */
int spdy_headers_parse(struct spdy_headers *headers, struct stream_open *open, struct err *err);
/*
 * Deflates what a SYN_STREAM says or, open NULL, the empty block of a SYN_REPLY. Returns the
 * length, 0 where it does not fit.
 */
size_t spdy_headers_deflate(
	z_stream *zlib, const struct stream_open *open, uint8_t *out, size_t size);
