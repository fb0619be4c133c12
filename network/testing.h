/*
 * For the tests of this room: a network of their own to break.
 *
 * testing_isolate() puts the process into new network and mount namespaces, so that bridges,
 * iptables rules and mounts of a test meet nobody else's and end with it. It needs root: without,
 * tests skip.
 */
#pragma once

#include <netlink/netlink.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "network/pod_network.h"

/* Once per test program, before threads. False: not root. */
bool testing_isolate(void);

/* A new directory that testing_dir_remove() removes; the caller frees the path. */
char *testing_dir(void);
void testing_dir_remove(char *dir);

/* Writes dir/name; asserts success. */
void testing_write(const char *dir, const char *name, const char *text, unsigned int mode);

/* What a command prints; asserts that it succeeds. The caller frees it. */
char *testing_output(const char *const argv[]);

/*
 * A tap of the name, in the calling thread's namespace; closing the descriptor ends it. `header`:
 * with a struct virtio_net_hdr before each frame.
 */
int testing_tap(const char *name, bool header);

/*
 * Waits until the kernel sends by the link what it is given. Of one whose other end came up after
 * it the kernel sees to that later, in a work queue, and drops frames until then.
 */
void testing_await_link(struct nl_sock *sock, const char *name);

/* A packet socket for all frames that arrive at the link, with a receive timeout. */
int testing_packet_socket(const char *link);

/* A guest's tap, joined to an interface behind the filter of what guests send, and the other end.
 */
struct testing_wire {
	struct nl_sock *sock;
	int tap, far;
};

void testing_wire_join(struct testing_wire *w, enum net_redirect kind,
	const struct net_interface *interface, bool header);
void testing_wire_part(struct testing_wire *w);

/* A test Ethernet frame of the length to a MAC (6 bytes): a header and a pattern from the seed. */
void testing_frame(unsigned char *frame, size_t len, const unsigned char *to, unsigned char seed);

/* Reads frames from fd until that one comes; false after two seconds. */
bool testing_expect_frame(int fd, const unsigned char *frame, size_t len);
