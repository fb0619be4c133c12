/*
 * Protobuf messages from malloc: copies and fields.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "common/err.h"

/* A deep copy, freed with protobuf_c_message_free_unpacked(); NULL when memory is out. */
ProtobufCMessage *message_copy(const ProtobufCMessage *message);

/* Replaces a string field of a message from malloc. */
int message_set_string(char **field, const char *value, struct err *err);

/* Adds copies to a repeated string field of a message from malloc. */
int message_add_string(char ***items, size_t *n, const char *value, struct err *err);
int message_add_strings(
	char ***items, size_t *n, char *const *values, size_t n_values, struct err *err);
