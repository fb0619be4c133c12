#include "cri-server/runtime/cgroup_parent.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"

#define DEFAULT_PARENT "/bulkhead"
#define SUFFIX         ".slice"
#define PATH_MAX_BYTES 1024

static bool is_slice(const char *parent)
{
	size_t len = strlen(parent);
	return len > strlen(SUFFIX) && strcmp(parent + len - strlen(SUFFIX), SUFFIX) == 0 &&
	       !strchr(parent, '/');
}

/* systemd.slice(5): no dash at an end, none beside another. "-.slice" is the root. */
static bool is_slice_name(const char *parent)
{
	size_t len = strlen(parent) - strlen(SUFFIX);
	return strcmp(parent, "-" SUFFIX) == 0 ||
	       (parent[0] != '-' && parent[len - 1] != '-' && !strstr(parent, "--"));
}

/* Components that are names: nothing leads out of the hierarchy. */
static bool is_path(const char *parent)
{
	for (const char *p = parent; *p;) {
		p += strspn(p, "/");
		size_t len = strcspn(p, "/");
		if ((len == 1 && p[0] == '.') || (len == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		p += len;
	}
	return true;
}

int cgroup_parent_check(const char *parent, struct err *err)
{
	bool ok = strlen(parent) <= PATH_MAX_BYTES && is_path(parent);
	for (const char *p = parent; *p && ok; p++)
		ok = (unsigned char)*p > 0x20 && *p != 0x7f;
	if (ok && is_slice(parent))
		ok = is_slice_name(parent);
	if (ok)
		return 0;
	return err_set(err, -EINVAL,
		"cgroup_parent '%.128s' is neither a path such as /kubepods/pod1 nor a slice such "
		"as kubepods-pod1.slice",
		parent);
}

/* "a-b-c.slice" lies in "/a.slice/a-b.slice". Of each n characters there are at most n paths. */
static char *expand_slice(const char *parent)
{
	size_t len = strlen(parent) - strlen(SUFFIX);
	char *path = strdup("");
	if (strcmp(parent, "-" SUFFIX) == 0)
		return path;
	for (size_t i = 1; i <= len && path; i++) {
		if (i < len && parent[i] != '-')
			continue;
		char *longer = str_printf("%s/%.*s" SUFFIX, path, (int)i, parent);
		free(path);
		path = longer;
	}
	return path;
}

int cgroup_path(const char *parent, const char *sandbox_id, char **ret, struct err *err)
{
	int r = cgroup_parent_check(parent, err);
	if (r < 0)
		return r;
	_cleanup_free_ char *base = NULL;
	if (is_slice(parent)) {
		base = expand_slice(parent);
	} else {
		parent += strspn(parent, "/");
		base = *parent ? str_printf("/%s", parent) : strdup(DEFAULT_PARENT);
	}
	if (base)
		for (size_t len = strlen(base); len && base[len - 1] == '/';)
			base[--len] = '\0';
	*ret = base ? str_printf("%s/bulkhead-%s", base, sandbox_id) : NULL;
	return *ret ? 0 : err_nomem(err);
}
