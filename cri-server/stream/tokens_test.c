/* One-time tokens, in a time of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "cri-server/stream/tokens.h"

#define NOW 1000000

static void count_end(void *userdata)
{
	++*(int *)userdata;
}

static const struct stream_ops ops = {.end = count_end};

static struct tokens *begin(int *ended, char token[TOKEN_LENGTH + 1])
{
	const struct stream_request request = {.kind = STREAM_EXEC, .ops = &ops, .target = ended};
	struct tokens *tokens;
	assert_int_equal(tokens_new(&tokens, NULL), 0);
	assert_int_equal(tokens_add(tokens, NOW, &request, token, NULL), 0);
	return tokens;
}

static void good_once(void **state)
{
	char token[TOKEN_LENGTH + 1], other[TOKEN_LENGTH + 1];
	struct stream_request taken;
	int ended = 0;
	(void)state;
	struct tokens *tokens = begin(&ended, token);
	assert_int_equal(strspn(token, "0123456789abcdef"), TOKEN_LENGTH);
	memcpy(other, token, sizeof(other));
	other[TOKEN_LENGTH - 1] ^= 1;
	assert_false(tokens_take(tokens, NOW, STREAM_EXEC, other, &taken));
	assert_false(tokens_take(tokens, NOW, STREAM_EXEC, "", &taken));
	assert_false(tokens_take(tokens, NOW, STREAM_ATTACH, token, &taken));
	assert_true(tokens_take(tokens, NOW, STREAM_EXEC, token, &taken));
	assert_ptr_equal(taken.target, &ended);
	assert_false(tokens_take(tokens, NOW, STREAM_EXEC, token, &taken));
	tokens_free(tokens);
	assert_int_equal(ended, 0); /* it is whose it was handed to */
}

static void good_for_a_minute(void **state)
{
	char token[TOKEN_LENGTH + 1];
	struct stream_request taken;
	int ended = 0;
	(void)state;
	struct tokens *tokens = begin(&ended, token);
	assert_false(tokens_take(tokens, NOW + TOKEN_MS, STREAM_EXEC, token, &taken));
	tokens_expire(tokens, NOW + TOKEN_MS - 1);
	assert_int_equal(ended, 0);
	tokens_expire(tokens, NOW + TOKEN_MS);
	assert_int_equal(ended, 1);
	tokens_free(tokens);
	assert_int_equal(ended, 1);

	tokens = begin(&ended, token);
	assert_true(tokens_take(tokens, NOW + TOKEN_MS - 1, STREAM_EXEC, token, &taken));
	tokens_free(tokens);
}

static void the_expired_make_room(void **state)
{
	char token[TOKEN_LENGTH + 1];
	int ended = 0;
	const struct stream_request request = {.kind = STREAM_EXEC, .ops = &ops, .target = &ended};
	(void)state;
	struct tokens *tokens = begin(&ended, token);
	for (int i = 1; i < TOKENS_MAX; i++)
		assert_int_equal(tokens_add(tokens, NOW + 1, &request, token, NULL), 0);
	assert_int_equal(tokens_add(tokens, NOW + 1, &request, token, NULL), -EAGAIN);
	assert_int_equal(tokens_add(tokens, NOW + TOKEN_MS, &request, token, NULL), 0);
	assert_int_equal(ended, 1);
	tokens_free(tokens);
	assert_int_equal(ended, 1 + TOKENS_MAX);
}

static void what_they_keep_is_bounded(void **state)
{
	char token[TOKEN_LENGTH + 1];
	int ended = 0;
	struct stream_request request = {.kind = STREAM_EXEC, .ops = &ops, .target = &ended}, taken;
	(void)state;
	struct tokens *tokens = begin(&ended, token);
	request.bytes = TOKENS_BYTES_MAX - 1;
	assert_int_equal(tokens_add(tokens, NOW, &request, token, NULL), 0);
	request.bytes = 2;
	char other[TOKEN_LENGTH + 1];
	assert_int_equal(tokens_add(tokens, NOW, &request, other, NULL), -EAGAIN);
	request.bytes = 1;
	assert_int_equal(tokens_add(tokens, NOW, &request, other, NULL), 0);
	assert_true(tokens_take(tokens, NOW, STREAM_EXEC, token, &taken));
	request.bytes = TOKENS_BYTES_MAX - 1;
	assert_int_equal(tokens_add(tokens, NOW, &request, other, NULL), 0);
	/* The expired give back theirs too. */
	request.bytes = TOKENS_BYTES_MAX;
	assert_int_equal(tokens_add(tokens, NOW + TOKEN_MS, &request, other, NULL), 0);
	tokens_free(tokens);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_once),
		cmocka_unit_test(good_for_a_minute),
		cmocka_unit_test(the_expired_make_room),
		cmocka_unit_test(what_they_keep_is_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
