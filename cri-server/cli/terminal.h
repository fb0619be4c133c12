/*
 * This process's own terminal while a session has it: raw, so that keys are the other side's, and
 * as it was before in the end, also where a signal ends the process meanwhile.
 *
 * One at a time. main() has blocked SIGWINCH before there was another thread.
 */
#pragma once

#include <stdbool.h>
#include <termios.h>

#include "common/err.h"

struct terminal {
	int resized; /* a signalfd of SIGWINCH; negative: none */
	bool raw;
	struct termios before;
};

#define TERMINAL_INIT                                                                              \
	{                                                                                          \
		.resized = -EBADF                                                                  \
	}

/* Of main(): what terminal_begin() reads, no thread may take. */
void terminal_block_resizes(void);

/* raw: where stdin is a terminal. */
int terminal_begin(struct terminal *terminal, bool raw, struct err *err);
/* Whether `resized` told of a new size. */
bool terminal_was_resized(struct terminal *terminal);
void terminal_end(struct terminal *terminal);
