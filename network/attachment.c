#include "network/attachment.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "network/capability.h"
#include "network/cni_result.h"

#define FORMAT         1
#define ID_LEN_MAX     64
#define ARG_LEN_MAX    253
#define FILE_MAX_BYTES (8u << 20)
#define FILE_SUFFIX    ".json"

bool attachment_id_is_valid(const char *id)
{
	size_t len = strlen(id);

	return len > 0 && len <= ID_LEN_MAX &&
	       strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789") == len;
}

char *attachment_id_of_file(const char *name)
{
	size_t len = strlen(name), suffix = strlen(FILE_SUFFIX);
	char *id;

	if (len <= suffix || strcmp(name + len - suffix, FILE_SUFFIX) != 0)
		return NULL;
	id = strndup(name, len - suffix);
	if (id && !attachment_id_is_valid(id)) {
		free(id);
		return NULL;
	}
	return id;
}

struct attachment *attachment_free(struct attachment *attachment)
{
	if (!attachment)
		return NULL;
	free(attachment->id);
	free(attachment->netns);
	free(attachment->args);
	json_decref(attachment->plugins);
	json_decref(attachment->result);
	free(attachment);
	return NULL;
}

/* CNI_ARGS has no quoting: what would end a value or begin another cannot be said in it. */
static int check_arg(const char *what, const char *value, struct err *err)
{
	size_t i;

	if (!value || !*value)
		return err_set(err, -EINVAL, "the pod has no %s", what);
	for (i = 0; value[i]; i++)
		if (value[i] < 0x20 || value[i] >= 0x7f || value[i] == ';' || value[i] == '=')
			return err_set(err, -EINVAL,
				"the pod's %s has a character that CNI plugins cannot be told "
				"(byte %zu)",
				what, i + 1);
	if (i > ARG_LEN_MAX)
		return err_set(
			err, -EINVAL, "the pod's %s is longer than %d bytes", what, ARG_LEN_MAX);
	return 0;
}

static int make_args(const struct net_pod_spec *spec, char **ret, struct err *err)
{
	int r;

	r = check_arg("name", spec->name, err);
	if (r < 0)
		return r;
	r = check_arg("namespace", spec->namespace, err);
	if (r < 0)
		return r;
	r = check_arg("uid", spec->uid, err);
	if (r < 0)
		return r;
	*ret = str_printf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;"
			  "K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_UID=%s",
		spec->namespace, spec->name, spec->id, spec->uid);
	return *ret ? 0 : err_nomem(err);
}

int attachment_new(const struct cni_config *config, const struct net_pod_spec *spec,
	const char *netns, struct attachment **ret, struct err *err)
{
	_cleanup_(attachment_freep) struct attachment *attachment = NULL;
	json_auto_t *args = NULL;
	int r;

	r = capability_args(config->name, &spec->capabilities, &args, err);
	if (r < 0)
		return r;
	attachment = calloc(1, sizeof(*attachment));
	if (!attachment)
		return err_nomem(err);
	r = make_args(spec, &attachment->args, err);
	if (r < 0)
		return r;
	attachment->version = config->version;
	attachment->check_disabled = config->check_disabled;
	attachment->id = strdup(spec->id);
	attachment->netns = strdup(netns);
	attachment->plugins = capability_derive(config, args);
	if (!attachment->id || !attachment->netns || !attachment->plugins)
		return err_nomem(err);
	*ret = TAKE_PTR(attachment);
	return 0;
}

static char *cache_path(const char *cache_dir, const char *id)
{
	return str_printf("%s/%s%s", cache_dir, id, FILE_SUFFIX);
}

int attachment_save(
	const char *cache_dir, const struct attachment *attachment, bool durable, struct err *err)
{
	_cleanup_free_ char *path = cache_path(cache_dir, attachment->id);
	_cleanup_free_ char *text = NULL;
	json_auto_t *root = NULL;

	root = json_pack("{s:i, s:s, s:s, s:s, s:s, s:O, s:b, s:O?}", "format", FORMAT, "id",
		attachment->id, "netns", attachment->netns, "args", attachment->args, "version",
		attachment->version, "plugins", attachment->plugins, "disableCheck",
		attachment->check_disabled, "result", attachment->result);
	text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
	if (!path || !text)
		return err_nomem(err);
	return (durable ? fd_write_file : fd_write_file_lazily)(
		path, text, strlen(text), 0600, err);
}

/* Written by us, but a file outlives versions and disks: taken only if all of it makes sense. */
static int take_root(json_t *root, const char *id, struct attachment *attachment)
{
	const char *own_id, *netns, *args, *version;
	json_t *plugins, *plugin, *result = NULL;
	int format, check_disabled = 0;
	size_t i;

	if (json_unpack(root, "{s:i, s:s, s:s, s:s, s:s, s:o, s?b, s?o}", "format", &format, "id",
		    &own_id, "netns", &netns, "args", &args, "version", &version, "plugins",
		    &plugins, "disableCheck", &check_disabled, "result", &result) < 0)
		return -EBADMSG;
	attachment->version = cni_version_known(version);
	if (format != FORMAT || strcmp(own_id, id) != 0 || !attachment->version ||
		!json_is_array(plugins))
		return -EBADMSG;
	json_array_foreach(plugins, i, plugin) {
		const char *type = json_string_value(json_object_get(plugin, "type"));

		if (!type || !cni_type_is_valid(type))
			return -EBADMSG;
	}
	attachment->check_disabled = check_disabled;
	attachment->plugins = json_incref(plugins);
	attachment->result = json_is_object(result) ? json_incref(result) : NULL;
	attachment->id = strdup(id);
	attachment->netns = strdup(netns);
	attachment->args = strdup(args);
	if (!attachment->id || !attachment->netns || !attachment->args)
		return -ENOMEM;
	return 0;
}

int attachment_load(const char *cache_dir, const char *id, struct attachment **ret, struct err *err)
{
	_cleanup_(attachment_freep) struct attachment *attachment = NULL;
	_cleanup_free_ char *path = cache_path(cache_dir, id);
	_cleanup_free_ char *text = NULL;
	json_auto_t *root = NULL;
	size_t len;
	int r;

	attachment = calloc(1, sizeof(*attachment));
	if (!path || !attachment)
		return err_nomem(err);
	r = fd_read_file(path, FILE_MAX_BYTES, &text, &len, err);
	if (r < 0)
		return r;
	if (len == 0)
		return err_set(err, -ENOENT, "%s is empty since the power failed", path);
	root = json_loadb(text, len, 0, NULL);
	r = take_root(root, id, attachment);
	if (r == -ENOMEM)
		return err_nomem(err);
	if (r < 0)
		return err_set(err, r,
			"%s is damaged: its pod's network cannot be released; remove the file to "
			"forget it",
			path);
	*ret = TAKE_PTR(attachment);
	return 0;
}

int attachment_remove(const char *cache_dir, const char *id, struct err *err)
{
	_cleanup_free_ char *path = cache_path(cache_dir, id);

	return path ? fd_remove_file(path, err) : err_nomem(err);
}
