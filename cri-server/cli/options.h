/*
 * Command-line options by table: long names, one-letter names, values as "--name VALUE" or
 * "--name=VALUE"; letters of flags may be joined ("-it"). Parsing ends at the first argument that
 * is no option, so that a container's command keeps its own, or after "--". Thread-safe: no state.
 */
#pragma once

#include <stddef.h>
#include <stdio.h>

#include "common/err.h"

enum option_kind {
	OPTION_FLAG,   /* bool */
	OPTION_STRING, /* const char *, into the arguments */
	OPTION_NUMBER, /* uint64_t */
	OPTION_LIST,   /* struct option_list; may be repeated */
	OPTION_CHOICE, /* const char *, one of the words of `argument`, which has | between them */
};

#define OPTION_LIST_MAX 256

struct option_list {
	const char *items[OPTION_LIST_MAX];
	size_t n;
};

struct option_row {
	const char *name; /* without the dashes */
	char letter;      /* 0: none */
	enum option_kind kind;
	void *value;          /* set when the option is given, of the kind's type */
	const char *argument; /* its name in the help; NULL for flags */
	const char *help;
};

/*
 * Parses args (NULL-terminated) and sets *ret_rest to the first that is not an option's. 0;
 * positive 1 when --help or -h was given; -EINVAL with a message that names the option.
 */
int options_parse(const struct option_row *rows, size_t n_rows, char **args, char ***ret_rest,
	struct err *err);

/* One line per option, --help included. */
void options_help(FILE *out, const struct option_row *rows, size_t n_rows);
