/*
 * Reading the tree of a mirrored volume, and what a host path is taken for.
 */
#include "cri-server/runtime/mirror.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/runtime/volume_source.h"

#define SWAPS 1000

static char top[64];

static int setup(void **state)
{
	(void)state;
	snprintf(top, sizeof(top), "/tmp/mirror-test-XXXXXX");
	return mkdtemp(top) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	return fd_remove_tree(top, NULL);
}

/* Paths below `top`. */
static const char *at(const char *name)
{
	static char path[4][256];
	static unsigned next;
	char *out = path[next++ % 4];
	snprintf(out, sizeof(path[0]), "%s/%s", top, name);
	return out;
}

static void make_directory(const char *name)
{
	assert_int_equal(fd_mkdir_all(at(name), 0755, NULL), 0);
}

static void make_file(const char *name, size_t size)
{
	_cleanup_close_ int fd = open(at(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
}

static const Bulkhead__Agent__VolumeEntry *find(
	const Bulkhead__Agent__WriteVolumeRequest *request, const char *path, size_t *ret_index)
{
	for (size_t i = 0; i < request->n_entries; i++)
		if (strcmp(request->entries[i]->path, path) == 0) {
			*ret_index = i;
			return request->entries[i];
		}
	fail_msg("no entry %s", path);
	return NULL;
}

static void reads_a_tree(void **state)
{
	Bulkhead__Agent__WriteVolumeRequest *request;
	struct err err = ERR_INIT;
	size_t directory, file, link;
	(void)state;
	make_directory("v/..1/deep");
	make_file("v/..1/deep/key", 5);
	assert_int_equal(symlink("..1", at("v/..data")), 0);
	assert_int_equal(mkfifo(at("v/fifo"), 0600), 0);
	assert_int_equal(mirror_read(at("v"), &request, &err), 0);
	assert_int_equal(request->n_entries, 4);
	assert_true(S_ISDIR(find(request, "..1/deep", &directory)->mode));
	assert_int_equal(find(request, "..1/deep/key", &file)->data.len, 5);
	assert_int_equal(find(request, "..1/deep/key", &file)->mode, S_IFREG | 0640);
	assert_string_equal(find(request, "..data", &link)->target, "..1");
	assert_true(directory < file);
	bulkhead__agent__write_volume_request__free_unpacked(request, NULL);
}

/* It was resolved before: a link is somebody's who may write above. */
static void follows_no_link(void **state)
{
	Bulkhead__Agent__WriteVolumeRequest *request;
	(void)state;
	make_directory("secrets/v");
	make_file("secrets/v/key", 5);
	assert_int_equal(symlink("secrets", at("swapped")), 0);
	assert_int_equal(symlink("secrets/v", at("last")), 0);
	assert_int_equal(mirror_read(at("swapped/v"), &request, &(struct err)ERR_INIT), -ELOOP);
	assert_int_equal(mirror_read(at("last"), &request, &(struct err)ERR_INIT), -ELOOP);
}

static void is_bounded(void **state)
{
	Bulkhead__Agent__WriteVolumeRequest *request;
	char name[32];
	(void)state;
	make_directory("big");
	make_file("big/a", MIRROR_BYTES_MAX / 2);
	make_file("big/b", MIRROR_BYTES_MAX / 2);
	assert_int_equal(mirror_read(at("big"), &request, &(struct err)ERR_INIT), -EFBIG);
	make_directory("many");
	for (unsigned i = 0; i <= MIRROR_ENTRIES_MAX; i++) {
		snprintf(name, sizeof(name), "many/%u", i);
		make_file(name, 0);
	}
	assert_int_equal(mirror_read(at("many"), &request, &(struct err)ERR_INIT), -EFBIG);
	make_directory("deep/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17/18");
	assert_int_equal(mirror_read(at("deep"), &request, &(struct err)ERR_INIT), -EFBIG);
}

static Bulkhead__Store__VolumeKind kind_of(const char *path, const char *expected_path)
{
	struct volume_source source = VOLUME_SOURCE_INIT;
	struct err err = ERR_INIT;
	if (volume_source_find(path, &source, &err) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(source.path, expected_path);
	Bulkhead__Store__VolumeKind kind = source.kind;
	volume_source_done(&source);
	return kind;
}

static void tells_paths_apart(void **state)
{
	struct volume_source source = VOLUME_SOURCE_INIT;
	(void)state;
	make_directory("pods/u/volumes/kubernetes.io~secret/s/below");
	make_directory("pods/u/volumes/kubernetes.io~empty-dir/e");
	assert_int_equal(symlink("pods", at("link")), 0);
	assert_int_equal(kind_of(at("link/u/volumes/kubernetes.io~secret/s"),
				 at("pods/u/volumes/kubernetes.io~secret/s")),
		BULKHEAD__STORE__VOLUME_KIND__VOLUME_MIRROR);
	assert_int_equal(kind_of(at("pods/u/volumes/kubernetes.io~secret/s/below"),
				 at("pods/u/volumes/kubernetes.io~secret/s/below")),
		BULKHEAD__STORE__VOLUME_KIND__VOLUME_BIND);
	assert_int_equal(
		kind_of(at("new/path"), at("new/path")), BULKHEAD__STORE__VOLUME_KIND__VOLUME_BIND);
	assert_int_equal(volume_source_find("x", &source, &(struct err)ERR_INIT), -EINVAL);
	assert_int_equal(
		volume_source_find("/dev/ptmx", &source, &(struct err)ERR_INIT), -EOPNOTSUPP);
	volume_source_done(&source);
	source = (struct volume_source)VOLUME_SOURCE_INIT;
	assert_int_equal(volume_source_find("/dev/null", &source, &(struct err)ERR_INIT), 0);
	assert_string_equal(source.device, "null");
	volume_source_done(&source);
}

/* ---- a guest that swaps a directory of its volume for a link ---- */

struct swapping {
	char directory[256], link[256];
	atomic_bool stop;
};

static void *swap(void *userdata)
{
	struct swapping *swapping = userdata;
	while (!atomic_load(&swapping->stop))
		renameat2(AT_FDCWD, swapping->directory, AT_FDCWD, swapping->link, RENAME_EXCHANGE);
	return NULL;
}

/* Where its path says, or not at all: which of both is the client's affair. */
static void path_and_descriptor_are_one_directory(void **state)
{
	struct swapping swapping = {.stop = false};
	struct stat secret;
	pthread_t thread;
	(void)state;
	make_directory("volume/a/in");
	make_directory("elsewhere/in");
	assert_int_equal(symlink(at("elsewhere"), at("volume/b")), 0);
	assert_int_equal(stat(at("elsewhere/in"), &secret), 0);
	snprintf(swapping.directory, sizeof(swapping.directory), "%s", at("volume/a"));
	snprintf(swapping.link, sizeof(swapping.link), "%s", at("volume/b"));
	assert_int_equal(pthread_create(&thread, NULL, swap, &swapping), 0);
	for (unsigned i = 0; i < SWAPS; i++) {
		struct volume_source source = VOLUME_SOURCE_INIT;
		if (volume_source_find(at("volume/a/in"), &source, &(struct err)ERR_INIT) == 0)
			assert_int_equal(source.st.st_ino == secret.st_ino,
				strcmp(source.path, at("elsewhere/in")) == 0);
		volume_source_done(&source);
	}
	atomic_store(&swapping.stop, true);
	pthread_join(thread, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_a_tree),
		cmocka_unit_test(follows_no_link),
		cmocka_unit_test(is_bounded),
		cmocka_unit_test(tells_paths_apart),
		cmocka_unit_test(path_and_descriptor_are_one_directory),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
