#include "cri-server/rpc/status.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_errno_to_status(void **state)
{
	(void)state;
	assert_int_equal(rpc_status_from_errno(0), GRPC_STATUS_OK);
	assert_int_equal(rpc_status_from_errno(-ENOENT), GRPC_STATUS_NOT_FOUND);
	assert_int_equal(rpc_status_from_errno(-ENOSYS), GRPC_STATUS_UNIMPLEMENTED);
	assert_int_equal(rpc_status_from_errno(-ETIMEDOUT), GRPC_STATUS_DEADLINE_EXCEEDED);
	assert_int_equal(rpc_status_from_errno(-ENOMEM), GRPC_STATUS_RESOURCE_EXHAUSTED);
	assert_int_equal(rpc_status_from_errno(-EIO), GRPC_STATUS_UNKNOWN);
	assert_int_equal(rpc_status_from_errno(-EXDEV), GRPC_STATUS_UNKNOWN);
	/* As containerd: wrong arguments, names in use, wrong states, refusals of registries. */
	assert_int_equal(rpc_status_from_errno(-EINVAL), GRPC_STATUS_UNKNOWN);
	assert_int_equal(rpc_status_from_errno(-EEXIST), GRPC_STATUS_UNKNOWN);
	assert_int_equal(rpc_status_from_errno(-EBADFD), GRPC_STATUS_UNKNOWN);
	assert_int_equal(rpc_status_from_errno(-EACCES), GRPC_STATUS_UNKNOWN);
	assert_int_equal(rpc_status_from_errno(-EHOSTUNREACH), GRPC_STATUS_UNKNOWN);
	assert_int_equal(rpc_status_from_errno(-ENOSPC), GRPC_STATUS_UNKNOWN);
	/* A positive value is no failure of ours; it must not read as success. */
	assert_int_equal(rpc_status_from_errno(1), GRPC_STATUS_UNKNOWN);
}

static void test_status_to_errno(void **state)
{
	(void)state;
	assert_int_equal(rpc_status_to_errno(GRPC_STATUS_OK), 0);
	assert_int_equal(rpc_status_to_errno(GRPC_STATUS_UNAVAILABLE), -EAGAIN);
	assert_int_equal(rpc_status_to_errno(GRPC_STATUS_UNIMPLEMENTED), -EOPNOTSUPP);
	assert_int_equal(rpc_status_to_errno(GRPC_STATUS_UNKNOWN), -EIO);
	assert_int_equal(rpc_status_to_errno(GRPC_STATUS_INTERNAL), -EIO);
	assert_int_equal(rpc_status_to_errno(GRPC_STATUS_INVALID_ARGUMENT), -EINVAL);
	assert_int_equal(rpc_status_to_errno(GRPC_STATUS_ALREADY_EXISTS), -EEXIST);
	assert_int_equal(rpc_status_to_errno((grpc_status_code)99), -EIO);
	for (int s = GRPC_STATUS_CANCELLED; s <= GRPC_STATUS_UNAUTHENTICATED; s++)
		assert_true(rpc_status_to_errno((grpc_status_code)s) < 0);
	/* What bulkheadd tells apart, its clients do too. */
	static const int kept[] = {-ECANCELED, -ETIMEDOUT, -ENOENT, -EOPNOTSUPP, -ENOBUFS};
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
		assert_int_equal(rpc_status_to_errno(rpc_status_from_errno(kept[i])), kept[i]);
}

static void test_names(void **state)
{
	(void)state;
	assert_string_equal(rpc_status_name(GRPC_STATUS_OK), "OK");
	assert_string_equal(rpc_status_name(GRPC_STATUS_UNAUTHENTICATED), "UNAUTHENTICATED");
	for (int s = GRPC_STATUS_OK; s <= GRPC_STATUS_UNAUTHENTICATED; s++)
		assert_non_null(rpc_status_name((grpc_status_code)s));
	assert_string_equal(rpc_status_name((grpc_status_code)99), "UNKNOWN");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_errno_to_status),
		cmocka_unit_test(test_status_to_errno),
		cmocka_unit_test(test_names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
