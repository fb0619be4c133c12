/*
 * Pulls that fail, are cancelled, or come together.
 */
#include <pthread.h>

#include "cri-server/image/image_fixture.h"

static void fails(struct place *p, int code, const char *words)
{
	char *id = NULL;
	assert_int_equal(img_pull(p->img, p->source, NULL, -EBADF, &id, &p->err), code);
	if (!strstr(p->err.msg, words))
		fail_msg("'%s' does not say '%s'", p->err.msg, words);
	holds(p, 0, 0);
	assert_null(find(p, p->source));
}

static void test_failed_pulls(void **state)
{
	struct place *p = begin(state);
	fails(p, -ENOENT, "layout");
	make_layout(p, &(struct layout_options){.layers = {one},
			       .diff_id = "sha256:"
					  "00000000000000000000000000000000000000000000000000000000"
					  "00000000"});
	fails(p, -EBADMSG, "the image says sha256:0000");
	make_layout(p, &(struct layout_options){.raw_layer = "<html>404</html>"});
	fails(p, -EBADMSG, "unpack: read the layer");
	make_layout(p, &(struct layout_options){.raw_config = "{\"rootfs\":[]}", .layers = {one}});
	fails(p, -EBADMSG, "");
	make_layout(p, &(struct layout_options){.architecture = "s390x", .layers = {one}});
	fails(p, -EBADMSG, "linux/s390x");
	close_images(p);
	p->config.layer_bytes_max = 1000;
	open_images(p);
	make_layout(p, &(struct layout_options){.layers = {one}});
	fails(p, -EFBIG, "images.layer_bytes_max, 1000");
	close_images(p);
	p->config.layer_bytes_max = 1 << 20;
	p->config.unpack_helper = "/none/bulkhead-unpack";
	open_images(p);
	fails(p, -EIO, "/none/bulkhead-unpack");
}

static void test_registry_down(void **state)
{
	struct place *p = begin(state);
	snprintf(p->source, sizeof(p->source), "127.0.0.1:1/none:latest");
	fails(p, -EHOSTUNREACH, "refused");
}

static void test_cancel(void **state)
{
	struct place *p = begin(state);
	int ends[2];
	char *id = NULL;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(write(ends[1], "x", 1), 1);
	make_layout(p, &(struct layout_options){.layers = {one}});
	assert_int_equal(img_pull(p->img, p->source, NULL, ends[0], &id, &p->err), -ECANCELED);
	holds(p, 0, 0);
	close(ends[0]);
	close(ends[1]);
}

struct puller {
	pthread_t thread;
	struct place *place;
	char *id;
	int r;
	struct err err;
};

static void *pull_in_thread(void *userdata)
{
	struct puller *puller = userdata;
	puller->r = img_pull(
		puller->place->img, puller->place->source, NULL, -EBADF, &puller->id, &puller->err);
	return NULL;
}

static void test_pulls_at_once(void **state)
{
	struct place *p = begin(state);
	struct puller pullers[4] = {0};
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	for (size_t i = 0; i < ARRAY_SIZE(pullers); i++) {
		pullers[i].place = p;
		assert_int_equal(
			pthread_create(&pullers[i].thread, NULL, pull_in_thread, &pullers[i]), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(pullers); i++) {
		pthread_join(pullers[i].thread, NULL);
		if (pullers[i].r != 0)
			fail_msg("%s", pullers[i].err.msg);
		assert_string_equal(pullers[i].id, pullers[0].id);
	}
	for (size_t i = 0; i < ARRAY_SIZE(pullers); i++)
		free(pullers[i].id);
	holds(p, BLOBS(2), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		image_test(test_failed_pulls),
		image_test(test_registry_down),
		image_test(test_cancel),
		image_test(test_pulls_at_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
