/* What tells a process apart from a later one that was given its id, and whose it is. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

/*
 * Clock ticks from boot to the process's start, which with its id names it for ever; also of a
 * zombie. -ESRCH: there is none; another error: that could not be told. Any thread. Source:
 * proc(5), /proc/<pid>/stat, field 22.
 */
int proc_start_time(pid_t pid, uint64_t *ret);

/*
 * The user whose rights it has, its effective one: not the owner of its files in /proc, for those
 * of a process that may not be dumped, which it can choose, are root's. Errors as above. Source:
 * proc(5), /proc/<pid>/status, Uid.
 */
int proc_user(pid_t pid, uid_t *ret);
