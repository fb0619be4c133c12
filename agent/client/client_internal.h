/* Between client.c and stream.c. */
#pragma once

#include "agent/client/client.h"

const struct agent_transport *agent_transport_of(const struct agent *agent);
