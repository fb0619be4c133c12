/*
 * Compiled seccomp filters that were asked for lately: libseccomp takes 20 ms for the default
 * profile, and a node's containers have few profiles between them.
 *
 * A filter is known by all that it is made of: the default one by the capabilities that matter to
 * it, a node's file by its whole content, so that a changed file is a new filter. At most
 * CACHE_FILTERS are kept; the one whose last use is longest ago makes room. A key beyond
 * CACHE_KEY_MAX bytes is not kept. So it never holds more than 3 MiB.
 *
 * Owned by who made it. Any thread; a lock of its own is held for copying only. In each function
 * the cache may be NULL: it knows nothing, then, and keeps nothing.
 */
#pragma once

#include <stddef.h>

#include "common/err.h"
#include "cri-server/seccomp/profile.h"

#define CACHE_FILTERS 32
#define CACHE_KEY_MAX (64u << 10)

/* What a key is: the same bytes may be either. */
enum filter_kind {
	FILTER_DEFAULT, /* uint64_t: capabilities */
	FILTER_FILE,    /* the file's text */
};

int filter_cache_new(struct filter_cache **ret, struct err *err);
/* Returns NULL. */
struct filter_cache *filter_cache_free(struct filter_cache *cache);

/* A copy, which the caller frees. 0; positive 1: not known; -ENOMEM. */
int filter_cache_find(struct filter_cache *cache, enum filter_kind kind, const void *key,
	size_t key_len, struct filter *ret, struct err *err);
/* Keeps a copy, where there is memory for it. */
void filter_cache_keep(struct filter_cache *cache, enum filter_kind kind, const void *key,
	size_t key_len, const struct filter *filter);
