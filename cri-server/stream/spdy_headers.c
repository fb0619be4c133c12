#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "common/fd.h"
#include "cri-server/stream/spdy_dictionary.h"
#include "cri-server/stream/spdy_internal.h"

int spdy_headers_inflate(z_stream *zlib, const uint8_t *data, size_t len,
	struct spdy_headers *headers, struct err *err)
{
	zlib->next_in = (uint8_t *)data;
	zlib->avail_in = (unsigned)len;
	zlib->next_out = headers->data;
	zlib->avail_out = SPDY_HEADERS_BYTES_MAX;
	while (zlib->avail_in) {
		int r = inflate(zlib, Z_SYNC_FLUSH);
		if (r == Z_NEED_DICT)
			r = inflateSetDictionary(zlib, spdy_dictionary, sizeof(spdy_dictionary));
		if (r != Z_OK)
			return err_set(err, -EPROTO,
				zlib->avail_out ? "a header block that is broken"
						: "a header block that is too large");
	}
	/* A flush ends each block, so that what did not fit would be left over. */
	if (!zlib->avail_out)
		return err_set(err, -EPROTO, "a header block that is too large");
	headers->len = SPDY_HEADERS_BYTES_MAX - zlib->avail_out;
	return 0;
}

struct cursor {
	uint8_t *at;
	size_t left;
};

static int take_u32(struct cursor *cursor, uint32_t *ret)
{
	uint32_t value;
	if (cursor->left < sizeof(value))
		return -EPROTO;
	memcpy(&value, cursor->at, sizeof(value));
	*ret = ntohl(value);
	cursor->at += sizeof(value);
	cursor->left -= sizeof(value);
	return 0;
}

/*
 * A text with its length in front. It is moved one byte forward over its length, so that the NUL
 * that ends it overwrites nothing that is still to be read.
 */
static int take_text(struct cursor *cursor, const char **ret)
{
	uint32_t len;
	if (take_u32(cursor, &len) < 0 || len > cursor->left)
		return -EPROTO;
	char *text = (char *)cursor->at - 1;
	memmove(text, cursor->at, len);
	text[len] = '\0';
	*ret = text;
	cursor->at += len;
	cursor->left -= len;
	return 0;
}

int spdy_headers_parse(struct spdy_headers *headers, struct stream_open *open, struct err *err)
{
	struct cursor cursor = {headers->data, headers->len};
	uint32_t n;
	*open = (struct stream_open){"", "", ""};
	const struct {
		const char *name;
		const char **value;
	} wanted[] = {
		{"streamtype", &open->type},
		{"port", &open->port},
		{"requestid", &open->request_id},
	};
	int r = take_u32(&cursor, &n);
	for (uint32_t i = 0; r == 0 && i < n; i++) {
		const char *name, *value;
		r = take_text(&cursor, &name);
		if (r == 0)
			r = take_text(&cursor, &value);
		for (size_t k = 0; r == 0 && k < ARRAY_SIZE(wanted); k++)
			if (strcasecmp(name, wanted[k].name) == 0)
				*wanted[k].value = value;
	}
	return r < 0 ? err_set(err, r, "a header block that is cut off") : 0;
}

static void put_u32(struct cursor *cursor, uint32_t value)
{
	value = htonl(value);
	memcpy(cursor->at, &value, sizeof(value));
	cursor->at += sizeof(value);
	cursor->left -= sizeof(value);
}

static int put_text(struct cursor *cursor, const char *text)
{
	size_t len = strlen(text);
	if (cursor->left < sizeof(uint32_t) + len)
		return -ENOBUFS;
	put_u32(cursor, (uint32_t)len);
	memcpy(cursor->at, text, len);
	cursor->at += len;
	cursor->left -= len;
	return 0;
}

size_t spdy_headers_deflate(
	z_stream *zlib, const struct stream_open *open, uint8_t *out, size_t size)
{
	uint8_t plain[SPDY_OPEN_BYTES_MAX];
	struct cursor cursor = {plain, sizeof(plain)};
	put_u32(&cursor, open ? 3 : 0);
	if (open && (put_text(&cursor, "streamtype") < 0 || put_text(&cursor, open->type) < 0 ||
			    put_text(&cursor, "port") < 0 || put_text(&cursor, open->port) < 0 ||
			    put_text(&cursor, "requestid") < 0 ||
			    put_text(&cursor, open->request_id) < 0))
		return 0;
	zlib->next_in = plain;
	zlib->avail_in = (unsigned)(cursor.at - plain);
	zlib->next_out = out;
	zlib->avail_out = (unsigned)size;
	if (deflate(zlib, Z_SYNC_FLUSH) != Z_OK || !zlib->avail_out)
		return 0;
	return size - zlib->avail_out;
}
