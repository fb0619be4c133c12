/*
 * A volume that the host writes: what changes, what stays untouched, in which order, and that no
 * entry leads out of it. Runs without rights: owners are the caller's own.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/volumes.h"
#include "common/fd.h"

#define ENTRIES_MAX 16

struct fixture {
	char path[64];
	int volume;
	Bulkhead__Agent__WriteVolumeRequest request;
	Bulkhead__Agent__VolumeEntry entries[ENTRIES_MAX];
	Bulkhead__Agent__VolumeEntry *pointers[ENTRIES_MAX];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	assert_non_null(f);
	snprintf(f->path, sizeof(f->path), "/tmp/volume-write-XXXXXX");
	assert_non_null(mkdtemp(f->path));
	f->volume = open(f->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_true(f->volume >= 0);
	bulkhead__agent__write_volume_request__init(&f->request);
	f->request.entries = f->pointers;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	fd_close(f->volume);
	fd_remove_tree(f->path, NULL);
	free(f);
	return 0;
}

static void begin(struct fixture *f)
{
	f->request.n_entries = 0;
}

static void add(struct fixture *f, const char *path, mode_t mode, const char *content)
{
	size_t i = f->request.n_entries++;
	Bulkhead__Agent__VolumeEntry *entry = f->pointers[i] = &f->entries[i];
	assert_true(i < ENTRIES_MAX);
	bulkhead__agent__volume_entry__init(entry);
	entry->path = (char *)path;
	entry->mode = mode;
	entry->uid = getuid();
	entry->gid = getgid();
	if (S_ISLNK(mode))
		entry->target = (char *)content;
	if (S_ISREG(mode)) {
		entry->data.data = (uint8_t *)content;
		entry->data.len = strlen(content);
	}
}

static void write_ok(struct fixture *f)
{
	struct err err = ERR_INIT;
	if (volume_write(f->volume, &f->request, &err) < 0)
		fail_msg("%s", err.msg);
}

/* The layout of a kubelet's volume. */
static void fill(struct fixture *f, const char *directory, const char *file, const char *content)
{
	begin(f);
	add(f, "..data", S_IFLNK | 0777, directory);
	add(f, "key", S_IFLNK | 0777, "..data/key");
	add(f, directory, S_IFDIR | 0755, NULL);
	add(f, file, S_IFREG | 0640, content);
}

static void assert_content(const struct fixture *f, const char *name, const char *content)
{
	char path[128];
	_cleanup_free_ char *text = NULL;
	snprintf(path, sizeof(path), "%s/%s", f->path, name);
	assert_int_equal(fd_read_file(path, 4096, &text, NULL, NULL), 0);
	assert_string_equal(text, content);
}

static struct stat look(const struct fixture *f, const char *name)
{
	struct stat st;
	assert_int_equal(fstatat(f->volume, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	return st;
}

static void writes_and_replaces(void **state)
{
	struct fixture *f = *state;
	fill(f, "..1", "..1/key", "one");
	write_ok(f);
	assert_content(f, "key", "one");
	assert_int_equal(look(f, "..1/key").st_mode, S_IFREG | 0640);
	fill(f, "..2", "..2/key", "two");
	write_ok(f);
	assert_content(f, "key", "two");
	assert_int_equal(faccessat(f->volume, "..1", F_OK, AT_SYMLINK_NOFOLLOW), -1);
}

static void leaves_alone_what_is_the_same(void **state)
{
	struct fixture *f = *state;
	fill(f, "..1", "..1/key", "one");
	write_ok(f);
	int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	char buffer[4096];
	assert_true(
		inotify_add_watch(watch, f->path, IN_CREATE | IN_MOVE | IN_DELETE | IN_ATTRIB) > 0);
	ino_t file = look(f, "..1/key").st_ino;
	write_ok(f);
	assert_int_equal(look(f, "..1/key").st_ino, file);
	assert_int_equal(read(watch, buffer, sizeof(buffer)), -1);
	close(watch);
}

static void swaps_the_link_last(void **state)
{
	struct fixture *f = *state;
	fill(f, "..1", "..1/key", "one");
	write_ok(f);
	int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	assert_true(inotify_add_watch(watch, f->path, IN_CREATE | IN_MOVED_TO | IN_DELETE) > 0);
	fill(f, "..2", "..2/key", "two");
	add(f, "more", S_IFLNK | 0777, "..data/more");
	write_ok(f);
	char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event)))), *at = buffer;
	ssize_t n = read(watch, buffer, sizeof(buffer));
	int position = 0, swapped = -1, made = -1, gone = -1, linked = -1;
	assert_true(n > 0);
	for (; at < buffer + n; position++) {
		const struct inotify_event *event = (const void *)at;
		if (strcmp(event->name, "..data") == 0 && event->mask & IN_MOVED_TO)
			swapped = position;
		if (strcmp(event->name, "..2") == 0 && event->mask & IN_CREATE)
			made = position;
		if (strcmp(event->name, "more") == 0 && event->mask & IN_MOVED_TO)
			linked = position;
		if (strcmp(event->name, "..1") == 0 && event->mask & IN_DELETE)
			gone = position;
		at += sizeof(*event) + event->len;
	}
	assert_true(made >= 0 && made < swapped);
	assert_true(linked >= 0 && linked < swapped);
	assert_true(swapped < gone);
	close(watch);
}

static void replaces_one_kind_by_another(void **state)
{
	struct fixture *f = *state;
	begin(f);
	add(f, "a", S_IFDIR | 0755, NULL);
	add(f, "a/b", S_IFREG | 0600, "deep");
	add(f, "c", S_IFREG | 0600, "file");
	write_ok(f);
	begin(f);
	add(f, "a", S_IFREG | 0600, "file");
	add(f, "c", S_IFDIR | 0755, NULL);
	add(f, "c/d", S_IFLNK | 0777, "../a");
	write_ok(f);
	assert_content(f, "c/d", "file");
	assert_true(S_ISDIR(look(f, "c").st_mode));
}

static void stays_inside(void **state)
{
	static const char *const outside[] = {"..", "a/..", "", "a/", "link/volume-write-escaped"};
	struct fixture *f = *state;
	assert_int_equal(symlinkat("/tmp", f->volume, "link"), 0);
	for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
		struct err err = ERR_INIT;
		begin(f);
		add(f, outside[i], S_IFREG | 0600, "bad");
		assert_true(volume_write(f->volume, &f->request, &err) < 0);
	}
	/* The volume is its own root, as "/" is: there is nothing above it. */
	begin(f);
	add(f, "../volume-write-escaped", S_IFREG | 0600, "bad");
	volume_write(f->volume, &f->request, &(struct err)ERR_INIT);
	assert_int_equal(access("/tmp/volume-write-escaped", F_OK), -1);
	begin(f);
	add(f, "fifo", S_IFIFO | 0600, NULL);
	assert_int_equal(volume_write(f->volume, &f->request, &(struct err)ERR_INIT), -EINVAL);
}

struct swapper {
	const struct fixture *f;
	const char *outside;
	atomic_bool stop;
};

/* As a container that can write there: now a file, now a link to one of somebody else's. */
static void *swap(void *userdata)
{
	struct swapper *swapper = userdata;
	int volume = open(swapper->f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	while (!atomic_load(&swapper->stop)) {
		int fd = openat(volume, "file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		dprintf(fd, "x");
		fd_close(fd);
		renameat(volume, "file", volume, "key");
		if (symlinkat(swapper->outside, volume, "link") == 0)
			renameat(volume, "link", volume, "key");
	}
	fd_close(volume);
	return NULL;
}

static void a_link_that_comes_in_between_is_not_followed(void **state)
{
	struct fixture *f = *state;
	char outside[] = "/tmp/volume-write-outside-XXXXXX";
	struct swapper swapper = {.f = f, .outside = outside};
	struct stat st;
	pthread_t thread;
	int fd = mkstemp(outside);
	assert_true(fd >= 0);
	assert_int_equal(pthread_create(&thread, NULL, swap, &swapper), 0);
	for (int i = 0; i < 20000; i++) {
		begin(f);
		add(f, "key", S_IFREG | 0644, "x");
		volume_write(f->volume, &f->request, NULL);
	}
	atomic_store(&swapper.stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(fstat(fd, &st), 0);
	fd_close(fd);
	unlink(outside);
	assert_int_equal(st.st_mode & 07777, 0600);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(writes_and_replaces, setup, teardown),
		cmocka_unit_test_setup_teardown(leaves_alone_what_is_the_same, setup, teardown),
		cmocka_unit_test_setup_teardown(swaps_the_link_last, setup, teardown),
		cmocka_unit_test_setup_teardown(replaces_one_kind_by_another, setup, teardown),
		cmocka_unit_test_setup_teardown(stays_inside, setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_link_that_comes_in_between_is_not_followed, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
