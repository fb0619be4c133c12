#include "cri-server/runtime/turns.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"

/* Who waits, on its stack. */
struct waiter {
	TAILQ_ENTRY(waiter) link;
	int wake_fd;
	bool granted; /* and out of the queue */
};

struct turns {
	pthread_mutex_t lock; /* protects what follows */
	unsigned free;        /* none where somebody waits */
	bool closed;
	TAILQ_HEAD(waiter_queue, waiter) queue;
	unsigned waiting;
};

int turns_new(unsigned most, struct turns **ret, struct err *err)
{
	struct turns *turns = calloc(1, sizeof(*turns));
	if (!turns)
		return err_nomem(err);
	pthread_mutex_init(&turns->lock, NULL);
	TAILQ_INIT(&turns->queue);
	turns->free = most;
	*ret = turns;
	return 0;
}

struct turns *turns_free(struct turns *turns)
{
	if (turns)
		pthread_mutex_destroy(&turns->lock);
	free(turns);
	return NULL;
}

static void queue(struct turns *turns, struct waiter *waiter)
{
	TAILQ_INSERT_TAIL(&turns->queue, waiter, link);
	turns->waiting++;
}

static void unqueue(struct turns *turns, struct waiter *waiter)
{
	TAILQ_REMOVE(&turns->queue, waiter, link);
	turns->waiting--;
}

/* 0; positive 1: the waiter is in the queue. */
static int take_or_queue(struct turns *turns, struct waiter *self, struct err *err)
{
	int r = 1;
	pthread_mutex_lock(&turns->lock);
	if (turns->closed) {
		r = err_set(err, -ECANCELED, "nothing is begun any more");
	} else if (turns->free > 0) {
		turns->free--;
		r = 0;
	} else {
		self->wake_fd = eventfd(0, EFD_CLOEXEC);
		if (self->wake_fd < 0)
			r = err_errno(err, "make an eventfd");
		else
			queue(turns, self);
	}
	pthread_mutex_unlock(&turns->lock);
	return r;
}

/* Positive 1: the time has passed; 0 whatever else happened. */
static int wait_for_turn(const struct waiter *self, int cancel_fd, uint64_t timeout_ms)
{
	struct pollfd fds[] = {
		{.fd = self->wake_fd, .events = POLLIN},
		{.fd = cancel_fd, .events = POLLIN},
	};
	uint64_t now = ev_now_ms();
	uint64_t deadline = timeout_ms < UINT64_MAX - now ? now + timeout_ms : UINT64_MAX;
	for (;;) {
		uint64_t left = now < deadline ? deadline - now : 0;
		if (poll(fds, ARRAY_SIZE(fds), left < INT_MAX ? (int)left : INT_MAX) > 0)
			return 0;
		now = ev_now_ms();
		if (now >= deadline)
			return 1;
	}
}

int turns_take(struct turns *turns, int cancel_fd, uint64_t timeout_ms, struct err *err)
{
	struct waiter self = {.wake_fd = -EBADF};
	int r = take_or_queue(turns, &self, err);
	if (r <= 0)
		return r;
	r = wait_for_turn(&self, cancel_fd, timeout_ms);
	pthread_mutex_lock(&turns->lock);
	bool granted = self.granted, closed = turns->closed;
	if (!granted)
		unqueue(turns, &self);
	pthread_mutex_unlock(&turns->lock);
	close(self.wake_fd);
	if (granted)
		return 0;
	if (r > 0)
		return err_set(err, -ETIMEDOUT, "others were before it until the time was up");
	return err_set(err, -ECANCELED,
		closed ? "nothing is begun any more" : "the caller went away before its turn");
}

void turns_give(struct turns *turns)
{
	pthread_mutex_lock(&turns->lock);
	struct waiter *first = TAILQ_FIRST(&turns->queue);
	if (first && !turns->closed) {
		unqueue(turns, first);
		first->granted = true;
		eventfd_write(first->wake_fd, 1);
	} else {
		turns->free++;
	}
	pthread_mutex_unlock(&turns->lock);
}

unsigned turns_waiting(struct turns *turns)
{
	pthread_mutex_lock(&turns->lock);
	unsigned n = turns->waiting;
	pthread_mutex_unlock(&turns->lock);
	return n;
}

void turns_close(struct turns *turns)
{
	pthread_mutex_lock(&turns->lock);
	turns->closed = true;
	for (struct waiter *w = TAILQ_FIRST(&turns->queue); w; w = TAILQ_NEXT(w, link))
		eventfd_write(w->wake_fd, 1);
	pthread_mutex_unlock(&turns->lock);
}
