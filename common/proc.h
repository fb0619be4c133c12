/* What tells a process apart from a later one that was given its id. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

/*
 * Clock ticks from boot to the process's start, which with its id names it for ever; also of a
 * zombie. -ESRCH: there is none; another error: that could not be told. Any thread. Source:
 * proc(5), /proc/<pid>/stat, field 22.
 */
int proc_start_time(pid_t pid, uint64_t *ret);
