#include "hypervisor/vsock/backlog.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int vs_backlog_append(struct vs_backlog *backlog, const struct iovec *iov, size_t n)
{
	if (!backlog->data) {
		backlog->data = malloc(VS_BACKLOG_SIZE);
		backlog->head = 0;
	}
	if (!backlog->data)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		size_t len = iov[i].iov_len;
		assert(len <= VS_BACKLOG_SIZE - backlog->len);
		uint32_t tail = (backlog->head + backlog->len) % VS_BACKLOG_SIZE;
		size_t first = len < VS_BACKLOG_SIZE - tail ? len : VS_BACKLOG_SIZE - tail;
		memcpy(backlog->data + tail, iov[i].iov_base, first);
		memcpy(backlog->data, (const uint8_t *)iov[i].iov_base + first, len - first);
		backlog->len += (uint32_t)len;
	}
	return 0;
}

void vs_backlog_peek(const struct vs_backlog *backlog, struct iovec ret_iov[2])
{
	uint32_t first = VS_BACKLOG_SIZE - backlog->head;
	if (first > backlog->len)
		first = backlog->len;
	ret_iov[0] = (struct iovec){.iov_base = backlog->data + backlog->head, .iov_len = first};
	ret_iov[1] = (struct iovec){.iov_base = backlog->data, .iov_len = backlog->len - first};
}

void vs_backlog_consume(struct vs_backlog *backlog, size_t len)
{
	assert(len <= backlog->len);
	backlog->head = (backlog->head + (uint32_t)len) % VS_BACKLOG_SIZE;
	backlog->len -= (uint32_t)len;
	if (!backlog->len)
		vs_backlog_clear(backlog);
}

void vs_backlog_clear(struct vs_backlog *backlog)
{
	free(backlog->data);
	*backlog = (struct vs_backlog){0};
}
