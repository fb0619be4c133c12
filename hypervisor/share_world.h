/*
 * For tests of a hostile guest: a host with volumes and secrets, the real virtiofsd, started and
 * filled as machines have it, and the guest (share_driver.h). The test's working directory is
 *
 *	host/secret, host/vault/secret   what the guest is not to reach
 *	host/rw, host/ro                 the volumes "rw" and "ro"
 *	machine                          the machine's directory
 *
 * The guest may spoil what it may write, and end its own virtiofsd. When a world ends it is checked
 * that all else is as it was, that virtiofsd ends with its machine, and how much memory it had.
 * Tests skip where sw_can_run() says no: it needs root and virtiofsd. Whatever goes wrong fails the
 * test.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/userns.h"
#include "hypervisor/share_driver.h"

struct share_world {
	char top[32];
	char *machine; /* as struct share's dir */
	char *before;  /* what the host was like */
	int log;       /* what virtiofsd says */
	/* virtiofsd's first process, and the one that serves, which is that one's child */
	int first, serving; /* pidfds */
	pid_t first_pid, serving_pid;
	struct sd sd;
	uint64_t rw, ro, dir, file, ro_file; /* nodes: the volumes, rw/dir, rw/file, ro/file */
};

/* How long virtiofsd may take to end. */
#define SW_ENDS_MS 10000

bool sw_can_run(void);
/* Without `init` the guest has sent nothing yet, and knows no nodes. */
struct share_world *sw_new(bool init);
/* The same for cmocka, with the world in *state, where sw_of() finds it, or skips. */
int sw_setup(void **state);
int sw_teardown(void **state);
struct share_world *sw_of(void **state);

/* ---- the host ---- */

/* false: the file system cannot map ids. */
bool sw_bind(const struct share_world *world, const char *name, const char *path, unsigned flags,
	const struct userns_map *map);
/* What is there from now on is not to change. */
void sw_note_host(struct share_world *world);
void sw_assert_untouched(const struct share_world *world);
/* Whether a file is the share's; all of it is of one file system. Not while files move. */
bool sw_is_inside(uint64_t ino);
bool sw_has_ended(int pidfd, int timeout_ms);

/* ---- the guest: results are those of share_driver.h ---- */

#define ARG(x)    &(x), sizeof(x)
#define ARG_OF(x) .arg = &(x), .arg_size = sizeof(x)

int sw_call(struct share_world *world, uint32_t opcode, uint64_t node, const void *arg, size_t size,
	const char *name, struct sd_reply *reply);
/* Offers it in a slot, without a kick. */
void sw_put(
	struct share_world *world, unsigned queue, unsigned slot, const struct sd_request *request);
int sw_lookup(
	struct share_world *world, uint64_t parent, const char *name, struct fuse_entry_out *ret);
int sw_open(
	struct share_world *world, uint32_t opcode, uint64_t node, uint32_t flags, uint64_t *ret);
/* Which must succeed. */
uint64_t sw_node(struct share_world *world, uint64_t parent, const char *name);
uint64_t sw_handle(struct share_world *world, uint32_t opcode, uint64_t node, uint32_t flags);
void sw_release(struct share_world *world, uint32_t opcode, uint64_t node, uint64_t handle);
/* Some other mode, owner, time, or no size, as `valid` (FATTR_…) says. */
int sw_set_attr(struct share_world *world, uint64_t node, uint32_t valid, uint64_t handle);
int sw_set_xattr(struct share_world *world, uint64_t node, const char *name);

/* Fail unless virtiofsd answers with an error. */
void sw_refused(int r, const char *what);
void sw_all_refused(struct share_world *world, const struct sd_request *requests, size_t n);
/* However it is asked to. */
void sw_not_opened(struct share_world *world, uint64_t node, const char *what);
/* Whatever they are used for. */
void sw_not_a_node(struct share_world *world, uint64_t node);
void sw_not_a_handle(struct share_world *world, uint64_t handle);
