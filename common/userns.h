/*
 * User namespaces whose ids 0, 1, … are a range of ours, made without becoming a part of them: what
 * holds one is a descriptor. Threads: any; the process must have CAP_SETUID and CAP_SETGID here.
 */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

/* What a file's id looks like where it is mapped to nothing. */
#define USERNS_NOBODY 65534

/* Inside, the ids 0 to n_… - 1 are `uid`, `gid` and those that follow. */
struct userns_map {
	uint32_t uid, n_uids;
	uint32_t gid, n_gids;
};

/* Ours for an id inside. */
uint32_t userns_uid(const struct userns_map *map, uint32_t inside);
uint32_t userns_gid(const struct userns_map *map, uint32_t inside);
bool userns_map_equal(const struct userns_map *a, const struct userns_map *b);

/* Descriptors of namespaces; -EBADF: none. */
struct userns {
	int user;
	int net, ipc; /* owned by `user` */
};

#define USERNS_INIT                                                                                \
	{                                                                                          \
		.user = -EBADF, .net = -EBADF, .ipc = -EBADF                                       \
	}

/*
 * Makes a user namespace and, with `others`, a network and an IPC namespace that belong to it. Some
 * milliseconds: a child makes them and is ended. `ret` is to be ended with userns_done().
 */
int userns_new(const struct userns_map *map, bool others, struct userns *ret, struct err *err);
void userns_done(struct userns *ns);
