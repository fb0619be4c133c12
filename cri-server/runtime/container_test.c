/*
 * Containers whose pod is changed by an RPC, under `op`, while the guest tells of their ends, which
 * are recorded without it. ThreadSanitizer sees what is read without the lock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"
#include "hypervisor/internal.h"

#define ROUNDS 5000

struct fixture {
	struct runtime rt;
	struct sandbox *sandbox;
	struct container *ends, *lives;
	atomic_bool enough;
};

static struct container *make_container(struct sandbox *sandbox, char first)
{
	Runtime__V1__ContainerConfig config = RUNTIME__V1__CONTAINER_CONFIG__INIT;
	char id[ID_LEN + 1];
	struct err err = ERR_INIT;

	snprintf(id, sizeof(id), "%c%031d", first, 0);
	struct container *c = container_new(sandbox, id, &config, &err);
	assert_non_null(c);
	TAILQ_INSERT_TAIL(&sandbox->runtime->containers, c, link);
	return c;
}

static int setup(void **state)
{
	Runtime__V1__PodSandboxConfig config = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT;
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;

	assert_non_null(f);
	pthread_mutex_init(&f->rt.lock, NULL);
	TAILQ_INIT(&f->rt.sandboxes);
	TAILQ_INIT(&f->rt.containers);
	f->sandbox = sandbox_new(&f->rt, "00000000000000000000000000000000", &config, &err);
	assert_non_null(f->sandbox);
	f->ends = make_container(f->sandbox, 'a');
	f->lives = make_container(f->sandbox, 'b');
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	container_forget(f->ends);
	container_forget(f->lives);
	sandbox_unref(f->sandbox);
	pthread_mutex_destroy(&f->rt.lock);
	free(f);
	return 0;
}

static void *end_again_and_again(void *userdata)
{
	struct fixture *f = userdata;
	unsigned i = 0;

	/* Relaxed: what orders the two threads must be the lock alone. */
	while (!atomic_load_explicit(&f->enough, memory_order_relaxed)) {
		pthread_mutex_lock(&f->rt.lock);
		f->ends->record->state =
			i++ % 2 ? BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING
				: BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED;
		pthread_mutex_unlock(&f->rt.lock);
	}
	return NULL;
}

static void test_growth_while_another_ends(void **state)
{
	struct fixture *f = *state;
	struct hv_vm vm = {.size = {1, 1, 256, 256}};
	struct machine machine = {.vm = &vm, .vcpus = 1};
	Runtime__V1__LinuxContainerResources resources =
		RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, end_again_and_again, f), 0);
	for (int i = 0; i < ROUNDS; i++) {
		struct err err = ERR_INIT;
		assert_int_equal(grow_for_container(&machine, f->lives, &resources, &err), 0);
	}
	atomic_store_explicit(&f->enough, true, memory_order_relaxed);
	pthread_join(thread, NULL);
}

static void test_start_while_it_ends(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;

	f->ends->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING;
	assert_int_equal(pthread_create(&thread, NULL, end_again_and_again, f), 0);
	for (int i = 0; i < ROUNDS; i++) {
		struct err err = ERR_INIT;
		assert_int_equal(container_start(f->ends, &err), -EBADFD);
	}
	atomic_store_explicit(&f->enough, true, memory_order_relaxed);
	pthread_join(thread, NULL);
}

static void *name_signals(void *userdata)
{
	struct fixture *f = userdata;
	unsigned i = 0;

	while (!atomic_load_explicit(&f->enough, memory_order_relaxed))
		message_set_string(
			&f->lives->record->stop_signal, i++ % 2 ? "SIGINT" : "SIGQUIT", NULL);
	return NULL;
}

/* Nobody was told its id, but the beginning of an id finds it. */
static void test_stop_while_it_is_made(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, name_signals, f), 0);
	for (int i = 0; i < ROUNDS; i++) {
		struct err err = ERR_INIT;
		assert_int_equal(container_stop(f->lives, 1000, NULL, &err), 0);
	}
	atomic_store_explicit(&f->enough, true, memory_order_relaxed);
	pthread_join(thread, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_growth_while_another_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(test_start_while_it_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_while_it_is_made, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
