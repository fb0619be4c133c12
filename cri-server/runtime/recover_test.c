/*
 * What a start does with processes that it finds in a guest. The guest, the records and all else
 * that a start looks at are functions here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/client/client.h"
#include "common/fd.h"
#include "cri-server/image/image.h"
#include "cri-server/runtime/guest_network.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/mirror.h"
#include "hypervisor/vm.h"
#include "network/pod_network.h"

#define KNOWN   "0123456789abcdef0123456789abcdef"
#define UNKNOWN "ffffffffffffffffffffffffffffffff"

/* For all tests, as agent_call() knows none. */
static struct {
	const char *container_id, *process_id; /* of the one process that it lists */
	char asked[256];            /* method, container and process of the last other call */
	struct container container; /* the only one that is known */
	int found;                  /* what the first search for its machine says */
	bool dead;
	unsigned complaints;
} world;

static int list(ProtobufCMessage **ret)
{
	Bulkhead__Agent__ProcessInfo info = BULKHEAD__AGENT__PROCESS_INFO__INIT, *infos[] = {&info};
	Bulkhead__Agent__ListContainersResponse response =
		BULKHEAD__AGENT__LIST_CONTAINERS_RESPONSE__INIT;
	uint8_t packed[512];

	info.container_id = (char *)world.container_id;
	info.process_id = (char *)world.process_id;
	info.state = BULKHEAD__AGENT__PROCESS_STATE__PROCESS_RUNNING;
	response.processes = infos;
	response.n_processes = 1;
	size_t len = bulkhead__agent__list_containers_response__pack(&response, packed);
	*ret = protobuf_c_message_unpack(response.base.descriptor, NULL, len, packed);
	return *ret ? 0 : -ENOMEM;
}

int agent_call(struct agent *agent, const char *method, const ProtobufCMessage *request,
	uint64_t timeout_ms, ProtobufCMessage **ret_response, struct err *err)
{
	(void)agent;
	(void)timeout_ms;
	(void)err;
	if (strcmp(method, "ListContainers") == 0)
		return list(ret_response);
	/* Both requests begin with the container's id. */
	const Bulkhead__Agent__RemoveProcessRequest *remove = (const void *)request;
	snprintf(world.asked, sizeof(world.asked), "%s %s %s", method, remove->container_id,
		strcmp(method, "RemoveProcess") == 0 ? remove->process_id : "");
	return 0;
}

struct container *container_find(struct runtime *rt, const char *id, struct err *err)
{
	(void)rt;
	(void)err;
	return strcmp(id, KNOWN) == 0 ? &world.container : NULL;
}

int machine_find(struct runtime *rt, const char *sandbox_id, struct machine **ret, struct err *err)
{
	static struct machine machine;
	int found = world.found;
	(void)rt;
	(void)sandbox_id;
	world.found = 0;
	if (found < 0)
		return err_set(err, found, "libvirt cannot say");
	*ret = &machine;
	return found;
}

void sandbox_report_death(struct runtime *rt, const char *sandbox_id, const char *reason)
{
	(void)rt;
	(void)sandbox_id;
	(void)reason;
	world.dead = true;
}

void start_complain(
	const struct runtime *rt, const char *what, const char *id, const struct err *err)
{
	(void)rt;
	print_message("%s %s: %s\n", what, id, err->msg);
	world.complaints++;
}

bool wait_until(struct runtime *rt, pthread_cond_t *cond, uint64_t deadline_ms)
{
	return ev_cond_wait(cond, &rt->lock, deadline_ms) == 0;
}

/* ---- the rest has nothing to do, or nothing of the kind is there ---- */

int machine_connect(
	struct machine *m, struct sandbox *s, uint64_t after, uint64_t ms, struct err *err)
{
	(void)m;
	(void)s;
	(void)after;
	(void)ms;
	(void)err;
	return 0;
}

struct machine *machine_unref(struct machine *m)
{
	(void)m;
	return NULL;
}

int volumes_resume(struct sandbox *s, struct machine *m, struct err *err)
{
	(void)s;
	(void)m;
	(void)err;
	return 0;
}

struct mirror *mirror_free(struct mirror *m)
{
	(void)m;
	return NULL;
}

int sandbox_check_found(struct sandbox *s, struct err *err)
{
	(void)s;
	(void)err;
	return 0;
}

int sandbox_stop(struct sandbox *s, struct err *err)
{
	(void)s;
	(void)err;
	return 0;
}

int sandbox_remove(struct sandbox *s, struct err *err)
{
	(void)s;
	(void)err;
	return 0;
}

int sandbox_set_state(struct sandbox *s, Bulkhead__Store__SandboxState state, struct err *err)
{
	(void)s;
	(void)state;
	(void)err;
	return 0;
}

struct sandbox *sandbox_find(struct runtime *rt, const char *id, struct err *err)
{
	(void)rt;
	(void)id;
	(void)err;
	return NULL;
}

Bulkhead__Store__ContainerState container_state(struct container *c)
{
	(void)c;
	return BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATING;
}

bool container_runs(const struct container *c)
{
	(void)c;
	return false;
}

struct machine *sandbox_machine(struct sandbox *s, struct err *err)
{
	(void)s;
	(void)err;
	return NULL;
}

int container_save_locked(struct container *c, struct err *err)
{
	(void)c;
	(void)err;
	return 0;
}

int container_remove(struct container *c, struct err *err)
{
	(void)c;
	(void)err;
	return 0;
}

int container_resume_log(struct container *c, struct machine *m, uint64_t until_ms, struct err *err)
{
	(void)c;
	(void)m;
	(void)until_ms;
	(void)err;
	return 0;
}

int containers_each(struct sandbox *s, int (*fn)(struct container *, void *, struct err *),
	void *userdata, struct err *err)
{
	(void)s;
	(void)fn;
	(void)userdata;
	(void)err;
	return 0;
}

int img_collect(struct img *img, struct err *err)
{
	(void)img;
	(void)err;
	return 0;
}

int img_remake_layers(struct img *img, struct err *err)
{
	(void)img;
	(void)err;
	return 0;
}

int hv_each_vm(struct hv *hv, int (*fn)(void *, const char *), void *userdata, struct err *err)
{
	(void)hv;
	(void)fn;
	(void)userdata;
	(void)err;
	return 0;
}

int hv_vm_destroy(struct hv *hv, const char *id, struct err *err)
{
	(void)hv;
	(void)id;
	(void)err;
	return 0;
}

int net_each_pod(struct net *net, int (*fn)(void *, const char *), void *userdata, struct err *err)
{
	(void)net;
	(void)fn;
	(void)userdata;
	(void)err;
	return 0;
}

int net_collect(struct net *net, struct err *err)
{
	(void)net;
	(void)err;
	return 0;
}

int net_pod_teardown(struct net *net, const char *id, struct err *err)
{
	(void)net;
	(void)id;
	(void)err;
	return 0;
}

void network_follow(struct sandbox *s, struct machine *m, const struct net_pod_info *i)
{
	(void)s;
	(void)m;
	(void)i;
}

void sandbox_unref(struct sandbox *s)
{
	(void)s;
}

void container_unref(struct container *c)
{
	(void)c;
}

void container_close_log(struct container *c)
{
	(void)c;
}

/* ---- tests ---- */

/* What the guest is asked for, where it has this process; "dead": its pod is taken for that. */
static const char *asked_for(const char *container_id, const char *process_id)
{
	struct log log = {.fd = -EBADF};
	char dir[] = "/tmp/recover-test-XXXXXX";
	Bulkhead__Store__Sandbox record = BULKHEAD__STORE__SANDBOX__INIT;
	struct config config = {.state_dir = dir};
	struct runtime rt = {.log = &log, .config = &config};
	struct sandbox sandbox = {.runtime = &rt, .record = &record, .id = "pod"};
	struct err err = ERR_INIT;
	bool unknown = world.found < 0;

	assert_non_null(mkdtemp(dir));
	record.state = BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY;
	world.container_id = container_id;
	world.process_id = process_id;
	world.asked[0] = '\0';
	world.dead = false;
	world.complaints = 0;
	world.container.sandbox = &sandbox;
	pthread_mutex_init(&rt.lock, NULL);
	pthread_mutex_init(&sandbox.op, NULL);
	ev_cond_init(&rt.recovered);
	TAILQ_INIT(&rt.sandboxes);
	TAILQ_INIT(&rt.containers);
	TAILQ_INSERT_TAIL(&rt.sandboxes, &sandbox, link);
	/* There are no files that nobody knows, nor their directories. */
	assert_int_equal(runtime_recover(&rt, &err), -ENOENT);
	runtime_end_recovery(&rt);
	pthread_cond_destroy(&rt.recovered);
	pthread_mutex_destroy(&sandbox.op);
	pthread_mutex_destroy(&rt.lock);
	assert_int_equal(fd_remove_tree(dir, NULL), 0);
	assert_int_equal(world.complaints, unknown);
	return world.dead ? "dead" : world.asked;
}

static void test_containers(void **state)
{
	(void)state;
	assert_string_equal(asked_for(KNOWN, ""), "");
	assert_string_equal(asked_for(UNKNOWN, ""), "RemoveContainer " UNKNOWN " ");
}

/* Nobody waits for its end. */
static void test_commands(void **state)
{
	(void)state;
	assert_string_equal(asked_for(KNOWN, "e1"), "RemoveProcess " KNOWN " e1");
	assert_string_equal(asked_for(UNKNOWN, "e1"), "RemoveContainer " UNKNOWN " ");
}

/* A debug console's; the guest itself is no container, and is not removed. */
static void test_commands_in_the_guest_itself(void **state)
{
	(void)state;
	assert_string_equal(asked_for(AGENT_GUEST, "e1"), "RemoveProcess " AGENT_GUEST " e1");
}

/* Of what libvirt does not tell, nobody knows that it is dead: it is looked for again. */
static void test_machine_that_libvirt_cannot_tell_of(void **state)
{
	(void)state;
	world.found = -EIO;
	assert_string_equal(asked_for(KNOWN, "e1"), "RemoveProcess " KNOWN " e1");
	world.found = 1;
	assert_string_equal(asked_for(KNOWN, "e1"), "dead");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_containers),
		cmocka_unit_test(test_commands),
		cmocka_unit_test(test_commands_in_the_guest_itself),
		cmocka_unit_test(test_machine_that_libvirt_cannot_tell_of),
	};
	return cmocka_run_group_tests_name("recover", tests, NULL, NULL);
}
