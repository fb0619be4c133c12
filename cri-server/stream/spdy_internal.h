/* What spdy.c and spdy_headers.c share: header blocks. */
#pragma once

#include <zlib.h>

#include "cri-server/stream/spdy.h"

#define SPDY_HEADERS_BYTES_MAX 16384 /* inflated */

/* One header block: the inflated bytes, in which names and values are ended by NUL. */
struct spdy_headers {
	uint8_t data[SPDY_HEADERS_BYTES_MAX + 1];
	size_t len;
};

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
