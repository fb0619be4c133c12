#include "cri-server/image/manifest.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/fd.h"
#include "cri-server/image/reference.h"
#include "cri-server/message.h"

/* Lists in an image's configuration are as long as a kernel's argument list may be, at most. */
#define LIST_MAX 4096
/* No registry has such a blob; sums of so many cannot overflow. */
#define BLOB_BYTES_MAX (1ll << 50)

static void json_freep(json_t **json)
{
	json_decref(*json);
}
#define _cleanup_json_ _cleanup_(json_freep)

/* Values, or a few more: each but the first follows one of these outside strings. */
static size_t count_values(const char *text, size_t len)
{
	size_t n = 0;
	bool string = false;
	for (size_t i = 0; i < len; i++) {
		if (string && text[i] == '\\')
			i++;
		else if (text[i] == '"')
			string = !string;
		else if (!string && memchr("[{,:", text[i], 4))
			n++;
	}
	return n;
}

json_t *manifest_load(const char *what, const char *text, size_t len, struct err *err)
{
	json_error_t error;
	if (count_values(text, len) > MANIFEST_VALUES_MAX) {
		err_set(err, -EBADMSG, "image %s: it has more than %u values", what,
			MANIFEST_VALUES_MAX);
		return NULL;
	}
	json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
	if (json_is_object(json))
		return json;
	err_set(err, -EBADMSG, "image %s: %s", what, json ? "it is not a JSON object" : error.text);
	json_decref(json);
	return NULL;
}

static int get_digest(const json_t *object, const char *what, char ret[72], struct err *err)
{
	const char *digest = json_string_value(json_object_get(object, "digest"));
	if (!digest || !reference_is_digest(digest))
		return err_set(err, -EBADMSG, "image manifest: %s has no sha256 digest", what);
	memcpy(ret, digest, strlen(digest) + 1);
	return 0;
}

static int get_size(const json_t *object, const char *what, uint64_t *ret, struct err *err)
{
	const json_t *size = json_object_get(object, "size");
	if (!json_is_integer(size) || json_integer_value(size) < 0 ||
		json_integer_value(size) > BLOB_BYTES_MAX)
		return err_set(err, -EBADMSG, "image manifest: %s has no possible size", what);
	*ret = (uint64_t)json_integer_value(size);
	return 0;
}

int manifest_of_layout(const char *text, size_t len, char ret_digest[72], struct err *err)
{
	_cleanup_json_ json_t *json = manifest_load("index", text, len, err);
	if (!json)
		return -EBADMSG;
	const json_t *manifests = json_object_get(json, "manifests");
	if (!json_is_array(manifests) || json_array_size(manifests) != 1)
		return err_set(err, -EBADMSG, "image index: it does not name one manifest");
	return get_digest(json_array_get(manifests, 0), "the index's entry", ret_digest, err);
}

static int check_layer_type(const json_t *layer, size_t i, struct err *err)
{
	static const char *const known[] = {
		"application/vnd.oci.image.layer.v1.tar",
		"application/vnd.oci.image.layer.v1.tar+gzip",
		"application/vnd.oci.image.layer.v1.tar+zstd",
		"application/vnd.docker.image.rootfs.diff.tar",
		"application/vnd.docker.image.rootfs.diff.tar.gzip",
	};
	const char *type = json_string_value(json_object_get(layer, "mediaType"));
	for (size_t k = 0; type && k < ARRAY_SIZE(known); k++)
		if (strcmp(type, known[k]) == 0)
			return 0;
	return err_set(err, -EBADMSG,
		"image manifest: layer %zu is of type '%.100s', which is not supported", i,
		type ? type : "(none)");
}

static int parse_layers(const json_t *layers, struct manifest *m, struct err *err)
{
	size_t n = json_array_size(layers);
	if (!json_is_array(layers) || n > MANIFEST_LAYERS_MAX)
		return err_set(err, -EBADMSG, "image manifest: %zu layers; 0 to %d are possible", n,
			MANIFEST_LAYERS_MAX);
	m->layers = calloc(n + 1, sizeof(*m->layers));
	if (!m->layers)
		return err_nomem(err);
	for (; m->n_layers < n; m->n_layers++) {
		const json_t *layer = json_array_get(layers, m->n_layers);
		struct manifest_layer *to = &m->layers[m->n_layers];
		int r = check_layer_type(layer, m->n_layers, err);
		if (r == 0)
			r = get_digest(layer, "a layer", to->digest, err);
		if (r == 0)
			r = get_size(layer, "a layer", &to->size, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int manifest_parse(const char *text, size_t len, struct manifest *ret, struct err *err)
{
	_cleanup_json_ json_t *json = manifest_load("manifest", text, len, err);
	if (!json)
		return -EBADMSG;
	struct manifest m = {0};
	const json_t *config = json_object_get(json, "config");
	int r = get_digest(config, "the config", m.config_digest, err);
	if (r == 0)
		r = get_size(config, "the config", &m.config_size, err);
	if (r == 0)
		r = parse_layers(json_object_get(json, "layers"), &m, err);
	if (r < 0) {
		manifest_done(&m);
		return r;
	}
	*ret = m;
	return 0;
}

void manifest_done(struct manifest *m)
{
	free(m->layers);
	*m = (struct manifest){0};
}

/* ---- the configuration ---- */

static int wrong_type(const char *key, struct err *err)
{
	return err_set(err, -EBADMSG, "image config: '%s' is of a wrong type, or too long", key);
}

static int get_string(const json_t *object, const char *key, char **ret, struct err *err)
{
	const json_t *value = json_object_get(object, key);
	if (!value || json_is_null(value))
		return message_set_string(ret, "", err);
	if (!json_is_string(value))
		return wrong_type(key, err);
	return message_set_string(ret, json_string_value(value), err);
}

static int get_strings(
	const json_t *object, const char *key, char ***ret, size_t *ret_n, struct err *err)
{
	const json_t *list = json_object_get(object, key);
	if (!list || json_is_null(list))
		return 0;
	size_t n = json_array_size(list);
	if (!json_is_array(list) || n > LIST_MAX)
		return wrong_type(key, err);
	*ret = calloc(n + 1, sizeof(char *));
	if (!*ret)
		return err_nomem(err);
	for (; *ret_n < n; (*ret_n)++) {
		const json_t *item = json_array_get(list, *ret_n);
		if (!json_is_string(item))
			return wrong_type(key, err);
		(*ret)[*ret_n] = strdup(json_string_value(item));
		if (!(*ret)[*ret_n])
			return err_nomem(err);
	}
	return 0;
}

/* Of objects' members, whose order means nothing and is another where skopeo has rewritten them. */
static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int by_key(const void *a, const void *b)
{
	return strcmp((*(Bulkhead__Store__Label *const *)a)->key,
		(*(Bulkhead__Store__Label *const *)b)->key);
}

static int get_volumes(json_t *object, Bulkhead__Store__ImageConfig *c, struct err *err)
{
	json_t *volumes = json_object_get(object, "Volumes");
	const char *path;
	json_t *value;
	if (!volumes || json_is_null(volumes))
		return 0;
	if (!json_is_object(volumes) || json_object_size(volumes) > LIST_MAX)
		return wrong_type("Volumes", err);
	c->volumes = calloc(json_object_size(volumes) + 1, sizeof(char *));
	if (!c->volumes)
		return err_nomem(err);
	json_object_foreach(volumes, path, value) {
		c->volumes[c->n_volumes] = strdup(path);
		if (!c->volumes[c->n_volumes])
			return err_nomem(err);
		c->n_volumes++;
	}
	qsort(c->volumes, c->n_volumes, sizeof(*c->volumes), by_name);
	return 0;
}

static int get_labels(json_t *object, Bulkhead__Store__ImageConfig *c, struct err *err)
{
	json_t *labels = json_object_get(object, "Labels");
	const char *key;
	json_t *value;
	if (!labels || json_is_null(labels))
		return 0;
	if (!json_is_object(labels) || json_object_size(labels) > LIST_MAX)
		return wrong_type("Labels", err);
	c->labels = calloc(json_object_size(labels) + 1, sizeof(*c->labels));
	if (!c->labels)
		return err_nomem(err);
	json_object_foreach(labels, key, value) {
		Bulkhead__Store__Label *label = calloc(1, sizeof(*label));
		if (!label)
			return err_nomem(err);
		bulkhead__store__label__init(label);
		c->labels[c->n_labels++] = label;
		if (!json_is_string(value))
			return wrong_type("Labels", err);
		int r = message_set_string(&label->key, key, err);
		if (r == 0)
			r = message_set_string(&label->value, json_string_value(value), err);
		if (r < 0)
			return r;
	}
	qsort(c->labels, c->n_labels, sizeof(*c->labels), by_key);
	return 0;
}

static int fill_config(json_t *json, Bulkhead__Store__ImageConfig *c, struct err *err)
{
	json_t *config = json_object_get(json, "config");
	int r = get_string(json, "architecture", &c->architecture, err);
	if (r == 0)
		r = get_string(json, "os", &c->os, err);
	if (r < 0 || !config || json_is_null(config))
		return r;
	if (!json_is_object(config))
		return wrong_type("config", err);
	r = get_string(config, "User", &c->user, err);
	if (r == 0)
		r = get_string(config, "WorkingDir", &c->working_dir, err);
	if (r == 0)
		r = get_string(config, "StopSignal", &c->stop_signal, err);
	if (r == 0)
		r = get_strings(config, "Env", &c->env, &c->n_env, err);
	if (r == 0)
		r = get_strings(config, "Entrypoint", &c->entrypoint, &c->n_entrypoint, err);
	if (r == 0)
		r = get_strings(config, "Cmd", &c->cmd, &c->n_cmd, err);
	if (r == 0)
		r = get_volumes(config, c, err);
	return r < 0 ? r : get_labels(config, c, err);
}

static int get_diff_ids(const json_t *json, size_t n_layers, char **ret, struct err *err)
{
	const json_t *ids = json_object_get(json_object_get(json, "rootfs"), "diff_ids");
	if (!json_is_array(ids) || json_array_size(ids) != n_layers)
		return err_set(err, -EBADMSG, "image config: it names %zu layers, the manifest %zu",
			json_array_size(ids), n_layers);
	for (size_t i = 0; i < n_layers; i++) {
		const char *id = json_string_value(json_array_get(ids, i));
		if (!id || !reference_is_digest(id))
			return err_set(
				err, -EBADMSG, "image config: diff id %zu is not a digest", i);
		ret[i] = strdup(id);
		if (!ret[i])
			return err_nomem(err);
	}
	return 0;
}

int manifest_parse_config(const char *text, size_t len, size_t n_layers,
	Bulkhead__Store__ImageConfig **ret, char **ret_diff_ids, struct err *err)
{
	_cleanup_json_ json_t *json = manifest_load("config", text, len, err);
	if (!json)
		return -EBADMSG;
	Bulkhead__Store__ImageConfig *c = calloc(1, sizeof(*c));
	if (!c)
		return err_nomem(err);
	bulkhead__store__image_config__init(c);
	int r = fill_config(json, c, err);
	if (r == 0)
		r = get_diff_ids(json, n_layers, ret_diff_ids, err);
	if (r < 0) {
		bulkhead__store__image_config__free_unpacked(c, NULL);
		for (size_t i = 0; i < n_layers; i++) {
			free(ret_diff_ids[i]);
			ret_diff_ids[i] = NULL;
		}
		return r;
	}
	*ret = c;
	return 0;
}
