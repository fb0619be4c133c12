#include "cri-server/store/schema.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/version.h"

#define APPLICATION_ID 0x62756c6b /* "bulk", in the file's header */
#define VERSION_BYTES  64

/* [n] makes form n + 1 of form n; of nothing the first. */
static const char *const migrations[] = {
	("CREATE TABLE record (kind INTEGER NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL,"
	 " PRIMARY KEY (kind, id)) WITHOUT ROWID"),
	/* Who wrote it, for an older bulkheadd to name. */
	"CREATE TABLE writer (version TEXT NOT NULL); INSERT INTO writer VALUES ('')",
	/* Sandboxes have keys: a bulkheadd that knows of none is refused by their agents, and would
	 * take the machines for dead. */
	"SELECT 1",
};

#define SCHEMA_VERSION ((sqlite3_int64)ARRAY_SIZE(migrations))

/* Said of what is around the file, which may be as good as it was. */
static bool is_of_host(int primary)
{
	return primary == SQLITE_IOERR || primary == SQLITE_CANTOPEN;
}

int schema_error(sqlite3 *db, const char *path, const char *what, struct err *err)
{
	int primary = sqlite3_errcode(db) & 0xff;
	/* Of the files beside the database it says no more than "disk I/O error". */
	bool full = primary == SQLITE_FULL ||
		    (is_of_host(primary) && sqlite3_system_errno(db) == ENOSPC);
	int code = full                         ? -ENOSPC
		   : primary == SQLITE_NOMEM    ? -ENOMEM
		   : primary == SQLITE_READONLY ? -EROFS
						: -EIO;
	return err_set(err, code, "%s: %s: %s%s", path, what, sqlite3_errmsg(db),
		full && primary != SQLITE_FULL ? ": No space left on device" : "");
}

int schema_run(sqlite3 *db, const char *path, const char *sql, struct err *err)
{
	return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK
		       ? 0
		       : schema_error(db, path, sql, err);
}

/* The first column of the first row, a number. */
static int query_number(
	sqlite3 *db, const char *path, const char *sql, sqlite3_int64 *ret, struct err *err)
{
	sqlite3_stmt *st;
	if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK)
		return schema_error(db, path, sql, err);
	int r = 0;
	if (sqlite3_step(st) == SQLITE_ROW)
		*ret = sqlite3_column_int64(st, 0);
	else
		r = schema_error(db, path, sql, err);
	sqlite3_finalize(st);
	return r;
}

static int refuse(const char *path, const char *what, struct err *err)
{
	return err_set(err, -EBADMSG,
		"%s %s; it is left as it is. Restore it from a backup, or move it and its -wal and "
		"-shm away to begin anew: pods that run are then removed",
		path, what);
}

static bool text_answers(sqlite3 *db, const char *sql, char text[VERSION_BYTES])
{
	sqlite3_stmt *st;
	if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK)
		return false;
	const unsigned char *answer =
		sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_text(st, 0) : NULL;
	if (answer)
		snprintf(text, VERSION_BYTES, "%s", (const char *)answer);
	sqlite3_finalize(st);
	return answer;
}

static int refuse_newer(sqlite3 *db, const char *path, sqlite3_int64 version, struct err *err)
{
	char writer[VERSION_BYTES] = "";
	text_answers(db, "SELECT version FROM writer", writer);
	return err_set(err, -EBADMSG,
		"%s was written by a newer bulkheadd (%s, form %lld; this is " BULKHEAD_VERSION
		" and knows %lld); it is left as it is. Run that version again: it finds its pods. "
		"Or move the file and its -wal and -shm away to begin anew: pods that run are then "
		"removed",
		path, writer[0] ? writer : "of an unknown version", version, SCHEMA_VERSION);
}

int schema_create(sqlite3 *db, const char *path, struct err *err)
{
	char sql[64];
	snprintf(sql, sizeof(sql), "PRAGMA application_id = %d", APPLICATION_ID);
	int r = schema_run(db, path, sql, err);
	return r < 0 ? r : schema_migrate(db, path, err);
}

int schema_check(sqlite3 *db, const char *path, struct err *err)
{
	sqlite3_int64 application = 0, version = 0, tables = 0;
	char answer[VERSION_BYTES];
	bool answered = text_answers(db, "PRAGMA quick_check(1)", answer);
	int primary = sqlite3_errcode(db) & 0xff;
	if (!answered && (is_of_host(primary) || primary == SQLITE_FULL || primary == SQLITE_NOMEM))
		return schema_error(db, path, "examine it", err);
	if (!answered || strcmp(answer, "ok") != 0)
		return refuse(path, "is damaged, or not a database", err);
	int r = query_number(db, path, "PRAGMA application_id", &application, err);
	if (r == 0)
		r = query_number(db, path, "PRAGMA user_version", &version, err);
	if (r == 0)
		r = query_number(db, path, "SELECT count(*) FROM sqlite_schema", &tables, err);
	if (r < 0)
		return r;
	/* Ours appear whole, under their name: this one has lost what it had. */
	if (!tables && !application && !version)
		return refuse(path, "is empty", err);
	if (application != APPLICATION_ID)
		return refuse(path, "is a database of another program", err);
	if (version < 1 || !tables)
		return refuse(path, "has lost what it had", err);
	return version > SCHEMA_VERSION ? refuse_newer(db, path, version, err) : 0;
}

static int migrate_one(sqlite3 *db, const char *path, sqlite3_int64 from, struct err *err)
{
	char sql[512];
	snprintf(sql, sizeof(sql), "BEGIN IMMEDIATE; %s; PRAGMA user_version = %lld; COMMIT",
		migrations[from], from + 1);
	int r = schema_run(db, path, sql, err);
	if (r < 0)
		sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	return r < 0 ? err_wrap(err, "bring the records from form %lld to %lld", from, from + 1)
		     : 0;
}

int schema_migrate(sqlite3 *db, const char *path, struct err *err)
{
	sqlite3_int64 version = 0;
	int r = query_number(db, path, "PRAGMA user_version", &version, err);
	for (; r == 0 && version < SCHEMA_VERSION; version++)
		r = migrate_one(db, path, version, err);
	if (r == 0)
		r = schema_run(db, path,
			"UPDATE writer SET version = '" BULKHEAD_VERSION
			"' WHERE version <> '" BULKHEAD_VERSION "'",
			err);
	return r;
}
