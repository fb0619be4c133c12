/*
 * The answer of a handler: a message in its packed form, as it goes to the client.
 *
 * It is packed once, by respond(), while all that it is made of is still there; nobody unpacks or
 * copies it on its way. Its bytes never change from then on, so any number of answers, on any
 * thread, can have the same.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct rpc_answer {
	const ProtobufCMessageDescriptor *type;
	uint8_t *data; /* respond()'s; NULL: none yet */
	size_t len;
};

/*
 * Answers with `response`, which may borrow all that it points to: an answer is put together on the
 * stack, from records as they are. Its strings may hold any bytes (a guest chose them, say): in the
 * answer they are UTF-8 (rpc_message_scrub()).
 */
int respond(const ProtobufCMessage *response, struct rpc_answer *ret, struct err *err);

/*
 * Answers with all of the parts together, which are of one type: what is repeated in it comes from
 * one after the other. With none it is an empty message.
 */
int respond_joined(const ProtobufCMessageDescriptor *type, const struct rpc_answer *const *parts,
	size_t n, struct rpc_answer *ret, struct err *err);

/* Another answer with the same bytes, which live until all that have them are done. */
struct rpc_answer rpc_answer_share(const struct rpc_answer *answer);

/* Gives its bytes back, if it has any. */
void rpc_answer_done(struct rpc_answer *answer);
/* The same, for who took `data` over; NULL is allowed. */
void rpc_answer_unref_data(void *data);
