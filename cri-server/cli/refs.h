/* Finding pods and containers by what people type: an id, the beginning of one, or a name. */
#pragma once

#include "cri-server/cli/cli.h"

struct ref {
	const char *id;
	const char *name;
};

/*
 * The index of the one meant: the id itself, else the only one of that name, else the only one
 * whose id begins so. -ENOENT; -EINVAL when several fit. kind ("container") is for the messages.
 */
int ref_find(const struct ref *refs, size_t n_refs, const char *wanted, const char *kind,
	size_t *ret_index, struct err *err);

/* Asks the runtime for its containers or pods. *ret_id is the caller's. */
int cli_find_container(struct cli *cli, const char *wanted, char **ret_id, struct err *err);
int cli_find_pod(struct cli *cli, const char *wanted, char **ret_id, struct err *err);
