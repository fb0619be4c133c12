/*
 * Finds and execs a process's program, by the PATH of its own environment, inside the container.
 */
#pragma once

#include "agent/proto/agent.pb-c.h"
#include "agent/security.h"
#include "common/err.h"

/*
 * Returns only on failure, in runc's words: `exec: "foo": executable file not found in $PATH`,
 * `exec: "/foo": stat /foo: no such file or directory`, `exec: "/foo": permission denied`,
 * `exec /foo: exec format error`. HOME is `home` where the environment has none, or an empty one.
 * The filter is loaded as the last step before the exec.
 */
int program_exec(const Bulkhead__Agent__Process *process, const char *home,
	const struct security_filter *filter, struct err *err);
