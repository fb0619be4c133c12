#include "network/versions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/buf.h"
#include "common/fd.h"

#define DESCRIPTION_MAX (1u << 20)

void versions_init(struct versions *versions)
{
	pthread_mutex_init(&versions->lock, NULL);
	versions->asked = NULL;
	versions->spoken = NULL;
}

void versions_done(struct versions *versions)
{
	free(versions->asked);
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
	int r = 0;

	for (i = 0; r == 0 && i < config->n_versions; i++)
		r = buf_printf(&out, "%s ", config->versions[i]) < 0 ? err_nomem(err) : 0;
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

/* The version that was found for what is so described; NULL: none. */
static const char *find(struct versions *versions, const char *what)
{
	const char *found = NULL;

	pthread_mutex_lock(&versions->lock);
	if (versions->asked && strcmp(versions->asked, what) == 0)
		found = versions->spoken;
	pthread_mutex_unlock(&versions->lock);
	return found;
}

/* Takes what. */
static void keep(struct versions *versions, char *what, const char *spoken)
{
	pthread_mutex_lock(&versions->lock);
	free(versions->asked);
	versions->asked = what;
	versions->spoken = spoken;
	pthread_mutex_unlock(&versions->lock);
}

static int ask_all(const struct cni_runtime *runtime, const struct cni_config *config,
	const char *version, struct err *err)
{
	const char *types[CNI_TYPES_MAX];
	size_t i, n = cni_config_types(config, types);
	int r = 0;

	for (i = 0; r == 0 && i < n; i++)
		r = cni_version(runtime, types[i], version, err);
	return r;
}

/* The error is that of the latest version, for which plugins are to be renewed. */
static int choose(const struct cni_runtime *runtime, const struct cni_config *config,
	const char **ret, struct err *err)
{
	struct err other = ERR_INIT;
	size_t i;
	int r = -EINVAL;

	for (i = 0; r == -EINVAL && i < config->n_versions; i++) {
		*ret = config->versions[i];
		r = ask_all(runtime, config, *ret, i == 0 ? err : &other);
		if (r < 0 && r != -EINVAL && i > 0 && err)
			*err = other;
	}
	return r;
}

int versions_check(struct versions *versions, const struct cni_runtime *runtime,
	struct cni_config *config, struct err *err)
{
	_cleanup_free_ char *what = NULL;
	const char *spoken;
	int r = describe(runtime, config, &what, err);

	if (r < 0)
		return r;
	spoken = find(versions, what);
	if (!spoken) {
		r = choose(runtime, config, &spoken, err);
		if (r < 0)
			return r;
		keep(versions, TAKE_PTR(what), spoken);
	}
	config->version = spoken;
	return 0;
}
