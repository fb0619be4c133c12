#include "agent/sysctl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"

int sysctl_write(const char *path, const char *value, struct err *err)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, "open %s", path);
	size_t len = strlen(value);
	ssize_t n = write(fd, value, len);
	if (n < 0)
		return err_errno(err, "write '%.64s' to %s", value, path);
	return (size_t)n == len ? 0 : err_set(err, -EIO, "%s took a part only", path);
}
