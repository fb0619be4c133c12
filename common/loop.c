#include "common/loop.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"

/*
 * Sources are a list; timers stand in a binary heap as well, ordered by deadline, then by the order
 * of arming. A source freed inside a callback may still be named by an event that was fetched with
 * the same epoll_wait(): it is marked dead, its memory goes at the end of the round. The lock
 * protects the list of posted jobs alone.
 */
#define EVENTS_PER_ROUND 64
#define NS_PER_MS        1000000ull
#define NOT_ARMED        SIZE_MAX

enum source_kind {
	SOURCE_IO,
	SOURCE_TIMER,
	SOURCE_SIGNAL,
};

struct ev_source {
	struct ev_loop *loop;
	struct ev_source *prev;
	struct ev_source *next;
	enum source_kind kind;
	bool dead;
	int fd; /* SOURCE_IO: the caller's; SOURCE_SIGNAL: our signalfd */
	uint32_t events;
	uint64_t deadline_ns;
	uint64_t armed_as; /* number of the arming */
	size_t heap_index; /* or NOT_ARMED */
	void *userdata;
	union {
		ev_io_fn io;
		ev_fn timer;
		ev_signal_fn signal;
	} fn;
};

struct job {
	struct job *next;
	ev_fn fn;
	void *userdata;
};

struct ev_loop {
	int epoll_fd;
	int wake_fd;
	atomic_int runner; /* thread id inside ev_loop_run(), or 0 */
	atomic_bool stop;
	struct ev_source *sources;
	struct ev_source *dead;
	struct ev_source **heap;
	size_t n_heap;
	size_t n_timers; /* timer sources alive: the heap has room for as many */
	uint64_t armings;
	pthread_mutex_t lock;
	struct job *jobs;
	struct job **jobs_tail;
};

uint64_t ev_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 * NS_PER_MS + (uint64_t)now.tv_nsec;
}

uint64_t ev_now_ms(void)
{
	return ev_now_ns() / NS_PER_MS;
}

uint64_t ev_left_ms(uint64_t until_ms)
{
	uint64_t now = ev_now_ms();
	return until_ms > now ? until_ms - now : 0;
}

uint64_t ev_until_ms(uint64_t timeout_ms)
{
	uint64_t now = ev_now_ms();
	return timeout_ms && timeout_ms < EV_NEVER - now ? now + timeout_ms : EV_NEVER;
}

void ev_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

int ev_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until_ms)
{
	if (until_ms == EV_NEVER)
		return pthread_cond_wait(cond, lock);
	const struct timespec until = {
		.tv_sec = (time_t)(until_ms / 1000),
		.tv_nsec = (long)(until_ms % 1000) * 1000000,
	};
	return pthread_cond_timedwait(cond, lock, &until);
}

/* The heap of timers. */

static bool earlier(const struct ev_source *a, const struct ev_source *b)
{
	if (a->deadline_ns != b->deadline_ns)
		return a->deadline_ns < b->deadline_ns;
	return a->armed_as < b->armed_as;
}

static void heap_put(struct ev_loop *loop, size_t index, struct ev_source *source)
{
	loop->heap[index] = source;
	source->heap_index = index;
}

static void heap_up(struct ev_loop *loop, size_t index, struct ev_source *source)
{
	while (index && earlier(source, loop->heap[(index - 1) / 2])) {
		heap_put(loop, index, loop->heap[(index - 1) / 2]);
		index = (index - 1) / 2;
	}
	heap_put(loop, index, source);
}

static void heap_down(struct ev_loop *loop, size_t index, struct ev_source *source)
{
	for (size_t child; (child = 2 * index + 1) < loop->n_heap; index = child) {
		if (child + 1 < loop->n_heap && earlier(loop->heap[child + 1], loop->heap[child]))
			child++;
		if (!earlier(loop->heap[child], source))
			break;
		heap_put(loop, index, loop->heap[child]);
	}
	heap_put(loop, index, source);
}

static void heap_remove(struct ev_loop *loop, struct ev_source *source)
{
	size_t index = source->heap_index;
	if (index == NOT_ARMED)
		return;
	source->heap_index = NOT_ARMED;
	struct ev_source *last = loop->heap[--loop->n_heap];
	if (last == source)
		return;
	heap_down(loop, index, last);
	heap_up(loop, last->heap_index, last);
}

static int heap_make_room(struct ev_loop *loop, struct err *err)
{
	struct ev_source **heap =
		reallocarray(loop->heap, loop->n_timers + 1, sizeof(struct ev_source *));
	if (!heap)
		return err_nomem(err);
	loop->heap = heap;
	loop->n_timers++;
	return 0;
}

/* Sources. */

/* A source is its loop's thread's own, or anybody's while the loop does not run. */
static bool may_touch(struct ev_loop *loop)
{
	return ev_loop_is_current(loop) || !ev_loop_is_running(loop);
}

static struct ev_source *source_new(struct ev_loop *loop, enum source_kind kind, void *userdata)
{
	assert(may_touch(loop));
	struct ev_source *source = calloc(1, sizeof(*source));
	if (!source)
		return NULL;
	source->loop = loop;
	source->kind = kind;
	source->fd = -EBADF;
	source->heap_index = NOT_ARMED;
	source->userdata = userdata;
	source->next = loop->sources;
	if (source->next)
		source->next->prev = source;
	loop->sources = source;
	return source;
}

/*
 * epoll reports a hang-up even where nothing is asked for, and would do so without end;
 * edge-triggered it wakes us once, and dispatch_event() drops it.
 */
static uint32_t epoll_events(uint32_t events)
{
	return events ? events : (uint32_t)EPOLLET;
}

static int watch(struct ev_source *source, int operation)
{
	struct epoll_event event = {
		.events = epoll_events(source->events),
		.data.ptr = source,
	};
	return epoll_ctl(source->loop->epoll_fd, operation, source->fd, &event);
}

int ev_io_new(struct ev_loop *loop, int fd, uint32_t events, ev_io_fn fn, void *userdata,
	struct ev_source **ret, struct err *err)
{
	struct ev_source *source = source_new(loop, SOURCE_IO, userdata);
	if (!source)
		return err_nomem(err);
	source->fd = fd;
	source->events = events;
	source->fn.io = fn;
	if (watch(source, EPOLL_CTL_ADD) < 0) {
		int r = err_errno(err, "watch descriptor %d", fd);
		source->fd = -EBADF;
		ev_source_free(source);
		return r;
	}
	*ret = source;
	return 0;
}

void ev_io_set(struct ev_source *source, uint32_t events)
{
	assert(source->kind == SOURCE_IO && !source->dead && may_touch(source->loop));
	if (source->events == events)
		return;
	source->events = events;
	int r = watch(source, EPOLL_CTL_MOD);
	assert(r == 0); /* fails only for a descriptor closed before its source was freed */
	(void)r;
}

int ev_timer_new(struct ev_loop *loop, uint64_t after_ms, ev_fn fn, void *userdata,
	struct ev_source **ret, struct err *err)
{
	int r = heap_make_room(loop, err);
	if (r < 0)
		return r;
	struct ev_source *source = source_new(loop, SOURCE_TIMER, userdata);
	if (!source) {
		loop->n_timers--;
		return err_nomem(err);
	}
	source->fn.timer = fn;
	ev_timer_set(source, after_ms);
	*ret = source;
	return 0;
}

void ev_timer_set(struct ev_source *source, uint64_t after_ms)
{
	assert(source->kind == SOURCE_TIMER && !source->dead && may_touch(source->loop));
	struct ev_loop *loop = source->loop;
	heap_remove(loop, source);
	if (after_ms == EV_NEVER)
		return;
	uint64_t now = ev_now_ns();
	uint64_t longest = UINT64_MAX - now;
	source->deadline_ns =
		after_ms > longest / NS_PER_MS ? UINT64_MAX : now + after_ms * NS_PER_MS;
	source->armed_as = ++loop->armings;
	heap_up(loop, loop->n_heap++, source);
}

int ev_signal_new(struct ev_loop *loop, int signo, ev_signal_fn fn, void *userdata,
	struct ev_source **ret, struct err *err)
{
	sigset_t set;
	sigemptyset(&set);
	if (sigaddset(&set, signo) < 0)
		return err_set(err, -EINVAL, "signal %d: no such signal", signo);
	int r = pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (r)
		return err_set(err, -r, "block signal %d: %s", signo, strerror(r));

	struct ev_source *source = source_new(loop, SOURCE_SIGNAL, userdata);
	if (!source)
		return err_nomem(err);
	source->fn.signal = fn;
	source->events = EPOLLIN;
	source->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (source->fd < 0 || watch(source, EPOLL_CTL_ADD) < 0) {
		r = err_errno(err, "take signal %d", signo);
		ev_source_free(source);
		return r;
	}
	*ret = source;
	return 0;
}

struct ev_source *ev_source_free(struct ev_source *source)
{
	if (!source)
		return NULL;
	assert(!source->dead && may_touch(source->loop));
	struct ev_loop *loop = source->loop;

	if (source->kind == SOURCE_TIMER) {
		heap_remove(loop, source);
		loop->n_timers--;
	} else if (source->fd >= 0) {
		epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
		if (source->kind == SOURCE_SIGNAL)
			fd_close(source->fd);
	}
	if (source->prev)
		source->prev->next = source->next;
	else
		loop->sources = source->next;
	if (source->next)
		source->next->prev = source->prev;
	source->dead = true;
	source->next = loop->dead;
	loop->dead = source;
	return NULL;
}

static void bury_dead(struct ev_loop *loop)
{
	while (loop->dead) {
		struct ev_source *source = loop->dead;
		loop->dead = source->next;
		free(source);
	}
}

/* Jobs from other threads. */

static void wake(struct ev_loop *loop)
{
	uint64_t one = 1;
	ssize_t ignored = write(loop->wake_fd, &one, sizeof(one)); /* full means awake already */
	(void)ignored;
}

int ev_post(struct ev_loop *loop, ev_fn fn, void *userdata)
{
	struct job *job = malloc(sizeof(*job));
	if (!job)
		return -ENOMEM;
	*job = (struct job){.fn = fn, .userdata = userdata};
	pthread_mutex_lock(&loop->lock);
	*loop->jobs_tail = job;
	loop->jobs_tail = &job->next;
	/* Inside the lock: once the job can run, the loop may be gone for the poster. */
	wake(loop);
	pthread_mutex_unlock(&loop->lock);
	return 0;
}

/* Runs what has been posted; what these jobs post waits for the next round. False: nothing. */
static bool run_jobs(struct ev_loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	struct job *jobs = loop->jobs;
	loop->jobs = NULL;
	loop->jobs_tail = &loop->jobs;
	pthread_mutex_unlock(&loop->lock);

	bool any = jobs;
	while (jobs) {
		struct job *job = jobs;
		jobs = job->next;
		job->fn(job->userdata);
		free(job);
	}
	return any;
}

/* The loop itself. */

int ev_loop_new(struct ev_loop **ret, struct err *err)
{
	struct ev_loop *loop = calloc(1, sizeof(*loop));
	if (!loop)
		return err_nomem(err);
	loop->jobs_tail = &loop->jobs;
	pthread_mutex_init(&loop->lock, NULL);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
	if (loop->epoll_fd < 0 || loop->wake_fd < 0 ||
		epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &event) < 0) {
		int r = err_errno(err, "make an event loop");
		ev_loop_free(loop);
		return r;
	}
	*ret = loop;
	return 0;
}

struct ev_loop *ev_loop_free(struct ev_loop *loop)
{
	if (!loop)
		return NULL;
	assert(atomic_load(&loop->runner) == 0);
	while (run_jobs(loop))
		;
	while (loop->sources)
		ev_source_free(loop->sources);
	bury_dead(loop);
	free(loop->heap);
	fd_close(loop->epoll_fd);
	fd_close(loop->wake_fd);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
	return NULL;
}

static void dispatch_signal(struct ev_source *source)
{
	struct signalfd_siginfo info;
	while (!source->dead && read(source->fd, &info, sizeof(info)) == sizeof(info))
		source->fn.signal(source->userdata, &info);
}

static void dispatch_event(struct ev_loop *loop, const struct epoll_event *event)
{
	struct ev_source *source = event->data.ptr;
	if (!source) {
		uint64_t count;
		ssize_t ignored = read(loop->wake_fd, &count, sizeof(count));
		(void)ignored;
		run_jobs(loop);
		return;
	}
	if (source->dead)
		return;
	if (source->kind == SOURCE_SIGNAL) {
		dispatch_signal(source);
		return;
	}
	/* An earlier callback of this round may have changed what is wanted. */
	uint32_t ready =
		source->events ? event->events & (source->events | EPOLLERR | EPOLLHUP) : 0;
	if (ready)
		source->fn.io(source->userdata, ready);
}

/* Fires what is due, but nothing that is armed meanwhile: a timer of 0 ms must not starve the rest.
 */
static void run_timers(struct ev_loop *loop)
{
	if (!loop->n_heap)
		return;
	uint64_t now = ev_now_ns();
	uint64_t armings = loop->armings;
	while (loop->n_heap) {
		struct ev_source *source = loop->heap[0];
		if (source->deadline_ns > now || source->armed_as > armings)
			break;
		heap_remove(loop, source);
		source->fn.timer(source->userdata);
	}
}

static int wait_ms(const struct ev_loop *loop)
{
	if (!loop->n_heap)
		return -1;
	uint64_t now = ev_now_ns();
	uint64_t deadline = loop->heap[0]->deadline_ns;
	if (deadline <= now)
		return 0;
	uint64_t ms = (deadline - now - 1) / NS_PER_MS + 1; /* rounded up: never early */
	return ms > INT_MAX ? INT_MAX : (int)ms;
}

static int run_round(struct ev_loop *loop, struct err *err)
{
	struct epoll_event events[EVENTS_PER_ROUND];
	int n = epoll_wait(loop->epoll_fd, events, EVENTS_PER_ROUND, wait_ms(loop));
	if (n < 0 && errno != EINTR)
		return err_errno(err, "wait for events");
	for (int i = 0; i < n; i++)
		dispatch_event(loop, &events[i]);
	run_timers(loop);
	bury_dead(loop);
	return 0;
}

int ev_loop_run(struct ev_loop *loop, struct err *err)
{
	assert(atomic_load(&loop->runner) == 0);
	atomic_store(&loop->runner, gettid());
	int r = 0;
	while (r == 0 && !atomic_exchange(&loop->stop, false))
		r = run_round(loop, err);
	run_jobs(loop); /* what was posted before the stop */
	bury_dead(loop);
	atomic_store(&loop->runner, 0);
	return r;
}

void ev_loop_stop(struct ev_loop *loop)
{
	atomic_store(&loop->stop, true);
	wake(loop);
}

bool ev_loop_is_current(struct ev_loop *loop)
{
	return atomic_load(&loop->runner) == gettid();
}

bool ev_loop_is_running(struct ev_loop *loop)
{
	return atomic_load(&loop->runner) != 0;
}
