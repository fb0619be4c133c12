/*
 * Images by their names: what leads to them, what moves, joins and goes.
 */
#include "cri-server/image/image_fixture.h"

static void test_pull(void **state)
{
	struct place *p = begin(state);
	char id[72], prefix[16];
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	pull(p, id);
	holds(p, BLOBS(2), 2);
	snprintf(prefix, sizeof(prefix), "%.12s", id + 7);
	assert_true(leads_to(p, p->source, id));
	assert_true(leads_to(p, id, id));
	assert_true(leads_to(p, id + 7, id));
	assert_true(leads_to(p, prefix, id));
	assert_null(find(p, "busybox"));
	assert_null(find(p, "0000"));
	struct img_image *image = find(p, id);
	assert_int_equal(image->record->n_layers, 2);
	assert_int_equal(image->record->n_tags, 1);
	assert_string_equal(image->record->tags[0], p->source);
	assert_string_equal(image->record->config->env[0], "A=1");
	assert_int_equal(image->record->size, file_bytes(p));
	_cleanup_free_ char *path = NULL;
	assert_int_equal(img_layer_path(p->img, image->record->layers[0], &path, &p->err), 0);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint32_t magic = 0;
	assert_int_equal(pread(fd, &magic, sizeof(magic), 1024), sizeof(magic));
	assert_int_equal(magic, 0xe0f5e1e2);
	img_image_unref(image);
}

static void test_invalid_names(void **state)
{
	struct place *p = begin(state);
	struct img_image *image = NULL;
	assert_int_equal(img_find(p->img, "UPPER CASE", &image, &p->err), -EINVAL);
	assert_int_equal(img_pull(p->img, "UPPER CASE", NULL, -EBADF, NULL, &p->err), -EINVAL);
	assert_true(img_source_is_local("oci:/x") && img_source_is_local("docker-archive:/x"));
	/* A pod's image: never a file of the host's. */
	assert_false(img_source_is_local("oci:x") || img_source_is_local("docker-archive:x"));
}

static void test_reopen(void **state)
{
	struct place *p = begin(state);
	char id[72], stray[80];
	make_layout(p, &(struct layout_options){.layers = {one}});
	pull(p, id);
	close_images(p);
	snprintf(stray, sizeof(stray), "%s/tmp/pull-killed", p->config.dir);
	assert_int_equal(mkdir(stray, 0700), 0);
	open_images(p);
	holds(p, BLOBS(1), 1);
	assert_true(leads_to(p, p->source, id));
}

static void test_tag_moves(void **state)
{
	struct place *p = begin(state);
	char first[72], second[72], again[72];
	make_layout(p, &(struct layout_options){.layers = {one}});
	pull(p, first);
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	pull(p, second);
	assert_string_not_equal(first, second);
	for (int i = 0; i < 2; i++) {
		assert_true(leads_to(p, p->source, second));
		struct img_image *image = find(p, first);
		assert_non_null(image);
		assert_int_equal(image->record->n_tags, 0);
		img_image_unref(image);
		close_images(p);
		open_images(p);
	}
	holds(p, BLOBS(1) + BLOBS(2) - 1, 2);
	pull(p, again);
	assert_string_equal(second, again);
	struct img_image **images;
	size_t n;
	assert_int_equal(img_list(p->img, &images, &n, &p->err), 0);
	assert_int_equal(n, 2);
	img_list_free(images, n);
}

static void test_remove(void **state)
{
	struct place *p = begin(state);
	char first[72], second[72];
	make_layout(p, &(struct layout_options){.layers = {one}});
	pull(p, first);
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	pull(p, second);
	assert_int_equal(img_remove(p->img, p->source, &p->err), 0);
	holds(p, BLOBS(1), 1);
	assert_true(leads_to(p, first, first));
	assert_null(find(p, p->source));
	assert_int_equal(img_remove(p->img, first + 7, &p->err), 0);
	assert_int_equal(img_remove(p->img, first, &p->err), 0);
	holds(p, 0, 0);
}

static void test_layers_for_overlay(void **state)
{
	struct place *p = begin(state);
	char id[72];
	make_layout(p, &(struct layout_options){.layers = {one, two, one}});
	pull(p, id);
	struct img_image *image = find(p, id);
	char *const *layers = image->record->layers;
	assert_int_equal(image->record->n_layers, 2);
	char lowest[72];
	snprintf(lowest, sizeof(lowest), "%s", layers[1]);
	img_image_unref(image);
	make_layout(p, &(struct layout_options){.layers = {one, hiding, two}});
	pull(p, id);
	image = find(p, id);
	layers = image->record->layers;
	assert_int_equal(image->record->n_layers, 2);
	assert_string_not_equal(layers[0], lowest);
	assert_string_not_equal(layers[1], lowest);
	img_image_unref(image);
}

#define HEX  "1111111111111111111111111111111111111111111111111111111111111111"
#define BUSY "docker.io/library/busybox"

static size_t tags_of(struct place *p, const char *id)
{
	struct img_image *image = find(p, id);
	assert_non_null(image);
	size_t n = image->record->n_tags;
	img_image_unref(image);
	return n;
}

static void removes(struct place *p, const char *name)
{
	if (img_remove(p->img, name, &p->err) < 0)
		fail_msg("%s", p->err.msg);
}

static void test_ways_to_write_a_name(void **state)
{
	struct place *p = begin(state);
	char id[72];
	add_named(p, 0xcafe, (const char *const[]){BUSY ":latest", "[::1]:5000/a/b:v1", NULL},
		(const char *const[]){BUSY "@sha256:" HEX, NULL}, id);
	static const char *const names[] = {"busybox", "busybox:latest", "library/busybox",
		"docker.io/busybox", "index.docker.io/library/busybox", BUSY, "busybox@sha256:" HEX,
		"busybox:any@sha256:" HEX, BUSY ":latest@sha256:" HEX, "[::1]:5000/a/b:v1"};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!leads_to(p, names[i], id))
			fail_msg("%s", names[i]);
	static const char *const others[] = {"busybox:1", "localhost/busybox", "a/b:v1",
		"[::1]:5000/a/b", "quay.io/library/busybox", "sha256:" HEX, HEX};
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (find(p, others[i]))
			fail_msg("%s", others[i]);
}

static void test_beginnings_of_ids(void **state)
{
	struct place *p = begin(state);
	char first[72], second[72], third[72];
	add_named(p, 0x10, NULL, NULL, first);
	add_named(p, 0x11, NULL, NULL, second);
	snprintf(third, sizeof(third), "000000");
	assert_null(find(p, third)); /* of both */
	assert_true(leads_to(p, first, first) && leads_to(p, second + 7, second));
	/* A name that looks like an id is a name. */
	add_named(p, 0xffff, (const char *const[]){"docker.io/library/000000:latest", NULL}, NULL,
		third);
	assert_true(leads_to(p, "000000", third));
}

static void test_several_tags(void **state)
{
	struct place *p = begin(state);
	char id[72];
	add_named(p, 1, (const char *const[]){BUSY ":1", NULL},
		(const char *const[]){BUSY "@sha256:" HEX, NULL}, id);
	add_named(p, 1, (const char *const[]){BUSY ":2", "quay.io/b:1", NULL},
		(const char *const[]){"quay.io/b@sha256:" HEX, NULL}, id);
	assert_int_equal(tags_of(p, id), 3);
	removes(p, "busybox:1");
	assert_null(find(p, "busybox:1"));
	assert_true(leads_to(p, "busybox:2", id) && leads_to(p, "busybox@sha256:" HEX, id));
	/* The repository's last tag takes its digest along. */
	removes(p, "busybox:2");
	assert_null(find(p, "busybox@sha256:" HEX));
	close_images(p);
	open_images(p);
	assert_true(leads_to(p, "quay.io/b:1", id));
	assert_int_equal(tags_of(p, id), 1);
	removes(p, "quay.io/b:1");
	assert_null(find(p, id));
	removes(p, "quay.io/b:1");
}

static void test_remove_by_digest_or_id(void **state)
{
	struct place *p = begin(state);
	char id[72];
	for (int by_id = 0; by_id < 2; by_id++) {
		add_named(p, 2, (const char *const[]){BUSY ":1", BUSY ":2", "quay.io/b:1", NULL},
			(const char *const[]){BUSY "@sha256:" HEX, NULL}, id);
		removes(p, by_id ? id : "busybox:1@sha256:" HEX);
		assert_null(find(p, "busybox:2"));
		assert_true(by_id ? !find(p, id) : leads_to(p, "quay.io/b:1", id));
	}
}

static void test_moved_tag_leaves_the_digest(void **state)
{
	struct place *p = begin(state);
	char old[72], new[72];
	add_named(p, 3, (const char *const[]){BUSY ":1", BUSY ":2", NULL},
		(const char *const[]){BUSY "@sha256:" HEX, NULL}, old);
	add_named(p, 4, (const char *const[]){BUSY ":1", BUSY ":2", NULL}, NULL, new);
	for (int i = 0; i < 2; i++) {
		assert_true(leads_to(p, "busybox:1", new) && leads_to(p, "busybox:2", new));
		assert_true(leads_to(p, "busybox@sha256:" HEX, old));
		assert_int_equal(tags_of(p, old), 0);
		close_images(p);
		open_images(p);
	}
}

/* What was returned stays as it was, whatever comes after. */
static void test_found_image_stays(void **state)
{
	struct place *p = begin(state);
	char id[72];
	add_named(p, 5, (const char *const[]){BUSY ":1", NULL}, NULL, id);
	struct img_image *before = find(p, id);
	add_named(p, 5, (const char *const[]){BUSY ":2", NULL}, NULL, id);
	removes(p, id);
	assert_int_equal(before->record->n_tags, 1);
	assert_string_equal(before->record->tags[0], BUSY ":1");
	img_image_unref(before);
}

static void test_pinned(void **state)
{
	struct place *p = begin(state);
	char id[72];
	static char *const pinned[] = {"busybox", "quay.io/system/*", "[::1]:5000/a:1"};
	add_named(p, 6, (const char *const[]){BUSY ":latest", NULL}, NULL, id);
	add_named(p, 7, (const char *const[]){"quay.io/system/proxy:3", NULL}, NULL, id);
	add_named(p, 8, (const char *const[]){"[::1]:5000/a:1", NULL}, NULL, id);
	add_named(p, 9, (const char *const[]){BUSY ":2", "quay.io/systemx:1", NULL}, NULL, id);
	close_images(p);
	p->config.pinned = pinned;
	p->config.n_pinned = ARRAY_SIZE(pinned);
	open_images(p);
	struct img_image **images;
	size_t n;
	assert_int_equal(img_list(p->img, &images, &n, &p->err), 0);
	assert_int_equal(n, 4);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(img_is_pinned(p->img, images[i]), i < 3);
	img_list_free(images, n);
	removes(p, "busybox");
	assert_null(find(p, "busybox"));
	static char *const bad[] = {"UPPER"};
	struct img *img;
	p->config.pinned = bad;
	p->config.n_pinned = 1;
	assert_int_equal(img_open(&p->config, p->store, &img, &p->err), -EINVAL);
	assert_non_null(strstr(p->err.msg, "images.pinned: "));
}

static void test_note_spec(void **state)
{
	struct place *p = begin(state);
	char id[72];
	add_named(p, 10, NULL, NULL, id);
	assert_int_equal(img_note_spec(p->img, id, "spec", 4, &p->err), 0);
	add_named(p, 10, (const char *const[]){BUSY ":1", NULL}, NULL, id);
	for (int i = 0; i < 2; i++) {
		struct img_image *image = find(p, "busybox:1");
		assert_int_equal(image->record->spec.len, 4);
		assert_memory_equal(image->record->spec.data, "spec", 4);
		img_image_unref(image);
		close_images(p);
		open_images(p);
	}
	removes(p, id);
	assert_int_equal(img_note_spec(p->img, id, "spec", 4, &p->err), 0);
	assert_null(find(p, id));
}

static void test_image_name(void **state)
{
	struct place *p = begin(state);
	char id[72];
	add_named(p, 11, (const char *const[]){"quay.io/b:1", BUSY ":1", NULL},
		(const char *const[]){BUSY "@sha256:" HEX, NULL}, id);
	struct img_image *image = find(p, id);
	assert_string_equal(img_image_name(image, "busybox:1"), BUSY ":1");
	assert_string_equal(img_image_name(image, "busybox:x@sha256:" HEX), BUSY "@sha256:" HEX);
	assert_null(img_image_name(image, "busybox:2"));
	assert_null(img_image_name(image, id));
	assert_null(img_image_name(image, ""));
	img_image_unref(image);
}

static bool list_changed(struct place *p, uint64_t *generation)
{
	uint64_t before = *generation;
	*generation = img_generation(p->img);
	return *generation != before;
}

static void test_generation(void **state)
{
	struct place *p = begin(state);
	char id[72], other[72];
	uint64_t generation = img_generation(p->img);
	add_named(p, 12, (const char *const[]){BUSY ":1", BUSY ":2", NULL}, NULL, id);
	assert_true(list_changed(p, &generation));
	add_named(p, 13, (const char *const[]){BUSY ":2", NULL}, NULL, other);
	assert_true(list_changed(p, &generation));
	assert_int_equal(img_note_spec(p->img, id, "spec", 4, &p->err), 0);
	assert_true(list_changed(p, &generation));
	struct img_image *image = find(p, id);
	img_image_unref(image);
	assert_null(find(p, "busybox:3"));
	assert_false(list_changed(p, &generation));
	removes(p, "busybox:1");
	assert_true(list_changed(p, &generation));
	removes(p, other);
	assert_true(list_changed(p, &generation));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		image_test(test_pull),
		image_test(test_invalid_names),
		image_test(test_reopen),
		image_test(test_tag_moves),
		image_test(test_remove),
		image_test(test_layers_for_overlay),
		image_test(test_ways_to_write_a_name),
		image_test(test_beginnings_of_ids),
		image_test(test_several_tags),
		image_test(test_remove_by_digest_or_id),
		image_test(test_moved_tag_leaves_the_digest),
		image_test(test_found_image_stays),
		image_test(test_pinned),
		image_test(test_note_spec),
		image_test(test_image_name),
		image_test(test_generation),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
