/*
 * The keys at a terminal that detach from a container and let it run: Ctrl-P Ctrl-Q, as docker has
 * them. A Ctrl-P is held back until the key after it says whether it is the process's.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct detach_keys {
	bool held; /* a Ctrl-P */
};

/*
 * Takes what was typed and gives what the process gets of it in ret_typed, which has room for
 * len + 1 bytes. True: the keys are there, and what is before them was given.
 */
bool detach_filter(
	struct detach_keys *keys, const char *data, size_t len, char *ret_typed, size_t *ret_len);
