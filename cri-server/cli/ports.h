/* What `port-forward` is told: which local port leads to which of the pod's. Pure. */
#pragma once

#include <stdint.h>

#include "common/err.h"

struct port_pair {
	uint16_t local; /* 0: any that is free */
	uint16_t remote;
};

/* "REMOTE" (the same locally), "LOCAL:REMOTE", ":REMOTE" (any local one). -EINVAL. */
int port_pair_parse(const char *text, struct port_pair *ret, struct err *err);
