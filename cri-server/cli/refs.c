#include "cri-server/cli/refs.h"

#include <errno.h>
#include <string.h>

static int ambiguous(const char *wanted, const char *kind, const char *what, struct err *err)
{
	return err_set(err, -EINVAL, "several %ss have the %s '%s': give more of the id", kind,
		what, wanted);
}

int ref_find(const struct ref *refs, size_t n_refs, const char *wanted, const char *kind,
	size_t *ret_index, struct err *err)
{
	size_t n_names = 0, n_prefixes = 0, by_name = 0, by_prefix = 0;

	if (!wanted[0])
		return err_set(err, -EINVAL, "the id of the %s is empty", kind);
	for (size_t i = 0; i < n_refs; i++) {
		if (strcmp(refs[i].id, wanted) == 0) {
			*ret_index = i;
			return 0;
		}
		if (strcmp(refs[i].name, wanted) == 0) {
			by_name = i;
			n_names++;
		}
		if (strncmp(refs[i].id, wanted, strlen(wanted)) == 0) {
			by_prefix = i;
			n_prefixes++;
		}
	}
	if (n_names > 1)
		return ambiguous(wanted, kind, "name", err);
	if (n_names == 0 && n_prefixes > 1)
		return ambiguous(wanted, kind, "beginning", err);
	if (n_names == 0 && n_prefixes == 0)
		return err_set(err, -ENOENT, "no %s has the id or name '%s'", kind, wanted);
	*ret_index = n_names ? by_name : by_prefix;
	return 0;
}
