#include "cri-server/message.h"

#include <stdlib.h>
#include <string.h>

#include "common/fd.h"

ProtobufCMessage *message_copy(const ProtobufCMessage *message)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	_cleanup_free_ uint8_t *packed = malloc(len ? len : 1);
	if (!packed)
		return NULL;
	protobuf_c_message_pack(message, packed);
	return protobuf_c_message_unpack(message->descriptor, NULL, len, packed);
}

int respond(const ProtobufCMessage *response, ProtobufCMessage **ret, struct err *err)
{
	ProtobufCMessage *copy = message_copy(response);
	if (!copy)
		return err_nomem(err);
	*ret = copy;
	return 0;
}

int message_set_string(char **field, const char *value, struct err *err)
{
	char *copy = strdup(value);
	if (!copy)
		return err_nomem(err);
	if (*field != protobuf_c_empty_string)
		free(*field);
	*field = copy;
	return 0;
}
