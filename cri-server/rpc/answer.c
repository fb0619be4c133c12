#include "cri-server/rpc/answer.h"

#include <stdlib.h>

#include "cri-server/rpc/message.h"

int respond(const ProtobufCMessage *response, struct rpc_answer *ret, struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(response);
	uint8_t *data = malloc(len ? len : 1);
	if (!data)
		return err_nomem(err);
	protobuf_c_message_pack(response, data);
	rpc_message_scrub(response->descriptor, data, len);
	*ret = (struct rpc_answer){.type = response->descriptor, .data = data, .len = len};
	return 0;
}

void rpc_answer_done(struct rpc_answer *answer)
{
	free(answer->data);
	*answer = (struct rpc_answer){0};
}
