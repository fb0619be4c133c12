#include "hypervisor/vsock/iov.h"

#include <stdint.h>
#include <string.h>

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

size_t vs_iov_read(const struct iovec *iov, size_t n, void *data, size_t len)
{
	size_t done = 0;
	for (size_t i = 0; i < n && done < len; i++) {
		size_t part = least(iov[i].iov_len, len - done);
		memcpy((uint8_t *)data + done, iov[i].iov_base, part);
		done += part;
	}
	return done;
}

size_t vs_iov_write(const struct iovec *iov, size_t n, const void *data, size_t len)
{
	size_t done = 0;
	for (size_t i = 0; i < n && done < len; i++) {
		size_t part = least(iov[i].iov_len, len - done);
		memcpy(iov[i].iov_base, (const uint8_t *)data + done, part);
		done += part;
	}
	return done;
}

size_t vs_iov_window(struct iovec *iov, size_t *n, size_t skip, size_t max)
{
	size_t kept = 0;
	size_t total = 0;
	for (size_t i = 0; i < *n && total < max; i++) {
		size_t drop = least(skip, iov[i].iov_len);
		skip -= drop;
		size_t part = least(iov[i].iov_len - drop, max - total);
		if (!part)
			continue;
		iov[kept++] = (struct iovec){
			.iov_base = (uint8_t *)iov[i].iov_base + drop,
			.iov_len = part,
		};
		total += part;
	}
	*n = kept;
	return total;
}
