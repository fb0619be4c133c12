#include "cri-server/cli/message_json.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/cli/output.h"

#define NAME_MAX_BYTES 64

/* A text from outside; what is not UTF-8 is escaped as output_escape() does. */
static json_t *text_json(const char *text)
{
	json_t *json = json_string(text);
	if (json)
		return json;
	_cleanup_free_ char *escaped = output_escape(text);
	return escaped ? json_string(escaped) : NULL;
}

/* "pod_sandbox_id" → "podSandboxId". */
static void camel_case(char out[NAME_MAX_BYTES], const char *name)
{
	size_t n = 0;
	bool raise = false;
	for (; *name && n + 1 < NAME_MAX_BYTES; name++) {
		if (*name == '_') {
			raise = true;
			continue;
		}
		out[n++] =
			(char)(raise && *name >= 'a' && *name <= 'z' ? *name - 'a' + 'A' : *name);
		raise = false;
	}
	out[n] = '\0';
}

static json_t *integer_text(const char *format_sign, uint64_t value)
{
	char text[32];
	if (format_sign[0] == '-')
		snprintf(text, sizeof(text), "%" PRId64, (int64_t)value);
	else
		snprintf(text, sizeof(text), "%" PRIu64, value);
	return json_string(text);
}

static json_t *enum_json(const ProtobufCEnumDescriptor *type, int value)
{
	const ProtobufCEnumValue *found = protobuf_c_enum_descriptor_get_value(type, value);
	return found ? json_string(found->name) : json_integer(value);
}

/* One value of the field; NULL also for what has no form here: no answer that is printed has bytes.
 */
static json_t *value_json(const ProtobufCFieldDescriptor *field, const void *at)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		return json_integer(*(const int32_t *)at);
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		return json_integer(*(const uint32_t *)at);
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		return integer_text("-", *(const uint64_t *)at);
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		return integer_text("+", *(const uint64_t *)at);
	case PROTOBUF_C_TYPE_FLOAT:
		return json_real((double)*(const float *)at);
	case PROTOBUF_C_TYPE_DOUBLE:
		return json_real(*(const double *)at);
	case PROTOBUF_C_TYPE_BOOL:
		return json_boolean(*(const protobuf_c_boolean *)at);
	case PROTOBUF_C_TYPE_ENUM:
		return enum_json(field->descriptor, *(const int *)at);
	case PROTOBUF_C_TYPE_STRING:
		return text_json(*(char *const *)at ? *(char *const *)at : "");
	case PROTOBUF_C_TYPE_MESSAGE:
		return message_json(*(ProtobufCMessage *const *)at);
	case PROTOBUF_C_TYPE_BYTES:
		break;
	}
	return NULL;
}

static size_t value_size(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	default:
		return 4;
	}
}

/* protobuf-c expands a map to messages of this form. */
static bool is_map(const ProtobufCFieldDescriptor *field)
{
	const ProtobufCMessageDescriptor *type = field->descriptor;
	size_t len = field->type == PROTOBUF_C_TYPE_MESSAGE ? strlen(type->short_name) : 0;
	return len > 5 && strcmp(type->short_name + len - 5, "Entry") == 0 && type->n_fields == 2 &&
	       strcmp(type->fields[0].name, "key") == 0 &&
	       type->fields[0].type == PROTOBUF_C_TYPE_STRING;
}

static int add_entry(json_t *map, const ProtobufCMessage *entry)
{
	const ProtobufCFieldDescriptor *fields = entry->descriptor->fields;
	const char *key = *(char *const *)((const char *)entry + fields[0].offset);
	json_t *json = text_json(key ? key : "");
	int r = json ? json_object_set_new(map, json_string_value(json),
			       value_json(&fields[1], (const char *)entry + fields[1].offset))
		     : -1;
	json_decref(json);
	return r;
}

static json_t *list_json(const ProtobufCFieldDescriptor *field, const void *items, size_t n)
{
	bool map = is_map(field);
	json_t *list = map ? json_object() : json_array();
	for (size_t i = 0; i < n; i++) {
		const char *at = (const char *)items + i * value_size(field->type);
		int r = map ? add_entry(list, *(ProtobufCMessage *const *)at)
			    : json_array_append_new(list, value_json(field, at));
		if (r < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* Not a message that is not set, nor the part of a oneof that is not the chosen one. */
static bool is_present(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
	const char *at = (const char *)message + field->offset;
	if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
		return *(const uint32_t *)((const char *)message + field->quantifier_offset) ==
		       field->id;
	return field->label == PROTOBUF_C_LABEL_REPEATED ||
	       (field->type == PROTOBUF_C_TYPE_MESSAGE ? *(void *const *)at != NULL
						       : field->type != PROTOBUF_C_TYPE_BYTES);
}

json_t *message_json(const ProtobufCMessage *message)
{
	json_t *object = json_object();
	for (unsigned i = 0; object && i < message->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
		const char *at = (const char *)message + field->offset;
		char name[NAME_MAX_BYTES];
		if (!is_present(message, field))
			continue;
		camel_case(name, field->name);
		json_t *value = field->label == PROTOBUF_C_LABEL_REPEATED
					? list_json(field, *(void *const *)at,
						  *(const size_t *)((const char *)message +
								    field->quantifier_offset))
					: value_json(field, at);
		if (json_object_set_new(object, name, value) < 0) {
			json_decref(object);
			return NULL;
		}
	}
	return object;
}
