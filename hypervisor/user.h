/*
 * The user whose rights QEMU and its helpers have. Plain value; any thread.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#define USER_GROUPS_MAX 32

struct user {
	char name[64]; /* "" when the host has none: QEMU runs as libvirt's build decides */
	char group[64];
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_GROUPS_MAX];
	int n_groups;
};

/* The user that the distribution's libvirt made for QEMU. */
void user_find_qemu(struct user *ret);

/*
 * Takes the user's rights in a child process between fork and exec or exit: async-signal-safe. 0 or
 * -errno; nothing when the user is unknown or we are not root.
 */
int user_become(const struct user *user);

/* Whether the user may access the path with the mode of access(2). Asked in a child process. */
bool user_can(const struct user *user, const char *path, int mode);
