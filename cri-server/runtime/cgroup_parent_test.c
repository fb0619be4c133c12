#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/runtime/cgroup_parent.h"

/* As the kubelet names pods to its two drivers, and as runc expands slices. */
static void test_paths(void **state)
{
	static const struct {
		const char *parent, *path;
	} rows[] = {
		{"", "/bulkhead/bulkhead-1"},
		{"/", "/bulkhead/bulkhead-1"},
		{"/kubepods/burstable/podx-1", "/kubepods/burstable/podx-1/bulkhead-1"},
		{"kubepods/podx/", "/kubepods/podx/bulkhead-1"},
		{"/kubepods.slice/kubepods-podx.slice",
			"/kubepods.slice/kubepods-podx.slice/bulkhead-1"},
		{"kubepods-besteffort-podx_1.slice", "/kubepods.slice/kubepods-besteffort.slice/"
						     "kubepods-besteffort-podx_1.slice/bulkhead-1"},
		{"machine.slice", "/machine.slice/bulkhead-1"},
		{"-.slice", "/bulkhead-1"},
		{".slice", "/.slice/bulkhead-1"},
	};
	struct err err = ERR_INIT;
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_free_ char *path = NULL;
		assert_int_equal(cgroup_path(rows[i].parent, "1", &path, &err), 0);
		assert_string_equal(path, rows[i].path);
	}
}

static void test_refused(void **state)
{
	static const char *const rows[] = {"..", "/a/../b", "/a/..", "./a", "/a b", "/a\nb",
		"-a.slice", "a--b.slice", "a-.slice", "--.slice"};
	struct err err = ERR_INIT;
	char *path = NULL, long_one[2000];
	(void)state;
	memset(long_one, 'a', sizeof(long_one));
	long_one[sizeof(long_one) - 1] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(cgroup_path(rows[i], "1", &path, &err), -EINVAL);
	assert_int_equal(cgroup_path(long_one, "1", &path, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_paths),
		cmocka_unit_test(test_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
