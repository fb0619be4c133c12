/*
 * The host's processes of a pod and what they hold in memory, read from /proc. Stateless; any
 * thread. What ends while it is looked at does not count.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

#define PROCESSES_MAX 16

/* What a process and all its descendants hold in memory, "Pss", in MiB; 0 when it has ended. */
double process_tree_memory_mib(pid_t root);

/*
 * The processes on whose command lines a machine's id stands: its QEMU and its helpers. Returns
 * their number; -ENOBUFS beyond PROCESSES_MAX.
 */
int process_find(const char *id, pid_t pids[PROCESSES_MAX], struct err *err);

/* The command line, NUL-separated, in a new buffer that the caller frees. */
int process_command_line(pid_t pid, char **ret, size_t *ret_len, struct err *err);

/*
 * Keeps all threads of a process to one share of the CPUs that this process may use, number
 * share of so many, now and for what they start. Nothing where there are fewer CPUs than shares.
 * What ends meanwhile is no error.
 */
int process_pin(pid_t pid, size_t share, size_t shares, struct err *err);

/* A field of smaps_rollup, "Pss" or "Rss", in MiB. What processes share counts in part in "Pss". */
int process_memory_mib(pid_t pid, const char *field, double *ret, struct err *err);
