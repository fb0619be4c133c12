/*
 * What a process gives up before it execs the user's program: resource limits to the defaults, the
 * session keyring, capabilities, ids, and the way back to any of it.
 *
 * Capabilities as runc sets them: the requested ones are the bounding set, and for uid 0 the
 * permitted and effective set too; the inheritable set is the ambient one, so that a program run by
 * another uid has only what was asked for as ambient.
 *
 * The seccomp filter comes last of all, right before the exec: it sees no call but that one.
 * Without no_new_privs the kernel wants CAP_SYS_ADMIN for it, which is kept so long, outside of the
 * bounding set: the exec takes it away.
 *
 * A user namespace is entered when the limits are set, which inside could not be raised; user,
 * groups and capabilities are its own.
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

struct security_filter {
	const void *program; /* struct sock_filter[] */
	size_t len;          /* bytes; 0: no filter */
	uint32_t flags;      /* SECCOMP_FILTER_FLAG_… */
};

struct security {
	uint64_t capabilities;
	uint64_t ambient; /* of capabilities */
	bool no_new_privs;
	bool filtered; /* security_filter_load() follows */
	int userns;    /* to be entered; 0 or negative: none */
	int unshare;   /* then: CLONE_NEW…, of namespaces that it is to own */
};

/* In this order everything but no_new_privs is irrevocable at once; then comes exec. */
int security_apply(const struct user *user, const struct security *security, struct err *err);

/* Nothing but exec may follow. -EINVAL: the kernel does not take the program. */
int security_filter_load(const struct security_filter *filter, struct err *err);
