/*
 * Seccomp profiles: what a container's processes may ask of the guest's kernel.
 *
 * A profile is composed from the runtime's default or from a node's file in the OCI runtime
 * specification's JSON form, and compiled here, on the host, to the program that the guest's kernel
 * takes: the agent needs neither a JSON parser nor libseccomp. The rules are those of runc with
 * libseccomp: names that this version does not know are left out; a rule whose action is the
 * default's says nothing; two conditions on one argument are alternatives; where the default action
 * is an error, a call newer than all that the profile names answers ENOSYS, so that programs fall
 * back to older ones.
 *
 * A file is hostile: its size, depth and numbers are bounded, its content is never quoted whole.
 * Any thread; what is kept between calls is in a cache that the caller brings (cache.h).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <seccomp.h>

#include "common/err.h"

struct filter_cache;

#define PROFILE_FILE_MAX  (1u << 20)
#define PROFILE_RULES_MAX 1024
#define PROFILE_NAMES_MAX 4096 /* of all rules */
/* Of all rules, each name counted: libseccomp's time grows with their cube. */
#define PROFILE_CONDITIONS_MAX 256
#define PROFILE_ARGS_MAX       6

enum profile_arch {
	PROFILE_X86_64 = 1 << 0,
	PROFILE_X86 = 1 << 1,
	PROFILE_X32 = 1 << 2,
};

struct profile_rule {
	char **names;
	size_t n_names;
	uint32_t action; /* SCMP_ACT_… */
	struct scmp_arg_cmp args[PROFILE_ARGS_MAX];
	size_t n_args;
};

struct profile {
	uint32_t default_action;
	unsigned arches; /* PROFILE_…; x86-64 is always meant */
	uint32_t flags;  /* SECCOMP_FILTER_FLAG_… */
	struct profile_rule *rules;
	size_t n_rules;
};

/* From JSON text. -EINVAL names the place and what is wrong there. */
int profile_parse(const char *text, size_t len, struct profile *ret, struct err *err);
void profile_done(struct profile *profile);

/* What the kernel's seccomp(2) takes. */
struct filter {
	uint8_t *program; /* struct sock_filter[], from malloc */
	size_t len;       /* bytes */
	uint32_t flags;
};

/* -E2BIG: the kernel takes no program of that length. */
int profile_compile(const struct profile *profile, struct filter *ret, struct err *err);
void filter_done(struct filter *filter);

/*
 * The default profile for a container with these capabilities in its bounding set (1 << CAP_…), as
 * containerd and Docker have it. The cache may be NULL.
 */
int filter_default(
	struct filter_cache *cache, uint64_t capabilities, struct filter *ret, struct err *err);
/* A node's file. -EINVAL whatever is wrong with it, also where there is none: it was named in a
 * request. Reads a regular file of at most PROFILE_FILE_MAX bytes. The cache may be NULL. */
int filter_from_file(
	struct filter_cache *cache, const char *path, struct filter *ret, struct err *err);
