/*
 * What this process gives up before it talks to QEMU or a guest: its user, every capability, new
 * privileges, being traced, and all system calls but those of its loop.
 */
#pragma once

#include <pwd.h>

#include "common/err.h"

/* Becomes the user for good. Needs root unless it is that user already. */
int vs_sandbox_drop_user(const struct passwd *user, struct err *err);

/* Limits, no_new_privs and the filter; after this a forbidden system call kills the process. */
int vs_sandbox_enter(struct err *err);
