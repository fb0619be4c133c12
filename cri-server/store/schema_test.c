/*
 * Databases of other builds. testdata/form-1.sql is what the first form's bulkheadd wrote; a form
 * that is no longer made gets a file like it.
 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "common/fd.h"
#include "cri-server/store/records.pb-c.h"
#include "cri-server/store/store_fixture.h"
#include "cri-server/version.h"

#define FORM_1    "cri-server/store/testdata/form-1.sql"
#define POD       "11111111111111111111111111111111"
#define CONTAINER "22222222222222222222222222222222"

static void make_form_1(const char *path)
{
	_cleanup_free_ char *sql = NULL;
	assert_int_equal(fd_read_file(FORM_1, 1 << 20, &sql, NULL, NULL), 0);
	alter(path, sql);
}

/* The first column of the first row. */
static void assert_answer(const char *path, const char *sql, const char *expected)
{
	sqlite3 *db;
	sqlite3_stmt *st;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &st, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	assert_string_equal((const char *)sqlite3_column_text(st, 0), expected);
	sqlite3_finalize(st);
	sqlite3_close(db);
}

static void assert_records_of_form_1(struct store *store)
{
	ProtobufCMessage *message = NULL;
	assert_int_equal(store_get(store, STORE_SANDBOX, POD, &message, NULL), 0);
	const Bulkhead__Store__Sandbox *pod = (const void *)message;
	assert_int_equal(pod->state, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY);
	assert_int_equal(pod->event_sequence, 7);
	assert_int_equal(pod->n_ips, 2);
	assert_string_equal(pod->ips[1], "fd00::5");
	assert_string_equal(pod->volumes[0]->source, "/var/lib/kubelet/v");
	protobuf_c_message_free_unpacked(message, NULL);
	assert_int_equal(store_get(store, STORE_CONTAINER, CONTAINER, &message, NULL), 0);
	const Bulkhead__Store__Container *container = (const void *)message;
	assert_int_equal(container->state, BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING);
	assert_string_equal(container->sandbox_id, POD);
	assert_string_equal(container->layers[0], "sha256:3333");
	protobuf_c_message_free_unpacked(message, NULL);
	assert_int_equal(store_get(store, STORE_IMAGE, "sha256:4444", &message, NULL), 0);
	protobuf_c_message_free_unpacked(message, NULL);
	assert_int_equal(store_get(store, STORE_LAYER, "sha256:3333", &message, NULL), 0);
	assert_int_equal(((Bulkhead__Store__Layer *)message)->format, 1);
	protobuf_c_message_free_unpacked(message, NULL);
	assert_int_equal(store_get(store, STORE_SETTING, "pod_cidr", &message, NULL), 0);
	assert_string_equal(((Bulkhead__Store__Setting *)message)->value, "10.88.0.0/16");
	protobuf_c_message_free_unpacked(message, NULL);
}

static void an_older_form_is_brought_to_ours_with_all_its_records(void **state)
{
	struct place *place = *state;
	make_form_1(place->path);
	for (int i = 0; i < 2; i++) { /* and only once */
		struct store *store = open_store(place->path);
		assert_records_of_form_1(store);
		store_close(store);
		assert_answer(place->path, "PRAGMA user_version", "3");
		assert_answer(place->path, "SELECT version FROM writer", BULKHEAD_VERSION);
	}
}

/* What looks at the records beside an older bulkheadd, as fsck does. */
static void a_reader_takes_an_older_form_as_it_is(void **state)
{
	struct place *place = *state;
	struct store *store = NULL;
	make_form_1(place->path);
	assert_int_equal(store_open_read(place->path, &store, NULL), 0);
	assert_records_of_form_1(store);
	store_close(store);
	assert_answer(place->path, "PRAGMA user_version", "1");
}

static void a_migration_that_fails_leaves_the_older_form(void **state)
{
	struct place *place = *state;
	struct store *store = NULL;
	struct err err = ERR_INIT;
	make_form_1(place->path);
	alter(place->path, "CREATE TABLE writer (in_the_way)");
	assert_true(store_open(place->path, &store, &err) < 0);
	assert_non_null(strstr(err.msg, "from form 1 to 2"));
	assert_answer(place->path, "PRAGMA user_version", "1");
	alter(place->path, "DROP TABLE writer");
	assert_int_equal(store_open(place->path, &store, &err), 0);
	assert_records_of_form_1(store);
	store_close(store);
}

static void a_downgrade_is_refused_by_the_name_of_who_wrote_it(void **state)
{
	struct place *place = *state;
	struct store *store = NULL;
	struct err err = ERR_INIT;
	assert_int_equal(store_open(place->path, &store, &err), 0);
	store_close(store);
	alter(place->path, "PRAGMA user_version = 4; UPDATE writer SET version = '9.8.7'");
	assert_int_equal(store_open(place->path, &store, &err), -EBADMSG);
	assert_non_null(strstr(err.msg,
		"newer bulkheadd (9.8.7, form 4; this is " BULKHEAD_VERSION " and knows 3)"));
	assert_non_null(strstr(err.msg, "Run that version again"));
	assert_answer(place->path, "PRAGMA user_version", "4");
	assert_answer(place->path, "SELECT version FROM writer", "9.8.7");
}

static void one_that_lost_its_form_is_refused(void **state)
{
	struct place *place = *state;
	struct store *store = NULL;
	struct err err = ERR_INIT;
	make_form_1(place->path);
	alter(place->path, "PRAGMA user_version = 0");
	assert_int_equal(store_open(place->path, &store, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "has lost what it had"));
}

/* In a mount namespace of its own. 0: it was refused as read-only. */
static int try_read_only(const struct place *place, const char *what)
{
	struct store *store = NULL;
	struct err err = ERR_INIT;
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount(what, what, NULL, MS_BIND, NULL) < 0 ||
		mount(NULL, what, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) < 0)
		return 3;
	if (store_open(place->path, &store, &err) == 0)
		return 2;
	return err.code == -EROFS && strstr(err.msg, place->path) ? 0 : 1;
}

static void assert_read_only_is_refused(const struct place *place, const char *what)
{
	int status;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(try_read_only(place, what));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void one_that_cannot_be_written_is_refused(void **state)
{
	struct place *place = *state;
	struct store *store = NULL;
	if (geteuid() != 0)
		skip();
	make_form_1(place->path);
	assert_read_only_is_refused(place, place->path);
	assert_read_only_is_refused(place, place->dir);
	assert_int_equal(store_open(place->path, &store, NULL), 0);
	assert_records_of_form_1(store);
	store_close(store);
	assert_read_only_is_refused(place, place->path);
	assert_read_only_is_refused(place, place->dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, place_set_up, place_tear_down)
		TEST(an_older_form_is_brought_to_ours_with_all_its_records),
		TEST(a_reader_takes_an_older_form_as_it_is),
		TEST(a_migration_that_fails_leaves_the_older_form),
		TEST(a_downgrade_is_refused_by_the_name_of_who_wrote_it),
		TEST(one_that_lost_its_form_is_refused),
		TEST(one_that_cannot_be_written_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
