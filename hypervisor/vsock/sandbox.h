/*
 * What this process gives up before it talks to QEMU or a guest: its user, every capability, new
 * privileges, being traced, all files but those of its machine, the host's network (and with it
 * abstract sockets), and all system calls but those of its loop.
 */
#pragma once

#include <pwd.h>

#include "common/err.h"

/*
 * Into mount, network, IPC and UTS namespaces of its own, in which `dir` is all that there is and
 * the current directory: sockets in it are connected to by their names. 1 where the process is not
 * root, which cannot: nothing was done.
 */
int vs_sandbox_confine(const char *dir, struct err *err);

/* Becomes the user for good. Needs root unless it is that user already. */
int vs_sandbox_drop_user(const struct passwd *user, struct err *err);

/* Limits, no_new_privs and the filter; after this a forbidden system call kills the process. */
int vs_sandbox_enter(struct err *err);
