#include "common/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_done(struct buf *buf)
{
	free(buf->data);
	*buf = buf_init(buf->max);
}

void *buf_reserve(struct buf *buf, size_t len)
{
	if (len > buf->max - buf->len)
		return NULL;
	size_t need = buf->len + len + 1; /* room for the NUL of buf_string() */
	if (need > buf->cap) {
		size_t cap = buf->cap * 2 > need ? buf->cap * 2 : need;
		if (cap - 1 > buf->max)
			cap = buf->max + 1;
		char *data = realloc(buf->data, cap);
		if (!data)
			return NULL;
		buf->data = data;
		buf->cap = cap;
	}
	return buf->data + buf->len;
}

void buf_commit(struct buf *buf, size_t len)
{
	assert(buf->len + len < buf->cap);
	buf->len += len;
}

int buf_append(struct buf *buf, const void *data, size_t len)
{
	if (len > buf->max - buf->len)
		return -ENOBUFS;
	void *to = buf_reserve(buf, len);
	if (!to)
		return -ENOMEM;
	if (len)
		memcpy(to, data, len);
	buf_commit(buf, len);
	return 0;
}

int buf_printf(struct buf *buf, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return -EINVAL;
	if ((size_t)n > buf->max - buf->len)
		return -ENOBUFS;
	char *to = buf_reserve(buf, (size_t)n);
	if (!to)
		return -ENOMEM;
	va_start(ap, fmt);
	vsnprintf(to, (size_t)n + 1, fmt, ap);
	va_end(ap);
	buf_commit(buf, (size_t)n);
	return 0;
}

void buf_consume(struct buf *buf, size_t len)
{
	assert(len <= buf->len);
	buf->len -= len;
	if (buf->len)
		memmove(buf->data, buf->data + len, buf->len);
}

char *buf_string(struct buf *buf)
{
	if (!buf_reserve(buf, 0))
		return NULL;
	buf->data[buf->len] = '\0';
	return buf->data;
}
