#include "common/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int(err_set)(struct err *err, int code, const char *fmt, ...)
{
	if (code >= 0)
		code = -EIO;
	if (!err)
		return code;
	va_list ap;
	va_start(ap, fmt);
	err->code = code;
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	return code;
}

/* Adds ": <text>" to the message, as much as there is room for. */
static void append(struct err *err, const char *text)
{
	size_t used = strlen(err->msg);
	const char *pieces[] = {": ", text};
	for (size_t i = 0; i < 2; i++) {
		size_t room = sizeof(err->msg) - 1 - used;
		size_t len = strnlen(pieces[i], room);
		memcpy(err->msg + used, pieces[i], len);
		used += len;
	}
	err->msg[used] = '\0';
}

int(err_errno)(struct err *err, const char *fmt, ...)
{
	int code = errno > 0 ? -errno : -EIO;
	if (!err)
		return code;
	va_list ap;
	va_start(ap, fmt);
	err->code = code;
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	append(err, strerrordesc_np(-code) ? strerrordesc_np(-code) : "unknown error");
	return code;
}

int(err_wrap)(struct err *err, const char *fmt, ...)
{
	if (!err)
		return -EIO;
	struct err inner = *err;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	append(err, inner.msg);
	if (err->code >= 0)
		err->code = -EIO;
	return err->code;
}

int(err_nomem)(struct err *err)
{
	return err_set(err, -ENOMEM, "out of memory");
}
