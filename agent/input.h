/*
 * The standard input of a process: from the host's connection to a pipe or a terminal's master.
 *
 * At most one buffer is between them: the connection is read only when the process has taken what
 * came before.
 *
 * Owner: struct stdio. Threads: the loop's alone.
 */
#pragma once

#include <stdbool.h>

#include "common/err.h"
#include "common/loop.h"

struct input;

/* once: the end of the first connection is the end of stdin. */
int input_new(struct ev_loop *loop, bool once, struct input **ret, struct err *err);
struct input *input_free(struct input *input);

/* Writes to fd (non-blocking; taken, also on failure) from now on. */
int input_attach(struct input *input, int fd, struct err *err);

/* Takes fd (non-blocking) on success, in the place of the connection there was. -ENOENT: stdin is
 * closed. */
int input_connect(struct input *input, int fd, struct err *err);
