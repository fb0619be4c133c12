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

int message_add_string(char ***items, size_t *n, const char *value, struct err *err)
{
	char **grown = realloc(*items, (*n + 1) * sizeof(*grown));
	if (!grown)
		return err_nomem(err);
	*items = grown;
	grown[*n] = strdup(value);
	if (!grown[*n])
		return err_nomem(err);
	(*n)++;
	return 0;
}

int message_add_strings(
	char ***items, size_t *n, char *const *values, size_t n_values, struct err *err)
{
	int r = 0;
	for (size_t i = 0; i < n_values && r == 0; i++)
		r = message_add_string(items, n, values[i], err);
	return r;
}
