/*
 * A machine's console as bulkhead-console keeps it: <dir>/console, at most 512 KiB, the newest text
 * at its end. The text is the guest's and hostile.
 */
#pragma once

#include <stddef.h>

#include "common/err.h"

/*
 * The last bytes, at most max, in a new string that the caller frees; NULs in it become '.'.
 * No file is "". Waits a second at most for the helper, which may stand still.
 */
int console_tail(const char *dir, size_t max, char **ret, struct err *err);

/* Writes the end of the console, escaped, in quotes, for a message. */
void console_quote(const char *dir, char *out, size_t size);
