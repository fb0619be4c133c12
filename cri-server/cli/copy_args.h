/* What `cp` is told. Pure. */
#pragma once

#include <stdbool.h>

#include "common/err.h"

#define COPY_TEXT_MAX 4096

struct copy_args {
	bool out;                      /* from the container to this host */
	char container[COPY_TEXT_MAX]; /* its id or name */
	char inside[COPY_TEXT_MAX];    /* the path in it */
	char local[COPY_TEXT_MAX];     /* the path here */
};

/* "CONTAINER:PATH" stands on one side, a path of this host, which has a slash before any colon, on
 * the other. */
int copy_args_parse(const char *from, const char *to, struct copy_args *ret, struct err *err);

/* Splits a path into the directory and the last name: "a/b/" is "a" and "b", "b" is "." and "b".
 * -EINVAL: there is no last name ("/", ".", ".."). */
int copy_split(
	const char *path, char directory[COPY_TEXT_MAX], char name[COPY_TEXT_MAX], struct err *err);
