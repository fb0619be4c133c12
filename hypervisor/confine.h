/*
 * What a helper of a machine gives up before it talks to QEMU or a guest: its user, every
 * capability, new privileges, being traced, core dumps, all files but those of its machine, the
 * host's network (and with it abstract sockets), and all system calls but those of its loop.
 * In this order; each blocks for no longer than its system calls.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "common/err.h"

struct confine_user {
	uid_t uid;
	gid_t gid;
};

/* "UID:GID", which need no names; or the process's own where it is NULL. */
int confine_user(const char *text, struct confine_user *ret, struct err *err);

/*
 * Into mount, network, IPC and UTS namespaces of its own, in which the directory that path lies in
 * is all that there is, and the current directory: sockets in it are connected to by their names.
 * ret_path, which may be NULL, is what path is called in there, a part of it. A process that is not
 * root cannot, and stays where it is.
 */
int confine_beside(const char *path, const char **ret_path, struct err *err);

/* Becomes the user for good. Needs root unless it is that user already. */
int confine_become(const struct confine_user *user, struct err *err);

struct confine_rights {
	const int *calls; /* system calls beside those of memory and of the end */
	size_t n_calls;
	bool unix_sockets; /* may make them */
	rlim_t files;      /* descriptors at once, at most */
};

/* Limits, no_new_privs and the filter; after this a forbidden system call kills the process. */
int confine_keep(const struct confine_rights *rights, struct err *err);
