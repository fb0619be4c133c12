#include "common/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/buf.h"

#define READ_CHUNK_BYTES 4096

int fd_close(int fd)
{
	if (fd >= 0) {
		int saved = errno;
		close(fd);
		errno = saved;
	}
	return -EBADF;
}

char *str_printf(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	char *text = NULL;
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : text;
}

void str_hex(char *text, const unsigned char *bytes, size_t len)
{
	*text = '\0';
	for (size_t i = 0; i < len; i++)
		sprintf(text + 2 * i, "%02x", bytes[i]);
}

int fd_set_nonblock(int fd, struct err *err)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_errno(err, "make descriptor %d non-blocking", fd);
	return 0;
}

int fd_write_all(int fd, const void *data, size_t len, struct err *err)
{
	const char *from = data;
	while (len) {
		ssize_t n = write(fd, from, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, "write");
		from += n;
		len -= (size_t)n;
	}
	return 0;
}

int fd_read_exact(int fd, void *data, size_t len, struct err *err)
{
	char *to = data;
	size_t got = 0;
	while (got < len) {
		ssize_t n = read(fd, to + got, len - got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, "read");
		if (n == 0)
			return err_set(
				err, -ENODATA, "the stream ended after %zu of %zu bytes", got, len);
		got += (size_t)n;
	}
	return 0;
}

/* Reads to the end of the file; positive when there is more than content may hold. */
static int read_to_end(int fd, struct buf *content, const char *path, struct err *err)
{
	for (;;) {
		size_t room = content->max - content->len;
		size_t want = room < READ_CHUNK_BYTES ? room : READ_CHUNK_BYTES;
		char probe = 0;
		void *to = want ? buf_reserve(content, want) : &probe;
		if (!to)
			return err_nomem(err);
		ssize_t n = read(fd, to, want ? want : 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, "read %s", path);
		if (n == 0)
			return 0;
		if (!want)
			return 1;
		buf_commit(content, (size_t)n);
	}
}

int fd_read_file(
	const char *path, size_t max_bytes, char **ret_data, size_t *ret_len, struct err *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return err_errno(err, "open %s", path);

	_cleanup_(buf_done) struct buf content = buf_init(max_bytes);
	int r = read_to_end(fd, &content, path, err);
	if (r < 0)
		return r;
	if (r > 0)
		return err_set(err, -EFBIG, "read %s: more than %zu bytes", path, max_bytes);
	if (!buf_string(&content))
		return err_nomem(err);
	if (ret_len)
		*ret_len = content.len;
	*ret_data = TAKE_PTR(content.data);
	return 0;
}

static char *parent_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	if (!slash)
		return strdup(".");
	return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

int fd_sync_directory(const char *path, struct err *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return err_errno(err, "sync directory %s", path);
	return 0;
}

struct content {
	const void *data;
	size_t len;
	mode_t mode;
	bool durable;
};

static int fill_temporary(
	int fd, const struct content *content, const char *temporary, struct err *err)
{
	if (fd_write_all(fd, content->data, content->len, err) < 0)
		return err_wrap(err, "%s", temporary);
	if (fchmod(fd, content->mode) < 0)
		return err_errno(err, "set the mode of %s", temporary);
	if (content->durable && fsync(fd) < 0)
		return err_errno(err, "sync %s", temporary);
	return 0;
}

static char *temporary_of(const char *path)
{
	return str_printf("%s.tmp", path);
}

static int write_file(const char *path, const struct content *content, struct err *err)
{
	struct err local = ERR_INIT;
	if (!err)
		err = &local;
	_cleanup_free_ char *parent = parent_of(path);
	_cleanup_free_ char *temporary = temporary_of(path);
	if (!parent || !temporary)
		return err_nomem(err);

	_cleanup_close_ int fd =
		open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(err, "make a temporary file for %s", path);
	int r = fill_temporary(fd, content, temporary, err);
	if (r == 0 && rename(temporary, path) < 0)
		r = err_errno(err, "rename %s to %s", temporary, path);
	if (r < 0) {
		unlink(temporary);
		return r;
	}
	return content->durable ? fd_sync_directory(parent, err) : 0;
}

int fd_write_file(const char *path, const void *data, size_t len, mode_t mode, struct err *err)
{
	return write_file(path, &(struct content){data, len, mode, true}, err);
}

int fd_write_file_lazily(
	const char *path, const void *data, size_t len, mode_t mode, struct err *err)
{
	return write_file(path, &(struct content){data, len, mode, false}, err);
}

int fd_remove_file(const char *path, struct err *err)
{
	_cleanup_free_ char *temporary = temporary_of(path);
	if (!temporary)
		return err_nomem(err);
	if (unlink(path) < 0 && errno != ENOENT)
		return err_errno(err, "remove %s", path);
	if (unlink(temporary) < 0 && errno != ENOENT)
		return err_errno(err, "remove %s", temporary);
	return 0;
}

static int make_directory(const char *path, mode_t mode, struct err *err)
{
	struct stat st;
	if (mkdir(path, mode) == 0)
		return 0;
	int code = errno;
	if (code == EEXIST && stat(path, &st) == 0) {
		if (S_ISDIR(st.st_mode))
			return 0;
		code = ENOTDIR;
	}
	errno = code;
	return err_errno(err, "make directory %s", path);
}

int fd_mkdir_all(const char *path, mode_t mode, struct err *err)
{
	_cleanup_free_ char *partial = strdup(path);
	if (!partial)
		return err_nomem(err);
	for (char *p = partial + strspn(partial, "/"); (p = strchr(p, '/')); p++) {
		*p = '\0';
		int r = make_directory(partial, mode, err);
		if (r < 0)
			return r;
		*p = '/';
	}
	size_t len = strlen(partial);
	if (len && partial[len - 1] == '/')
		return 0;
	return make_directory(partial, mode, err);
}

int fd_openat2(int dir, const char *path, int flags, uint64_t resolve)
{
	const struct open_how how = {.flags = (unsigned)(flags | O_CLOEXEC), .resolve = resolve};
	return (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));
}

int fd_open_no_links(const char *path, int flags, struct err *err)
{
	int fd = fd_openat2(AT_FDCWD, path, flags, RESOLVE_NO_SYMLINKS);
	return fd < 0 ? err_errno(err, "open %s", path) : fd;
}

static int unix_socket(const char *path, int flags, struct sockaddr_un *ret_addr, struct err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(err, -ENAMETOOLONG, "socket path %s: longer than %zu bytes", path,
			sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	if (fd < 0)
		return err_errno(err, "make a Unix socket");
	*ret_addr = addr;
	return fd;
}

static int unix_connect(const char *path, int flags, int *ret_fd, struct err *err)
{
	struct sockaddr_un addr;
	_cleanup_close_ int fd = unix_socket(path, flags, &addr, err);
	if (fd < 0)
		return fd;
	int r;
	do
		r = connect(fd, (struct sockaddr *)&addr, sizeof(addr));
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return err_errno(err, "connect to %s", path);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int fd_unix_connect(const char *path, int *ret_fd, struct err *err)
{
	return unix_connect(path, 0, ret_fd, err);
}

int fd_unix_try_connect(const char *path, int *ret_fd, struct err *err)
{
	return unix_connect(path, SOCK_NONBLOCK, ret_fd, err);
}

/* Removes a socket file that nobody listens on. */
static int remove_stale_socket(const char *path, struct err *err)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_errno(err, "look at %s", path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, -EEXIST, "listen on %s: it exists and is not a socket", path);

	struct sockaddr_un addr;
	_cleanup_close_ int fd = unix_socket(path, SOCK_NONBLOCK, &addr, err);
	if (fd < 0)
		return fd;
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 || errno == EAGAIN)
		return err_set(err, -EADDRINUSE, "listen on %s: another process does", path);
	if (errno == ENOENT)
		return 0;
	if (errno != ECONNREFUSED)
		return err_errno(err, "probe the socket %s", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return err_errno(err, "remove the stale socket %s", path);
	return 0;
}

int fd_unix_listen(const char *path, mode_t mode, int *ret_fd, struct err *err)
{
	struct sockaddr_un addr;
	_cleanup_close_ int fd = unix_socket(path, SOCK_NONBLOCK, &addr, err);
	if (fd < 0)
		return fd;
	int r = remove_stale_socket(path, err);
	if (r < 0)
		return r;
	/*
	 * Linux makes the file with the socket's own mode less the umask: set before bind(), it is
	 * at no moment more open than asked; chmod() then gives back what the umask took.
	 */
	if (fchmod(fd, mode) < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_errno(err, "bind to %s", path);
	if (chmod(path, mode) < 0 || listen(fd, SOMAXCONN) < 0) {
		r = err_errno(err, "listen on %s", path);
		unlink(path);
		return r;
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}
