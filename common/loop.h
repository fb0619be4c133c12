/*
 * An event loop: epoll, timers, signals and jobs posted from other threads.
 *
 * One thread runs a loop (ev_loop_run()); callbacks run on that thread. Everything but ev_post()
 * and ev_loop_stop() is called on the loop's thread, or while it does not run. A callback may free
 * any source, its own included; a freed source is never called again, even if its event was already
 * fetched. Works in a process without threads too (the guest's PID 1).
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "common/err.h"

struct ev_loop;
struct ev_source;

typedef void (*ev_io_fn)(void *userdata, uint32_t events);
typedef void (*ev_fn)(void *userdata);
typedef void (*ev_signal_fn)(void *userdata, const struct signalfd_siginfo *info);

int ev_loop_new(struct ev_loop **ret, struct err *err);
/* Runs the jobs that are still posted, then frees the sources that are left, then the loop. */
struct ev_loop *ev_loop_free(struct ev_loop *loop);

/*
 * Runs until ev_loop_stop(); returns 0, or -errno when epoll itself fails. A stop that comes before
 * counts: the loop returns at once. Jobs posted before the stop have run when it returns.
 */
int ev_loop_run(struct ev_loop *loop, struct err *err);
void ev_loop_stop(struct ev_loop *loop);

/* Whether the calling thread is the one inside ev_loop_run(). Any thread. */
bool ev_loop_is_current(struct ev_loop *loop);
/* Whether any thread is inside ev_loop_run(). Any thread. */
bool ev_loop_is_running(struct ev_loop *loop);

/*
 * Watches fd (not owned) for EPOLLIN, EPOLLOUT …; level-triggered. events may be 0, also at first:
 * then nothing is reported, not even a hang-up. Free the source before fd is closed.
 */
int ev_io_new(struct ev_loop *loop, int fd, uint32_t events, ev_io_fn fn, void *userdata,
	struct ev_source **ret, struct err *err);
void ev_io_set(struct ev_source *source, uint32_t events);

/*
 * A one-shot timer in milliseconds from now (monotonic), never early; ev_timer_set() arms it anew
 * and cannot fail. EV_NEVER: it is not armed.
 */
#define EV_NEVER UINT64_MAX
int ev_timer_new(struct ev_loop *loop, uint64_t after_ms, ev_fn fn, void *userdata,
	struct ev_source **ret, struct err *err);
void ev_timer_set(struct ev_source *source, uint64_t after_ms);

/*
 * Takes the signal through a signalfd. It is blocked for the calling thread and stays so: block it
 * before other threads start, or one of them takes it.
 */
int ev_signal_new(struct ev_loop *loop, int signo, ev_signal_fn fn, void *userdata,
	struct ev_source **ret, struct err *err);

/* Accepts NULL; returns NULL. */
struct ev_source *ev_source_free(struct ev_source *source);

/*
 * Runs fn exactly once on the loop's thread, in the order of posting (a loop that stopped runs it
 * in ev_loop_free()). Any thread. 0 or -ENOMEM.
 */
int ev_post(struct ev_loop *loop, ev_fn fn, void *userdata);

/* CLOCK_MONOTONIC in milliseconds, and in nanoseconds. */
uint64_t ev_now_ms(void);
uint64_t ev_now_ns(void);
/* From now until then; 0 when that is past. */
uint64_t ev_left_ms(uint64_t until_ms);
/* When a timeout that begins now is over; EV_NEVER for 0, which is none. */
uint64_t ev_until_ms(uint64_t timeout_ms);

/* A condition whose timed waits go by that clock; pthread_cond_destroy() ends it. */
void ev_cond_init(pthread_cond_t *cond);
/*
 * As pthread_cond_timedwait(3): ETIMEDOUT when the time has come, which EV_NEVER does not. Any
 * thread; the lock is held.
 */
int ev_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until_ms);
