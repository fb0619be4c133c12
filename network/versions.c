#include "network/versions.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/buf.h"
#include "common/fd.h"

#define DESCRIPTION_MAX (1u << 20)

void versions_init(struct versions *versions)
{
	pthread_mutex_init(&versions->lock, NULL);
	versions->spoken = NULL;
}

void versions_done(struct versions *versions)
{
	free(versions->spoken);
	pthread_mutex_destroy(&versions->lock);
}

/* A file that is replaced has another number or time. */
static int describe_plugin(
	struct buf *out, const struct cni_runtime *runtime, const char *type, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	struct stat st;
	int r = cni_plugin_find(runtime->bin_dirs, type, &path, err);

	if (r < 0)
		return r;
	if (stat(path, &st) < 0)
		return err_errno(err, "look at %s", path);
	r = buf_printf(out, "\n%s %llu %llu %lld %lld.%ld", path, (unsigned long long)st.st_dev,
		(unsigned long long)st.st_ino, (long long)st.st_size, (long long)st.st_ctim.tv_sec,
		st.st_ctim.tv_nsec);
	return r < 0 ? err_nomem(err) : 0;
}

static int describe(const struct cni_runtime *runtime, const struct cni_config *config, char **ret,
	struct err *err)
{
	const char *types[CNI_TYPES_MAX];
	size_t i, n = cni_config_types(config, types);
	struct buf out = buf_init(DESCRIPTION_MAX);
	int r = buf_printf(&out, "%s", config->version) < 0 ? err_nomem(err) : 0;

	for (i = 0; r == 0 && i < n; i++)
		r = describe_plugin(&out, runtime, types[i], err);
	if (r == 0) {
		const char *text = buf_string(&out);

		*ret = text ? strdup(text) : NULL;
		r = *ret ? 0 : err_nomem(err);
	}
	buf_done(&out);
	return r;
}

static bool is_spoken(struct versions *versions, const char *what)
{
	bool spoken;

	pthread_mutex_lock(&versions->lock);
	spoken = versions->spoken && strcmp(versions->spoken, what) == 0;
	pthread_mutex_unlock(&versions->lock);
	return spoken;
}

int versions_check(struct versions *versions, const struct cni_runtime *runtime,
	const struct cni_config *config, struct err *err)
{
	_cleanup_free_ char *what = NULL;
	const char *types[CNI_TYPES_MAX];
	size_t i, n = cni_config_types(config, types);
	int r = describe(runtime, config, &what, err);

	if (r < 0 || is_spoken(versions, what))
		return r;
	for (i = 0; r == 0 && i < n; i++)
		r = cni_version(runtime, types[i], config->version, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&versions->lock);
	free(versions->spoken);
	versions->spoken = TAKE_PTR(what);
	pthread_mutex_unlock(&versions->lock);
	return 0;
}
