/*
 * What was asked for and not fetched yet: requests by one-time tokens.
 *
 * A token is 128 random bits, is good for one look-up, and for a minute; TOKENS_MAX are out at
 * most, for requests that keep TOKENS_BYTES_MAX together. The time is the caller's (ev_now_ms()).
 * Threads: any.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "cri-server/stream/stream.h"

#define TOKENS_MAX       1000
#define TOKENS_BYTES_MAX (64u << 20)
#define TOKEN_MS         60000
#define TOKEN_LENGTH     32 /* characters */

struct tokens;

int tokens_new(struct tokens **ret, struct err *err);
/* Ends all requests that are left. */
struct tokens *tokens_free(struct tokens *tokens);

/* Takes the request on success. -EAGAIN: too many are out. */
int tokens_add(struct tokens *tokens, uint64_t now_ms, const struct stream_request *request,
	char ret_token[TOKEN_LENGTH + 1], struct err *err);
/* Hands the request over; false: there is no such token (any more), or it is of another kind. */
bool tokens_take(struct tokens *tokens, uint64_t now_ms, enum stream_kind kind, const char *token,
	struct stream_request *ret);
/* Ends the requests whose time is over. */
void tokens_expire(struct tokens *tokens, uint64_t now_ms);
