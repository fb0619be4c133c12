/*
 * What a process gives up before it execs the user's program: resource limits to the defaults, the
 * session keyring, capabilities, ids, and the way back to any of it.
 *
 * Capabilities as runc sets them: the requested ones are the bounding set, and for uid 0 the
 * permitted and effective set too; inheritable and ambient sets are empty, so that a program run by
 * another uid has none.
 *
 * Called in the forked child.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/user.h"
#include "common/err.h"

/* "CAP_…" names to a mask of 1 << CAP_…. -EINVAL names the unknown one. */
int security_capabilities(char *const *names, size_t n, uint64_t *ret_mask, struct err *err);
/* Every capability that this kernel has. */
uint64_t security_all_capabilities(void);

/* Needs a procfs at /proc in which the caller is. */
int security_oom_score_adj(int adj, struct err *err);

/* In this order everything but no_new_privs is irrevocable at once; then comes exec. */
int security_apply(
	const struct user *user, uint64_t capabilities, bool no_new_privs, struct err *err);
