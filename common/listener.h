/*
 * A listening socket on a loop, which hands over its connections one by one.
 *
 * Where descriptors or memory have run out, accept(2) fails, the connection stays in its queue and
 * the socket readable: a loop that asked again at once would do nothing else. So the socket is left
 * alone for a tenth of a second then; who waits in the queue notices no more than that.
 *
 * Threads: the loop's, as with its sources.
 */
#pragma once

#include <stdbool.h>

#include "common/loop.h"

struct ev_listener;

/* Takes fd, which is non-blocking and close-on-exec. It may free the listener. */
typedef void (*ev_accept_fn)(void *userdata, int fd);

/* Accepts from now on. fd is not owned: free the listener before it is closed. */
int ev_listener_new(struct ev_loop *loop, int fd, ev_accept_fn fn, void *userdata,
	struct ev_listener **ret, struct err *err);
/* Lets connections wait in the queue, or takes them again: at once, for something was given back.
 */
void ev_listener_set(struct ev_listener *listener, bool accepts);
/* Accepts NULL; returns NULL. */
struct ev_listener *ev_listener_free(struct ev_listener *listener);
