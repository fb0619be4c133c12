/*
 * The form of the database: how it is made, recognised, and brought from an older form to ours.
 *
 * user_version is the form's number. Each is made of the one before by a migration, in one
 * transaction with its number, so that a process that dies in the midst leaves the older form. A
 * newer one is refused, by the name of who wrote it. New fields of a record's message need no new
 * form; a new meaning of old ones does.
 *
 * Threads: whoever has the connection.
 */
#pragma once

#include <sqlite3.h>

#include "common/err.h"

/* The connection's last error, with what was tried on which file. */
int schema_error(sqlite3 *db, const char *path, const char *what, struct err *err);

/* Runs SQL that answers nothing. */
int schema_run(sqlite3 *db, const char *path, const char *sql, struct err *err);

/* Makes an empty database into one of ours. */
int schema_create(sqlite3 *db, const char *path, struct err *err);

/* -EBADMSG with the remedy: it is damaged, not ours, or newer. Changes nothing. */
int schema_check(sqlite3 *db, const char *path, struct err *err);

/* Brings one that was checked to our form, and notes who writes it from now on. */
int schema_migrate(sqlite3 *db, const char *path, struct err *err);
