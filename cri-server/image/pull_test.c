/*
 * Pulls that fail, are cancelled, or come together; and what they do in which order.
 */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include "common/spawn.h"
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

/*
 * The program that converts, behind a script that says how many of them run: each stays until a
 * second one has come, and long enough for a third to be seen.
 */
static const char counting[] = "#!/bin/sh\n"
			       "mkdir \"$0.run/$$\"\n"
			       "for i in $(seq 100); do\n"
			       "	n=$(ls \"$0.run\" | wc -l)\n"
			       "	[ \"$n\" -lt 2 ] || break\n"
			       "	sleep 0.05\n"
			       "done\n"
			       "sleep 0.3\n"
			       "ls \"$0.run\" | wc -l >>\"$0.counts\"\n"
			       "\"$0.real\" \"$@\"\n"
			       "code=$?\n"
			       "rmdir \"$0.run/$$\"\n"
			       "exit $code\n";

/* Layers are converted in parallel, and at most as many at a time as there are cores. */
static void test_conversions_at_once(void **state)
{
	static const char *const more[][2] = {{"three"}, {"four"}};
	struct place *p = begin(state);
	char id[72], path[80];
	use_script(p, counting);
	snprintf(path, sizeof(path), "%s.run", p->script);
	assert_int_equal(fd_mkdir_all(path, 0700, NULL), 0);
	close_images(p);
	open_images(p);
	p->img->cores = 2;
	make_layout(p, &(struct layout_options){.layers = {one, two, more[0], more[1]}});
	pull(p, id);
	holds(p, BLOBS(4), 4);
	_cleanup_free_ char *counts = NULL;
	snprintf(path, sizeof(path), "%s.counts", p->script);
	assert_int_equal(fd_read_file(path, 100, &counts, NULL, &p->err), 0);
	assert_non_null(strstr(counts, "2"));
	if (strpbrk(counts, "34"))
		fail_msg("of 2 cores: %s", counts);
}

/* What the interposed fsync() saw; the image is looked for without the store, which it is called
 * from. */
static struct {
	pthread_mutex_t lock; /* protects all of it: several threads convert */
	char dir[32];
	struct img *img;
	unsigned layers, names;
	bool early; /* the image was there before its files were on the disk */
	bool hold;  /* cancel at the next layer, and wait until the pull has returned */
	int cancel_fd, returned_fd;
} synced = {.lock = PTHREAD_MUTEX_INITIALIZER};

int fsync(int fd)
{
	char link[32], path[PATH_MAX] = "";
	bool held = false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	pthread_mutex_lock(&synced.lock);
	if (n > 0 && synced.img && strncmp(path, synced.dir, strlen(synced.dir)) == 0) {
		const char *name = path + strlen(synced.dir);
		bool layer = strstr(name, "/images/tmp/") && strstr(name, ".erofs");
		synced.layers += layer;
		held = layer && synced.hold;
		synced.names += strcmp(name, "/images/layers") == 0 ||
				strcmp(name, "/images/blobs/sha256") == 0;
		synced.early |= synced.img->n_images > 0;
	}
	pthread_mutex_unlock(&synced.lock);
	if (held) {
		struct pollfd returned = {.fd = synced.returned_fd, .events = POLLIN};
		eventfd_write(synced.cancel_fd, 1);
		poll(&returned, 1, 30000);
	}
	return (int)syscall(SYS_fsync, fd);
}

/* A layer is on the disk before it has its name, all names before the image's record. */
static void test_order_on_the_disk(void **state)
{
	struct place *p = begin(state);
	char id[72];
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	pthread_mutex_lock(&synced.lock);
	memcpy(synced.dir, p->dir, sizeof(synced.dir));
	synced.img = p->img;
	pthread_mutex_unlock(&synced.lock);
	pull(p, id);
	pthread_mutex_lock(&synced.lock);
	synced.img = NULL;
	pthread_mutex_unlock(&synced.lock);
	assert_int_equal(synced.layers, 2);
	assert_int_equal(synced.names, 2);
	assert_false(synced.early);
}

/* A layer that is whole a moment after the last one who wanted it has gone does not stay. */
static void test_cancel_at_the_end(void **state)
{
	struct place *p = begin(state);
	char *id = NULL;
	make_layout(p, &(struct layout_options){.layers = {one}});
	pthread_mutex_lock(&synced.lock);
	memcpy(synced.dir, p->dir, sizeof(synced.dir));
	synced.img = p->img;
	synced.cancel_fd = eventfd(0, EFD_CLOEXEC);
	synced.returned_fd = eventfd(0, EFD_CLOEXEC);
	synced.hold = true;
	pthread_mutex_unlock(&synced.lock);
	assert_int_equal(
		img_pull(p->img, p->source, NULL, synced.cancel_fd, &id, &p->err), -ECANCELED);
	eventfd_write(synced.returned_fd, 1);
	close_images(p); /* when no conversion runs any more */
	holds(p, 0, 0);
	pthread_mutex_lock(&synced.lock);
	synced.img = NULL;
	synced.hold = false;
	close(synced.cancel_fd);
	close(synced.returned_fd);
	pthread_mutex_unlock(&synced.lock);
}

/* Blobs of the image that a second pull may not write to: it could die while it does. */
struct seen {
	size_t n;
	struct stat files[BLOBS(LAYERS_MAX)];
};

static void look_at_blobs(const struct place *p, const char *id, struct seen *ret)
{
	struct img_image *image = find((struct place *)p, id);
	assert_non_null(image);
	*ret = (struct seen){.n = image->record->n_blobs};
	for (size_t i = 0; i < ret->n; i++) {
		_cleanup_free_ char *path = img_blob_path(p->img, image->record->blobs[i]);
		assert_int_equal(stat(path, &ret->files[i]), 0);
	}
	img_image_unref(image);
}

static void test_what_is_there_is_not_written(void **state)
{
	struct place *p = begin(state);
	char id[72];
	struct seen before, after;
	make_layout(p, &(struct layout_options){.layers = {one, two}});
	pull(p, id);
	look_at_blobs(p, id, &before);
	pull(p, id);
	look_at_blobs(p, id, &after);
	assert_int_equal(before.n, after.n);
	for (size_t i = 0; i < before.n; i++) {
		const struct stat *a = &before.files[i], *b = &after.files[i];
		assert_int_equal(a->st_ino, b->st_ino);
		assert_memory_equal(&a->st_mtim, &b->st_mtim, sizeof(a->st_mtim));
	}
	holds(p, BLOBS(2), 2);
}

/* What skopeo unpacks lies where it goes with the pull, or at the next start. */
static void test_archive_is_unpacked_in_the_store(void **state)
{
	struct place *p = begin(state);
	char script[256], id[72];
	make_layout(p, &(struct layout_options){.layers = {one}});
	snprintf(script, sizeof(script), "tar -C %s/layout -cf %s/archive .", p->dir, p->dir);
	const char *const argv[] = {"sh", "-c", script, NULL};
	struct spawn_result result = SPAWN_RESULT_INIT(100);
	assert_int_equal(spawn_run(&(struct spawn_options){.argv = argv}, &result, &p->err), 0);
	assert_int_equal(result.exit_code, 0);
	spawn_result_done(&result);
	snprintf(p->source, sizeof(p->source), "oci-archive:%s/archive", p->dir);
	assert_int_equal(unshare(CLONE_NEWNS), 0);
	assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	assert_int_equal(mount("none", "/var/tmp", "tmpfs", MS_RDONLY, NULL), 0);
	pull(p, id);
	assert_int_equal(umount2("/var/tmp", MNT_DETACH), 0);
	holds(p, BLOBS(1), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		image_test(test_failed_pulls),
		image_test(test_registry_down),
		image_test(test_cancel),
		image_test(test_pulls_at_once),
		image_test(test_conversions_at_once),
		image_test(test_order_on_the_disk),
		image_test(test_cancel_at_the_end),
		image_test(test_what_is_there_is_not_written),
		image_test(test_archive_is_unpacked_in_the_store),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
