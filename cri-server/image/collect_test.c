/*
 * Which files stay and which go: needs of images, containers and pulls; what is found at start-up;
 * what all of it takes.
 */
#include <pthread.h>

#include "cri-server/image/image_fixture.h"
#include "cri-server/image/unpack.h"

static void test_hold(void **state)
{
	struct place *p = begin(state);
	char id[72];
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	pull(p, id);
	struct img_image *image = find(p, id);
	assert_int_equal(img_hold(p->img, "c1", image->record->layers, 1, &p->err), 0);
	assert_int_equal(img_hold(p->img, "c2", image->record->layers, 2, &p->err), 0);
	assert_int_equal(img_hold(p->img, "c2", image->record->layers, 2, &p->err), 0);
	assert_int_equal(img_remove(p->img, id, &p->err), 0);
	holds(p, 0, 2);
	_cleanup_free_ char *path = NULL;
	assert_int_equal(img_layer_path(p->img, image->record->layers[1], &path, &p->err), 0);
	img_release(p->img, "c2");
	holds(p, 0, 1);
	assert_int_equal(img_layer_path(p->img, image->record->layers[1], &path, &p->err), -ENOENT);
	img_release(p->img, "c1");
	img_release(p->img, "c1");
	holds(p, 0, 0);
	img_image_unref(image);
}

static void test_collect(void **state)
{
	struct place *p = begin(state);
	char id[72], path[200];
	make_layout(p, &(struct layout_options){.layers = {one}});
	pull(p, id);
	snprintf(path, sizeof(path), "%s/layers/%064d.erofs", p->config.dir, 0);
	assert_int_equal(fd_write_file(path, "x", 1, 0644, NULL), 0);
	snprintf(path, sizeof(path), "%s/blobs/sha256/%064d", p->config.dir, 0);
	assert_int_equal(fd_write_file(path, "x", 1, 0644, NULL), 0);
	holds(p, BLOBS(1) + 1, 2);
	assert_int_equal(img_collect(p->img, &p->err), 0);
	holds(p, BLOBS(1), 1);
}

static void test_damaged_layer(void **state)
{
	struct place *p = begin(state);
	char id[72];
	make_layout(p, &(struct layout_options){.layers = {one}});
	pull(p, id);
	struct img_image *image = find(p, id);
	_cleanup_free_ char *path = NULL, *path2 = NULL;
	assert_int_equal(img_layer_path(p->img, image->record->layers[0], &path, &p->err), 0);
	assert_int_equal(truncate(path, 100), 0);
	assert_int_equal(
		img_layer_path(p->img, image->record->layers[0], &path2, &p->err), -ENOENT);
	pull(p, id);
	assert_int_equal(img_layer_path(p->img, image->record->layers[0], &path2, &p->err), 0);
	img_image_unref(image);
	holds(p, BLOBS(1), 1);
}

static struct img_need *need_of(struct place *p, const struct img_image *image)
{
	const Bulkhead__Store__Image *record = image->record;
	struct img_need *need = img_need_new(p->img);
	assert_non_null(need);
	for (size_t i = 0; i < record->n_blobs; i++)
		assert_int_equal(img_need_file(need, IMG_BLOB, record->blobs[i], &p->err), 0);
	for (size_t i = 0; i < record->n_layers; i++)
		assert_int_equal(img_need_file(need, IMG_LAYER, record->layers[i], &p->err), 0);
	return need;
}

/* Two images that share a layer: one is removed while a pull of the other goes on. */
static void test_removal_during_a_pull(void **state)
{
	struct place *p = begin(state);
	char small[72], large[72];
	make_layout(p, &(struct layout_options){.layers = {one}});
	pull(p, small);
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	pull(p, large);
	struct img_image *image = find(p, small);
	struct img_need *need = need_of(p, image);
	assert_int_equal(img_remove(p->img, small, &p->err), 0);
	assert_int_equal(img_remove(p->img, large, &p->err), 0);
	holds(p, BLOBS(1), 1);
	img_need_free(need);
	holds(p, 0, 0);
	img_image_unref(image);
}

static void same_as_walked(struct place *p)
{
	struct img_usage kept, walked;
	assert_int_equal(img_usage(p->img, &kept, &p->err), 0);
	assert_int_equal(img_directory_usage(p->config.dir, &walked, &p->err), 0);
	assert_int_equal(kept.bytes, walked.bytes);
	assert_int_equal(kept.inodes, walked.inodes);
	assert_string_equal(kept.mountpoint, walked.mountpoint);
	assert_true(kept.mountpoint[0] == '/');
	free(kept.mountpoint);
	free(walked.mountpoint);
}

static void remove_blob_of(struct place *p, const char *id)
{
	struct img_image *image = find(p, id);
	_cleanup_free_ char *path = img_blob_path(p->img, image->record->blobs[2]);
	assert_int_equal(unlink(path), 0);
	img_image_unref(image);
}

/* A record whose blobs are not all there is none. */
static void test_start_with_a_blob_missing(void **state)
{
	struct place *p = begin(state);
	char small[72], large[72];
	make_layout(p, &(struct layout_options){.layers = {two, one}});
	pull(p, large);
	make_layout(p, &(struct layout_options){.layers = {one}});
	pull(p, small);
	remove_blob_of(p, large);
	close_images(p);
	open_images(p);
	assert_null(find(p, large));
	assert_true(leads_to(p, p->source, small));
	assert_int_equal(img_collect(p->img, &p->err), 0);
	holds(p, BLOBS(1), 1);
	make_layout(p, &(struct layout_options){.layers = {two, one}});
	pull(p, large);
	assert_true(leads_to(p, p->source, large));
}

static void restart(struct place *p)
{
	close_images(p);
	open_images(p);
	assert_int_equal(img_collect(p->img, &p->err), 0);
	assert_int_equal(img_remake_layers(p->img, &p->err), 0);
}

static void wait_remade(struct place *p)
{
	pthread_mutex_lock(&p->img->lock);
	while (p->img->remaking)
		pthread_cond_wait(&p->img->changed, &p->img->lock);
	pthread_mutex_unlock(&p->img->lock);
}

static void remove_layer(struct place *p, const char *diff_id, const char *path)
{
	(void)p, (void)diff_id;
	assert_int_equal(unlink(path), 0);
}

static void cut_layer(struct place *p, const char *diff_id, const char *path)
{
	(void)p, (void)diff_id;
	assert_int_equal(truncate(path, 100), 0);
}

/* As another build would leave it: its file is whole, and not what this one makes. */
static void change_form(struct place *p, const char *diff_id, const char *path)
{
	ProtobufCMessage *record = NULL;
	assert_int_equal(store_get(p->store, STORE_LAYER, diff_id, &record, &p->err), 0);
	Bulkhead__Store__Layer *layer = (Bulkhead__Store__Layer *)record;
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(write(fd, "another", 7), 7);
	close(fd);
	layer->format = UNPACK_FORMAT + 1;
	assert_int_equal(store_put(p->store, STORE_LAYER, diff_id, record, &p->err), 0);
	protobuf_c_message_free_unpacked(record, NULL);
}

/* Layers that are not as they should be are made again from their blobs, without a pull. */
static void test_start_with_damaged_layers(void **state)
{
	void (*const damages[])(struct place *, const char *, const char *) = {
		remove_layer, cut_layer, change_form};
	struct place *p = begin(state);
	char id[72];
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	pull(p, id);
	struct img_image *image = find(p, id);
	const char *diff_id = image->record->layers[1];
	_cleanup_free_ char *path = img_layer_file(p->img, diff_id), *whole = NULL;
	size_t len;
	assert_int_equal(fd_read_file(path, 1 << 20, &whole, &len, &p->err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(damages); i++) {
		_cleanup_free_ char *now = NULL;
		size_t len_now;
		damages[i](p, diff_id, path);
		restart(p);
		wait_remade(p);
		assert_true(leads_to(p, p->source, id));
		holds(p, BLOBS(2), 2);
		assert_int_equal(fd_read_file(path, 1 << 20, &now, &len_now, &p->err), 0);
		assert_int_equal(len_now, len);
		assert_memory_equal(now, whole, len);
		same_as_walked(p);
	}
	img_image_unref(image);
}

/* One whose blob is no longer what it was cannot be made: there is no such image. */
static void test_start_with_layer_and_blob_damaged(void **state)
{
	struct place *p = begin(state);
	char id[72];
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	pull(p, id);
	struct img_image *image = find(p, id);
	_cleanup_free_ char *layer = img_layer_file(p->img, image->record->layers[1]);
	_cleanup_free_ char *blob = img_blob_path(p->img, image->record->blobs[3]);
	assert_int_equal(unlink(layer), 0);
	assert_int_equal(truncate(blob, 50), 0);
	img_image_unref(image);
	restart(p);
	wait_remade(p);
	assert_null(find(p, id));
	holds(p, 0, 0);
}

static int find_second_layer(struct place *p, const char *id)
{
	_cleanup_free_ char *path = NULL;
	struct img_image *image = find(p, id);
	int r = img_layer_path(p->img, image->record->layers[1], &path, &p->err);
	img_image_unref(image);
	return r;
}

static void remove_second_layer(struct place *p, const char *id)
{
	struct img_image *image = find(p, id);
	_cleanup_free_ char *path = img_layer_file(p->img, image->record->layers[1]);
	assert_int_equal(unlink(path), 0);
	img_image_unref(image);
}

/* Nothing is wrong with the image: a pull, or the next start, makes what is missing. */
static void test_start_that_cannot_make_layers(void **state)
{
	struct place *p = begin(state);
	char id[72], helper[64];
	snprintf(helper, sizeof(helper), "%s/unpack", p->dir);
	p->config.unpack_helper = helper;
	for (int i = 0; i < 2; i++) {
		make_layout(p, &(struct layout_options){.layers = {one, two}});
		assert_int_equal(symlink(p->helper, helper), 0);
		restart(p);
		pull(p, id);
		remove_second_layer(p, id);
		assert_int_equal(unlink(helper), 0);
		restart(p);
		wait_remade(p);
		assert_true(leads_to(p, p->source, id));
		assert_int_equal(find_second_layer(p, id), -ENOENT);
		assert_int_equal(symlink(p->helper, helper), 0);
		if (i == 0)
			pull(p, id);
		else
			restart(p);
		wait_remade(p);
		assert_int_equal(find_second_layer(p, id), 0);
		holds(p, BLOBS(2), 2);
		same_as_walked(p);
		assert_int_equal(unlink(helper), 0);
	}
}

/* The program that converts, behind a script that waits until it may. */
static const char waiting[] = "#!/bin/sh\n"
			      "until [ -e \"$0.go\" ]; do sleep 0.05; done\n"
			      "exec \"$0.real\" \"$@\"\n";

/* Whoever asks for such a layer meanwhile is told so; the store can be closed. */
static void test_layers_are_made_beside_all_else(void **state)
{
	struct place *p = begin(state);
	char id[72], path[80];
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	pull(p, id);
	remove_second_layer(p, id);
	use_script(p, waiting);
	for (int i = 0; i < 2; i++) {
		restart(p);
		assert_true(leads_to(p, p->source, id));
		assert_int_equal(find_second_layer(p, id), -EAGAIN);
	}
	snprintf(path, sizeof(path), "%s.go", p->script);
	assert_int_equal(fd_write_file(path, "", 0, 0644, &p->err), 0);
	wait_remade(p);
	assert_int_equal(find_second_layer(p, id), 0);
	holds(p, BLOBS(2), 2);
	same_as_walked(p);
}

/* One that is removed while its layers are made leaves none. */
static void test_removed_while_layers_are_made(void **state)
{
	struct place *p = begin(state);
	char id[72];
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	pull(p, id);
	remove_second_layer(p, id);
	restart(p);
	assert_int_equal(img_remove(p->img, id, &p->err), 0);
	wait_remade(p);
	holds(p, 0, 0);
}

/* The same behind a script that waits for one word each time. */
static const char stepping[] = "#!/bin/sh\n"
			       "until rm \"$0.go\" 2>/dev/null; do sleep 0.05; done\n"
			       "exec \"$0.real\" \"$@\"\n";

static void let_one_go(struct place *p)
{
	char path[80];
	snprintf(path, sizeof(path), "%s.go", p->script);
	assert_int_equal(fd_write_file(path, "", 0, 0644, &p->err), 0);
}

struct puller {
	struct place *place;
	char source[64];
	pthread_t thread;
	struct err err;
};

static void *pull_in_thread(void *userdata)
{
	struct puller *puller = userdata;
	char *id = NULL;
	img_pull(puller->place->img, puller->source, NULL, -EBADF, &id, &puller->err);
	free(id);
	return NULL;
}

/* Until all its blobs are there, whose conversions have been asked for then. */
static void begin_pull(struct puller *puller)
{
	bool all = false;
	assert_int_equal(pthread_create(&puller->thread, NULL, pull_in_thread, puller), 0);
	for (int i = 0; i < 600 && !all; i++) {
		struct img_pull_progress *list;
		size_t n;
		usleep(50000);
		assert_int_equal(img_pulls(puller->place->img, &list, &n, NULL), 0);
		for (size_t k = 0; k < n; k++)
			all |= strcmp(list[k].reference, puller->source) == 0 && list[k].layers &&
			       list[k].layers_done == list[k].layers;
		img_pulls_free(list, n);
	}
	assert_true(all);
}

static void end_pull(struct puller *puller)
{
	pthread_join(puller->thread, NULL);
	assert_string_equal(puller->err.msg, "");
}

/*
 * One that is pulled with other blobs while its layers are to be made of the old ones stays. Of one
 * converter's work, that for the pull comes first, then another image's, then what is made again.
 */
static void test_pulled_while_layers_are_made(void **state)
{
	struct place *p = begin(state);
	struct puller again = {.place = p}, other = {.place = p};
	char id[72];
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	pull(p, id);
	remove_second_layer(p, id);
	use_script(p, stepping);
	close_images(p);
	open_images(p);
	p->img->cores = 1;
	make_layout(p, &(struct layout_options){.layers = {one, two}, .gzip = true});
	memcpy(again.source, p->source, sizeof(again.source));
	begin_pull(&again);
	make_layout(p, &(struct layout_options){.layers = {hiding}});
	snprintf(other.source, sizeof(other.source), "oci:%s/layout", p->dir);
	begin_pull(&other);
	assert_int_equal(img_remake_layers(p->img, &p->err), 0);
	usleep(500000); /* it asks for its layers; where it comes too late all the rest holds */
	let_one_go(p);
	end_pull(&again);
	let_one_go(p);
	end_pull(&other);
	wait_remade(p);
	assert_true(leads_to(p, p->source, id));
	assert_int_equal(find_second_layer(p, id), 0);
}

static void test_start_with_strays(void **state)
{
	struct place *p = begin(state);
	char id[72], path[200];
	const char *stray = "sha256:"
			    "0000000000000000000000000000000000000000000000000000000000000000";
	ProtobufCMessage *record = NULL;
	make_layout(p, &(struct layout_options){.layers = {one}});
	pull(p, id);
	Bulkhead__Store__Layer layer = BULKHEAD__STORE__LAYER__INIT;
	assert_int_equal(store_put(p->store, STORE_LAYER, stray, &layer.base, &p->err), 0);
	snprintf(path, sizeof(path), "%s/blobs/sha256/half", p->config.dir);
	assert_int_equal(fd_write_file(path, "x", 1, 0644, NULL), 0);
	snprintf(path, sizeof(path), "%s/tmp/tree/deep", p->config.dir);
	assert_int_equal(fd_mkdir_all(path, 0700, NULL), 0);
	close_images(p);
	open_images(p);
	assert_int_equal(img_collect(p->img, &p->err), 0);
	holds(p, BLOBS(1), 1);
	assert_int_equal(store_get(p->store, STORE_LAYER, stray, &record, &p->err), 1);
}

static void test_usage(void **state)
{
	struct place *p = begin(state);
	char id[72], path[200];
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	pull(p, id);
	same_as_walked(p);
	close_images(p);
	open_images(p);
	same_as_walked(p);
	struct img_image *image = find(p, id);
	assert_int_equal(
		img_hold(p->img, "c", image->record->layers, image->record->n_layers, &p->err), 0);
	/* What a pull has brought so far. */
	struct img_need *need = img_need_new(p->img);
	snprintf(path, sizeof(path), "sha256:%064d", 7);
	assert_int_equal(img_need_file(need, IMG_BLOB, path, &p->err), 0);
	same_as_walked(p);
	_cleanup_free_ char *file = img_blob_path(p->img, path);
	assert_int_equal(fd_write_file(file, "some", 4, 0600, NULL), 0);
	snprintf(path, sizeof(path), "%s/tmp/f", p->config.dir);
	assert_int_equal(fd_write_file(path, "more", 4, 0600, NULL), 0);
	same_as_walked(p);
	assert_int_equal(unlink(path), 0);
	img_need_free(need);
	assert_int_equal(img_remove(p->img, id, &p->err), 0);
	same_as_walked(p);
	close_images(p);
	open_images(p);
	assert_int_equal(
		img_hold(p->img, "c", image->record->layers, image->record->n_layers, &p->err), 0);
	same_as_walked(p);
	img_release(p->img, "c");
	same_as_walked(p);
	img_image_unref(image);
}

/* ---- all at once ---- */

struct worker {
	pthread_t thread;
	struct place *place;
	struct err err;
	int r;
};

static void *pull_again_and_again(void *userdata)
{
	struct worker *w = userdata;
	for (int i = 0; i < 5 && w->r == 0; i++) {
		char *id = NULL;
		w->r = img_pull(w->place->img, w->place->source, NULL, -EBADF, &id, &w->err);
		free(id);
	}
	return NULL;
}

static void *remove_and_look(void *userdata)
{
	struct worker *w = userdata;
	for (int i = 0; i < 300 && w->r == 0; i++) {
		struct img_image **images, *image = NULL;
		struct img_usage usage = {0};
		size_t n;
		w->r = img_remove(w->place->img, w->place->source, &w->err);
		if (w->r == 0)
			w->r = img_list(w->place->img, &images, &n, &w->err);
		if (w->r == 0) {
			img_list_free(images, n);
			w->r = img_usage(w->place->img, &usage, &w->err);
		}
		free(usage.mountpoint);
		if (w->r == 0 && img_find(w->place->img, w->place->source, &image, NULL) == 0)
			img_image_unref(image);
		usleep(3000);
	}
	return NULL;
}

static void test_pulls_and_removals_at_once(void **state)
{
	struct place *p = begin(state);
	struct worker workers[4] = {0};
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	for (size_t i = 0; i < ARRAY_SIZE(workers); i++) {
		workers[i].place = p;
		assert_int_equal(
			pthread_create(&workers[i].thread, NULL,
				i < 2 ? pull_again_and_again : remove_and_look, &workers[i]),
			0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(workers); i++) {
		pthread_join(workers[i].thread, NULL);
		if (workers[i].r < 0)
			fail_msg("%s", workers[i].err.msg);
	}
	assert_int_equal(img_remove(p->img, p->source, &p->err), 0);
	same_as_walked(p);
	holds(p, 0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		image_test(test_hold),
		image_test(test_collect),
		image_test(test_damaged_layer),
		image_test(test_removal_during_a_pull),
		image_test(test_start_with_a_blob_missing),
		image_test(test_start_with_damaged_layers),
		image_test(test_start_with_layer_and_blob_damaged),
		image_test(test_start_that_cannot_make_layers),
		image_test(test_layers_are_made_beside_all_else),
		image_test(test_removed_while_layers_are_made),
		image_test(test_pulled_while_layers_are_made),
		image_test(test_start_with_strays),
		image_test(test_usage),
		image_test(test_pulls_and_removals_at_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
