/*
 * The device nodes of a container's /dev.
 */
#pragma once

#include <stdbool.h>

#include "common/err.h"

/*
 * Fills the directory `dev` with the nodes and links that every container has and, with
 * `guest_nodes`, with all others of the guest's /dev.
 */
int devices_make(int dev, bool guest_nodes, struct err *err);
