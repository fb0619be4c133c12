#include "hypervisor/console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/log.h"

#define LOCK_TRIES    100
#define LOCK_PAUSE_NS 10000000

/*
 * The helper has the lock for moments. One that stands still, or that its guest has taken over, may
 * have it for ever; then what is read may be out of order.
 */
static int lock(int fd, const char *path, struct err *err)
{
	for (int i = 0; flock(fd, LOCK_SH | LOCK_NB) < 0 && i < LOCK_TRIES; i++) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return err_errno(err, "Lock %s", path);
		nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
	}
	return 0;
}

int console_tail(const char *dir, size_t max, char **ret, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/console", dir);
	_cleanup_free_ char *text = malloc(max + 1);
	_cleanup_close_ int fd = -EBADF;
	ssize_t n = 0;
	off_t size;
	int r;

	if (!path || !text)
		return err_nomem(err);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno != ENOENT)
		return err_errno(err, "Open %s", path);
	if (fd >= 0) {
		r = lock(fd, path, err);
		if (r < 0)
			return r;
		size = lseek(fd, 0, SEEK_END);
		n = pread(fd, text, max, size > (off_t)max ? size - (off_t)max : 0);
		if (n < 0)
			return err_errno(err, "Read %s", path);
	}
	for (ssize_t i = 0; i < n; i++)
		if (text[i] == '\0')
			text[i] = '.';
	text[n] = '\0';
	*ret = TAKE_PTR(text);
	return 0;
}

void console_quote(const char *dir, char *out, size_t size)
{
	_cleanup_free_ char *tail = NULL;
	char *end;

	/* An escaped byte takes four: a quarter of the room is what certainly fits. */
	if (console_tail(dir, size / 4, &tail, NULL) < 0) {
		snprintf(out, size, "(unreadable)");
		return;
	}
	for (end = tail + strlen(tail); end > tail && strchr("\r\n", end[-1]); end--)
		end[-1] = '\0';
	log_escape(out, size, tail[0] ? tail : "(nothing)");
}
