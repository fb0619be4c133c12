#include "cri-server/rpc/answer.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cri-server/rpc/message.h"

/* What `data` of an answer is in. */
struct bytes {
	atomic_uint users;
	uint8_t data[];
};

static struct bytes *bytes_of(void *data)
{
	return (struct bytes *)((uint8_t *)data - offsetof(struct bytes, data));
}

static struct bytes *bytes_new(size_t len)
{
	struct bytes *bytes = malloc(sizeof(*bytes) + len);
	if (bytes)
		atomic_init(&bytes->users, 1);
	return bytes;
}

int respond(const ProtobufCMessage *response, struct rpc_answer *ret, struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(response);
	struct bytes *bytes = bytes_new(len);
	if (!bytes)
		return err_nomem(err);
	protobuf_c_message_pack(response, bytes->data);
	rpc_message_scrub(response->descriptor, bytes->data, len);
	*ret = (struct rpc_answer){.type = response->descriptor, .data = bytes->data, .len = len};
	return 0;
}

int respond_joined(const ProtobufCMessageDescriptor *type, const struct rpc_answer *const *parts,
	size_t n, struct rpc_answer *ret, struct err *err)
{
	size_t len = 0, at = 0;
	for (size_t i = 0; i < n; i++)
		len += parts[i]->len;
	struct bytes *bytes = bytes_new(len);
	if (!bytes)
		return err_nomem(err);
	for (size_t i = 0; i < n; i++) {
		assert(parts[i]->type == type);
		memcpy(bytes->data + at, parts[i]->data, parts[i]->len);
		at += parts[i]->len;
	}
	*ret = (struct rpc_answer){.type = type, .data = bytes->data, .len = len};
	return 0;
}

struct rpc_answer rpc_answer_share(const struct rpc_answer *answer)
{
	atomic_fetch_add(&bytes_of(answer->data)->users, 1);
	return *answer;
}

void rpc_answer_unref_data(void *data)
{
	if (data && atomic_fetch_sub(&bytes_of(data)->users, 1) == 1)
		free(bytes_of(data));
}

void rpc_answer_done(struct rpc_answer *answer)
{
	rpc_answer_unref_data(answer->data);
	*answer = (struct rpc_answer){0};
}
