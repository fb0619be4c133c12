/*
 * Lists of processors or memory nodes as cgroups have them: "0-3,8". Pure functions; any thread.
 */
#pragma once

#include <stdint.h>

#include "common/err.h"

/* Linux for x86-64 knows no more processors. */
#define CPU_LIST_MAX 8192

struct cpu_list {
	uint64_t bits[CPU_LIST_MAX / 64];
};

/* Adds what the text names. -EINVAL: it is no such list; some of it may have been added. */
int cpu_list_add(struct cpu_list *list, const char *text, struct err *err);
/* The caller frees; NULL when memory is out. Of an empty list: "". */
char *cpu_list_text(const struct cpu_list *list);
