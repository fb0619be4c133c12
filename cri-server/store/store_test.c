#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "common/proc.h"
#include "cri-server/store/records.pb-c.h"
#include "cri-server/store/store_fixture.h"

static int put(struct store *store, const char *id, const char *value)
{
	Bulkhead__Store__Setting setting = BULKHEAD__STORE__SETTING__INIT;
	setting.value = (char *)value;
	return store_put(store, STORE_SETTING, id, &setting.base, NULL);
}

static void assert_value(struct store *store, const char *id, const char *value)
{
	ProtobufCMessage *record = NULL;
	int r = store_get(store, STORE_SETTING, id, &record, NULL);
	assert_int_equal(r, value ? 0 : 1);
	if (!value)
		return;
	assert_string_equal(((Bulkhead__Store__Setting *)record)->value, value);
	protobuf_c_message_free_unpacked(record, NULL);
}

static void records_survive_reopening(void **state)
{
	struct place *place = *state;
	struct store *store = open_store(place->path);
	assert_int_equal(put(store, "a", "1"), 0);
	assert_int_equal(put(store, "a", "2"), 0);
	assert_int_equal(put(store, "b", "3"), 0);
	assert_int_equal(store_delete(store, STORE_SETTING, "b", NULL), 0);
	assert_int_equal(store_delete(store, STORE_SETTING, "never", NULL), 0);
	store_close(store);
	store = open_store(place->path);
	assert_value(store, "a", "2");
	struct stat st;
	assert_int_equal(stat(place->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_value(store, "b", NULL);
	store_close(store);
}

static void refuses_a_record_of_another_kind(void **state)
{
	struct place *place = *state;
	struct store *store = open_store(place->path);
	Bulkhead__Store__Setting setting = BULKHEAD__STORE__SETTING__INIT;
	assert_int_equal(store_put(store, STORE_IMAGE, "a", &setting.base, NULL), -EINVAL);
	store_close(store);
}

#define SEEN_MAX 32

static int collect(void *userdata, const char *id, const ProtobufCMessage *record)
{
	char *seen = userdata;
	size_t used = strlen(seen);
	(void)record;
	snprintf(seen + used, SEEN_MAX - used, "%s", id);
	return strcmp(id, "stop") == 0 ? -EINTR : 0;
}

static void each_goes_in_order_and_stops_at_an_error(void **state)
{
	struct place *place = *state;
	struct store *store = open_store(place->path);
	struct err err = ERR_INIT;
	char seen[SEEN_MAX] = "";
	put(store, "b", "");
	put(store, "a", "");
	assert_int_equal(store_each(store, STORE_SETTING, collect, seen, &err), 0);
	assert_string_equal(seen, "ab");
	put(store, "stop", "");
	put(store, "zz", "");
	seen[0] = '\0';
	assert_int_equal(store_each(store, STORE_SETTING, collect, seen, &err), -EINTR);
	assert_string_equal(seen, "abstop");
	store_close(store);
}

struct removal {
	struct store *store;
	const char *id;
};

static void *delete_it(void *arg)
{
	const struct removal *removal = arg;
	return store_delete(removal->store, STORE_SETTING, removal->id, NULL) == 0 ? arg : NULL;
}

static int delete_elsewhere(void *userdata, const char *id, const ProtobufCMessage *record)
{
	struct removal removal = {.store = userdata, .id = id};
	pthread_t thread;
	void *deleted = NULL;
	(void)record;
	assert_int_equal(pthread_create(&thread, NULL, delete_it, &removal), 0);
	pthread_join(thread, &deleted);
	return deleted ? 0 : -EIO;
}

/* What is called for each may wait for others who use the store. */
static void each_keeps_nobody_waiting(void **state)
{
	struct place *place = *state;
	struct store *store = open_store(place->path);
	char seen[SEEN_MAX] = "";
	put(store, "a", "");
	put(store, "b", "");
	assert_int_equal(store_each(store, STORE_SETTING, delete_elsewhere, store, NULL), 0);
	assert_int_equal(store_each(store, STORE_SETTING, collect, seen, NULL), 0);
	assert_string_equal(seen, "");
	store_close(store);
}

static void a_transaction_is_all_or_nothing(void **state)
{
	struct place *place = *state;
	struct store *store = open_store(place->path);
	put(store, "a", "before");
	assert_int_equal(store_begin(store, NULL), 0);
	put(store, "a", "after");
	put(store, "b", "new");
	store_rollback(store);
	assert_value(store, "a", "before");
	assert_value(store, "b", NULL);
	assert_int_equal(store_begin(store, NULL), 0);
	put(store, "a", "after");
	assert_int_equal(store_commit(store, NULL), 0);
	store_rollback(store); /* none is open: nothing happens */
	assert_value(store, "a", "after");
	store_close(store);
}

static void a_second_owner_is_refused(void **state)
{
	struct place *place = *state;
	struct store *store = open_store(place->path), *second = NULL;
	struct err err = ERR_INIT;
	char pid[16];
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	assert_int_equal(store_open(place->path, &second, &err), -EBUSY);
	assert_non_null(strstr(err.msg, pid));
	store_close(store);
	store_close(open_store(place->path));
}

/* The owner was killed; a child of it that has not executed its program yet still does something,
 * and has closed its descriptors. record: what its lock is made to say then, or NULL. */
static void wait_for_dead_owners_child(const struct place *place, const char *record)
{
	_cleanup_free_ char *late = str_printf("%s.late", place->path);
	pid_t owner = fork();
	assert_true(owner >= 0);
	if (owner == 0) {
		struct store *store = NULL;
		if (store_open(place->path, &store, NULL) < 0)
			_exit(1);
		if (fork() == 0) {
			close_range(3, ~0u, 0);
			usleep(300000);
			_exit(fd_write_file(late, "", 0, 0600, NULL) < 0);
		}
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(owner, &status, 0), owner);
	assert_int_equal(status, 0);
	if (record) {
		_cleanup_free_ char *lock = str_printf("%s.lock", place->path);
		_cleanup_close_ int fd = open(lock, O_WRONLY | O_TRUNC | O_CLOEXEC);
		assert_int_equal(fd_write_all(fd, record, strlen(record), NULL), 0);
	}
	store_close(open_store(place->path));
	assert_int_equal(access(late, F_OK), 0);
	unlink(late);
}

static void a_dead_owners_child_is_waited_for(void **state)
{
	wait_for_dead_owners_child(*state, NULL);
}

/* As if this process, which began at another time, had been given the id. */
static void an_owners_id_is_not_taken_for_another_process(void **state)
{
	char record[64];
	uint64_t started;
	assert_int_equal(proc_start_time(getpid(), &started), 0);
	snprintf(record, sizeof(record), "%d %" PRIu64 "\n", (int)getpid(), started + 1);
	wait_for_dead_owners_child(*state, record);
}

static void assert_refused_untouched(const char *path, const char *expected)
{
	_cleanup_free_ char *before = NULL, *after = NULL;
	size_t n_before, n_after;
	struct store *store = NULL;
	struct err err = ERR_INIT;
	assert_int_equal(fd_read_file(path, 1 << 20, &before, &n_before, NULL), 0);
	assert_int_equal(store_open(path, &store, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, expected));
	assert_int_equal(fd_read_file(path, 1 << 20, &after, &n_after, NULL), 0);
	assert_int_equal(n_before, n_after);
	assert_memory_equal(before, after, n_before);
}

static void refuses_what_is_not_its_own(void **state)
{
	struct place *place = *state;
	const char garbage[] = "this is not a database at all, but some text that is long enough";
	assert_int_equal(fd_write_file(place->path, garbage, sizeof(garbage), 0600, NULL), 0);
	assert_refused_untouched(place->path, "damaged");
}

static void refuses_a_newer_schema(void **state)
{
	struct place *place = *state;
	store_close(open_store(place->path));
	alter(place->path, "PRAGMA user_version = 999");
	assert_refused_untouched(place->path, "newer");
}

static void refuses_another_programs_database(void **state)
{
	struct place *place = *state;
	alter(place->path, "CREATE TABLE theirs (x)");
	assert_refused_untouched(place->path, "another program");
}

/* An empty file too is one that has lost what it had: begun anew, pods that run would go. */
static void refuses_what_was_cut_short(void **state)
{
	struct place *place = *state;
	struct stat st;
	struct store *store = open_store(place->path);
	for (int i = 0; i < 200; i++) {
		char id[16];
		snprintf(id, sizeof(id), "%d", i);
		assert_int_equal(put(store, id, "a value that fills pages in the end"), 0);
	}
	store_close(store);
	assert_int_equal(stat(place->path, &st), 0);
	assert_int_equal(truncate(place->path, st.st_size / 2 / 4096 * 4096), 0);
	assert_refused_untouched(place->path, "damaged");
	assert_int_equal(truncate(place->path, 0), 0);
	assert_refused_untouched(place->path, "empty");
}

/* What bytes in the midst were overwritten. */
static void refuses_what_was_overwritten(void **state)
{
	struct place *place = *state;
	store_close(open_store(place->path));
	int fd = open(place->path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	char noise[512];
	memset(noise, 0xa5, sizeof(noise));
	assert_int_equal(pwrite(fd, noise, sizeof(noise), 4096), sizeof(noise));
	fd_close(fd);
	assert_refused_untouched(place->path, "damaged");
}

static int count_one(void *userdata, const char *id, const ProtobufCMessage *record)
{
	(void)id;
	(void)record;
	(*(int *)userdata)++;
	return 0;
}

/* Of a database with a single record, as it is now. */
static struct store *begin_to_read(const struct place *place)
{
	struct store *reader = NULL;
	int n = 0;
	assert_int_equal(store_open_read(place->path, &reader, NULL), 0);
	assert_int_equal(store_begin_read(reader, NULL), 0);
	assert_int_equal(store_each(reader, STORE_SETTING, count_one, &n, NULL), 0);
	assert_int_equal(n, 1);
	return reader;
}

static void a_reader_sees_one_moment_beside_the_owner(void **state)
{
	struct place *place = *state;
	struct store *owner = open_store(place->path);
	int n = 1;
	assert_int_equal(put(owner, "a", "1"), 0);
	struct store *reader = begin_to_read(place);
	assert_int_equal(put(owner, "b", "2"), 0);
	assert_int_equal(store_each(reader, STORE_SETTING, count_one, &n, NULL), 0);
	assert_int_equal(n, 2);
	store_rollback(reader);
	assert_int_equal(store_each(reader, STORE_SETTING, count_one, &n, NULL), 0);
	assert_int_equal(n, 4);
	assert_true(put(reader, "c", "3") < 0);
	store_close(reader);
	store_close(owner);
}

static void copy(const char *from, const char *to, const char *suffix)
{
	_cleanup_free_ char *source = str_printf("%s%s", from, suffix), *text = NULL;
	_cleanup_free_ char *target = str_printf("%s%s", to, suffix);
	size_t len;
	assert_int_equal(fd_read_file(source, 16 << 20, &text, &len, NULL), 0);
	assert_int_equal(fd_write_file(target, text, len, 0600, NULL), 0);
}

/* It keeps what the next owner records behind what was, which must count as well then. */
static void a_reader_may_go_on_beside_the_next_owner(void **state)
{
	struct place *place = *state;
	_cleanup_free_ char *killed = str_printf("%s/killed.db", place->dir);
	struct store *owner = open_store(place->path);
	assert_int_equal(put(owner, "a", "1"), 0);
	struct store *reader = begin_to_read(place);
	store_close(owner);
	owner = open_store(place->path);
	assert_int_equal(put(owner, "a", "2"), 0);
	copy(place->path, killed, "");
	copy(place->path, killed, "-wal");
	store_close(owner);
	store_rollback(reader);
	store_close(reader);
	owner = open_store(killed);
	assert_value(owner, "a", "2");
	store_close(owner);
}

static void assert_log(const char *path)
{
	enum { LEAST = 8 << 20 };
	struct stat st;
	_cleanup_free_ char *log = str_printf("%s-wal", path);
	assert_int_equal(stat(log, &st), 0);
	assert_int_equal(st.st_size, LEAST);
	assert_true(st.st_blocks >= LEAST / 512);
}

static void the_log_has_its_room_from_the_start(void **state)
{
	struct place *place = *state;
	struct store *store = open_store(place->path);
	assert_log(place->path);
	for (int i = 0; i < 4000; i++)
		assert_int_equal(put(store, "a", i % 2 ? "odd" : "even"), 0);
	assert_log(place->path);
	store_close(store);
	assert_log(place->path);
	store = open_store(place->path);
	assert_value(store, "a", "odd");
	store_close(store);
}

/* As from a backup, which holds the database alone. */
static void what_is_restored_is_not_mixed_with_what_was(void **state)
{
	struct place *place = *state;
	_cleanup_free_ char *backup = str_printf("%s/backup.db", place->dir);
	struct store *store = open_store(place->path);
	assert_int_equal(put(store, "a", "then"), 0);
	store_close(store);
	copy(place->path, backup, "");
	store = open_store(place->path);
	assert_int_equal(put(store, "a", "now"), 0);
	store_close(store);
	copy(backup, place->path, "");
	store = open_store(place->path);
	assert_value(store, "a", "then");
	store_close(store);
}

/* Mounts a file system of 12 MiB at the place, for this process alone. */
static bool mount_small(const struct place *place)
{
	return (unshare(CLONE_NEWNS) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) &&
	       mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("small", place->dir, "tmpfs", 0, "size=12m") == 0;
}

static void fill(const struct place *place)
{
	static const char zeros[4096];
	_cleanup_free_ char *path = str_printf("%s/filler", place->dir);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	while (write(fd, zeros, sizeof(zeros)) > 0)
		;
	assert_int_equal(errno, ENOSPC);
}

/* Runs a part of a test in a process of its own, which has a small file system where it can. */
static void on_a_small_disk(void **state, void (*part)(const struct place *place))
{
	enum { CANNOT = 77 };
	int status;
	fflush(NULL);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (!mount_small(*state))
			_exit(CANNOT);
		part(*state);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT)
		skip();
	assert_int_equal(status, 0);
}

static void write_much(const struct place *place)
{
	struct store *store = open_store(place->path);
	for (int i = 0; i < 3000; i++) {
		assert_int_equal(put(store, "a", i % 2 ? "odd" : "even"), 0);
		assert_int_equal(store_delete(store, STORE_SETTING, "b", NULL), 0);
	}
	_exit(0); /* as one that is killed */
}

static void write_on_a_full_disk(const struct place *place)
{
	struct store *store = open_store(place->path);
	assert_int_equal(put(store, "b", ""), 0);
	fill(place);
	store_close(store);
	for (int i = 0; i < 2; i++) {
		int status;
		pid_t pid = fork();
		if (pid == 0)
			write_much(place);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
	store = open_store(place->path);
	assert_value(store, "a", "odd");
	assert_value(store, "b", NULL);
	store_close(store);
}

static void a_full_disk_does_not_keep_records_from_being_written(void **state)
{
	on_a_small_disk(state, write_on_a_full_disk);
}

/* Who has moved the files beside it away, or comes from an older build. */
static void open_without_room(const struct place *place)
{
	static const char *const suffixes[] = {"-wal", "-shm"};
	struct store *store = NULL;
	struct err err = ERR_INIT;
	store_close(open_store(place->path));
	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		_cleanup_free_ char *path = str_printf("%s%s", place->path, suffixes[i]);
		assert_int_equal(unlink(path), 0);
	}
	fill(place);
	assert_int_equal(store_open(place->path, &store, &err), -ENOSPC);
	assert_non_null(strstr(err.msg, "No space left on device"));
}

static void a_full_disk_is_not_taken_for_damage(void **state)
{
	on_a_small_disk(state, open_without_room);
}

static void write_for_ever(const char *path, int progress)
{
	struct store *store = open_store(path);
	for (int i = 0;; i++) {
		char value[16];
		snprintf(value, sizeof(value), "%d", i);
		store_begin(store, NULL);
		put(store, "x", value);
		put(store, "y", value);
		store_commit(store, NULL);
		if (write(progress, &i, sizeof(i)) < 0)
			_exit(1);
	}
}

/* What was committed before the death is there, and the two records agree. */
static void a_killed_writer_leaves_whole_transactions(void **state)
{
	struct place *place = *state;
	int pipe_fds[2], last = -1, seen;
	assert_int_equal(pipe(pipe_fds), 0);
	pid_t pid = fork();
	if (pid == 0)
		write_for_ever(place->path, pipe_fds[1]);
	close(pipe_fds[1]);
	while (last < 50 && read(pipe_fds[0], &seen, sizeof(seen)) == sizeof(seen))
		last = seen;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	while (read(pipe_fds[0], &seen, sizeof(seen)) == sizeof(seen))
		last = seen;
	close(pipe_fds[0]);

	struct store *store = open_store(place->path);
	ProtobufCMessage *x = NULL, *y = NULL;
	assert_int_equal(store_get(store, STORE_SETTING, "x", &x, NULL), 0);
	assert_int_equal(store_get(store, STORE_SETTING, "y", &y, NULL), 0);
	const char *value = ((Bulkhead__Store__Setting *)x)->value;
	assert_string_equal(value, ((Bulkhead__Store__Setting *)y)->value);
	assert_true(atoi(value) >= last);
	protobuf_c_message_free_unpacked(x, NULL);
	protobuf_c_message_free_unpacked(y, NULL);
	store_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, place_set_up, place_tear_down)
		TEST(records_survive_reopening),
		TEST(refuses_a_record_of_another_kind),
		TEST(each_goes_in_order_and_stops_at_an_error),
		TEST(each_keeps_nobody_waiting),
		TEST(a_transaction_is_all_or_nothing),
		TEST(a_second_owner_is_refused),
		TEST(a_dead_owners_child_is_waited_for),
		TEST(an_owners_id_is_not_taken_for_another_process),
		TEST(refuses_what_is_not_its_own),
		TEST(refuses_what_was_cut_short),
		TEST(refuses_what_was_overwritten),
		TEST(a_reader_sees_one_moment_beside_the_owner),
		TEST(a_reader_may_go_on_beside_the_next_owner),
		TEST(refuses_a_newer_schema),
		TEST(refuses_another_programs_database),
		TEST(the_log_has_its_room_from_the_start),
		TEST(what_is_restored_is_not_mixed_with_what_was),
		TEST(a_full_disk_does_not_keep_records_from_being_written),
		TEST(a_full_disk_is_not_taken_for_damage),
		TEST(a_killed_writer_leaves_whole_transactions),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
