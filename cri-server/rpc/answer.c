#include "cri-server/rpc/answer.h"

#include <stdatomic.h>
#include <stdlib.h>

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

int respond(const ProtobufCMessage *response, struct rpc_answer *ret, struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(response);
	struct bytes *bytes = malloc(sizeof(*bytes) + len);
	if (!bytes)
		return err_nomem(err);
	atomic_init(&bytes->users, 1);
	protobuf_c_message_pack(response, bytes->data);
	rpc_message_scrub(response->descriptor, bytes->data, len);
	*ret = (struct rpc_answer){.type = response->descriptor, .data = bytes->data, .len = len};
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
