#include "cri-server/store/store_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "common/fd.h"

int place_set_up(void **state)
{
	static struct place place;
	snprintf(place.dir, sizeof(place.dir), "/tmp/store-test-XXXXXX");
	if (!mkdtemp(place.dir))
		return -1;
	snprintf(place.path, sizeof(place.path), "%s/state.db", place.dir);
	*state = &place;
	return 0;
}

int place_tear_down(void **state)
{
	return fd_remove_tree(((struct place *)*state)->dir, NULL);
}

struct store *open_store(const char *path)
{
	struct store *store = NULL;
	struct err err = ERR_INIT;
	if (store_open(path, &store, &err) < 0)
		fail_msg("%s", err.msg);
	return store;
}

void alter(const char *path, const char *sql)
{
	sqlite3 *db;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
		fail_msg("%s", sqlite3_errmsg(db));
	sqlite3_close(db);
}
