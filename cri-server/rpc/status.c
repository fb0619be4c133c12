#include "cri-server/rpc/status.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/fd.h"

/*
 * What bulkheadd answers. The rest, wrong arguments and wrong states among it, is UNKNOWN:
 * containerd's CRI service answers so, and what kubelets do was tried with it.
 */
static const struct {
	int code;
	grpc_status_code status;
} answers[] = {
	{ECANCELED, GRPC_STATUS_CANCELLED},
	{ETIMEDOUT, GRPC_STATUS_DEADLINE_EXCEEDED},
	{ENOENT, GRPC_STATUS_NOT_FOUND},
	{EOPNOTSUPP, GRPC_STATUS_UNIMPLEMENTED},
	{ENOSYS, GRPC_STATUS_UNIMPLEMENTED},
	{ENOMEM, GRPC_STATUS_RESOURCE_EXHAUSTED},
	{ENOBUFS, GRPC_STATUS_RESOURCE_EXHAUSTED},
};

/* What a client makes of any runtime's answer; what is not here is EIO. */
static const int meanings[] = {
	[GRPC_STATUS_CANCELLED] = ECANCELED,
	[GRPC_STATUS_INVALID_ARGUMENT] = EINVAL,
	[GRPC_STATUS_DEADLINE_EXCEEDED] = ETIMEDOUT,
	[GRPC_STATUS_NOT_FOUND] = ENOENT,
	[GRPC_STATUS_ALREADY_EXISTS] = EEXIST,
	[GRPC_STATUS_PERMISSION_DENIED] = EACCES,
	[GRPC_STATUS_RESOURCE_EXHAUSTED] = ENOBUFS,
	[GRPC_STATUS_FAILED_PRECONDITION] = EBADFD,
	[GRPC_STATUS_UNIMPLEMENTED] = EOPNOTSUPP,
	[GRPC_STATUS_UNAVAILABLE] = EAGAIN,
	[GRPC_STATUS_UNAUTHENTICATED] = EACCES,
};

static const char *const names[] = {
	[GRPC_STATUS_OK] = "OK",
	[GRPC_STATUS_CANCELLED] = "CANCELLED",
	[GRPC_STATUS_UNKNOWN] = "UNKNOWN",
	[GRPC_STATUS_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
	[GRPC_STATUS_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
	[GRPC_STATUS_NOT_FOUND] = "NOT_FOUND",
	[GRPC_STATUS_ALREADY_EXISTS] = "ALREADY_EXISTS",
	[GRPC_STATUS_PERMISSION_DENIED] = "PERMISSION_DENIED",
	[GRPC_STATUS_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
	[GRPC_STATUS_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
	[GRPC_STATUS_ABORTED] = "ABORTED",
	[GRPC_STATUS_OUT_OF_RANGE] = "OUT_OF_RANGE",
	[GRPC_STATUS_UNIMPLEMENTED] = "UNIMPLEMENTED",
	[GRPC_STATUS_INTERNAL] = "INTERNAL",
	[GRPC_STATUS_UNAVAILABLE] = "UNAVAILABLE",
	[GRPC_STATUS_DATA_LOSS] = "DATA_LOSS",
	[GRPC_STATUS_UNAUTHENTICATED] = "UNAUTHENTICATED",
};

grpc_status_code rpc_status_from_errno(int code)
{
	if (code == 0)
		return GRPC_STATUS_OK;
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++)
		if (answers[i].code == -code)
			return answers[i].status;
	return GRPC_STATUS_UNKNOWN;
}

int rpc_status_to_errno(grpc_status_code status)
{
	if (status == GRPC_STATUS_OK)
		return 0;
	bool known = status > 0 && (size_t)status < ARRAY_SIZE(meanings) && meanings[status];
	return known ? -meanings[status] : -EIO;
}

const char *rpc_status_name(grpc_status_code status)
{
	if (status < 0 || (size_t)status >= ARRAY_SIZE(names))
		return "UNKNOWN";
	return names[status];
}
