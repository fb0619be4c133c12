/*
 * An event loop: epoll, timers, signals and jobs posted from other threads.
 *
 * One thread runs a loop (ev_loop_run()); callbacks run on that thread. Everything but ev_post() and
 * ev_loop_stop() is called on the loop's thread, or before it runs. A callback may free any source,
 * its own included; a freed source is never called again, even if its event was already fetched.
 */
#pragma once

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
struct ev_loop *ev_loop_free(struct ev_loop *loop);

/* Runs until ev_loop_stop(); returns 0, or -errno when epoll itself fails. */
int ev_loop_run(struct ev_loop *loop, struct err *err);
void ev_loop_stop(struct ev_loop *loop);

/* Whether the calling thread is the one inside ev_loop_run(). */
bool ev_loop_is_current(struct ev_loop *loop);

/* Watches fd (not owned) for EPOLLIN, EPOLLOUT …; level-triggered. events may be 0 at first. */
int ev_io_new(struct ev_loop *loop, int fd, uint32_t events, ev_io_fn fn, void *userdata,
	struct ev_source **ret, struct err *err);
void ev_io_set(struct ev_source *source, uint32_t events);

/* A one-shot timer in milliseconds from now (monotonic); ev_timer_set() arms it anew. */
int ev_timer_new(struct ev_loop *loop, uint64_t after_ms, ev_fn fn, void *userdata,
	struct ev_source **ret, struct err *err);
void ev_timer_set(struct ev_source *source, uint64_t after_ms);

/* Takes the signal through a signalfd; the signal is blocked for the calling thread. */
int ev_signal_new(struct ev_loop *loop, int signo, ev_signal_fn fn, void *userdata,
	struct ev_source **ret, struct err *err);

/* Accepts NULL; returns NULL. */
struct ev_source *ev_source_free(struct ev_source *source);

/* Runs fn once on the loop's thread, in the order of posting. Any thread. 0 or -ENOMEM. */
int ev_post(struct ev_loop *loop, ev_fn fn, void *userdata);

/* CLOCK_MONOTONIC in milliseconds. */
uint64_t ev_now_ms(void);
