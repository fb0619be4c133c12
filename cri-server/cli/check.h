/*
 * The findings of `bulkheadctl check`. Each check_ function looks at one part of the host and
 * reports what it sees; none changes anything that lasts.
 */
#pragma once

#include <stdbool.h>

#include "cri-server/cli/cli.h"
#include "cri-server/config.h"

enum finding {
	FINDING_OK,
	FINDING_WARN,    /* works, but slower or with less */
	FINDING_MISSING, /* pods will not run */
};

struct check {
	struct cli *cli;
	const struct config *config;
	bool utf8; /* the terminal shows marks */
	unsigned n_missing;
};

/* One line: the subject, what was found, and where it helps what to do (NULL: nothing to do). */
void check_report(struct check *check, enum finding finding, const char *subject,
	const char *remedy, const char *fmt, ...) __attribute__((format(printf, 5, 6)));

void check_machine(struct check *check);  /* privileges, KVM, vsock, memory, disk, cgroups */
void check_network(struct check *check);  /* tun, traffic control, CNI */
void check_programs(struct check *check); /* QEMU, virtiofsd, image tools, guest files */
