#include "agent/client/check.h"

#include <errno.h>
#include <inttypes.h>
#include <net/if.h>
#include <stdbool.h>
#include <string.h>

#include "agent/proto/ports.h"

#define ID_LENGTH_MAX 128
#define EXIT_CODE_MAX 255
/* Those of the agent, in agent/stats.c and agent/registry.h, and some more. */
#define INTERFACES_MAX 64
#define CONTAINERS_MAX 1024
#define MESSAGE_DEPTH  8

/*
 * The length of the valid, printable UTF-8 sequence at s, or 0. Shortest forms only, no surrogates,
 * no control characters (C1 included). Source: RFC 3629.
 */
static size_t sequence_length(const unsigned char *s)
{
	if (s[0] < 0x80)
		return s[0] >= 0x20 && s[0] != 0x7f;
	size_t len = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
	if (s[0] < 0xc2 || s[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
	bool beyond = (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf4 && s[1] > 0x8f);
	bool control = s[0] == 0xc2 && s[1] < 0xa0;
	return overlong || beyond || control ? 0 : len;
}

static bool text_is_plain(const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	while (*s) {
		size_t len = sequence_length(s);
		if (!len)
			return false;
		s += len;
	}
	return true;
}

void check_clean(char *text)
{
	while (*text) {
		size_t len = sequence_length((const unsigned char *)text);
		if (!len)
			*text = '?';
		text += len ? len : 1;
	}
}

static int check_at_depth(const ProtobufCMessage *message, int depth, struct err *err);

static int check_value(
	const ProtobufCFieldDescriptor *field, const void *value, int depth, struct err *err)
{
	if (field->type == PROTOBUF_C_TYPE_STRING) {
		const char *text = *(const char *const *)value;
		if (text && !text_is_plain(text))
			return err_set(err, -EPROTO, "the agent sent an improper text in '%s'",
				field->name);
	}
	if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
		const ProtobufCMessage *inner = *(const ProtobufCMessage *const *)value;
		return inner ? check_at_depth(inner, depth + 1, err) : 0;
	}
	return 0;
}

/* Strings and messages, the only types looked at, are pointers in the generated structures. */
static int check_at_depth(const ProtobufCMessage *message, int depth, struct err *err)
{
	if (depth > MESSAGE_DEPTH)
		return err_set(err, -EPROTO, "the agent sent a message that is too deep");
	for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
		if (field->type != PROTOBUF_C_TYPE_STRING && field->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		const char *at = (const char *)message + field->offset;
		size_t n = 1;
		if (field->label == PROTOBUF_C_LABEL_REPEATED) {
			n = *(const size_t *)((const char *)message + field->quantifier_offset);
			at = *(const char *const *)at;
		}
		for (size_t k = 0; k < n; k++) {
			int r = check_value(field, at + k * sizeof(void *), depth, err);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static bool id_is_valid(const char *id, bool may_be_empty)
{
	size_t len = strlen(id);
	return (len || may_be_empty) && len <= ID_LENGTH_MAX && !strpbrk(id, "/ \"'");
}

/* All pods' are in one answer, which has no room for what no guest has. */
static int check_stats(const Bulkhead__Agent__StatsResponse *response, struct err *err)
{
	if (response->n_interfaces > INTERFACES_MAX || response->n_containers > CONTAINERS_MAX)
		return err_set(err, -EPROTO,
			"the agent sent statistics of %zu interfaces and %zu containers",
			response->n_interfaces, response->n_containers);
	for (size_t i = 0; i < response->n_interfaces; i++)
		if (strlen(response->interfaces[i]->name) >= IF_NAMESIZE)
			return err_set(err, -EPROTO,
				"the agent sent statistics of an interface of no possible name");
	for (size_t i = 0; i < response->n_containers; i++)
		if (!id_is_valid(response->containers[i]->container_id, false))
			return err_set(err, -EPROTO, "the agent sent statistics of no possible id");
	return 0;
}

int check_message(const ProtobufCMessage *message, struct err *err)
{
	int r = check_at_depth(message, 0, err);
	if (r == 0 && message->descriptor == &bulkhead__agent__stats_response__descriptor)
		r = check_stats((const void *)message, err);
	return r;
}

int check_events(
	const Bulkhead__Agent__NextEventsResponse *response, uint64_t after, struct err *err)
{
	if (response->n_events > AGENT_EVENTS_MAX)
		return err_set(err, -EPROTO, "the agent sent %zu events", response->n_events);
	for (size_t i = 0; i < response->n_events; i++) {
		const Bulkhead__Agent__Event *event = response->events[i];
		if (event->sequence != after + 1 + i)
			return err_set(err, -EPROTO,
				"the agent sent event %" PRIu64 " where %" PRIu64 " was due",
				event->sequence, after + 1 + i);
		if (!id_is_valid(event->container_id, false) ||
			!id_is_valid(event->process_id, true))
			return err_set(err, -EPROTO, "the agent sent an event of no possible id");
		if (!event->exit || event->exit->code < 0 || event->exit->code > EXIT_CODE_MAX ||
			event->exit->started_ns < 0 || event->exit->finished_ns < 0)
			return err_set(err, -EPROTO, "the agent sent an impossible exit");
	}
	return 0;
}
