/*
 * A machine's share: the tree of files that the host shows its guest through virtiofs.
 *
 * virtiofsd serves the empty directory <dir>/share from a mount namespace of its own. What the
 * guest is to see is attached in that namespace alone, each thing at a mount point of its own
 * directly below the root: nothing of it is mounted in the host's namespace, so a removal of files
 * never meets it, no other process holds it, and all of it ends with virtiofsd, which ends with
 * QEMU. The root is read-only for the guest: no name on the way to a mount point is the guest's to
 * change, and none is a symbolic link.
 *
 * Threads: as vm.h says; functions that attach or detach fork.
 */
#pragma once

#include "common/err.h"
#include "common/userns.h"

struct cgroup_place;
struct share {
	const char *dir;     /* the machine's directory */
	const char *program; /* virtiofsd */
	const struct cgroup_place *place;
};

/*
 * Starts virtiofsd. *ret_socket is what QEMU connects to (freed by the caller); *ret_log reads what
 * virtiofsd says, from offset 0 on (closed by the caller). On failure nothing runs.
 */
int share_start(const struct share *share, char **ret_socket, int *ret_log, struct err *err);

/* Makes the root read-only. When QEMU has connected, and before the guest runs what is not ours. */
int share_seal(const char *dir, struct err *err);

/* See hv_vm_bind() and those after it. */
struct share_source {
	int fd;
	unsigned flags;
	const struct userns_map *map; /* NULL: ids as they are */
};
int share_bind(
	const char *dir, const char *name, const struct share_source *source, struct err *err);
int share_writable(const char *dir, const char *name, struct err *err);
int share_unbind(const char *dir, const char *name, struct err *err);
int share_each(const char *dir, int (*fn)(void *userdata, const char *name), void *userdata,
	struct err *err);

/* Of virtiofsd; the caller closes it. */
int share_pidfd(const char *dir, int *ret_pidfd, struct err *err);
/* Ends virtiofsd, should it still run, whatever a guest has made of it. */
int share_end(const char *dir, struct err *err);
