#include "common/proc.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/fd.h"

static int read_of(pid_t pid, const char *name, size_t max, char **ret)
{
	char path[32];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	r = fd_read_file(path, max, ret, NULL, NULL);
	return r == -ENOENT ? -ESRCH : r;
}

int proc_start_time(pid_t pid, uint64_t *ret)
{
	_cleanup_free_ char *stat = NULL;
	const char *p;
	int r = read_of(pid, "stat", 4096, &stat);

	if (r < 0)
		return r;
	/* The second field, the name in parentheses, may itself hold blanks and parentheses. */
	p = strrchr(stat, ')');
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (!p || sscanf(p, " %" SCNu64, ret) != 1)
		return -ESRCH;
	return 0;
}

int proc_user(pid_t pid, uid_t *ret)
{
	_cleanup_free_ char *status = NULL;
	const char *line;
	int r = read_of(pid, "status", 65536, &status);

	if (r < 0)
		return r;
	/* The name, in the first line, has its newlines escaped. */
	line = strstr(status, "\nUid:");
	return line && sscanf(line, "\nUid: %*u %u", ret) == 1 ? 0 : -ESRCH;
}
