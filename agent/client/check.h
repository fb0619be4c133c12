/*
 * Checks of what an agent sent: nothing of it is trusted. Pure functions; any thread.
 */
#pragma once

#include <stddef.h>

#include "agent/proto/agent.pb-c.h"
#include "common/err.h"

/*
 * -EPROTO when a string anywhere in the message is not UTF-8 or has control characters, or when it
 * has statistics of more than a guest can have.
 */
int check_message(const ProtobufCMessage *message, struct err *err);

/* Replaces every byte that check_message() would refuse by '?'. */
void check_clean(char *text);

/*
 * An answer to NextEvents after `after`: numbers without a gap, ids that could be ours, exits with
 * sane values. -EPROTO.
 */
int check_events(
	const Bulkhead__Agent__NextEventsResponse *response, uint64_t after, struct err *err);
