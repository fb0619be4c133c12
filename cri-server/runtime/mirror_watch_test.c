/*
 * The thread that keeps volumes as they are on the host, with an agent that is a function here, and
 * without a machine.
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
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/mirror.h"

#define VOLUMES    8
#define HANG_MS    500 /* of each write to a guest that hangs */
#define PATIENCE_S 60

/* What the guest was told of volumes "0" to "7"; for all tests, as agent_call() knows none. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t told;
	int refusals[VOLUMES]; /* so many writes fail first */
	unsigned writes[VOLUMES];
	size_t entries[VOLUMES]; /* at the last write */
	bool hangs;
	unsigned hung; /* so many writes began while it did */
} guest = {.lock = PTHREAD_MUTEX_INITIALIZER, .told = PTHREAD_COND_INITIALIZER};

/* In the places of the client's, the machine's and the sandbox's. */
int agent_call(struct agent *agent, const char *method, const ProtobufCMessage *request,
	uint64_t timeout_ms, ProtobufCMessage **ret_response, struct err *err)
{
	const Bulkhead__Agent__WriteVolumeRequest *write = (const void *)request;
	unsigned i = (unsigned)(write->name[0] - '0');
	int r = 0;

	(void)agent;
	(void)timeout_ms;
	(void)ret_response;
	assert_string_equal(method, "WriteVolume");
	assert_true(i < VOLUMES);
	pthread_mutex_lock(&guest.lock);
	if (guest.hangs) {
		guest.hung++;
		pthread_cond_broadcast(&guest.told);
		pthread_mutex_unlock(&guest.lock);
		usleep(HANG_MS * 1000);
		return err_set(err, -ETIMEDOUT, "no answer");
	}
	if (guest.refusals[i] > 0 && guest.refusals[i]--) {
		r = err_set(err, -ETIMEDOUT, "no answer");
	} else {
		guest.writes[i]++;
		guest.entries[i] = write->n_entries;
	}
	pthread_cond_broadcast(&guest.told);
	pthread_mutex_unlock(&guest.lock);
	return r;
}

int hv_vm_share_pidfd(struct hv_vm *vm, int *ret_pidfd, struct err *err)
{
	(void)vm;
	(void)err;
	*ret_pidfd = -EBADF;
	return 0;
}

struct machine *machine_ref(struct machine *machine)
{
	return machine;
}

struct machine *machine_unref(struct machine *machine)
{
	(void)machine;
	return NULL;
}

void sandbox_report_death(struct runtime *rt, const char *sandbox_id, const char *reason)
{
	(void)rt;
	(void)sandbox_id;
	fail_msg("%s", reason);
}

struct fixture {
	struct log log;
	struct runtime runtime;
	struct sandbox sandbox;
	struct machine machine;
	struct ev_loop *loop;
	pthread_t thread; /* runs it */
	struct mirror *mirror;
	char dir[64], path[80];
};

static void *run_loop(void *loop)
{
	assert_int_equal(ev_loop_run(loop, NULL), 0);
	return NULL;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;

	assert_non_null(f);
	snprintf(f->dir, sizeof(f->dir), "/tmp/mirror-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/volume", f->dir);
	assert_int_equal(mkdir(f->path, 0755), 0);
	f->log = (struct log){.fd = open("/dev/null", O_WRONLY | O_CLOEXEC)};
	f->runtime.log = &f->log;
	f->sandbox.runtime = &f->runtime;
	memset(guest.refusals, 0, sizeof(guest.refusals));
	memset(guest.writes, 0, sizeof(guest.writes));
	memset(guest.entries, 0, sizeof(guest.entries));
	guest.hangs = false;
	guest.hung = 0;
	assert_int_equal(ev_loop_new(&f->loop, &err), 0);
	assert_int_equal(dir_watcher_new(f->loop, &f->runtime.volume_watcher, &err), 0);
	assert_int_equal(pthread_create(&f->thread, NULL, run_loop, f->loop), 0);
	assert_int_equal(mirror_new(&f->sandbox, &f->machine, &f->mirror, &err), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	mirror_free(f->mirror);
	ev_loop_stop(f->loop);
	pthread_join(f->thread, NULL);
	dir_watcher_free(f->runtime.volume_watcher);
	ev_loop_free(f->loop);
	fd_close(f->log.fd);
	assert_int_equal(fd_remove_tree(f->dir, NULL), 0);
	free(f);
	return 0;
}

static void write_file(const struct fixture *f, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", f->path, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	fd_close(fd);
}

/* Waits until the volume was written and has so many entries then. */
static void wait_for(unsigned volume, size_t entries)
{
	struct timespec deadline;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += PATIENCE_S;
	pthread_mutex_lock(&guest.lock);
	while (r == 0 && (!guest.writes[volume] || guest.entries[volume] != entries))
		r = pthread_cond_timedwait(&guest.told, &guest.lock, &deadline);
	pthread_mutex_unlock(&guest.lock);
	assert_int_equal(r, 0);
}

static void resume(struct fixture *f, const char *name)
{
	struct err err = ERR_INIT;

	assert_int_equal(mirror_resume(f->mirror, name, f->path, NULL, &err), 0);
}

static void follows_changes(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	assert_int_equal(mirror_add(f->mirror, "0", f->path, NULL, &err), 0);
	assert_int_equal(guest.writes[0], 1);
	write_file(f, "a");
	wait_for(0, 1);
}

static void refuses_what_cannot_be_written(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	guest.refusals[0] = 1;
	assert_int_equal(mirror_add(f->mirror, "0", f->path, NULL, &err), -ETIMEDOUT);
	/* Nothing is left of it: the next one is not taken for one that is watched already. */
	assert_int_equal(mirror_add(f->mirror, "0", f->path, NULL, &err), 0);
	assert_int_equal(guest.writes[0], 1);
}

static void resumes_when_the_guest_answers(void **state)
{
	struct fixture *f = *state;

	guest.refusals[0] = 2;
	resume(f, "0");
	wait_for(0, 0);
	write_file(f, "a");
	wait_for(0, 1);
}

static void resumes_when_the_directory_is_there(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rmdir(f->path), 0);
	resume(f, "0");
	assert_int_equal(mkdir(f->path, 0755), 0);
	wait_for(0, 0);
	write_file(f, "a");
	wait_for(0, 1);
}

static void finds_a_directory_that_was_made_anew(void **state)
{
	struct fixture *f = *state;
	char aside[80];

	resume(f, "0");
	/* Not its contents only: what is watched is gone. */
	snprintf(aside, sizeof(aside), "%s/aside", f->dir);
	assert_int_equal(mkdir(aside, 0755), 0);
	assert_int_equal(rmdir(f->path), 0);
	assert_int_equal(rename(aside, f->path), 0);
	write_file(f, "a");
	wait_for(0, 1);
	write_file(f, "b");
	wait_for(0, 2);
}

/* Of somebody who may write above it. */
static void is_led_nowhere_by_a_link(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	char aside[80];

	assert_int_equal(mirror_add(f->mirror, "0", f->path, NULL, &err), 0);
	snprintf(aside, sizeof(aside), "%s/aside", f->dir);
	assert_int_equal(rename(f->path, aside), 0);
	assert_int_equal(symlink(aside, f->path), 0);
	assert_int_equal(mirror_add(f->mirror, "1", f->path, NULL, &err), -ELOOP);
	write_file(f, "a");
	assert_int_equal(unlink(f->path), 0);
	assert_int_equal(rename(aside, f->path), 0);
	wait_for(0, 1);
	assert_int_equal(guest.writes[1], 0);
}

static void watches_a_directory_that_two_volumes_show(void **state)
{
	struct fixture *f = *state;
	const struct userns_map map = {0};
	struct err err = ERR_INIT;

	assert_int_equal(mirror_add(f->mirror, "0", f->path, NULL, &err), 0);
	assert_int_equal(mirror_add(f->mirror, "1", f->path, &map, &err), 0);
	write_file(f, "a");
	wait_for(0, 1);
	wait_for(1, 1);
	mirror_remove(f->mirror, "1");
	write_file(f, "b");
	wait_for(0, 2);
	guest.refusals[1] = 1; /* one that fails takes nothing away either */
	assert_int_equal(mirror_add(f->mirror, "1", f->path, &map, &err), -ETIMEDOUT);
	write_file(f, "c");
	wait_for(0, 3);
}

static void hang(bool hangs)
{
	pthread_mutex_lock(&guest.lock);
	guest.hangs = hangs;
	pthread_mutex_unlock(&guest.lock);
}

static const char *const names[VOLUMES] = {"0", "1", "2", "3", "4", "5", "6", "7"};

/* A pod's end, and another volume's, wait for the call that is under way and for no other. */
static void ends_beside_a_guest_that_hangs(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	for (unsigned i = 0; i < VOLUMES; i++)
		assert_int_equal(mirror_add(f->mirror, names[i], f->path, NULL, &err), 0);
	hang(true);
	write_file(f, "a");
	pthread_mutex_lock(&guest.lock);
	while (!guest.hung)
		pthread_cond_wait(&guest.told, &guest.lock);
	pthread_mutex_unlock(&guest.lock);
	uint64_t begin = ev_now_ms();
	mirror_remove(f->mirror, names[VOLUMES - 1]);
	mirror_remove(f->mirror, names[0]);
	f->mirror = mirror_free(f->mirror);
	assert_in_range(ev_now_ms() - begin, 0, (VOLUMES / 2) * HANG_MS);
}

/* A start has other pods to look after. */
static void resumes_beside_a_guest_that_hangs(void **state)
{
	struct fixture *f = *state;

	hang(true);
	uint64_t begin = ev_now_ms();
	for (unsigned i = 0; i < VOLUMES; i++)
		resume(f, names[i]);
	assert_in_range(ev_now_ms() - begin, 0, (VOLUMES / 2) * HANG_MS);
	hang(false);
	for (unsigned i = 0; i < VOLUMES; i++)
		wait_for(i, 0);
}

static void is_settled_when_all_were_written(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < VOLUMES; i++)
		resume(f, names[i]);
	mirror_settle(f->mirror);
	pthread_mutex_lock(&guest.lock);
	for (unsigned i = 0; i < VOLUMES; i++)
		assert_int_equal(guest.writes[i], 1);
	pthread_mutex_unlock(&guest.lock);
}

/* A user may have 128 by default, and so may all that root runs. */
static unsigned count_inotify_instances(void)
{
	char path[64], target[64];
	unsigned found = 0;

	for (int fd = 0; fd < 1024; fd++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		ssize_t n = readlink(path, target, sizeof(target) - 1);
		target[n < 0 ? 0 : n] = '\0';
		found += strcmp(target, "anon_inode:inotify") == 0;
	}
	return found;
}

static void pods_share_an_instance(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	struct mirror *other;

	assert_int_equal(mirror_new(&f->sandbox, &f->machine, &other, &err), 0);
	assert_int_equal(mirror_add(f->mirror, "0", f->path, NULL, &err), 0);
	assert_int_equal(mirror_add(other, "1", f->path, NULL, &err), 0);
	assert_int_equal(count_inotify_instances(), 1);
	write_file(f, "a");
	wait_for(0, 1);
	wait_for(1, 1);
	/* Though it is one watch to the kernel: the end of a pod is not another's. */
	mirror_free(other);
	write_file(f, "b");
	wait_for(0, 2);
	write_file(f, "c");
	wait_for(0, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(follows_changes, setup, teardown),
		cmocka_unit_test_setup_teardown(refuses_what_cannot_be_written, setup, teardown),
		cmocka_unit_test_setup_teardown(resumes_when_the_guest_answers, setup, teardown),
		cmocka_unit_test_setup_teardown(
			resumes_when_the_directory_is_there, setup, teardown),
		cmocka_unit_test_setup_teardown(
			finds_a_directory_that_was_made_anew, setup, teardown),
		cmocka_unit_test_setup_teardown(is_led_nowhere_by_a_link, setup, teardown),
		cmocka_unit_test_setup_teardown(
			watches_a_directory_that_two_volumes_show, setup, teardown),
		cmocka_unit_test_setup_teardown(pods_share_an_instance, setup, teardown),
		cmocka_unit_test_setup_teardown(ends_beside_a_guest_that_hangs, setup, teardown),
		cmocka_unit_test_setup_teardown(resumes_beside_a_guest_that_hangs, setup, teardown),
		cmocka_unit_test_setup_teardown(is_settled_when_all_were_written, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
