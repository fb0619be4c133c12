/*
 * Image references in the ecosystem's form: [domain/]path[:tag][@digest]. Source:
 * distribution/reference. Pure.
 */
#pragma once

#include <stdbool.h>

#include "common/err.h"

#define REFERENCE_MAX 1024

struct reference {
	char *name;   /* "docker.io/library/busybox" */
	char *tag;    /* "latest"; NULL when only a digest was given */
	char *digest; /* "sha256:…" or NULL */
};

/* Parses and completes: no domain is docker.io, no tag and no digest is latest. -EINVAL says what
 * is wrong. */
int reference_parse(const char *text, struct reference *ret, struct err *err);
void reference_done(struct reference *reference);

/* 64 lower-case hexadecimal digits: an id, and no name. */
bool reference_is_hex(const char *text);
/* "sha256:" and 64 lower-case hexadecimal digits. */
bool reference_is_digest(const char *text);
