#include "agent/key.h"

#include <errno.h>
#include <string.h>

int key_check(const struct key *key, const ProtobufCBinaryData *said, struct err *err)
{
	bool comparable = key->set && said->len == AGENT_KEY_BYTES;
	uint8_t differs = 0;
	/* To the end: the time it takes tells nothing of where they differ. */
	for (size_t i = 0; comparable && i < AGENT_KEY_BYTES; i++)
		differs |= key->bytes[i] ^ said->data[i];
	return comparable && !differs ? 0 : err_set(err, -EACCES, "that is not this machine's key");
}

int key_offer(struct key *key, const ProtobufCBinaryData *offered, struct err *err)
{
	if (offered->len != AGENT_KEY_BYTES)
		return err_set(
			err, -EINVAL, "a key of %zu bytes, not %d", offered->len, AGENT_KEY_BYTES);
	if (key->set)
		return key_check(key, offered, err);
	memcpy(key->bytes, offered->data, AGENT_KEY_BYTES);
	key->set = true;
	return 0;
}
