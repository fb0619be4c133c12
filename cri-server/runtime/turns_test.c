#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "common/loop.h"
#include "cri-server/runtime/turns.h"

#define NEVER UINT64_MAX

/* Somebody who takes one turn, on a thread. */
struct taker {
	struct turns *turns;
	uint64_t timeout_ms;
	atomic_int *order; /* of those who got one */
	pthread_t thread;
	int cancel_fd, result, number;
	struct err err;
};

static void *taker_main(void *arg)
{
	struct taker *taker = arg;
	taker->result = turns_take(taker->turns, taker->cancel_fd, taker->timeout_ms, &taker->err);
	if (taker->result == 0)
		taker->number = ++*taker->order;
	return NULL;
}

static struct turns *new_turns(unsigned most)
{
	struct turns *turns = NULL;
	assert_int_equal(turns_new(most, &turns, NULL), 0);
	return turns;
}

/* Returns when the taker waits, behind n others. */
static void begin_behind(struct taker *taker, unsigned n)
{
	assert_int_equal(pthread_create(&taker->thread, NULL, taker_main, taker), 0);
	while (turns_waiting(taker->turns) != n + 1)
		usleep(1000);
}

static int end(struct taker *taker)
{
	pthread_join(taker->thread, NULL);
	return taker->result;
}

static void each_waits_for_those_before_alone(void **state)
{
	enum { MOST = 3, TAKERS = 12 };
	struct turns *turns = new_turns(MOST);
	struct taker takers[TAKERS];
	atomic_int order = 0;
	(void)state;
	for (unsigned i = 0; i < MOST; i++)
		assert_int_equal(turns_take(turns, -EBADF, NEVER, NULL), 0);
	for (unsigned i = 0; i < TAKERS; i++) {
		takers[i] = (struct taker){
			.turns = turns, .cancel_fd = -EBADF, .timeout_ms = NEVER, .order = &order};
		begin_behind(&takers[i], i);
	}
	for (unsigned i = 0; i < TAKERS; i++) {
		turns_give(turns);
		assert_int_equal(end(&takers[i]), 0);
		assert_int_equal(takers[i].number, i + 1);
		assert_int_equal(turns_waiting(turns), TAKERS - 1 - i);
	}
	for (unsigned i = 0; i < MOST; i++)
		turns_give(turns);
	/* As many as at the beginning, and no more. */
	for (unsigned i = 0; i < MOST; i++)
		assert_int_equal(turns_take(turns, -EBADF, 0, NULL), 0);
	assert_int_equal(turns_take(turns, -EBADF, 0, NULL), -ETIMEDOUT);
	turns_free(turns);
}

static void who_is_cancelled_leaves_at_once(void **state)
{
	struct turns *turns = new_turns(1);
	atomic_int order = 0;
	int cancel_fd = eventfd(0, EFD_CLOEXEC);
	struct taker first = {
		.turns = turns, .cancel_fd = cancel_fd, .timeout_ms = NEVER, .order = &order};
	struct taker second = first;
	(void)state;
	second.cancel_fd = -EBADF;
	assert_int_equal(turns_take(turns, -EBADF, NEVER, NULL), 0);
	begin_behind(&first, 0);
	begin_behind(&second, 1);
	eventfd_write(cancel_fd, 1);
	assert_int_equal(end(&first), -ECANCELED);
	assert_string_equal(first.err.msg, "the caller went away before its turn");
	assert_int_equal(turns_waiting(turns), 1);
	turns_give(turns);
	assert_int_equal(end(&second), 0);
	close(cancel_fd);
	turns_free(turns);
}

static void time_is_bounded(void **state)
{
	struct turns *turns = new_turns(1);
	struct err err = ERR_INIT;
	uint64_t begin = ev_now_ms();
	(void)state;
	assert_int_equal(turns_take(turns, -EBADF, 0, &err), 0);
	assert_int_equal(turns_take(turns, -EBADF, 50, &err), -ETIMEDOUT);
	assert_true(ev_now_ms() - begin >= 50);
	assert_int_equal(turns_waiting(turns), 0);
	turns_give(turns);
	assert_int_equal(turns_take(turns, -EBADF, 0, &err), 0);
	turns_free(turns);
}

static void who_waits_when_it_closes_is_sent_away(void **state)
{
	struct turns *turns = new_turns(1);
	atomic_int order = 0;
	struct taker takers[2];
	(void)state;
	assert_int_equal(turns_take(turns, -EBADF, NEVER, NULL), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(takers); i++) {
		takers[i] = (struct taker){
			.turns = turns, .cancel_fd = -EBADF, .timeout_ms = NEVER, .order = &order};
		begin_behind(&takers[i], i);
	}
	turns_close(turns);
	for (unsigned i = 0; i < ARRAY_SIZE(takers); i++)
		assert_int_equal(end(&takers[i]), -ECANCELED);
	turns_give(turns);
	assert_int_equal(turns_take(turns, -EBADF, NEVER, NULL), -ECANCELED);
	turns_free(turns);
}

/* Turns that come and callers who go away at the same moment: none is lost, none is there twice. */
static void *come_and_go(void *arg)
{
	struct taker *taker = arg;
	for (unsigned i = 0; i < 300; i++) {
		int cancel_fd = eventfd(i % 3 == 0, EFD_CLOEXEC);
		if (turns_take(taker->turns, cancel_fd, i % 5 == 0 ? 1 : 1000, NULL) == 0) {
			if (atomic_fetch_add(taker->order, 1) >= 2)
				taker->result = -EBUSY;
			sched_yield();
			atomic_fetch_sub(taker->order, 1);
			turns_give(taker->turns);
		}
		close(cancel_fd);
	}
	return NULL;
}

static void no_turn_is_lost(void **state)
{
	struct turns *turns = new_turns(2);
	atomic_int at_once = 0;
	struct taker takers[6];
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(takers); i++) {
		takers[i] = (struct taker){.turns = turns, .order = &at_once};
		assert_int_equal(
			pthread_create(&takers[i].thread, NULL, come_and_go, &takers[i]), 0);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(takers); i++)
		assert_int_equal(end(&takers[i]), 0);
	assert_int_equal(turns_waiting(turns), 0);
	assert_int_equal(turns_take(turns, -EBADF, 0, NULL), 0);
	assert_int_equal(turns_take(turns, -EBADF, 0, NULL), 0);
	assert_int_equal(turns_take(turns, -EBADF, 0, NULL), -ETIMEDOUT);
	turns_free(turns);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_waits_for_those_before_alone),
		cmocka_unit_test(who_is_cancelled_leaves_at_once),
		cmocka_unit_test(time_is_bounded),
		cmocka_unit_test(who_waits_when_it_closes_is_sent_away),
		cmocka_unit_test(no_turn_is_lost),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
