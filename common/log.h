/*
 * The log: one line per event on stderr, `time level message key=value …`.
 *
 * Values come from users, guests and plugins, so whatever is not plain printable text is quoted and
 * escaped: an event is one line, always. A `struct log` is made in main and handed down; all its
 * functions may be called from any thread (one write(2) per line). Libraries log nothing above
 * LOG_LEVEL_DEBUG: whoever finally handles an error logs it, once.
 */
#pragma once

#include <stddef.h>

enum log_level {
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARNING,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
};

struct log {
	int fd;
	enum log_level level; /* events above it are dropped */
};

/*
 * Writes one event. After the message come pairs of strings, key and value, ended by NULL; a pair
 * whose value is NULL is left out. Keys are ours and written as they are.
 */
void log_event(const struct log *log, enum log_level level, const char *message, ...)
	__attribute__((sentinel));

/* "error", "warning", "info", "debug" → level; 0 or -EINVAL. */
int log_level_parse(const char *name, enum log_level *ret_level);

/*
 * Writes `value` escaped and, where it needs them, in quotes to `out`, ended by NUL and cut to
 * `size` bytes. Bytes outside printable ASCII become \xNN.
 */
void log_escape(char *out, size_t size, const char *value);
