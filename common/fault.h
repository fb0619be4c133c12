/*
 * Points at which a test may let the process die or a step fail, each named METHOD/STEP.
 *
 * For tests only. Nothing happens unless the environment variable BULKHEAD_FAULTS names a file;
 * then each point reads it, and where it has a line "kill NAME" the process sends itself SIGKILL,
 * where it has "fail NAME" that step fails. Whoever can set a service's environment can end it
 * anyway.
 *
 * The program knows all of its points itself (tables of steps: cri-server/runtime/steps.h), so that
 * a test goes through all without having a list. Threads: any.
 */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#define FAULT_ENVIRONMENT "BULKHEAD_FAULTS"

/* Dies here when it is asked to: point is of the method's, suffix "" or "/undo". */
void fault_kill(const char *method, const char *point, const char *suffix);
/* Whether this step is to fail. */
bool fault_fails(const char *method, const char *point);

/* A point outside a table; the linker collects them. */
struct fault_point {
	const char *method, *point;
};
#define FAULT_POINT(method_name, point_name)                                                       \
	do {                                                                                       \
		static const struct fault_point fault_here = {method_name, point_name};            \
		static const struct fault_point *const fault_entry                                 \
			__attribute__((used, section("fault_points"))) = &fault_here;              \
		fault_kill(fault_entry->method, fault_entry->point, "");                           \
	} while (0)

/* Prints METHOD/POINT of each of them, one a line. */
void fault_print(FILE *out);
