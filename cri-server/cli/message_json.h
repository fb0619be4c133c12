/*
 * Answers of a CRI runtime as JSON, in proto3's form as crictl prints it: lowerCamelCase names,
 * 64-bit integers and enumerators as text. Fields that are messages are left out where they are not
 * set, others have their default.
 */
#pragma once

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>

/* The caller's, by json_decref(); NULL when memory is out. */
json_t *message_json(const ProtobufCMessage *message);
