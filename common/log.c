#include "common/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 4096

static const char *const level_names[] = {
	[LOG_LEVEL_ERROR] = "error",
	[LOG_LEVEL_WARNING] = "warning",
	[LOG_LEVEL_INFO] = "info",
	[LOG_LEVEL_DEBUG] = "debug",
};

int log_level_parse(const char *name, enum log_level *ret_level)
{
	for (size_t i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++)
		if (strcmp(name, level_names[i]) == 0) {
			*ret_level = (enum log_level)i;
			return 0;
		}
	return -EINVAL;
}

static bool plain(const char *value)
{
	if (!*value)
		return false;
	for (const char *p = value; *p; p++)
		if (*p <= ' ' || *p > '~' || *p == '"' || *p == '\\' || *p == '=')
			return false;
	return true;
}

static size_t escape_byte(char out[5], unsigned char c)
{
	if (c == '\n' || c == '\t') {
		out[0] = '\\';
		out[1] = c == '\n' ? 'n' : 't';
		return 2;
	}
	if (c == '"' || c == '\\') {
		out[0] = '\\';
		out[1] = (char)c;
		return 2;
	}
	if (c < ' ' || c > '~')
		return (size_t)snprintf(out, 5, "\\x%02x", c);
	out[0] = (char)c;
	return 1;
}

void log_escape(char *out, size_t size, const char *value)
{
	bool quote = !plain(value);
	size_t n = 0;

	if (size < 3) {
		if (size)
			*out = '\0';
		return;
	}
	if (quote)
		out[n++] = '"';
	for (const char *p = value; *p; p++) {
		char piece[5];
		size_t len = escape_byte(piece, (unsigned char)*p);
		if (n + len + 2 > size) /* the closing quote and the NUL stay free */
			break;
		memcpy(out + n, piece, len);
		n += len;
	}
	if (quote)
		out[n++] = '"';
	out[n] = '\0';
}

static size_t append(char *line, size_t used, const char *text)
{
	if (used >= LINE_MAX_BYTES - 1) /* the newline stays free */
		return used;
	size_t len = strnlen(text, LINE_MAX_BYTES - 1 - used);
	memcpy(line + used, text, len);
	return used + len;
}

void log_event(const struct log *log, enum log_level level, const char *message, ...)
{
	if (level > log->level)
		return;

	char line[LINE_MAX_BYTES];
	struct timespec now;
	struct tm tm;
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	size_t used = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
	used += (size_t)snprintf(line + used, sizeof(line) - used, ".%03ldZ %s %s",
		now.tv_nsec / 1000000, level_names[level], message);
	if (used > LINE_MAX_BYTES - 1)
		used = LINE_MAX_BYTES - 1;

	va_list ap;
	va_start(ap, message);
	for (const char *key; (key = va_arg(ap, const char *));) {
		const char *value = va_arg(ap, const char *);
		if (!value)
			continue;
		char escaped[2048];
		log_escape(escaped, sizeof(escaped), value);
		used = append(line, used, " ");
		used = append(line, used, key);
		used = append(line, used, "=");
		used = append(line, used, escaped);
	}
	va_end(ap);
	line[used++] = '\n';

	/* A log that cannot be written has nowhere to complain. */
	ssize_t ignored = write(log->fd, line, used);
	(void)ignored;
}
