/*
 * What the tests of the store share: a directory for a database, new for each test, and what is
 * done to it behind the store's back. The functions fail the test by themselves.
 */
#pragma once

#include "cri-server/store/store.h"

struct place {
	char dir[64];
	char path[96]; /* of the database, which is not there yet */
};

/* For cmocka: *state becomes the place; all that is in it goes at the end. */
int place_set_up(void **state);
int place_tear_down(void **state);

struct store *open_store(const char *path);
/* Has SQLite change a database that no store has open. */
void alter(const char *path, const char *sql);
