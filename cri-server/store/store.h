/*
 * The node's records: SQLite in WAL mode at one path, owned by one bulkheadd.
 *
 * A record is a protobuf message of records.proto under a kind and an id. All that bulkheadd must
 * know after a crash is here and nowhere else; what can be looked up (a VM, a netns) is not. A
 * write is durable against the death of the process when the call returns (synchronous=NORMAL: a
 * power cut may lose the last writes, never the database).
 *
 * Threads: any; one connection under a lock, which transactions hold from begin to end on the
 * calling thread.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "common/err.h"

struct store;

enum store_kind {
	STORE_SANDBOX,   /* Bulkhead__Store__Sandbox */
	STORE_CONTAINER, /* Bulkhead__Store__Container */
	STORE_IMAGE,     /* Bulkhead__Store__Image */
	STORE_LAYER,     /* Bulkhead__Store__Layer */
	STORE_SETTING,   /* Bulkhead__Store__Setting */
};

/*
 * Opens or creates the database. -EBUSY: another process has it (named by pid where known). A file
 * that is not ours, damaged, or of a newer schema is refused with the remedy in the message and
 * left as it is.
 */
int store_open(const char *path, struct store **ret, struct err *err);
/*
 * Opens it only to read, also while a bulkheadd has it, which does not notice. -ENOENT, and refused
 * as above.
 */
int store_open_read(const char *path, struct store **ret, struct err *err);
struct store *store_close(struct store *store);

/* Writes a record, replacing one of the same kind and id. -EINVAL when the message is of another
 * kind. */
int store_put(struct store *store, enum store_kind kind, const char *id,
	const ProtobufCMessage *record, struct err *err);

/* 0 with the record (freed by the caller); positive 1: there is none. */
int store_get(struct store *store, enum store_kind kind, const char *id,
	ProtobufCMessage **ret_record, struct err *err);

/* Deleting what is not there is success. */
int store_delete(struct store *store, enum store_kind kind, const char *id, struct err *err);

/*
 * Calls fn for every record of the kind that there is now, ordered by id; the record is freed after
 * fn returns. An error of fn ends the walk and is returned. fn may take locks and call the store.
 */
int store_each(struct store *store, enum store_kind kind,
	int (*fn)(void *userdata, const char *id, const ProtobufCMessage *record), void *userdata,
	struct err *err);

/* A transaction: all writes of this thread until store_commit() take effect together or not at all.
 */
int store_begin(struct store *store, struct err *err);
/* All reads of this thread until store_rollback() see one moment. */
int store_begin_read(struct store *store, struct err *err);
int store_commit(struct store *store, struct err *err);
/* Does nothing where no transaction of this thread is open: safe in every unwinding. */
void store_rollback(struct store *store);
