/*
 * What a method does, as a table: named steps, run in order; when one fails, those that were done
 * are undone in reverse.
 *
 * A step's `undo` takes back what its `run` did, and is also called for a step whose own run failed
 * half-way: it must cope with anything from nothing to all of it. Undoing cannot fail: what it
 * could not remove is found at the next start by the reconciliation.
 *
 * Between any two steps the process may die; tests let it (common/fault.h), at every boundary that
 * the tables have: METHOD/STEP is before the step, METHOD/STEP/undo before its undo, METHOD/done
 * after the last.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/err.h"

#define STEPS_MAX 16

struct step {
	const char *name; /* for error messages, timings and bench: "network", "boot" */
	int (*run)(void *subject, struct err *err);
	void (*undo)(void *subject); /* NULL: nothing to take back */
};

struct step_table {
	const char *method; /* of CRI */
	const struct step *steps;
	size_t n;
};

/* A table by the name; the linker collects all for steps_print(). */
#define STEP_TABLE(name, method_name, array)                                                       \
	static const struct step_table name = {                                                    \
		.method = (method_name), .steps = (array), .n = ARRAY_SIZE(array)};                \
	static const struct step_table *const name##_entry                                         \
		__attribute__((used, section("step_tables"))) = &name

/* How long each step took, in nanoseconds, in the table's order. */
struct step_times {
	uint64_t ns[STEPS_MAX];
};

/*
 * 0, or the failing step's error with its name in front; then everything is undone. cancelled,
 * which may be NULL, is asked before each step: once the caller has gone, the rest is not worth
 * doing (-ECANCELED). ret_times may be NULL.
 */
int steps_run(const struct step_table *table, void *subject, bool (*cancelled)(void *subject),
	struct step_times *ret_times, struct err *err);

/* Every boundary of this program's tables, and every other point, one a line. */
void steps_print(FILE *out);
