#include "network/cni_config.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"

#define FILE_MAX_BYTES (1u << 20)
#define NAME_LEN_MAX   128

/* The latest first. */
static const char *const known_versions[CNI_VERSIONS] = {
	"1.1.0", "1.0.0", "0.4.0", "0.3.1", "0.3.0"};

const char *cni_version_known(const char *version)
{
	size_t i;

	for (i = 0; i < CNI_VERSIONS; i++)
		if (!strcmp(version, known_versions[i]))
			return known_versions[i];
	return NULL;
}

/* SPEC, "Network configuration format": how a name is written. It becomes a part of paths. */
static bool name_is_valid(const char *name)
{
	static const char alnum[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
	size_t len = strlen(name), i;

	if (len == 0 || len > NAME_LEN_MAX || !strchr(alnum, name[0]))
		return false;
	for (i = 1; i < len; i++)
		if (!strchr(alnum, name[i]) && !strchr("_.-", name[i]))
			return false;
	return true;
}

bool cni_type_is_valid(const char *type)
{
	return name_is_valid(type);
}

struct cni_config *cni_config_free(struct cni_config *config)
{
	if (!config)
		return NULL;
	free(config->name);
	json_decref(config->plugins);
	free(config);
	return NULL;
}

static int check_ipam(const char *file, size_t i, const json_t *plugin, struct err *err)
{
	const json_t *ipam = json_object_get(plugin, "ipam");
	const json_t *type;

	if (!ipam)
		return 0;
	if (!json_is_object(ipam))
		return err_set(err, -EINVAL, "%s: plugin %zu: 'ipam' is not an object", file, i);
	type = json_object_get(ipam, "type");
	if (type && !json_is_string(type))
		return err_set(
			err, -EINVAL, "%s: plugin %zu: 'ipam.type' is not a string", file, i);
	if (type && *json_string_value(type) && !cni_type_is_valid(json_string_value(type)))
		return err_set(err, -EINVAL,
			"%s: plugin %zu: 'ipam.type' is not the name of a program in the plugin "
			"directories",
			file, i);
	return 0;
}

static int check_capabilities(const char *file, size_t i, json_t *plugin, struct err *err)
{
	json_t *capabilities = json_object_get(plugin, "capabilities");
	json_t *value;
	const char *key;

	if (!capabilities)
		return 0;
	if (!json_is_object(capabilities))
		return err_set(
			err, -EINVAL, "%s: plugin %zu: 'capabilities' is not an object", file, i);
	json_object_foreach(capabilities, key, value) {
		if (!json_is_boolean(value))
			return err_set(err, -EINVAL,
				"%s: plugin %zu: a capability is neither true nor false", file, i);
	}
	return 0;
}

static int check_plugin(const char *file, size_t i, json_t *plugin, struct err *err)
{
	const json_t *type;
	int r;

	if (!json_is_object(plugin))
		return err_set(err, -EINVAL, "%s: plugin %zu is not an object", file, i);
	type = json_object_get(plugin, "type");
	if (!json_is_string(type))
		return err_set(
			err, -EINVAL, "%s: plugin %zu: 'type' is missing or not a string", file, i);
	if (!cni_type_is_valid(json_string_value(type)))
		return err_set(err, -EINVAL,
			"%s: plugin %zu: 'type' is not the name of a program in the plugin "
			"directories",
			file, i);
	r = check_ipam(file, i, plugin, err);
	if (r < 0)
		return r;
	return check_capabilities(file, i, plugin, err);
}

static int take_plugins(const char *file, json_t *root, struct cni_config *config, struct err *err)
{
	json_t *plugins = json_object_get(root, "plugins");
	size_t i;
	int r;

	if (plugins) {
		config->plugins = json_incref(plugins);
	} else {
		config->plugins = json_array();
		if (!config->plugins || json_array_append(config->plugins, root) < 0)
			return err_nomem(err);
	}
	if (!json_is_array(config->plugins))
		return err_set(err, -EINVAL, "%s: 'plugins' is not an array", file);
	if (json_array_size(config->plugins) == 0 ||
		json_array_size(config->plugins) > CNI_PLUGINS_MAX)
		return err_set(err, -EINVAL, "%s: 'plugins' has %zu entries, allowed are 1 to %d",
			file, json_array_size(config->plugins), CNI_PLUGINS_MAX);
	for (i = 0; i < json_array_size(config->plugins); i++) {
		r = check_plugin(file, i, json_array_get(config->plugins, i), err);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool is_string_array(const json_t *array)
{
	const json_t *value;
	size_t i;

	json_array_foreach(array, i, value)
		if (!json_is_string(value))
			return false;
	return json_is_array(array);
}

static bool is_listed(const json_t *list, const char *version)
{
	const json_t *value;
	size_t i;

	json_array_foreach(list, i, value)
		if (!strcmp(json_string_value(value), version))
			return true;
	return false;
}

/* SPEC, "Version considerations": of those that both keys name the latest is to be taken. */
static int take_versions(
	const char *file, const json_t *root, struct cni_config *config, struct err *err)
{
	const json_t *one = json_object_get(root, "cniVersion");
	const json_t *list = json_object_get(root, "cniVersions");
	const char *version = json_string_value(one);
	size_t i;

	if (list && !is_string_array(list))
		return err_set(err, -EINVAL, "%s: 'cniVersions' is not an array of strings", file);
	for (i = 0; i < CNI_VERSIONS; i++) {
		const char *known = known_versions[i];

		if ((version && !strcmp(version, known)) || is_listed(list, known))
			config->versions[config->n_versions++] = known;
	}
	if ((one && !version) || config->n_versions == 0)
		return err_set(err, -EINVAL,
			"%s: 'cniVersion' must be one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0, or "
			"'cniVersions' have one of them",
			file);
	config->version = config->versions[0];
	return 0;
}

static int take_root(const char *file, json_t *root, struct cni_config *config, struct err *err)
{
	const json_t *name = json_object_get(root, "name");
	int r;

	if (!json_is_string(name) || !name_is_valid(json_string_value(name)))
		return err_set(err, -EINVAL,
			"%s: 'name' must be a string of up to %d letters, digits, '_', '.', '-'",
			file, NAME_LEN_MAX);
	r = take_versions(file, root, config, err);
	if (r < 0)
		return r;
	config->check_disabled = json_is_true(json_object_get(root, "disableCheck"));
	config->gc_disabled = json_is_true(json_object_get(root, "disableGC"));
	config->name = strdup(json_string_value(name));
	if (!config->name)
		return err_nomem(err);
	return take_plugins(file, root, config, err);
}

int cni_config_parse(
	const char *file, const char *text, size_t len, struct cni_config **ret, struct err *err)
{
	_cleanup_(cni_config_freep) struct cni_config *config = NULL;
	json_auto_t *root = NULL;
	json_error_t error;
	int r;

	root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
	if (!root && json_error_code(&error) == json_error_out_of_memory)
		return err_nomem(err);
	if (!root)
		return err_set(err, -EINVAL, "%s:%d:%d: not JSON: %s", file, error.line,
			error.column, error.text);
	if (!json_is_object(root))
		return err_set(err, -EINVAL, "%s: not a JSON object", file);
	config = calloc(1, sizeof(*config));
	if (!config)
		return err_nomem(err);
	r = take_root(file, root, config, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(config);
	return 0;
}

/* Temporary files of editors and installers begin with a dot: never a configuration. */
static int is_config_name(const struct dirent *entry)
{
	static const char *const extensions[] = {".conf", ".conflist", ".json"};
	const char *extension = strrchr(entry->d_name, '.');
	size_t i;

	if (!extension || entry->d_name[0] == '.')
		return 0;
	for (i = 0; i < ARRAY_SIZE(extensions); i++)
		if (!strcmp(extension, extensions[i]))
			return 1;
	return 0;
}

/* alphasort() goes by the locale; the order of networks must not. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* The path of the first regular file among the names, NULL when there is none. */
static char *first_file(const char *dir, struct dirent **entries, int n)
{
	struct stat st;
	char *path;
	int i;

	for (i = 0; i < n; i++) {
		path = str_printf("%s/%s", dir, entries[i]->d_name);
		if (path && stat(path, &st) == 0 && S_ISREG(st.st_mode))
			return path;
		free(path);
	}
	return NULL;
}

static int find_file(const char *dir, char **ret_path, struct err *err)
{
	struct dirent **entries;
	int n, i;

	n = scandir(dir, &entries, is_config_name, by_name);
	if (n < 0 && errno == ENOENT)
		n = 0, entries = NULL;
	if (n < 0)
		return err_errno(err, "read the CNI configuration directory %s", dir);
	*ret_path = first_file(dir, entries, n);
	for (i = 0; i < n; i++)
		free(entries[i]);
	free(entries);
	if (!*ret_path)
		return err_set(err, -ENOENT,
			"no CNI configuration in %s: put a .conflist file there, or install a pod "
			"network in the cluster, which does",
			dir);
	return 0;
}

int cni_config_load(const char *dir, struct cni_config **ret, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r;

	r = find_file(dir, &path, err);
	if (r < 0)
		return r;
	r = fd_read_file(path, FILE_MAX_BYTES, &text, &len, err);
	if (r < 0) {
		err_wrap(err, "read CNI configuration");
		return r == -EFBIG ? -EINVAL : r;
	}
	return cni_config_parse(path, text, len, ret, err);
}

int cni_plugin_find(const char *bin_dirs, const char *type, char **ret_path, struct err *err)
{
	const char *dir = bin_dirs;
	struct stat st;
	char *path;
	size_t len;

	while (*dir) {
		len = strcspn(dir, ":");
		path = str_printf("%.*s/%s", (int)len, dir, type);
		if (!path)
			return err_nomem(err);
		if (len > 0 && stat(path, &st) == 0 && S_ISREG(st.st_mode) &&
			access(path, X_OK) == 0) {
			*ret_path = path;
			return 0;
		}
		free(path);
		dir += len;
		dir += *dir == ':';
	}
	return err_set(err, -ENOENT,
		"CNI plugin '%s' not found in %s: install it (Debian: containernetworking-plugins)",
		type, bin_dirs);
}

size_t cni_config_types(const struct cni_config *config, const char *types[CNI_TYPES_MAX])
{
	const json_t *plugin;
	size_t i, n = 0;

	json_array_foreach(config->plugins, i, plugin) {
		const json_t *ipam = json_object_get(plugin, "ipam");
		const char *type = json_string_value(json_object_get(ipam, "type"));

		types[n++] = json_string_value(json_object_get(plugin, "type"));
		if (type && *type)
			types[n++] = type;
	}
	return n;
}

int cni_config_check_plugins(const struct cni_config *config, const char *bin_dirs, struct err *err)
{
	const char *types[CNI_TYPES_MAX];
	size_t i, n = cni_config_types(config, types);
	int r = 0;

	for (i = 0; r == 0 && i < n; i++) {
		_cleanup_free_ char *path = NULL;

		r = cni_plugin_find(bin_dirs, types[i], &path, err);
	}
	return r;
}
