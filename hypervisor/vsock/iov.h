/* Copying to and from lists of buffers that lie in guest memory. Plain functions. */
#pragma once

#include <stddef.h>
#include <sys/uio.h>

/* Copies the first bytes of the list, at most len; returns how many there were. */
size_t vs_iov_read(const struct iovec *iov, size_t n, void *data, size_t len);
size_t vs_iov_write(const struct iovec *iov, size_t n, const void *data, size_t len);

/* Drops the first skip bytes and all beyond max after them; the list is changed. Returns its bytes.
 */
size_t vs_iov_window(struct iovec *iov, size_t *n, size_t skip, size_t max);
