/*
 * The account of a directory tree on the scratch disk: an ext4 project each.
 *
 * A project is a number that the directory's files inherit; the kernel counts their blocks and
 * inodes as they come and go, so that asking costs nothing. Files must stay within their tree to be
 * counted there: a rename into another project's is refused by ext4.
 *
 * Source: ext4(5) "project", quotactl(2). Threads: any.
 */
#pragma once

#include <stdint.h>

#include "common/err.h"

/* All that is made below the directory counts for the project from now on. -EOPNOTSUPP: the file
 * system has no projects. */
int quota_project_set(int directory, uint32_t project, struct err *err);

/* The project may have no more than so many bytes, for whoever lacks CAP_SYS_RESOURCE. */
int quota_project_limit(int directory, uint32_t project, uint64_t bytes, struct err *err);

/* What the project has on the file system of the directory. Without quotas: -errno. */
int quota_project_usage(int directory, uint32_t project, uint64_t *ret_bytes, uint64_t *ret_inodes);
