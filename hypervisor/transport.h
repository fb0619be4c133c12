/*
 * How the host reaches a guest's AF_VSOCK ports: a table of operations with two makes.
 *
 *	vhost-vsock  the host kernel's device; a CID of its own, AF_VSOCK on the host too
 *	vhost-user   `bulkhead-vsock`, a process per machine; a Unix socket per machine
 *
 * The guest sees a virtio-vsock device either way.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

struct cgroup_place;
struct transport_machine {
	const char *dir;     /* <run_dir>/vm/<id> */
	const char *program; /* bulkhead-vsock */
	const char *user;    /* "UID:GID", whose rights the program takes; NULL: ours */
	uint32_t cid;        /* of a running machine */
	const struct cgroup_place *place; /* of what is started */
};

struct transport {
	const char *name;
	/*
	 * Before QEMU starts. *ret_vhost_socket: what QEMU connects to, NULL where it opens the
	 * kernel's device; the caller frees.
	 */
	int (*prepare)(
		const struct transport_machine *machine, char **ret_vhost_socket, struct err *err);
	/*
	 * One attempt, of at most timeout_ms. 0: *ret_fd is a blocking stream socket; positive 1:
	 * nothing listens there yet; -errno with the message otherwise.
	 */
	int (*connect)(const struct transport_machine *machine, uint32_t port, uint64_t timeout_ms,
		int *ret_fd, struct err *err);
};

/* Whether a vhost device of the kernel opens and can be had: its node may exist without its module.
 */
bool vhost_works(const char *path);

/* The kernel's where /dev/vhost-vsock opens and takes a CID, else ours. */
const struct transport *transport_select(void);

/* That of a machine that runs: the kernel's gives each a CID of its own, ours none. */
const struct transport *transport_of(uint32_t cid);

/*
 * For a new machine with the kernel's device: by chance, so that none soon gets what another has
 * just given up. Of some million machines one does not start, as it is another's: asked again, it
 * does.
 */
uint32_t transport_pick_cid(void);

/* Ends what prepare started, for whichever make it was. */
int transport_end(const char *dir, struct err *err);
