/*
 * fsck: whether every record has its reality, and every reality its record.
 *
 * It reads the records beside a bulkheadd that runs, or without one, and compares them with what
 * the host has: machines and their helper processes, network namespaces, CNI attachments, disks,
 * addresses, log offsets, cgroups, images' files, and with what the agents of its guests have. It
 * believes nothing that bulkheadd says of itself, and changes nothing.
 *
 * A finding is something that no order of events in a healthy node leaves for longer than moments;
 * what is in motion (a pod that is being made) is none. A pod that is being stopped or removed
 * passes through states that would be: look again, and keep what both times found.
 *
 * Threads: one. Takes root, for bulkheadd's directories are root's.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "cri-server/config.h"

/* In the order of enum store_kind. */
enum { FSCK_N_PODS, FSCK_N_CONTAINERS, FSCK_N_IMAGES, FSCK_N_LAYERS, FSCK_N };

struct fsck_finding {
	const char *kind; /* "pod", "container", "image", "layer", "host" */
	char *id;         /* of what it is about; of the host's: a path or a process */
	char *problem;
};

struct fsck_report {
	bool serving;     /* a bulkheadd has the records */
	size_t n[FSCK_N]; /* records that were looked at */
	struct fsck_finding *findings;
	size_t n_findings;
};

/* The connections to guests, for all looks; each guest is given answer_ms. Freeing takes NULL. */
struct fsck_guests;
int fsck_guests_new(uint64_t answer_ms, struct fsck_guests **ret, struct err *err);
struct fsck_guests *fsck_guests_free(struct fsck_guests *guests);

/*
 * One look; into guests too unless they are NULL: one that does not answer is waited for once.
 * -errno: it could not look (no database, not root), with the remedy in the message.
 */
int fsck_look(const struct config *config, struct fsck_guests *guests, struct fsck_report **ret,
	struct err *err);

/* Drops from report what `other`, of another time, has not found. */
void fsck_keep_common(struct fsck_report *report, const struct fsck_report *other);

struct fsck_report *fsck_report_free(struct fsck_report *report);
