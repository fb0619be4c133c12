/*
 * A pod's volumes with a guest that does not answer. The agent, the share and the records are
 * functions here.
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

#include "common/fd.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/mirror.h"

#define VOLUMES 8

/* For all tests, as agent_call() knows none. */
static struct {
	int answer; /* to every call */
	unsigned calls;
} guest;

int agent_call(struct agent *agent, const char *method, const ProtobufCMessage *request,
	uint64_t timeout_ms, ProtobufCMessage **ret_response, struct err *err)
{
	(void)agent;
	(void)method;
	(void)request;
	(void)timeout_ms;
	(void)ret_response;
	guest.calls++;
	return guest.answer < 0 ? err_set(err, guest.answer, "the guest said so") : 0;
}

int sandbox_save_locked(struct sandbox *sandbox, struct err *err)
{
	(void)sandbox;
	(void)err;
	return 0;
}

int container_save_locked(struct container *c, struct err *err)
{
	(void)c;
	(void)err;
	return 0;
}

int container_add_layers(struct container *c, const Bulkhead__Store__Image *image, struct err *err)
{
	(void)c;
	(void)image;
	(void)err;
	return 0;
}

/* Two images; the tag has one of them at a time. */
#define TAG "r.test/volume:1"
static char *first_layers[] = {"layer of the first"}, *second_layers[] = {"layer of the second"};
static Bulkhead__Store__Image first_record = {.n_layers = 1, .layers = first_layers},
			      second_record = {.n_layers = 1, .layers = second_layers};
static struct img_image first_image = {.id = "sha256:1", .record = &first_record},
			second_image = {.id = "sha256:2", .record = &second_record};
static struct img_image *tagged;
static const char *attached;

int disks_attach(struct sandbox *sandbox, struct machine *machine, char *const *layers, size_t n,
	uint32_t *ret_targets, struct err *err)
{
	(void)sandbox;
	(void)machine;
	(void)ret_targets;
	(void)err;
	assert_int_equal(n, 1);
	attached = layers[0];
	return 0;
}

int img_find(struct img *img, const char *reference, struct img_image **ret, struct err *err)
{
	(void)img;
	(void)err;
	*ret = strcmp(reference, TAG) == 0               ? tagged
	       : strcmp(reference, first_image.id) == 0  ? &first_image
	       : strcmp(reference, second_image.id) == 0 ? &second_image
							 : NULL;
	return *ret ? 0 : 1;
}

struct img_image *img_image_unref(struct img_image *image)
{
	(void)image;
	return NULL;
}

int hv_vm_bind(struct hv_vm *vm, const char *name, int source, unsigned flags,
	const struct userns_map *map, struct err *err)
{
	(void)vm;
	(void)name;
	(void)source;
	(void)flags;
	(void)map;
	(void)err;
	return 0;
}

int hv_vm_bind_writable(struct hv_vm *vm, const char *name, struct err *err)
{
	(void)vm;
	(void)name;
	(void)err;
	return 0;
}

int hv_vm_unbind(struct hv_vm *vm, const char *name, struct err *err)
{
	(void)vm;
	(void)name;
	(void)err;
	return 0;
}

int hv_vm_each_bind(struct hv_vm *vm, int (*fn)(void *userdata, const char *name), void *userdata,
	struct err *err)
{
	(void)vm;
	(void)fn;
	(void)userdata;
	(void)err;
	return 0;
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

/* A caller that goes away once the guest was called twice. */
bool rpc_call_cancelled(struct rpc_call *call)
{
	(void)call;
	return guest.calls >= 2;
}

struct fixture {
	struct log log;
	struct runtime rt;
	struct sandbox sandbox;
	struct machine machine;
};

static void record_volume(Bulkhead__Store__Sandbox *record)
{
	Bulkhead__Store__Volume *volume = calloc(1, sizeof(*volume));

	assert_non_null(volume);
	bulkhead__store__volume__init(volume);
	volume->id = ++record->last_volume;
	volume->kind = BULKHEAD__STORE__VOLUME_KIND__VOLUME_BIND;
	record->volumes[record->n_volumes++] = volume;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;

	assert_non_null(f);
	f->log = (struct log){.fd = -EBADF, .level = LOG_LEVEL_ERROR};
	f->rt.log = &f->log;
	pthread_mutex_init(&f->rt.lock, NULL);
	TAILQ_INIT(&f->rt.containers);
	f->sandbox.runtime = &f->rt;
	f->sandbox.record = calloc(1, sizeof(*f->sandbox.record));
	assert_non_null(f->sandbox.record);
	bulkhead__store__sandbox__init(f->sandbox.record);
	f->sandbox.record->volumes = calloc(VOLUMES, sizeof(*f->sandbox.record->volumes));
	assert_non_null(f->sandbox.record->volumes);
	for (unsigned i = 0; i < VOLUMES; i++)
		record_volume(f->sandbox.record);
	assert_int_equal(mirror_new(&f->sandbox, &f->machine, &f->sandbox.mirror, &err), 0);
	guest.answer = 0;
	guest.calls = 0;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	mirror_free(f->sandbox.mirror);
	bulkhead__store__sandbox__free_unpacked(f->sandbox.record, NULL);
	pthread_mutex_destroy(&f->rt.lock);
	free(f);
	return 0;
}

static void all_are_released(void **state)
{
	struct fixture *f = *state;

	volumes_release(&f->sandbox, &f->machine, NULL);
	assert_int_equal(guest.calls, VOLUMES);
	assert_int_equal(f->sandbox.record->n_volumes, 0);
}

/* What is refused stays, and keeps no other. */
static void each_is_asked_for_where_the_guest_answers(void **state)
{
	struct fixture *f = *state;

	guest.answer = -EBUSY;
	volumes_release(&f->sandbox, &f->machine, NULL);
	assert_int_equal(guest.calls, VOLUMES);
	assert_int_equal(f->sandbox.record->n_volumes, VOLUMES);
}

/* Each call would take its whole time, under the pod's lock. */
static void one_is_asked_for_where_the_guest_does_not_answer(void **state)
{
	struct fixture *f = *state;

	guest.answer = -ETIMEDOUT;
	volumes_release(&f->sandbox, &f->machine, NULL);
	assert_int_equal(guest.calls, 1);
	assert_int_equal(f->sandbox.record->n_volumes, VOLUMES);
}

static void ask_for_mounts(Runtime__V1__ContainerConfig *config, const char *dir)
{
	config->mounts = calloc(VOLUMES, sizeof(*config->mounts));
	assert_non_null(config->mounts);
	for (unsigned i = 0; i < VOLUMES; i++) {
		Runtime__V1__Mount *mount = calloc(1, sizeof(*mount));
		char path[64];

		assert_non_null(mount);
		runtime__v1__mount__init(mount);
		config->mounts[config->n_mounts++] = mount;
		snprintf(path, sizeof(path), "%s/%u", dir, i);
		assert_int_equal(message_set_string(&mount->host_path, path, NULL), 0);
		assert_int_equal(message_set_string(&mount->container_path, path, NULL), 0);
	}
}

/* A container whose mounts are directories below `dir`. */
struct subject {
	Runtime__V1__PodSandboxConfig pod;
	struct container c;
	Bulkhead__Agent__CreateContainerRequest *request;
};

static void subject_init(struct subject *s, struct fixture *f, const char *dir)
{
	*s = (struct subject){.pod = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT,
		.c = {.runtime = &f->rt,
			.sandbox = &f->sandbox,
			.config = calloc(1, sizeof(*s->c.config)),
			.record = calloc(1, sizeof(*s->c.record))},
		.request = calloc(1, sizeof(*s->request))};
	assert_true(s->c.config && s->c.record && s->request);
	runtime__v1__container_config__init(s->c.config);
	bulkhead__store__container__init(s->c.record);
	bulkhead__agent__create_container_request__init(s->request);
	f->sandbox.config = &s->pod;
	ask_for_mounts(s->c.config, dir);
	TAILQ_INSERT_TAIL(&f->rt.containers, &s->c, link);
}

static void subject_done(struct subject *s)
{
	TAILQ_REMOVE(&s->c.runtime->containers, &s->c, link);
	bulkhead__agent__create_container_request__free_unpacked(s->request, NULL);
	bulkhead__store__container__free_unpacked(s->c.record, NULL);
	runtime__v1__container_config__free_unpacked(s->c.config, NULL);
}

/* Or a guest that takes its time for each volume holds the pod's lock for all of them. */
static void nobody_is_asked_for_a_caller_that_went_away(void **state)
{
	struct fixture *f = *state;
	char dir[] = "/tmp/volumes-test-XXXXXX";
	struct subject s;
	struct err err = ERR_INIT;

	assert_non_null(mkdtemp(dir));
	subject_init(&s, f, dir);
	int r = volumes_attach(&s.c, &f->machine, s.request, (struct rpc_call *)&s, &err);
	assert_int_equal(fd_remove_tree(dir, NULL), 0);
	assert_int_equal(guest.calls, 2);
	assert_int_equal(r, -ECANCELED);
	assert_int_equal(s.c.record->n_volumes, 2);
	subject_done(&s);
}

/* What the guest made, or took away, after we had ceased to wait is not known. */
static void one_that_was_not_made_is_not_found(void **state)
{
	struct fixture *f = *state;
	char dir[] = "/tmp/volumes-test-XXXXXX";
	struct subject first, second, third;
	struct err err = ERR_INIT;

	assert_non_null(mkdtemp(dir));
	guest.answer = -ETIMEDOUT;
	for (int i = 0; i < 2; i++) {
		subject_init(&first, f, dir);
		assert_int_equal(volumes_attach(&first.c, &f->machine, first.request, NULL, &err),
			-ETIMEDOUT);
		assert_int_equal(f->sandbox.record->n_volumes, VOLUMES + 1);
		subject_done(&first);
	}

	subject_init(&second, f, dir);
	guest.answer = 0;
	guest.calls = 0;
	assert_int_equal(volumes_attach(&second.c, &f->machine, second.request, NULL, &err), 0);
	assert_int_equal(guest.calls, VOLUMES + 1);
	assert_int_equal(f->sandbox.record->n_volumes, 2 * VOLUMES);
	assert_int_equal(second.c.record->volumes[0], VOLUMES + 2);

	subject_init(&third, f, dir);
	guest.calls = 0;
	assert_int_equal(volumes_attach(&third.c, &f->machine, third.request, NULL, &err), 0);
	assert_int_equal(guest.calls, 0);
	subject_done(&third);
	subject_done(&second);
	assert_int_equal(fd_remove_tree(dir, NULL), 0);
}

/* It has what a container that ended left there, if it was made. */
static void one_in_memory_is_asked_for_again(void **state)
{
	struct fixture *f = *state;
	char dir[] = "/dev/shm/volumes-test-XXXXXX", below[64];
	struct subject first, second;
	struct err err = ERR_INIT;

	assert_non_null(mkdtemp(dir));
	snprintf(below, sizeof(below), "%s/volumes/kubernetes.io~empty-dir", dir);
	subject_init(&first, f, below);
	guest.answer = -ETIMEDOUT;
	assert_int_equal(
		volumes_attach(&first.c, &f->machine, first.request, NULL, &err), -ETIMEDOUT);
	assert_int_equal(f->sandbox.record->n_volumes, VOLUMES + 1);
	subject_done(&first);

	subject_init(&second, f, below);
	guest.answer = 0;
	guest.calls = 0;
	assert_int_equal(volumes_attach(&second.c, &f->machine, second.request, NULL, &err), 0);
	assert_int_equal(guest.calls, VOLUMES);
	assert_int_equal(f->sandbox.record->n_volumes, 2 * VOLUMES);
	assert_int_equal(second.c.record->volumes[0], VOLUMES + 1);
	subject_done(&second);
	assert_int_equal(fd_remove_tree(dir, NULL), 0);
}

/* A pull may move the tag while the container is made: its layers are held and attached by then. */
static void an_image_is_the_one_that_was_noted(void **state)
{
	struct fixture *f = *state;
	char dir[] = "/tmp/volumes-test-XXXXXX";
	struct subject s;
	struct err err = ERR_INIT;

	assert_non_null(mkdtemp(dir));
	subject_init(&s, f, dir);
	Runtime__V1__Mount *mount = s.c.config->mounts[0];
	mount->image = calloc(1, sizeof(*mount->image));
	assert_non_null(mount->image);
	runtime__v1__image_spec__init(mount->image);
	mount->readonly = true;
	assert_int_equal(message_set_string(&mount->image->image, TAG, &err), 0);
	assert_int_equal(message_set_string(&mount->host_path, "", &err), 0);
	tagged = &first_image;
	assert_int_equal(volumes_note_images(&s.c, &err), 0);
	tagged = &second_image;
	assert_int_equal(volumes_attach(&s.c, &f->machine, s.request, NULL, &err), 0);
	assert_string_equal(attached, first_layers[0]);
	subject_done(&s);
	assert_int_equal(fd_remove_tree(dir, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all_are_released, setup, teardown),
		cmocka_unit_test_setup_teardown(
			each_is_asked_for_where_the_guest_answers, setup, teardown),
		cmocka_unit_test_setup_teardown(
			one_is_asked_for_where_the_guest_does_not_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(
			nobody_is_asked_for_a_caller_that_went_away, setup, teardown),
		cmocka_unit_test_setup_teardown(
			one_that_was_not_made_is_not_found, setup, teardown),
		cmocka_unit_test_setup_teardown(one_in_memory_is_asked_for_again, setup, teardown),
		cmocka_unit_test_setup_teardown(
			an_image_is_the_one_that_was_noted, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
