/*
 * Where on the host a pod's machine is accounted for: a cgroup of its own below the pod's, which
 * the kubelet names in `cgroup_parent`, in one of two forms:
 *
 *	"/kubepods/burstable/pod1"        cgroupfs: the path
 *	"kubepods-burstable-pod1.slice"   systemd: a slice, which lies in those its name begins with
 *
 * Without one it is "/bulkhead". Pure functions; any thread.
 */
#pragma once

#include "common/err.h"

/* -EINVAL: of neither form, or out of bounds. "" is none. */
int cgroup_parent_check(const char *parent, struct err *err);
/* The path of the machine's cgroup below each hierarchy's root; the caller frees it. */
int cgroup_path(const char *parent, const char *sandbox_id, char **ret, struct err *err);
