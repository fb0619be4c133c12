/* Files of this host as tar, for a container. Blocking. */
#pragma once

#include "common/err.h"

/*
 * Writes the file or tree at path to fd, under the name `to`; owners are root's, symbolic links are
 * kept, sockets left out. -EPIPE: nobody reads any longer.
 */
int tar_out_write(int fd, const char *path, const char *to, struct err *err);
