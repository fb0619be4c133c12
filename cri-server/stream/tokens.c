#include "cri-server/stream/tokens.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"

struct token {
	char text[TOKEN_LENGTH + 1];
	uint64_t until_ms;
	struct stream_request request;
};

struct tokens {
	pthread_mutex_t lock; /* protects what follows */
	struct token list[TOKENS_MAX];
	unsigned n;
	size_t bytes; /* that the requests keep */
};

int tokens_new(struct tokens **ret, struct err *err)
{
	struct tokens *tokens = calloc(1, sizeof(*tokens));
	if (!tokens)
		return err_nomem(err);
	pthread_mutex_init(&tokens->lock, NULL);
	*ret = tokens;
	return 0;
}

static void end(const struct stream_request *request)
{
	request->ops->end(request->target);
}

struct tokens *tokens_free(struct tokens *tokens)
{
	if (!tokens)
		return NULL;
	for (unsigned i = 0; i < tokens->n; i++)
		end(&tokens->list[i].request);
	pthread_mutex_destroy(&tokens->lock);
	free(tokens);
	return NULL;
}

static struct stream_request remove_at(struct tokens *tokens, unsigned i)
{
	struct stream_request request = tokens->list[i].request;
	tokens->list[i] = tokens->list[--tokens->n];
	tokens->bytes -= request.bytes;
	return request;
}

static bool take_expired(struct tokens *tokens, uint64_t now_ms, struct stream_request *ret)
{
	bool found = false;
	pthread_mutex_lock(&tokens->lock);
	for (unsigned i = 0; i < tokens->n && !found; i++)
		if (tokens->list[i].until_ms <= now_ms) {
			*ret = remove_at(tokens, i);
			found = true;
		}
	pthread_mutex_unlock(&tokens->lock);
	return found;
}

void tokens_expire(struct tokens *tokens, uint64_t now_ms)
{
	struct stream_request request;
	while (take_expired(tokens, now_ms, &request))
		end(&request);
}

static void make_text(char text[TOKEN_LENGTH + 1])
{
	unsigned char bytes[TOKEN_LENGTH / 2];
	arc4random_buf(bytes, sizeof(bytes));
	str_hex(text, bytes, sizeof(bytes));
}

int tokens_add(struct tokens *tokens, uint64_t now_ms, const struct stream_request *request,
	char ret_token[TOKEN_LENGTH + 1], struct err *err)
{
	make_text(ret_token);
	tokens_expire(tokens, now_ms);
	pthread_mutex_lock(&tokens->lock);
	bool room = tokens->n < TOKENS_MAX && request->bytes <= TOKENS_BYTES_MAX - tokens->bytes;
	unsigned n = tokens->n;
	if (room) {
		struct token *token = &tokens->list[tokens->n++];
		memcpy(token->text, ret_token, sizeof(token->text));
		token->until_ms = now_ms + TOKEN_MS;
		token->request = *request;
		tokens->bytes += request->bytes;
	}
	pthread_mutex_unlock(&tokens->lock);
	return room ? 0
		    : err_set(err, -EAGAIN,
			      "maximum number of in-flight requests exceeded: %u URLs were not "
			      "used yet; %d with %u MiB of commands are the most",
			      n, TOKENS_MAX, TOKENS_BYTES_MAX >> 20);
}

bool tokens_take(struct tokens *tokens, uint64_t now_ms, enum stream_kind kind, const char *token,
	struct stream_request *ret)
{
	bool found = false;
	if (strlen(token) != TOKEN_LENGTH)
		return false;
	pthread_mutex_lock(&tokens->lock);
	for (unsigned i = 0; i < tokens->n && !found; i++) {
		const struct token *t = &tokens->list[i];
		if (CRYPTO_memcmp(t->text, token, TOKEN_LENGTH) != 0 || t->until_ms <= now_ms ||
			t->request.kind != kind)
			continue;
		*ret = remove_at(tokens, i);
		found = true;
	}
	pthread_mutex_unlock(&tokens->lock);
	return found;
}
