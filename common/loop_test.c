#include "common/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"

/* What the callbacks of a test see: the loop, a trace of letters, and what they play with. */
struct world {
	struct ev_loop *loop;
	char trace[256];
	size_t n;
	int pair[2];
	int pair2[2];
	struct ev_source *a;
	struct ev_source *b;
	uint32_t events;
	uint64_t at_ms;
	int count;
};

static void note(struct world *world, char c)
{
	if (world->n < sizeof(world->trace) - 1)
		world->trace[world->n++] = c;
}

static int setup(void **state)
{
	struct world *world = calloc(1, sizeof(*world));
	assert_non_null(world);
	assert_int_equal(ev_loop_new(&world->loop, NULL), 0);
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, world->pair), 0);
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, world->pair2),
		0);
	*state = world;
	return 0;
}

static int teardown(void **state)
{
	struct world *world = *state;
	ev_loop_free(world->loop);
	for (int i = 0; i < 2; i++) {
		fd_close(world->pair[i]);
		fd_close(world->pair2[i]);
	}
	free(world);
	return 0;
}

static void run(struct world *world)
{
	assert_int_equal(ev_loop_run(world->loop, NULL), 0);
}

static void job_a(void *userdata)
{
	note(userdata, 'a');
}

static void job_b(void *userdata)
{
	note(userdata, 'b');
}

static void job_stop(void *userdata)
{
	struct world *world = userdata;
	note(world, '.');
	ev_loop_stop(world->loop);
}

static void stop_after(struct world *world, uint64_t ms)
{
	struct ev_source *ignored;
	assert_int_equal(ev_timer_new(world->loop, ms, job_stop, world, &ignored, NULL), 0);
}

static void jobs_run_in_order(void **state)
{
	struct world *world = *state;
	assert_int_equal(ev_post(world->loop, job_a, world), 0);
	assert_int_equal(ev_post(world->loop, job_b, world), 0);
	assert_int_equal(ev_post(world->loop, job_stop, world), 0);
	assert_int_equal(ev_post(world->loop, job_a, world), 0);
	run(world);
	assert_string_equal(world->trace, "ab.a");
}

static void a_stop_before_the_run_counts(void **state)
{
	struct world *world = *state;
	assert_int_equal(ev_post(world->loop, job_a, world), 0);
	ev_loop_stop(world->loop);
	run(world);
	assert_string_equal(world->trace, "a");
	/* And only once. */
	stop_after(world, 1);
	run(world);
	assert_string_equal(world->trace, "a.");
}

static void posted_jobs_run_even_when_the_loop_is_freed(void **state)
{
	struct world *world = *state;
	assert_int_equal(ev_post(world->loop, job_a, world), 0);
	world->loop = ev_loop_free(world->loop);
	assert_string_equal(world->trace, "a");
}

static void job_again(void *userdata)
{
	struct world *world = userdata;
	note(world, 'p');
	if (++world->count < 50)
		ev_post(world->loop, job_again, world);
	else
		ev_loop_stop(world->loop);
}

static void io_note(void *userdata, uint32_t events)
{
	struct world *world = userdata;
	char c = '?';
	world->events = events;
	if (events & EPOLLIN && read(world->pair[0], &c, 1) == 1)
		note(world, c);
}

static void reposting_does_not_starve_io(void **state)
{
	struct world *world = *state;
	assert_int_equal(ev_post(world->loop, job_again, world), 0);
	assert_int_equal(
		ev_io_new(world->loop, world->pair[0], EPOLLIN, io_note, world, &world->a, NULL),
		0);
	assert_int_equal(write(world->pair[1], "x", 1), 1);
	run(world);
	assert_int_equal(world->count, 50);
	assert_true(strchr(world->trace, 'x') < world->trace + 5);
}

static void io_is_level_triggered(void **state)
{
	struct world *world = *state;
	assert_int_equal(
		ev_io_new(world->loop, world->pair[0], EPOLLIN, io_note, world, &world->a, NULL),
		0);
	assert_int_equal(write(world->pair[1], "xyz", 3), 3);
	stop_after(world, 20);
	run(world);
	assert_string_equal(world->trace, "xyz.");
}

static void io_without_events_is_silent(void **state)
{
	struct world *world = *state;
	assert_int_equal(
		ev_io_new(world->loop, world->pair[0], 0, io_note, world, &world->a, NULL), 0);
	assert_int_equal(write(world->pair[1], "x", 1), 1);
	world->pair[1] = fd_close(world->pair[1]);
	world->events = 0;
	stop_after(world, 10);
	run(world);
	assert_string_equal(world->trace, ".");
	assert_int_equal(world->events, 0);

	/* What happened meanwhile is reported once it is asked for. */
	ev_io_set(world->a, EPOLLIN);
	ev_post(world->loop, job_stop, world);
	stop_after(world, 10);
	run(world);
	assert_non_null(strchr(world->trace, 'x'));
	world->a = ev_source_free(world->a);
}

static void io_set_follows_interest(void **state)
{
	struct world *world = *state;
	assert_int_equal(
		ev_io_new(world->loop, world->pair[0], EPOLLOUT, io_note, world, &world->a, NULL),
		0);
	ev_io_set(world->a, 0);
	stop_after(world, 5);
	run(world);
	assert_int_equal(world->events, 0);
	ev_io_set(world->a, EPOLLOUT);
	stop_after(world, 5);
	run(world);
	assert_int_equal(world->events, EPOLLOUT);
}

static void watching_what_cannot_be_watched_fails(void **state)
{
	struct world *world = *state;
	struct err err = ERR_INIT;
	assert_int_equal(
		ev_io_new(world->loop, -1, EPOLLIN, io_note, world, &world->a, &err), -EBADF);
	assert_null(world->a);
	assert_non_null(strstr(err.msg, "watch"));
}

/* Two sources ready in the same round: whichever is called first frees the other. */
static void io_free_both(void *userdata, uint32_t events)
{
	struct world *world = userdata;
	(void)events;
	note(world, 'f');
	world->a = ev_source_free(world->a);
	world->b = ev_source_free(world->b);
	ev_loop_stop(world->loop);
}

static void a_freed_source_never_fires(void **state)
{
	struct world *world = *state;
	assert_int_equal(ev_io_new(world->loop, world->pair[0], EPOLLIN, io_free_both, world,
				 &world->a, NULL),
		0);
	assert_int_equal(ev_io_new(world->loop, world->pair2[0], EPOLLIN, io_free_both, world,
				 &world->b, NULL),
		0);
	assert_int_equal(write(world->pair[1], "x", 1), 1);
	assert_int_equal(write(world->pair2[1], "x", 1), 1);
	run(world);
	stop_after(world, 5);
	run(world);
	assert_string_equal(world->trace, "f.");
	assert_null(ev_source_free(NULL));
}

static void io_replace(void *userdata, uint32_t events)
{
	struct world *world = userdata;
	(void)events;
	note(world, 'r');
	ev_source_free(world->a);
	ev_source_free(world->b);
	/* New memory, perhaps where the old was, and the same descriptors: only they may fire now.
	 */
	assert_int_equal(
		ev_io_new(world->loop, world->pair[0], 0, io_note, world, &world->a, NULL), 0);
	assert_int_equal(
		ev_io_new(world->loop, world->pair2[0], 0, io_note, world, &world->b, NULL), 0);
	ev_loop_stop(world->loop);
}

static void a_replaced_source_does_not_get_old_events(void **state)
{
	struct world *world = *state;
	assert_int_equal(
		ev_io_new(world->loop, world->pair[0], EPOLLIN, io_replace, world, &world->a, NULL),
		0);
	assert_int_equal(ev_io_new(world->loop, world->pair2[0], EPOLLIN, io_replace, world,
				 &world->b, NULL),
		0);
	assert_int_equal(write(world->pair[1], "x", 1), 1);
	assert_int_equal(write(world->pair2[1], "y", 1), 1);
	run(world);
	assert_string_equal(world->trace, "r");
	assert_int_equal(world->events, 0);
}

static void io_mute_both(void *userdata, uint32_t events)
{
	struct world *world = userdata;
	(void)events;
	note(world, 'm');
	ev_io_set(world->a, 0);
	ev_io_set(world->b, 0);
	ev_loop_stop(world->loop);
}

static void muting_works_within_the_round(void **state)
{
	struct world *world = *state;
	assert_int_equal(ev_io_new(world->loop, world->pair[0], EPOLLIN, io_mute_both, world,
				 &world->a, NULL),
		0);
	assert_int_equal(ev_io_new(world->loop, world->pair2[0], EPOLLIN, io_mute_both, world,
				 &world->b, NULL),
		0);
	assert_int_equal(write(world->pair[1], "x", 1), 1);
	assert_int_equal(write(world->pair2[1], "y", 1), 1);
	run(world);
	assert_string_equal(world->trace, "m");
}

static void timer_time(void *userdata)
{
	struct world *world = userdata;
	world->at_ms = ev_now_ms();
	note(world, 't');
	ev_loop_stop(world->loop);
}

static void timers_are_never_early(void **state)
{
	struct world *world = *state;
	uint64_t begin = ev_now_ms();
	assert_int_equal(ev_timer_new(world->loop, 30, timer_time, world, &world->a, NULL), 0);
	run(world);
	assert_true(world->at_ms - begin >= 30);
	/* One-shot, and armed anew. */
	stop_after(world, 5);
	run(world);
	assert_string_equal(world->trace, "t.");
	ev_timer_set(world->a, 0);
	run(world);
	assert_string_equal(world->trace, "t.t");
}

static void timers_fire_in_order(void **state)
{
	struct world *world = *state;
	enum { N = 100 };
	struct ev_source *timers[N] = {NULL};
	uint64_t began;
	/* In a scattered order, and in less time than lies between the two deadlines; every third
	 * is freed, every fifth never set off. */
	do {
		began = ev_now_ms();
		for (uint64_t i = 0; i < N; i++) {
			ev_source_free(timers[i]);
			assert_int_equal(ev_timer_new(world->loop, i % 2 ? 12 : 4,
						 i % 2 ? job_b : job_a, world, &timers[i], NULL),
				0);
		}
	} while (ev_now_ms() - began >= 8);
	for (size_t i = 0; i < N; i++)
		if (i % 3 == 0)
			ev_source_free(timers[i]);
		else if (i % 5 == 0)
			ev_timer_set(timers[i], i % 2 ? EV_NEVER : UINT64_MAX - 1);
	stop_after(world, 30);
	run(world);
	size_t a = strspn(world->trace, "a");
	size_t b = strspn(world->trace + a, "b");
	size_t expect_a = 0;
	size_t expect_b = 0;
	for (size_t i = 0; i < N; i++)
		if (i % 3 && i % 5)
			(*(i % 2 ? &expect_b : &expect_a))++;
	assert_int_equal(a, expect_a);
	assert_int_equal(b, expect_b);
	assert_string_equal(world->trace + a + b, ".");
}

static void equal_deadlines_keep_the_order_of_arming(void **state)
{
	struct world *world = *state;
	struct ev_source *far;
	assert_int_equal(ev_timer_new(world->loop, EV_NEVER, job_a, world, &far, NULL), 0);
	assert_int_equal(ev_timer_new(world->loop, 1, job_a, world, &world->a, NULL), 0);
	assert_int_equal(ev_timer_new(world->loop, 1, job_b, world, &world->b, NULL), 0);
	stop_after(world, 2);
	usleep(5000);
	run(world);
	assert_string_equal(world->trace, "ab.");
}

static void timer_rearm(void *userdata)
{
	struct world *world = userdata;
	note(world, 'r');
	if (++world->count == 20)
		ev_loop_stop(world->loop);
	ev_timer_set(world->a, 0);
}

static void a_timer_of_zero_does_not_starve(void **state)
{
	struct world *world = *state;
	assert_int_equal(ev_timer_new(world->loop, 0, timer_rearm, world, &world->a, NULL), 0);
	assert_int_equal(
		ev_io_new(world->loop, world->pair[0], EPOLLIN, io_note, world, &world->b, NULL),
		0);
	assert_int_equal(write(world->pair[1], "x", 1), 1);
	run(world);
	assert_true(strchr(world->trace, 'x') < world->trace + 5);
}

static void timer_free_self(void *userdata)
{
	struct world *world = userdata;
	note(world, 's');
	world->a = ev_source_free(world->a);
	world->b = ev_source_free(world->b);
}

static void a_timer_may_free_itself_and_others_that_are_due(void **state)
{
	struct world *world = *state;
	assert_int_equal(ev_timer_new(world->loop, 1, timer_free_self, world, &world->a, NULL), 0);
	assert_int_equal(ev_timer_new(world->loop, 1, timer_free_self, world, &world->b, NULL), 0);
	stop_after(world, 3);
	usleep(5000);
	run(world);
	assert_string_equal(world->trace, "s.");
}

static void signal_note(void *userdata, const struct signalfd_siginfo *info)
{
	struct world *world = userdata;
	note(world, info->ssi_signo == SIGUSR1 ? '1' : '2');
	world->count += info->ssi_pid == (uint32_t)getpid();
	if (info->ssi_signo == SIGUSR2)
		ev_loop_stop(world->loop);
}

static void takes_signals(void **state)
{
	struct world *world = *state;
	struct err err = ERR_INIT;
	assert_int_equal(
		ev_signal_new(world->loop, 1000, signal_note, world, &world->a, &err), -EINVAL);
	assert_int_equal(
		ev_signal_new(world->loop, SIGUSR1, signal_note, world, &world->a, &err), 0);
	assert_int_equal(
		ev_signal_new(world->loop, SIGUSR2, signal_note, world, &world->b, &err), 0);
	raise(SIGUSR1);
	kill(getpid(), SIGUSR2);
	stop_after(world, 100);
	run(world);
	assert_non_null(strchr(world->trace, '1'));
	assert_non_null(strchr(world->trace, '2'));
	assert_int_equal(world->count, 2);
}

static void *stopper(void *userdata)
{
	struct world *world = userdata;
	for (int i = 0; i < 100; i++)
		ev_post(world->loop, job_a, world);
	world->count = ev_loop_is_current(world->loop);
	ev_loop_stop(world->loop);
	return NULL;
}

static void job_is_current(void *userdata)
{
	struct world *world = userdata;
	if (ev_loop_is_current(world->loop) && ev_loop_is_running(world->loop))
		note(world, 'c');
}

static void other_threads_post_and_stop(void **state)
{
	struct world *world = *state;
	pthread_t thread;
	assert_false(ev_loop_is_current(world->loop));
	assert_false(ev_loop_is_running(world->loop));
	assert_int_equal(ev_post(world->loop, job_is_current, world), 0);
	assert_int_equal(pthread_create(&thread, NULL, stopper, world), 0);
	run(world);
	pthread_join(thread, NULL);
	assert_false(ev_loop_is_running(world->loop));
	assert_int_equal(world->count, 0);
	assert_int_equal(world->n, 101);
	assert_int_equal(world->trace[0], 'c');
}

static size_t open_descriptors(void)
{
	size_t n = 0;
	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void frees_what_is_left(void **state)
{
	struct world *world = *state;
	size_t before = open_descriptors();
	struct ev_loop *loop;
	struct ev_source *source;
	assert_int_equal(ev_loop_new(&loop, NULL), 0);
	assert_int_equal(ev_timer_new(loop, 1, job_a, world, &source, NULL), 0);
	assert_int_equal(
		ev_io_new(loop, world->pair[0], EPOLLIN, io_note, world, &source, NULL), 0);
	assert_int_equal(ev_signal_new(loop, SIGUSR1, signal_note, world, &source, NULL), 0);
	assert_null(ev_loop_free(loop));
	assert_int_equal(open_descriptors(), before);
	assert_null(ev_loop_free(NULL));
	assert_int_equal(world->n, 0);
}

static void a_wait_ends_when_its_timeout_is_over(void **state)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t cond;
	(void)state;
	assert_true(ev_until_ms(0) == EV_NEVER);
	assert_true(ev_until_ms(UINT64_MAX - 1) == EV_NEVER);
	ev_cond_init(&cond);
	uint64_t begin_ms = ev_now_ms(), until_ms = ev_until_ms(30);
	pthread_mutex_lock(&lock);
	while (ev_cond_wait(&cond, &lock, until_ms) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&lock);
	assert_true(ev_now_ms() >= begin_ms + 30);
	assert_int_equal(ev_left_ms(until_ms), 0);
	pthread_cond_destroy(&cond);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(jobs_run_in_order),
		TEST(a_stop_before_the_run_counts),
		TEST(posted_jobs_run_even_when_the_loop_is_freed),
		TEST(reposting_does_not_starve_io),
		TEST(io_is_level_triggered),
		TEST(io_without_events_is_silent),
		TEST(io_set_follows_interest),
		TEST(watching_what_cannot_be_watched_fails),
		TEST(a_freed_source_never_fires),
		TEST(a_replaced_source_does_not_get_old_events),
		TEST(muting_works_within_the_round),
		TEST(timers_are_never_early),
		TEST(timers_fire_in_order),
		TEST(equal_deadlines_keep_the_order_of_arming),
		TEST(a_timer_of_zero_does_not_starve),
		TEST(a_timer_may_free_itself_and_others_that_are_due),
		TEST(a_wait_ends_when_its_timeout_is_over),
		TEST(takes_signals),
		TEST(other_threads_post_and_stop),
		TEST(frees_what_is_left),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
