/*
 * Who a process runs as: the user and groups of a request, looked up in the container's own
 * /etc/passwd and /etc/group. These files are hostile: they are read whole, up to a bound, only
 * where they are regular files, without leaving the root, and lines that do not parse are skipped.
 *
 * The rules are those of runc: a name is compared with each line's name and, as text, with its
 * number, and the first line that matches wins; a number that no line has is taken as it is, with
 * group 0. Without a group in the name, the groups that list the user as a member are added, unless
 * the request is strict.
 */
#pragma once

#include <sys/types.h>

#include "agent/proto/agent.pb-c.h"
#include "common/err.h"

#define USER_GROUPS_MAX 1024
#define USER_HOME_MAX   256

struct user {
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_GROUPS_MAX]; /* supplementary; gid is the first */
	size_t n_groups;
	char home[USER_HOME_MAX]; /* "/" where the file has none */
};

/*
 * Resolves `wanted` (NULL: uid 0) in the root directory `root`. -ENOENT: no such user or group;
 * -EFBIG: a file is too large; -E2BIG: too many groups.
 */
int user_resolve(
	int root, const Bulkhead__Agent__User *wanted, struct user *ret_user, struct err *err);

/* The same with the files' content, which is modified. */
int user_resolve_text(char *passwd, char *group, const Bulkhead__Agent__User *wanted,
	struct user *ret_user, struct err *err);
