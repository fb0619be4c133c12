/*
 * An agent's answers, as they lie in ttrpc's frames: the first byte chooses the method. What the
 * checks let through is looked at once more, by other means.
 */
#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/client/check.h"
#include "agent/proto/ports.h"
#include "common/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void assert_events(const Bulkhead__Agent__NextEventsResponse *response)
{
	struct err err = ERR_INIT;
	if (check_events(response, 0, &err) < 0)
		return;
	if (response->n_events > AGENT_EVENTS_MAX)
		abort();
	for (size_t i = 0; i < response->n_events; i++)
		if (response->events[i]->sequence != i + 1 || !response->events[i]->exit ||
			strchr(response->events[i]->container_id, '/'))
			abort();
}

static void assert_stats(const Bulkhead__Agent__StatsResponse *response)
{
	for (size_t i = 0; i < response->n_containers; i++)
		if (!response->containers[i]->container_id[0])
			abort();
}

/* What an agent says of a failure: it is cleaned, not refused, and can then be in an answer. */
static void assert_cleaned(const uint8_t *data, size_t size)
{
	Bulkhead__Agent__HelloResponse answer = BULKHEAD__AGENT__HELLO_RESPONSE__INIT;
	_cleanup_free_ char *text = strndup((const char *)data, size);
	struct err err = ERR_INIT;
	if (!text)
		abort();
	size_t len = strlen(text);
	check_clean(text);
	for (const char *c = text; *c; c++)
		if (iscntrl((unsigned char)*c))
			abort();
	answer.kernel_release = text;
	if (strlen(text) != len || check_message(&answer.base, &err) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const ProtobufCServiceDescriptor *service = &bulkhead__agent__agent__descriptor;
	struct err err = ERR_INIT;
	if (!size)
		return 0;
	const ProtobufCMessageDescriptor *type =
		service->methods[data[0] % service->n_methods].output;
	assert_cleaned(data + 1, size - 1);
	ProtobufCMessage *message = protobuf_c_message_unpack(type, NULL, size - 1, data + 1);
	if (!message)
		return 0;
	if (check_message(message, &err) == 0) {
		if (type == &bulkhead__agent__next_events_response__descriptor)
			assert_events((const void *)message);
		if (type == &bulkhead__agent__stats_response__descriptor)
			assert_stats((const void *)message);
	}
	protobuf_c_message_free_unpacked(message, NULL);
	return 0;
}
