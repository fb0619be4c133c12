/*
 * The sizes of a client's terminal, one JSON object after the other: {"Width":80,"Height":24}.
 * Source: k8s.io/client-go/tools/remotecommand, TerminalSize. A plain value; one thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/buf.h"

struct terminal_size {
	unsigned columns, rows; /* the newest, 1 to 65535 each; 0: none came yet */
	struct buf text;
};

struct terminal_size terminal_size_init(void);
void terminal_size_done(struct terminal_size *size);

/* Takes bytes as they come, in whatever pieces. Whether a size was among them; what is none is
 * passed over. */
bool terminal_size_feed(struct terminal_size *size, const void *data, size_t len);
