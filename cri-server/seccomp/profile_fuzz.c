/*
 * A seccomp profile's file. Only small ones are compiled: libseccomp takes its time with thousands
 * of rules.
 */
#include <stddef.h>
#include <stdint.h>

#include "cri-server/seccomp/profile.h"

#define COMPILE_MAX 2048

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

/*
 * libseccomp, up to 2.6.1, loses the nodes that a wider rule takes the place of (_db_tree_remove()
 * drops one reference, the neighbours' stay): some hundred bytes for such a profile, whose filter
 * is then in the cache. That a context is released is profile_test's to see.
 */
const char *__lsan_default_suppressions(void)
{
	return "leak:libseccomp.so";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct profile profile;
	struct filter filter;
	struct err err = ERR_INIT;
	if (size > PROFILE_FILE_MAX || profile_parse((const char *)data, size, &profile, &err) < 0)
		return 0;
	if (size <= COMPILE_MAX && profile_compile(&profile, &filter, &err) == 0)
		filter_done(&filter);
	profile_done(&profile);
	return 0;
}
