/*
 * errno ↔ gRPC status: the one table (codes as containerd's errgrpc chooses them for the same
 * condition).
 */
#pragma once

#include <grpc/status.h>

/* For a negative errno; what the table does not have is UNKNOWN, as containerd answers. */
grpc_status_code rpc_status_from_errno(int code);

/* The negative errno for a status; the inverse where there is one, else -EIO. */
int rpc_status_to_errno(grpc_status_code status);

/* "NOT_FOUND" … for people. */
const char *rpc_status_name(grpc_status_code status);
