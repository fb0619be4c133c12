/*
 * The answer of a handler: a message in its packed form, as it goes to the client.
 *
 * It is packed once, by respond(), while all that it is made of is still there; nobody unpacks or
 * copies it on its way.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct rpc_answer {
	const ProtobufCMessageDescriptor *type;
	uint8_t *data; /* from malloc; {0}: none yet */
	size_t len;
};

/*
 * Answers with `response`, which may borrow all that it points to: an answer is put together on the
 * stack, from records as they are. Its strings may hold any bytes (a guest chose them, say): in the
 * answer they are UTF-8 (rpc_message_scrub()).
 */
int respond(const ProtobufCMessage *response, struct rpc_answer *ret, struct err *err);

/* Frees what it has. */
void rpc_answer_done(struct rpc_answer *answer);
