/*
 * The users whose rights QEMUs and their helpers have. A machine's has an id of its own, by which
 * the kernel keeps one that its guest has taken over from the other machines' processes, memory,
 * files and sockets; its one group, by which /dev/kvm opens, is all machines'. Plain values; any
 * thread.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

/*
 * Ids that systemd's list of assignments leaves to nobody: above those of containers, below those
 * of files from elsewhere (https://systemd.io/UIDS-GIDS). The first is no machine's; with it is
 * asked what every machine may do.
 */
#define USER_OF_NONE     0x70000000u
#define USER_MACHINE_MIN 0x70000001u
#define USER_MACHINE_MAX 0x7ffdffffu

/* The user that the distribution's libvirt made for QEMU. */
struct user {
	char name[64]; /* "" when the host has none: QEMU runs as libvirt's build decides */
	char group[64];
	uid_t uid;
	gid_t gid; /* of machines too */
};

void user_find_qemu(struct user *ret);

/* An id for a machine, by chance. */
uid_t user_pick(void);

/*
 * Takes a machine's rights, but not what is one machine's own, in a child process between fork and
 * exec or exit: async-signal-safe. 0 or -errno; nothing when QEMU's user is unknown or we are not
 * root.
 */
int user_become_machine(const struct user *qemu);

/* Whether any machine may access the path with the mode of access(2). Asked in a child process. */
bool user_machine_can(const struct user *qemu, const char *path, int mode);
