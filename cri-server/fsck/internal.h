/* What the files of fsck/ share: one look, on the stack of fsck_look(). */
#pragma once

#include <stdint.h>

#include "cri-server/fsck/fsck.h"
#include "cri-server/store/records.pb-c.h"
#include "cri-server/store/store.h"

#define FSCK_ID_LEN 32
/* libvirt cuts a machine's name off in some names of its own. */
#define FSCK_ID_PART 17
#define FSCK_PLACES  16
#define FSCK_KINDS   (STORE_LAYER + 1) /* the kinds of records that have a reality */

enum fsck_process {
	FSCK_QEMU,
	FSCK_CONSOLE,
	FSCK_VSOCK,
	FSCK_VIRTIOFSD,
	FSCK_PROCESSES,
};

struct fsck_record {
	char *id;
	union {
		ProtobufCMessage *message;
		Bulkhead__Store__Sandbox *pod;
		Bulkhead__Store__Container *container;
		Bulkhead__Store__Image *image;
		Bulkhead__Store__Layer *layer;
	};
	bool moving; /* a pod or container that is being made: all is allowed, nothing expected */
	bool needed; /* a layer: by an image or a container */
	/* Of a pod. */
	bool places[FSCK_PLACES]; /* where something of it was found */
	unsigned processes[FSCK_PROCESSES];
	uint32_t cid;             /* its guest's address; 0: bulkhead-vsock reaches it */
	bool needs_lease, leased; /* an address of host-local's */
};

struct fsck {
	const struct config *config;
	struct fsck_report *report;
	int64_t serving_since_ns;
	struct fsck_record *records[FSCK_KINDS]; /* as many as report->n says */
	int failure;                             /* memory was out */
};

/* How much of a pod something belongs to. */
enum fsck_need {
	FSCK_MACHINE, /* there while it is READY */
	FSCK_NETWORK, /* there until it is stopped */
	FSCK_DISK,    /* there until it is removed */
};

/* kind: of the record that it is about, or FSCK_KINDS: something of the host. */
void fsck_find(struct fsck *fsck, size_t kind, const char *id, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* The record whose id begins so; NULL: none. */
struct fsck_record *fsck_record(struct fsck *fsck, enum store_kind kind, const char *id);
/* Whether the pod, which may be NULL, may have what belongs to that much of it. */
bool fsck_allows(const struct fsck_record *pod, enum fsck_need need);
/* Whether it must have a machine. */
bool fsck_pod_runs(const struct fsck_record *pod);
/* The id, or the part of one, in a name: its first run of that many hex digits. */
bool fsck_id_in(const char *name, char id[FSCK_ID_LEN + 1]);
/* Calls fn for the entries of a directory; one that is not there has none. */
int fsck_each_entry(struct fsck *fsck, const char *path,
	void (*fn)(struct fsck *fsck, const char *name, void *userdata), void *userdata,
	struct err *err);

/* The root of the embedded driver; NULL where another is configured. */
const char *fsck_libvirt_root(const struct config *config);

/* Each looks at one kind of things. 0, or -errno where it could not. */
int fsck_places(struct fsck *fsck, struct err *err);
int fsck_processes(struct fsck *fsck, struct err *err);
int fsck_cgroups(struct fsck *fsck, struct err *err);
int fsck_volumes(struct fsck *fsck, struct err *err);
int fsck_networks(struct fsck *fsck, struct err *err);
int fsck_images(struct fsck *fsck, struct err *err);
int fsck_leases(struct fsck *fsck, struct err *err);
/* After the processes. */
int fsck_look_into_guests(struct fsck *fsck, struct fsck_guests *guests, struct err *err);
