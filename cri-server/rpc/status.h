/*
 * errno ↔ gRPC status: the only tables. docs/errors.md has what containerd and bulkheadd answer to
 * each mistake of a client.
 */
#pragma once

#include <grpc/status.h>

/* For a negative errno: the few codes that containerd's CRI service answers, else UNKNOWN. */
grpc_status_code rpc_status_from_errno(int code);

/* The negative errno for a status of any runtime; -EIO where none fits. */
int rpc_status_to_errno(grpc_status_code status);

/* "NOT_FOUND" … for people. */
const char *rpc_status_name(grpc_status_code status);
