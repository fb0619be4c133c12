/*
 * Turns: of those who do what is hard on the host, a bounded number at a time; others wait, and get
 * their turns in the order in which they came.
 *
 *	turns_take()  waits  →  it is one's turn  →  turns_give()
 *
 * A turn that is given back goes to the first who waits, at once: who comes in between stands
 * behind. So each waits for no more than those who came before. Any thread.
 */
#pragma once

#include <stdint.h>

#include "common/err.h"

struct turns;

/* most: turns at the same time, at least 1. */
int turns_new(unsigned most, struct turns **ret, struct err *err);
/* Nobody has a turn or waits for one. NULL is accepted; returns NULL. */
struct turns *turns_free(struct turns *turns);

/*
 * Blocks until it is the caller's turn, which turns_give() ends. -ECANCELED: cancel_fd (negative:
 * none) became readable, or turns_close() was called; -ETIMEDOUT: timeout_ms (UINT64_MAX: none)
 * have passed. With these the caller has left the queue.
 */
int turns_take(struct turns *turns, int cancel_fd, uint64_t timeout_ms, struct err *err);
void turns_give(struct turns *turns);

/* How many wait. */
unsigned turns_waiting(struct turns *turns);

/* Nobody gets a turn any more: who waits is sent away, and who comes. Turns that were taken go on.
 */
void turns_close(struct turns *turns);
