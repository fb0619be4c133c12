/*
 * File descriptors, whole files, and ownership by scope. A closed descriptor is -EBADF.
 *
 *	_cleanup_close_ int fd = open(…);
 *	…
 *	*ret_fd = TAKE_FD(fd);
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>

#include "common/err.h"

/* Closes fd where it is not negative; errno stays. Returns -EBADF, to be assigned. */
int fd_close(int fd);

static inline void fd_closep(int *fd)
{
	*fd = fd_close(*fd);
}

static inline void freep(void *p)
{
	free(*(void **)p);
}

#define _cleanup_(f)    __attribute__((cleanup(f)))
#define _cleanup_close_ _cleanup_(fd_closep)
#define _cleanup_free_  _cleanup_(freep)

/* Hands the value over and leaves the variable empty. */
#define TAKE_FD(fd)                                                                                \
	({                                                                                         \
		int _fd = (fd);                                                                    \
		(fd) = -EBADF;                                                                     \
		_fd;                                                                               \
	})
#define TAKE_PTR(p)                                                                                \
	({                                                                                         \
		__typeof__(p) _p = (p);                                                            \
		(p) = NULL;                                                                        \
		_p;                                                                                \
	})

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* printf into a new string that the caller frees; NULL when memory is out. */
char *str_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Writes len bytes as lower-case hexadecimal digits, 2 * len characters and a NUL. */
void str_hex(char *text, const unsigned char *bytes, size_t len);

int fd_set_nonblock(int fd, struct err *err);

/* Writes all of it to a blocking descriptor; SIGPIPE is the caller's affair. */
int fd_write_all(int fd, const void *data, size_t len, struct err *err);

/* Reads exactly len bytes from a blocking descriptor; -ENODATA when the stream ends before. */
int fd_read_exact(int fd, void *data, size_t len, struct err *err);

/*
 * Reads a whole file of at most max_bytes (-EFBIG beyond) into a new NUL-terminated buffer that the
 * caller frees. ret_len may be NULL.
 */
int fd_read_file(
	const char *path, size_t max_bytes, char **ret_data, size_t *ret_len, struct err *err);

/*
 * Replaces the file at path in one step: a temporary file beside it ("PATH.tmp"), fsync, rename.
 * After a crash the file is the old or the new one, whole, and the temporary one may be left: it is
 * taken over by the next writer. Two writers of one path at a time are the callers' to prevent.
 */
int fd_write_file(const char *path, const void *data, size_t len, mode_t mode, struct err *err);

/*
 * The same without waiting for the disk: whole after a crash of ours; when the host loses its power
 * soon after it may be the old file, or on some file systems an empty one.
 */
int fd_write_file_lazily(
	const char *path, const void *data, size_t len, mode_t mode, struct err *err);

/* Removes what fd_write_file() made, and what a crash in it left; success where nothing is. */
int fd_remove_file(const char *path, struct err *err);

/* Names that came to the directory, or went, are on the disk when it returns. */
int fd_sync_directory(const char *path, struct err *err);

/* mkdir -p: makes path and its missing parents with the mode; an existing directory is success. */
int fd_mkdir_all(const char *path, mode_t mode, struct err *err);

/*
 * openat2(2), of which the C library knows nothing: resolve is RESOLVE_* of linux/openat2.h.
 * Returns the descriptor, close-on-exec, or -1 with errno.
 */
int fd_openat2(int dir, const char *path, int flags, uint64_t resolve);

/*
 * Opens a path that leads over no symbolic link, in the midst or at the end: -ELOOP where it does.
 * Who has resolved a path before, and goes by its name again, is led nowhere else. Returns the
 * descriptor, close-on-exec.
 */
int fd_open_no_links(const char *path, int flags, struct err *err);

/*
 * Removes path and all below it without following symbolic links or crossing into other file
 * systems (a mount below is -EBUSY and stays). Absent is success.
 */
int fd_remove_tree(const char *path, struct err *err);

/*
 * Connects to the Unix stream socket at path; the descriptor is close-on-exec and blocking. Waits
 * without end for a listener that has as many as it takes, and accepts none.
 */
int fd_unix_connect(const char *path, int *ret_fd, struct err *err);

/* Likewise at once, or -EAGAIN where that would wait; the descriptor is non-blocking. */
int fd_unix_try_connect(const char *path, int *ret_fd, struct err *err);

/*
 * Listens on a Unix stream socket at path with the mode. A socket file that nobody answers on is
 * replaced; one that is answered is -EADDRINUSE. Non-blocking, close-on-exec.
 */
int fd_unix_listen(const char *path, mode_t mode, int *ret_fd, struct err *err);
