/*
 * The image store through its public API, with real layouts, skopeo, bulkhead-unpack and
 * mkfs.erofs, in a directory of its own. Needs root and these programs: skips without.
 */
#include "cri-server/image/image.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/evp.h>

#include "common/fd.h"
#include "cri-server/image/internal.h"

#define LAYERS_MAX 4
/* Of an image in the store: manifest, configuration and layers. */
#define BLOBS(layers) ((layers) + 2)

struct place {
	char dir[32];
	char helper[PATH_MAX];
	char source[64]; /* oci:… of the layout */
	struct img_config config;
	struct store *store;
	struct img *img;
	struct err err;
};

/* ---- a store ---- */

static void open_images(struct place *p)
{
	char path[64];
	snprintf(path, sizeof(path), "%s/state.db", p->dir);
	assert_int_equal(store_open(path, &p->store, &p->err), 0);
	assert_int_equal(img_open(&p->config, p->store, &p->img, &p->err), 0);
}

static void close_images(struct place *p)
{
	p->img = img_close(p->img);
	p->store = store_close(p->store);
}

static int setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));
	snprintf(p->dir, sizeof(p->dir), "/tmp/image-test-XXXXXX");
	if (!mkdtemp(p->dir))
		return -1;
	ssize_t n = readlink("/proc/self/exe", p->helper, sizeof(p->helper) - 32);
	if (n < 0)
		return -1;
	p->helper[n] = '\0';
	char *base = strrchr(p->helper, '/') + 1;
	snprintf(base, sizeof(p->helper) - (size_t)(base - p->helper), "bulkhead-unpack");
	snprintf(p->source, sizeof(p->source), "oci:%s/layout:latest", p->dir);
	p->config = (struct img_config){
		.dir = str_printf("%s/images", p->dir),
		.unpack_helper = p->helper,
		.layer_bytes_max = 1 << 20,
		.layer_files_max = 1000,
		.pull_timeout_ms = 60000,
	};
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;
	close_images(p);
	free((char *)p->config.dir);
	int r = fd_remove_tree(p->dir, NULL);
	free(p);
	return r;
}

static struct place *begin(void **state)
{
	if (geteuid() != 0 || access("/usr/bin/skopeo", X_OK) < 0 ||
		(access("/usr/bin/mkfs.erofs", X_OK) < 0 && access("/sbin/mkfs.erofs", X_OK) < 0)) {
		print_message("pulling needs root, skopeo and mkfs.erofs\n");
		skip();
	}
	struct place *p = *state;
	open_images(p);
	return p;
}

/* ---- a layout ---- */

struct blob {
	char digest[72];
	size_t size;
};

struct layout_options {
	const char *const *layers[LAYERS_MAX]; /* paths of each; ended by NULL */
	const char *architecture;              /* NULL: amd64 */
	const char *diff_id;                   /* NULL: the right one */
	const char *raw_layer;                 /* instead of a tar */
	const char *raw_config;                /* instead of a configuration */
	const char *env;
};

static void digest_of(const void *data, size_t len, char ret[72])
{
	unsigned char digest[32];
	assert_true(EVP_Digest(data, len, digest, NULL, EVP_sha256(), NULL));
	snprintf(ret, 72, "sha256:");
	for (int i = 0; i < 32; i++)
		snprintf(ret + 7 + 2 * i, 3, "%02x", digest[i]);
}

static struct blob put_blob(const struct place *p, const void *data, size_t len)
{
	struct blob blob = {.size = len};
	char path[160];
	digest_of(data, len, blob.digest);
	snprintf(path, sizeof(path), "%s/layout/blobs/sha256/%s", p->dir, blob.digest + 7);
	assert_int_equal(fd_write_file(path, data, len, 0600, NULL), 0);
	return blob;
}

static struct blob put_layer(const struct place *p, const char *const *paths)
{
	static char tar[65536];
	size_t used;
	struct archive *a = archive_write_new();
	archive_write_set_format_pax(a);
	assert_int_equal(archive_write_open_memory(a, tar, sizeof(tar), &used), ARCHIVE_OK);
	for (; *paths; paths++) {
		struct archive_entry *e = archive_entry_new();
		archive_entry_set_pathname(e, *paths);
		archive_entry_set_mode(e, S_IFREG | 0644);
		archive_entry_set_size(e, 4);
		assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
		assert_int_equal(archive_write_data(a, "data", 4), 4);
		archive_entry_free(e);
	}
	assert_int_equal(archive_write_close(a), ARCHIVE_OK);
	archive_write_free(a);
	return put_blob(p, tar, used);
}

static void write_in_layout(const struct place *p, const char *name, const char *text)
{
	char path[64];
	snprintf(path, sizeof(path), "%s/layout/%s", p->dir, name);
	assert_int_equal(fd_write_file(path, text, strlen(text), 0600, NULL), 0);
}

static void make_layout(const struct place *p, const struct layout_options *o)
{
	char text[8192], layers[2048] = "", ids[1024] = "";
	snprintf(text, sizeof(text), "%s/layout/blobs/sha256", p->dir);
	assert_int_equal(fd_mkdir_all(text, 0700, NULL), 0);
	for (size_t i = 0; i < LAYERS_MAX && (o->layers[i] || (o->raw_layer && i == 0)); i++) {
		struct blob blob = o->raw_layer ? put_blob(p, o->raw_layer, strlen(o->raw_layer))
						: put_layer(p, o->layers[i]);
		snprintf(layers + strlen(layers), sizeof(layers) - strlen(layers),
			"%s{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\","
			"\"digest\":\"%s\",\"size\":%zu}",
			i ? "," : "", blob.digest, blob.size);
		snprintf(ids + strlen(ids), sizeof(ids) - strlen(ids), "%s\"%s\"", i ? "," : "",
			o->diff_id ? o->diff_id : blob.digest);
	}
	snprintf(text, sizeof(text),
		"{\"architecture\":\"%s\",\"os\":\"linux\",\"config\":{\"Env\":[\"%s\"]},"
		"\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[%s]}}",
		o->architecture ? o->architecture : "amd64", o->env ? o->env : "A=1", ids);
	const char *config_text = o->raw_config ? o->raw_config : text;
	struct blob config = put_blob(p, config_text, strlen(config_text));
	snprintf(text, sizeof(text),
		"{\"schemaVersion\":2,\"config\":{\"mediaType\":"
		"\"application/vnd.oci.image.config.v1+json\",\"digest\":\"%s\",\"size\":%zu},"
		"\"layers\":[%s]}",
		config.digest, config.size, layers);
	struct blob manifest = put_blob(p, text, strlen(text));
	snprintf(text, sizeof(text),
		"{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":"
		"\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"%s\",\"size\":%zu,"
		"\"annotations\":{\"org.opencontainers.image.ref.name\":\"latest\"}}]}",
		manifest.digest, manifest.size);
	write_in_layout(p, "index.json", text);
	write_in_layout(p, "oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
}

static const char *const one[] = {"one", NULL};
static const char *const two[] = {"two", NULL};
static const char *const hiding[] = {".wh..wh..opq", "three", NULL};

/* ---- what is there ---- */

static size_t count(const struct place *p, const char *name)
{
	char path[64];
	snprintf(path, sizeof(path), "%s/%s", p->config.dir, name);
	DIR *dir = opendir(path);
	size_t n = 0;
	if (!dir)
		return 0;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 2;
}

static void holds(const struct place *p, size_t blobs, size_t layers)
{
	assert_int_equal(count(p, "blobs/sha256"), blobs);
	assert_int_equal(count(p, "layers"), layers);
	assert_int_equal(count(p, "tmp"), 0);
}

static void pull(struct place *p, char ret_id[72])
{
	_cleanup_free_ char *id = NULL;
	if (img_pull(p->img, p->source, NULL, -EBADF, &id, &p->err) < 0)
		fail_msg("%s", p->err.msg);
	snprintf(ret_id, 72, "%s", id);
}

static struct img_image *find(struct place *p, const char *name)
{
	struct img_image *image = NULL;
	assert_in_range(img_find(p->img, name, &image, &p->err), 0, 1);
	return image;
}

static bool leads_to(struct place *p, const char *name, const char *id)
{
	struct img_image *image = find(p, name);
	bool same = image && strcmp(image->id, id) == 0;
	img_image_free(image);
	return same;
}

static uint64_t blob_bytes(const struct place *p)
{
	char path[64];
	snprintf(path, sizeof(path), "%s/blobs/sha256", p->config.dir);
	DIR *dir = opendir(path);
	uint64_t sum = 0;
	struct stat st;
	assert_non_null(dir);
	for (struct dirent *e; (e = readdir(dir));)
		if (fstatat(dirfd(dir), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
			sum += (uint64_t)st.st_size;
	closedir(dir);
	return sum;
}

/* ---- the tests ---- */

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
	assert_int_equal(image->record->size, blob_bytes(p));
	_cleanup_free_ char *path = NULL;
	assert_int_equal(img_layer_path(p->img, image->record->layers[0], &path, &p->err), 0);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint32_t magic = 0;
	assert_int_equal(pread(fd, &magic, sizeof(magic), 1024), sizeof(magic));
	assert_int_equal(magic, 0xe0f5e1e2);
	img_image_free(image);
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
		img_image_free(image);
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
	img_image_free(image);
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

/* A file that is gone or cut short is not taken for a layer. */
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
	img_image_free(image);
	holds(p, BLOBS(1), 1);
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
	img_image_free(image);
	make_layout(p, &(struct layout_options){.layers = {one, hiding, two}});
	pull(p, id);
	image = find(p, id);
	layers = image->record->layers;
	assert_int_equal(image->record->n_layers, 2);
	assert_string_not_equal(layers[0], lowest);
	assert_string_not_equal(layers[1], lowest);
	img_image_free(image);
}

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
	/* While another has the reference. */
	assert_int_equal(img_busy_enter(p->img, "pull", p->source, -EBADF, &p->err), 0);
	assert_int_equal(img_pull(p->img, p->source, NULL, ends[0], &id, &p->err), -ECANCELED);
	img_busy_leave(p->img, "pull", p->source);
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

static void test_usage(void **state)
{
	struct place *p = begin(state);
	uint64_t bytes, inodes, before;
	_cleanup_free_ char *mountpoint = NULL, *mountpoint2 = NULL;
	char path[64];
	assert_int_equal(
		img_directory_usage(p->config.dir, &before, &inodes, &mountpoint, &p->err), 0);
	assert_int_equal(inodes, 4);
	snprintf(path, sizeof(path), "%s/tmp/f", p->config.dir);
	_cleanup_free_ char *data = calloc(1, 100000);
	assert_int_equal(fd_write_file(path, data, 100000, 0600, NULL), 0);
	assert_int_equal(
		img_directory_usage(p->config.dir, &bytes, &inodes, &mountpoint2, &p->err), 0);
	assert_int_equal(inodes, 5);
	assert_true(bytes >= before + 100000);
	assert_true(mountpoint[0] == '/');
}

#define image_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		image_test(test_pull),
		image_test(test_invalid_names),
		image_test(test_reopen),
		image_test(test_tag_moves),
		image_test(test_remove),
		image_test(test_hold),
		image_test(test_collect),
		image_test(test_damaged_layer),
		image_test(test_layers_for_overlay),
		image_test(test_failed_pulls),
		image_test(test_registry_down),
		image_test(test_cancel),
		image_test(test_pulls_at_once),
		image_test(test_usage),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
