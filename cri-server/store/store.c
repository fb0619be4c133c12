/*
 * One table: (kind, id) → packed message. The lock is recursive, so that a transaction's owner can
 * write while others wait.
 */
#include "cri-server/store/store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <sqlite3.h>

#include "common/fd.h"
#include "common/proc.h"
#include "cri-server/store/records.pb-c.h"
#include "cri-server/store/schema.h"

#define CACHE_KIB      1024
#define LOCK_PAUSE_MS  50
#define LOCK_PAUSES    100
#define LOCK_MAP_BYTES 1
#define OWNER_BYTES    40 /* its id and its start time */
/* SQLite begins its log anew after 1000 pages of 4 KiB, unless the database itself has no room for
 * them: then as much again. */
#define LOG_HEADER_BYTES 32
#define LOG_BYTES        (8 << 20)

enum statement {
	PUT,
	GET,
	DELETE,
	EACH,
	STATEMENTS,
};

static const char *const statement_texts[STATEMENTS] = {
	[PUT] = "REPLACE INTO record (kind, id, body) VALUES (?1, ?2, ?3)",
	[GET] = "SELECT body FROM record WHERE kind = ?1 AND id = ?2",
	[DELETE] = "DELETE FROM record WHERE kind = ?1 AND id = ?2",
	[EACH] = "SELECT id, body FROM record WHERE kind = ?1 ORDER BY id",
};

static const ProtobufCMessageDescriptor *const descriptors[] = {
	[STORE_SANDBOX] = &bulkhead__store__sandbox__descriptor,
	[STORE_CONTAINER] = &bulkhead__store__container__descriptor,
	[STORE_IMAGE] = &bulkhead__store__image__descriptor,
	[STORE_LAYER] = &bulkhead__store__layer__descriptor,
	[STORE_SETTING] = &bulkhead__store__setting__descriptor,
};

struct store {
	char *path;
	int lock_fd;    /* flock()ed for as long as we live */
	void *lock_map; /* of it, so that children before exec() have it whatever they close */
	sqlite3 *db;
	sqlite3_stmt *statements[STATEMENTS];
	pthread_mutex_t lock; /* recursive; protects all above, and spans a transaction */
	pthread_t owner;      /* of the open transaction */
	bool in_transaction;
};

static int db_error(struct store *s, const char *what, struct err *err)
{
	return schema_error(s->db, s->path, what, err);
}

static int run(struct store *s, const char *sql, struct err *err)
{
	return schema_run(s->db, s->path, sql, err);
}

/*
 * Whether the process that took the lock goes on; of one that was killed nothing but its name is
 * left, and later another process may have its id. Its start time lacks where an earlier build
 * wrote it.
 */
static bool owner_lives(const char *owner)
{
	uint64_t recorded, actual;
	int pid;
	int n = sscanf(owner, "%d %" SCNu64, &pid, &recorded);
	if (n == 2 && (proc_start_time(pid, &actual) < 0 || actual != recorded))
		return false;
	_cleanup_free_ char *path = n < 1 ? NULL : str_printf("/proc/%d/cmdline", pid);
	_cleanup_free_ char *line = NULL;
	size_t len = 0;
	return path && fd_read_file(path, 1 << 16, &line, &len, NULL) == 0 && len > 0;
}

/*
 * -EBUSY with the owner's process id. A child that is about to execute a program shares the lock,
 * also of a process that was killed meanwhile: until it lets go, in a moment, it may still write
 * what we are going to look at, as libvirt's writes QEMU's process id.
 */
static int wait_for_lock(int fd, char owner[OWNER_BYTES])
{
	const struct timespec pause = {.tv_nsec = LOCK_PAUSE_MS * 1000000};
	for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
		ssize_t n = pread(fd, owner, OWNER_BYTES - 1, 0);
		owner[n > 0 ? n : 0] = '\0';
		if (i == LOCK_PAUSES || !owner[0] || owner_lives(owner))
			return -EBUSY;
		nanosleep(&pause, NULL);
	}
	return 0;
}

/* Only one process may own the records. */
static int take_lock(struct store *s, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s.lock", s->path);
	if (!path)
		return err_nomem(err);
	s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->lock_fd < 0)
		return err_errno(err, "open %s", path);
	char owner[OWNER_BYTES] = "";
	if (wait_for_lock(s->lock_fd, owner) < 0) {
		owner[strcspn(owner, " \n")] = '\0';
		return err_set(err, -EBUSY,
			"%s is in use by another bulkheadd (process %s); stop it first, or give "
			"this one a state_dir of its own",
			s->path, owner[0] ? owner : "unknown");
	}
	uint64_t started = 0;
	proc_start_time(getpid(), &started);
	/* Over what is there: a full disk may not give back a block that is let go of. */
	int len = snprintf(owner, sizeof(owner), "%d %" PRIu64 "\n", (int)getpid(), started);
	if (pwrite(s->lock_fd, owner, (size_t)len, 0) != len || ftruncate(s->lock_fd, len) < 0)
		return err_errno(err, "write %s", path);
	s->lock_map = mmap(NULL, LOCK_MAP_BYTES, PROT_NONE, MAP_SHARED, s->lock_fd, 0);
	if (s->lock_map == MAP_FAILED)
		return err_errno(err, "map %s", path);
	return 0;
}

/* A new database, which appears under its name when it is whole. */
static int create_database(struct store *s, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s.new", s->path);
	if (!path)
		return err_nomem(err);
	if (unlink(path) < 0 && errno != ENOENT)
		return err_errno(err, "remove %s", path);
	/* Records hold containers' environments: nobody else reads them, nor -wal and -shm, which
	 * take the mode after. */
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(err, "create %s", path);
	fd = fd_close(fd); /* before SQLite has locks on it, which this would drop */
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW;
	int r = sqlite3_open_v2(path, &s->db, flags, NULL) == SQLITE_OK
			? schema_create(s->db, path, err)
			: schema_error(s->db, path, "create", err);
	sqlite3_close(s->db);
	s->db = NULL;
	if (r == 0 && rename(path, s->path) < 0)
		r = err_errno(err, "rename %s", path);
	return r;
}

static int open_file(struct store *s, int mode, struct err *err)
{
	int flags = mode | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW;
	if (sqlite3_open_v2(s->path, &s->db, flags, NULL) != SQLITE_OK)
		return db_error(s, "open", err);
	sqlite3_busy_timeout(s->db, 5000);
	int keep = 1;
	sqlite3_file_control(s->db, "main", SQLITE_FCNTL_PERSIST_WAL, &keep); /* reserve_log() */
	return schema_check(s->db, s->path, err);
}

/* SQLite has no lock on this file, which the end of the descriptor would drop. */
static int open_log(const struct store *s)
{
	_cleanup_free_ char *path = str_printf("%s-wal", s->path);
	return path ? open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -EBADF;
}

static int prepare_statements(struct store *s, struct err *err)
{
	int r = 0;
	for (size_t i = 0; i < STATEMENTS && r == 0; i++)
		if (sqlite3_prepare_v3(s->db, statement_texts[i], -1, SQLITE_PREPARE_PERSISTENT,
			    &s->statements[i], NULL) != SQLITE_OK)
			r = db_error(s, statement_texts[i], err);
	return r;
}

/*
 * What is recorded on a full disk is first of all that something is gone, which is to make room. So
 * the log has its blocks from the start and keeps them, and SQLite writes over them again and
 * again. Without room now there is no reserve.
 */
static int reserve_log(const struct store *s, struct err *err)
{
	_cleanup_close_ int fd = open_log(s);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return errno == ENOENT ? 0 : err_errno(err, "examine the log of %s", s->path);
	if (posix_fallocate(fd, 0, LOG_BYTES) != 0 && ftruncate(fd, st.st_size) < 0)
		return err_errno(err, "shorten the log of %s", s->path);
	return 0;
}

/*
 * A database that was closed is whole without its log, which whoever restores one does not think
 * of: what stands in it must not count any more. It must where another process still reads from it,
 * for the next bulkheadd then writes behind that.
 */
static void void_log(const struct store *s)
{
	const char header[LOG_HEADER_BYTES] = {0};
	sqlite3_busy_timeout(s->db, 0);
	if (sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_RESTART, NULL, NULL) !=
		SQLITE_OK)
		return;
	_cleanup_close_ int fd = open_log(s);
	if (fd >= 0 && pwrite(fd, header, sizeof(header), 0) < 0)
		return; /* then it still says what the database does */
}

static int open_database(struct store *s, struct err *err)
{
	int r = access(s->path, F_OK) < 0 && errno == ENOENT ? create_database(s, err) : 0;
	if (r == 0)
		r = open_file(s, SQLITE_OPEN_READWRITE, err);
	if (r == 0 && sqlite3_db_readonly(s->db, "main"))
		r = err_set(err, -EROFS,
			"%s can only be read: make it and its file system writable", s->path);
	if (r < 0)
		return r;
	char cache[64];
	snprintf(cache, sizeof(cache), "PRAGMA cache_size = -%d", CACHE_KIB);
	r = run(s, "PRAGMA journal_mode = WAL", err);
	if (r == 0)
		r = run(s, "PRAGMA synchronous = NORMAL", err);
	if (r == 0)
		r = run(s, cache, err);
	if (r == 0)
		r = schema_migrate(s->db, s->path, err);
	if (r == 0)
		r = reserve_log(s, err);
	return r < 0 ? r : prepare_statements(s, err);
}

static struct store *store_new(const char *path, struct err *err)
{
	struct store *s = calloc(1, sizeof(*s));
	if (s)
		s->path = strdup(path);
	if (!s || !s->path) {
		free(s);
		err_nomem(err);
		return NULL;
	}
	s->lock_fd = -EBADF;
	s->lock_map = MAP_FAILED;
	pthread_mutexattr_t attr;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&s->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	return s;
}

int store_open(const char *path, struct store **ret, struct err *err)
{
	struct store *s = store_new(path, err);
	int r = s ? take_lock(s, err) : -ENOMEM;
	if (r == 0)
		r = open_database(s, err);
	if (r < 0) {
		store_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

int store_open_read(const char *path, struct store **ret, struct err *err)
{
	struct store *s = store_new(path, err);
	int r = s ? open_file(s, SQLITE_OPEN_READONLY, err) : -ENOMEM;
	if (r == 0)
		r = prepare_statements(s, err);
	if (r < 0) {
		store_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

struct store *store_close(struct store *s)
{
	if (!s)
		return NULL;
	bool owned = s->lock_fd >= 0 && s->statements[STATEMENTS - 1];
	for (size_t i = 0; i < STATEMENTS; i++)
		sqlite3_finalize(s->statements[i]);
	if (owned)
		void_log(s);
	sqlite3_close(s->db);
	if (s->lock_map != MAP_FAILED)
		munmap(s->lock_map, LOCK_MAP_BYTES);
	fd_close(s->lock_fd);
	pthread_mutex_destroy(&s->lock);
	free(s->path);
	free(s);
	return NULL;
}

/* A statement with its first two parameters, the lock held until done(). */
static sqlite3_stmt *begin(
	struct store *s, enum statement which, enum store_kind kind, const char *id)
{
	pthread_mutex_lock(&s->lock);
	sqlite3_stmt *st = s->statements[which];
	sqlite3_bind_int(st, 1, (int)kind);
	if (id)
		sqlite3_bind_text(st, 2, id, -1, SQLITE_STATIC);
	return st;
}

static void done(struct store *s, sqlite3_stmt *st)
{
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
	pthread_mutex_unlock(&s->lock);
}

int store_put(struct store *s, enum store_kind kind, const char *id, const ProtobufCMessage *record,
	struct err *err)
{
	if (record->descriptor != descriptors[kind])
		return err_set(err, -EINVAL, "record '%s' is a %s, not a %s", id,
			record->descriptor->name, descriptors[kind]->name);
	size_t len = protobuf_c_message_get_packed_size(record);
	_cleanup_free_ uint8_t *body = malloc(len ? len : 1);
	if (!body)
		return err_nomem(err);
	protobuf_c_message_pack(record, body);
	sqlite3_stmt *st = begin(s, PUT, kind, id);
	sqlite3_bind_blob64(st, 3, body, len, SQLITE_STATIC);
	int r = sqlite3_step(st) == SQLITE_DONE ? 0 : db_error(s, "write a record", err);
	done(s, st);
	return r;
}

static ProtobufCMessage *unpack(enum store_kind kind, const void *body, size_t len)
{
	return protobuf_c_message_unpack(
		descriptors[kind], NULL, len, len ? body : (const void *)"");
}

int store_get(struct store *s, enum store_kind kind, const char *id, ProtobufCMessage **ret_record,
	struct err *err)
{
	sqlite3_stmt *st = begin(s, GET, kind, id);
	int step = sqlite3_step(st), r = 1;
	if (step == SQLITE_ROW) {
		ProtobufCMessage *record = unpack(
			kind, sqlite3_column_blob(st, 0), (size_t)sqlite3_column_bytes(st, 0));
		r = record ? 0
			   : err_set(err, -EBADMSG, "%s: record '%s' does not parse", s->path, id);
		if (record)
			*ret_record = record;
	} else if (step != SQLITE_DONE) {
		r = db_error(s, "read a record", err);
	}
	done(s, st);
	return r;
}

int store_delete(struct store *s, enum store_kind kind, const char *id, struct err *err)
{
	sqlite3_stmt *st = begin(s, DELETE, kind, id);
	int r = sqlite3_step(st) == SQLITE_DONE ? 0 : db_error(s, "delete a record", err);
	done(s, st);
	return r;
}

/* Of a walk, as it was read. */
struct row {
	struct row *next;
	const char *id; /* behind the body */
	size_t len;
	uint8_t body[];
};

static struct row *row_free(struct row *row)
{
	struct row *next = row->next;
	free(row);
	return next;
}

static struct row *read_row(sqlite3_stmt *st)
{
	const char *id = (const char *)sqlite3_column_text(st, 0);
	const void *body = sqlite3_column_blob(st, 1);
	size_t len = (size_t)sqlite3_column_bytes(st, 1);
	struct row *row = id ? calloc(1, sizeof(*row) + len + strlen(id) + 1) : NULL;
	if (!row)
		return NULL;
	row->len = len;
	if (len)
		memcpy(row->body, body, len);
	row->id = memcpy(row->body + len, id, strlen(id) + 1);
	return row;
}

static int read_rows(struct store *s, enum store_kind kind, struct row **ret, struct err *err)
{
	sqlite3_stmt *st = begin(s, EACH, kind, NULL);
	struct row **last = ret;
	int step, r = 0;
	while (r == 0 && (step = sqlite3_step(st)) != SQLITE_DONE) {
		if (step != SQLITE_ROW)
			r = db_error(s, "read the records", err);
		else if ((*last = read_row(st)))
			last = &(*last)->next;
		else
			r = err_nomem(err);
	}
	done(s, st);
	return r;
}

static int visit(struct store *s, enum store_kind kind, const struct row *row,
	int (*fn)(void *userdata, const char *id, const ProtobufCMessage *record), void *userdata,
	struct err *err)
{
	ProtobufCMessage *record = unpack(kind, row->body, row->len);
	int r = record ? fn(userdata, row->id, record) : -EBADMSG;
	if (r < 0)
		err_set(err, r, "%s: record '%s': %s", s->path, row->id, strerror(-r));
	if (record)
		protobuf_c_message_free_unpacked(record, NULL);
	return r;
}

/* fn is called without the lock, for it takes locks under which others come for this one. */
int store_each(struct store *s, enum store_kind kind,
	int (*fn)(void *userdata, const char *id, const ProtobufCMessage *record), void *userdata,
	struct err *err)
{
	struct row *rows = NULL;
	int r = read_rows(s, kind, &rows, err);
	for (; rows; rows = row_free(rows)) {
		if (r == 0)
			r = visit(s, kind, rows, fn, userdata, err);
	}
	return r;
}

static int begin_transaction(struct store *s, const char *sql, struct err *err)
{
	pthread_mutex_lock(&s->lock);
	assert(!s->in_transaction);
	int r = run(s, sql, err);
	if (r < 0) {
		pthread_mutex_unlock(&s->lock);
		return r;
	}
	s->in_transaction = true;
	s->owner = pthread_self();
	return 0;
}

int store_begin(struct store *s, struct err *err)
{
	return begin_transaction(s, "BEGIN IMMEDIATE", err);
}

int store_begin_read(struct store *s, struct err *err)
{
	return begin_transaction(s, "BEGIN", err);
}

static void end_transaction(struct store *s)
{
	s->in_transaction = false;
	pthread_mutex_unlock(&s->lock); /* store_begin()'s */
}

int store_commit(struct store *s, struct err *err)
{
	assert(s->in_transaction);
	int r = run(s, "COMMIT", err);
	if (r == 0)
		end_transaction(s);
	return r;
}

void store_rollback(struct store *s)
{
	pthread_mutex_lock(&s->lock);
	bool ours = s->in_transaction && pthread_equal(s->owner, pthread_self());
	if (ours) {
		run(s, "ROLLBACK", NULL);
		end_transaction(s);
	}
	pthread_mutex_unlock(&s->lock);
}
