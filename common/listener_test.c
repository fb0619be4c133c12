/*
 * A listener whose accept4(2) is a function of ours, which fails as often as a test asks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/listener.h"

#define PATIENCE_MS 60000
#define PAUSE_MS    100

/* accept4()'s, which knows no context. */
static struct {
	int failures; /* so many come first */
	int code;
	uint64_t failed_ms;
	bool too_soon; /* it was asked again before a pause was over */
} kernel;

int accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
	if (kernel.failed_ms && ev_now_ms() < kernel.failed_ms + PAUSE_MS)
		kernel.too_soon = true;
	kernel.failed_ms = 0;
	if (kernel.failures > 0) {
		kernel.failures--;
		kernel.failed_ms = ev_now_ms();
		errno = kernel.code;
		return -1;
	}
	assert_int_equal(flags, SOCK_CLOEXEC | SOCK_NONBLOCK);
	return accept(fd, address, len);
}

struct fixture {
	char dir[64], path[80];
	int fd;
	struct ev_loop *loop;
	struct ev_listener *listener;
	struct ev_source *patience;
	int n, wanted;
	bool stops_itself;
};

static void on_accept(void *userdata, int fd)
{
	struct fixture *f = userdata;
	fd_close(fd);
	f->n++;
	if (f->stops_itself)
		f->listener = ev_listener_free(f->listener);
	if (f->n == f->wanted)
		ev_loop_stop(f->loop);
}

static void on_late(void *userdata)
{
	fail_msg("%d of %d connections", ((struct fixture *)userdata)->n,
		((struct fixture *)userdata)->wanted);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;

	assert_non_null(f);
	kernel.failures = 0;
	kernel.failed_ms = 0;
	kernel.too_soon = false;
	snprintf(f->dir, sizeof(f->dir), "/tmp/listener-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/socket", f->dir);
	assert_int_equal(fd_unix_listen(f->path, 0600, &f->fd, &err), 0);
	assert_int_equal(ev_loop_new(&f->loop, &err), 0);
	assert_int_equal(ev_listener_new(f->loop, f->fd, on_accept, f, &f->listener, &err), 0);
	assert_int_equal(ev_timer_new(f->loop, PATIENCE_MS, on_late, f, &f->patience, &err), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	ev_listener_free(f->listener);
	ev_source_free(f->patience);
	ev_loop_free(f->loop);
	fd_close(f->fd);
	assert_int_equal(fd_remove_tree(f->dir, NULL), 0);
	free(f);
	return 0;
}

static void connect_once(const struct fixture *f)
{
	int fd;
	assert_int_equal(fd_unix_connect(f->path, &fd, NULL), 0);
	fd_close(fd); /* it stays in the queue */
}

static void run_until(struct fixture *f, int n)
{
	f->wanted = n;
	assert_int_equal(ev_loop_run(f->loop, NULL), 0);
	assert_int_equal(f->n, n);
}

static void accepts(void **state)
{
	connect_once(*state);
	connect_once(*state);
	run_until(*state, 2);
}

static void pauses_when_there_are_no_descriptors(void **state)
{
	kernel.failures = 3;
	kernel.code = EMFILE;
	connect_once(*state);
	connect_once(*state);
	run_until(*state, 2);
	assert_false(kernel.too_soon);
}

static void goes_on_after_one_that_was_given_up(void **state)
{
	kernel.failures = 1;
	kernel.code = ECONNABORTED;
	connect_once(*state);
	run_until(*state, 1);
}

static void on_nothing_accepted(void *userdata)
{
	struct fixture *f = userdata;
	assert_int_equal(f->n, 0);
	ev_listener_set(f->listener, true);
}

static void waits_until_it_is_told(void **state)
{
	struct fixture *f = *state;
	struct ev_source *timer;
	struct err err = ERR_INIT;

	connect_once(f);
	assert_int_equal(
		ev_timer_new(f->loop, 3 * PAUSE_MS, on_nothing_accepted, f, &timer, &err), 0);
	ev_listener_set(f->listener, false);
	run_until(f, 1);
	ev_source_free(timer);
}

static void may_be_freed_by_what_it_calls(void **state)
{
	((struct fixture *)*state)->stops_itself = true;
	connect_once(*state);
	run_until(*state, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(accepts, setup, teardown),
		cmocka_unit_test_setup_teardown(
			pauses_when_there_are_no_descriptors, setup, teardown),
		cmocka_unit_test_setup_teardown(
			goes_on_after_one_that_was_given_up, setup, teardown),
		cmocka_unit_test_setup_teardown(waits_until_it_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(may_be_freed_by_what_it_calls, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
