/* Times of logs: RFC 3339, and what people mean by --since. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* "2026-01-02T03:04:05.678901234Z", or with "+01:00", in nanoseconds since 1970. -EINVAL. */
int log_time_parse(const char *text, size_t len, int64_t *ret_ns);

/* Such a time, or how long before now_ns: "90s", "5m", "1h30m", "2d". -EINVAL. */
int log_since_parse(const char *text, int64_t now_ns, int64_t *ret_ns, struct err *err);
