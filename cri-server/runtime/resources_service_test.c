/* Updates of a running container's limits; the guest, which takes them all, is functions here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/daemon.h"
#include "cri-server/rpc/call.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/store/store.h"
#include "hypervisor/internal.h"

#define MIB         (INT64_C(1) << 20)
#define MACHINE_MIB 256

struct fixture {
	struct runtime rt;
	struct daemon daemon;
	struct rpc_transport transport;
	struct rpc_call call;
	struct hv_vm vm;
	struct machine machine;
	struct sandbox *sandbox;
	struct container *container;
	char dir[64];
};

static const struct log silent = {.fd = -EBADF};

/* Its limit is more than the machine may ever have, as on a node with less than that. */
static void make_container(struct fixture *f)
{
	Runtime__V1__PodSandboxConfig pod = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__ContainerConfig config = RUNTIME__V1__CONTAINER_CONFIG__INIT;
	Runtime__V1__LinuxContainerConfig linux = RUNTIME__V1__LINUX_CONTAINER_CONFIG__INIT;
	Runtime__V1__LinuxContainerResources resources =
		RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	struct err err = ERR_INIT;

	resources.memory_limit_in_bytes = 4 * MACHINE_MIB * MIB;
	linux.resources = &resources;
	config.linux = &linux;
	f->sandbox = sandbox_new(&f->rt, "00000000000000000000000000000000", &pod, &err);
	assert_non_null(f->sandbox);
	f->sandbox->machine = &f->machine;
	f->container = container_new(f->sandbox, "11111111111111111111111111111111", &config, &err);
	assert_non_null(f->container);
	f->container->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING;
	TAILQ_INSERT_TAIL(&f->rt.containers, f->container, link);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;

	assert_non_null(f);
	snprintf(f->dir, sizeof(f->dir), "/tmp/resources-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	_cleanup_free_ char *database = str_printf("%s/state.db", f->dir);
	f->rt.log = &silent;
	pthread_mutex_init(&f->rt.lock, NULL);
	TAILQ_INIT(&f->rt.sandboxes);
	TAILQ_INIT(&f->rt.containers);
	assert_int_equal(store_open(database, &f->rt.store, &err), 0);
	f->daemon.runtime = &f->rt;
	f->transport.userdata = &f->daemon;
	f->call.transport = &f->transport;
	f->call.details.deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
	pthread_mutex_init(&f->call.lock, NULL);
	f->vm = (struct hv_vm){.size = {1, 1, MACHINE_MIB, MACHINE_MIB}};
	f->machine = (struct machine){.runtime = &f->rt, .vm = &f->vm, .vcpus = 1};
	atomic_init(&f->machine.refs, 1);
	make_container(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	container_forget(f->container);
	f->sandbox->machine = NULL;
	sandbox_unref(f->sandbox);
	store_close(f->rt.store);
	assert_int_equal(fd_remove_tree(f->dir, NULL), 0);
	pthread_mutex_destroy(&f->call.lock);
	pthread_mutex_destroy(&f->rt.lock);
	free(f);
	return 0;
}

static int update(struct fixture *f, Runtime__V1__LinuxContainerResources *resources)
{
	Runtime__V1__UpdateContainerResourcesRequest request =
		RUNTIME__V1__UPDATE_CONTAINER_RESOURCES_REQUEST__INIT;
	struct rpc_answer answer = {0};
	struct err err = ERR_INIT;

	request.container_id = f->container->id;
	request.linux = resources;
	int r = resources_service_container(&f->call, &request.base, &answer, &err);
	rpc_answer_done(&answer);
	return r;
}

/* A kubelet that gives it other CPUs says nothing of its memory, or what it has. */
static void test_memory_that_stays_is_not_asked_for(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__LinuxContainerResources resources =
		RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;

	resources.cpu_shares = 512;
	assert_int_equal(update(f, &resources), 0);
	assert_int_equal(container_resources(f->container)->cpu_shares, 512);
	resources.memory_limit_in_bytes = 4 * MACHINE_MIB * MIB;
	assert_int_equal(update(f, &resources), 0);
	resources.memory_limit_in_bytes = 3 * MACHINE_MIB * MIB;
	assert_int_equal(update(f, &resources), 0);
	assert_int_equal(
		container_resources(f->container)->memory_limit_in_bytes, 3 * MACHINE_MIB * MIB);
	resources.memory_limit_in_bytes++;
	assert_int_equal(update(f, &resources), -ENOBUFS);
	assert_int_equal(
		container_resources(f->container)->memory_limit_in_bytes, 3 * MACHINE_MIB * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_memory_that_stays_is_not_asked_for, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
