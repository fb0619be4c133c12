/*
 * How far a pull is, on stderr, while another connection waits for it: on a terminal one line that
 * changes several times a second, elsewhere a line every few seconds. A thread of its own with a
 * connection of its own; that it cannot ask is not said, for the pull itself says what is wrong.
 */
#pragma once

#include "cri-server/cli/cli.h"

struct progress;

/* NULL: none is shown. */
struct progress *progress_start(const struct cli *cli, const char *image);
/* Ends the line and the thread. NULL is accepted. */
void progress_stop(struct progress *progress);
