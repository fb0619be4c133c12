/* The files of /proc/sys. */
#pragma once

#include "common/err.h"

/* Writes one that exists. */
int sysctl_write(const char *path, const char *value, struct err *err);
