#include "cri-server/image/manifest.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/buf.h"
#include "common/fd.h"

#define A        "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B        "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define GZIP     "application/vnd.oci.image.layer.v1.tar+gzip"
#define LAYER    "{\"mediaType\":\"" GZIP "\",\"digest\":\"" B "\",\"size\":7}"
#define CONFIG   "\"config\":{\"digest\":\"" A "\",\"size\":5}"
#define DIFF_IDS "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" B "\"]}"

struct wrong {
	const char *json;
	const char *words; /* in the message */
};

static void says(const struct err *err, int r, const struct wrong *wrong)
{
	if (r != -EBADMSG || !strstr(err->msg, wrong->words))
		fail_msg("%s: %d, '%s' does not say '%s'", wrong->json, r, err->msg, wrong->words);
}

/* In a buffer without slack, for the sanitizer. */
static char *exact(const char *json, size_t len)
{
	char *copy = malloc(len ? len : 1);
	assert_non_null(copy);
	memcpy(copy, json, len);
	return copy;
}

static void test_index(void **state)
{
	(void)state;
	static const struct wrong wrongs[] = {
		{"", "image index"},
		{"[]", "not a JSON object"},
		{"{", "image index"},
		{"{}", "one manifest"},
		{"{\"manifests\":{}}", "one manifest"},
		{"{\"manifests\":[]}", "one manifest"},
		{"{\"manifests\":[{\"digest\":\"" A "\"},{\"digest\":\"" B "\"}]}", "one manifest"},
		{"{\"manifests\":[\"" A "\"]}", "no sha256 digest"},
		{"{\"manifests\":[{\"digest\":7}]}", "no sha256 digest"},
		{"{\"manifests\":[{\"digest\":\"sha512:aa\"}]}", "no sha256 digest"},
		{"{\"manifests\":[{\"digest\":\"../../../etc/passwd\"}]}", "no sha256 digest"},
		{"{\"manifests\":[{\"digest\":\"" A "a\"}]}", "no sha256 digest"},
		{"{\"manifests\":[],\"manifests\":[]}", "duplicate"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(wrongs); i++) {
		struct err err = ERR_INIT;
		char digest[72];
		_cleanup_free_ char *json = exact(wrongs[i].json, strlen(wrongs[i].json));
		says(&err, manifest_of_layout(json, strlen(wrongs[i].json), digest, &err),
			&wrongs[i]);
	}
	char digest[72];
	const char *good = "{\"manifests\":[{\"digest\":\"" A "\"}]}";
	assert_int_equal(manifest_of_layout(good, strlen(good), digest, NULL), 0);
	assert_string_equal(digest, A);
}

static void test_manifest(void **state)
{
	(void)state;
	struct manifest m;
	const char *good = "{" CONFIG ",\"layers\":[" LAYER "," LAYER "],\"more\":null}";
	assert_int_equal(manifest_parse(good, strlen(good), &m, NULL), 0);
	assert_string_equal(m.config_digest, A);
	assert_int_equal(m.config_size, 5);
	assert_int_equal(m.n_layers, 2);
	assert_string_equal(m.layers[1].digest, B);
	assert_int_equal(m.layers[1].size, 7);
	manifest_done(&m);
	const char *scratch = "{" CONFIG ",\"layers\":[]}";
	assert_int_equal(manifest_parse(scratch, strlen(scratch), &m, NULL), 0);
	assert_int_equal(m.n_layers, 0);
	manifest_done(&m);
}

static void test_wrong_manifests(void **state)
{
	(void)state;
#define WITH(layer) "{" CONFIG ",\"layers\":[" LAYER "," layer "]}"
	static const struct wrong wrongs[] = {
		{"{}", "the config has no sha256 digest"},
		{"{\"config\":[],\"layers\":[]}", "the config has no sha256 digest"},
		{"{\"config\":{\"digest\":\"" A "\"},\"layers\":[]}",
			"the config has no possible size"},
		{"{\"config\":{\"digest\":\"" A "\",\"size\":\"5\"},\"layers\":[]}", "size"},
		{"{\"config\":{\"digest\":\"" A "\",\"size\":-1},\"layers\":[]}", "size"},
		{"{\"config\":{\"digest\":\"" A "\",\"size\":1e3},\"layers\":[]}", "size"},
		{"{\"config\":{\"digest\":\"" A "\",\"size\":9223372036854775807},\"layers\":[]}",
			"size"},
		{"{\"config\":{\"digest\":\"" A "\",\"size\":99999999999999999999},\"layers\":[]}",
			"too big"},
		{"{" CONFIG "}", "layers"},
		{"{" CONFIG ",\"layers\":{}}", "layers"},
		{"{" CONFIG ",\"layers\":7}", "layers"},
		{WITH("null"), "layer 1 is of type '(none)'"},
		{WITH("{}"), "layer 1 is of type '(none)'"},
		{WITH("{\"mediaType\":\"text/html\"}"), "layer 1 is of type 'text/html'"},
		{WITH("{\"mediaType\":\"" GZIP "\"}"), "a layer has no sha256 digest"},
		{WITH("{\"mediaType\":\"" GZIP "\",\"digest\":\"" B "\"}"),
			"a layer has no possible size"},
		{WITH("{\"mediaType\":\"" GZIP "\",\"digest\":\"SHA256:..\",\"size\":1}"),
			"digest"},
		{WITH("{\"mediaType\":\"" GZIP "\\u0000\",\"digest\":\"" B "\",\"size\":1}"),
			"NUL"},
		{"{" CONFIG "," CONFIG ",\"layers\":[]}", "duplicate"},
		{"{" CONFIG ",\"layers\":[]} trailing", "end of file expected"},
		{"{" CONFIG ",\"layers\":[],\"x\":\"\xff\"}", "decode byte"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(wrongs); i++) {
		struct err err = ERR_INIT;
		struct manifest m;
		_cleanup_free_ char *json = exact(wrongs[i].json, strlen(wrongs[i].json));
		says(&err, manifest_parse(json, strlen(wrongs[i].json), &m, &err), &wrongs[i]);
	}
}

/* head, n times item separated by commas, tail. */
static char *repeat(const char *head, const char *item, size_t n, const char *tail)
{
	struct buf buf = buf_init(64u << 20);
	buf_append(&buf, head, strlen(head));
	for (size_t i = 0; i < n; i++)
		buf_printf(&buf, "%s%s", i ? "," : "", item);
	buf_append(&buf, tail, strlen(tail));
	char *text = buf_string(&buf);
	assert_non_null(text);
	return text;
}

static void test_counts(void **state)
{
	(void)state;
	struct manifest m;
	struct err err = ERR_INIT;
	_cleanup_free_ char *most = repeat("{" CONFIG ",\"layers\":[", LAYER, 127, "]}");
	assert_int_equal(manifest_parse(most, strlen(most), &m, &err), 0);
	assert_int_equal(m.n_layers, 127);
	manifest_done(&m);
	_cleanup_free_ char *many = repeat("{" CONFIG ",\"layers\":[", LAYER, 128, "]}");
	assert_int_equal(manifest_parse(many, strlen(many), &m, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "128 layers; 0 to 127"));
	_cleanup_free_ char *values = repeat("{\"x\":[", "{}", 1 << 20, "]}");
	assert_int_equal(manifest_parse(values, strlen(values), &m, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "more than 131072 values"));
	_cleanup_free_ char *text = repeat("{\"x\":\"\\\"", "[{", 1 << 18, "\"}");
	assert_int_equal(manifest_parse(text, strlen(text), &m, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "the config has no"));
	_cleanup_free_ char *deep = malloc(100001);
	memset(deep, '[', 100000);
	memcpy(deep, "{\"a\":", 5);
	assert_int_equal(manifest_parse(deep, 100000, &m, &err), -EBADMSG);
}

static void test_config(void **state)
{
	(void)state;
	static const char json[] =
		"{\"architecture\":\"amd64\",\"os\":\"linux\"," DIFF_IDS ",\"config\":{"
		"\"User\":\"33:33\",\"Env\":[\"A=1\",\"B=\"],\"Entrypoint\":[\"/bin/sh\"],"
		"\"Cmd\":[\"-c\",\"true\"],\"WorkingDir\":\"/w\",\"StopSignal\":\"SIGINT\","
		"\"Volumes\":{\"/data/b\":{},\"/data\":{}},\"Labels\":{\"k\":\"v\",\"a\":\"w\"},"
		"\"ExposedPorts\":{\"80/tcp\":{}}},"
		"\"history\":[{}]}";
	Bulkhead__Store__ImageConfig *c;
	char *ids[1] = {NULL};
	assert_int_equal(manifest_parse_config(json, strlen(json), 1, &c, ids, NULL), 0);
	assert_string_equal(c->architecture, "amd64");
	assert_string_equal(c->os, "linux");
	assert_string_equal(c->user, "33:33");
	assert_string_equal(c->working_dir, "/w");
	assert_string_equal(c->stop_signal, "SIGINT");
	assert_int_equal(c->n_env, 2);
	assert_string_equal(c->env[1], "B=");
	assert_int_equal(c->n_entrypoint, 1);
	assert_int_equal(c->n_cmd, 2);
	assert_string_equal(c->cmd[1], "true");
	/* By their names, as skopeo writes them. */
	assert_int_equal(c->n_volumes, 2);
	assert_string_equal(c->volumes[0], "/data");
	assert_string_equal(c->volumes[1], "/data/b");
	assert_int_equal(c->n_labels, 2);
	assert_string_equal(c->labels[0]->key, "a");
	assert_string_equal(c->labels[1]->key, "k");
	assert_string_equal(c->labels[1]->value, "v");
	assert_string_equal(ids[0], B);
	bulkhead__store__image_config__free_unpacked(c, NULL);
	free(ids[0]);
}

static void test_least_config(void **state)
{
	(void)state;
	static const char *const jsons[] = {
		"{\"rootfs\":{\"diff_ids\":[]}}",
		"{\"rootfs\":{\"diff_ids\":[]},\"config\":null}",
		"{\"rootfs\":{\"diff_ids\":[]},\"config\":{\"Env\":null,\"Cmd\":null,\"User\":null,"
		"\"Volumes\":null,\"Labels\":null}}",
	};
	for (size_t i = 0; i < ARRAY_SIZE(jsons); i++) {
		Bulkhead__Store__ImageConfig *c;
		assert_int_equal(
			manifest_parse_config(jsons[i], strlen(jsons[i]), 0, &c, NULL, NULL), 0);
		assert_string_equal(c->user, "");
		assert_string_equal(c->os, "");
		assert_int_equal(c->n_env + c->n_cmd + c->n_entrypoint + c->n_volumes, 0);
		bulkhead__store__image_config__free_unpacked(c, NULL);
	}
}

static void test_wrong_configs(void **state)
{
	(void)state;
#define IN(field) "{" DIFF_IDS ",\"config\":{" field "}}"
	_cleanup_free_ char *long_list =
		repeat("{" DIFF_IDS ",\"config\":{\"Env\":[", "\"\"", 4097, "]}}");
	const struct wrong wrongs[] = {
		{"null", "expected near"},
		{"{}", "it names 0 layers, the manifest 1"},
		{"{\"rootfs\":{\"diff_ids\":[]}}", "it names 0 layers"},
		{"{\"rootfs\":{\"diff_ids\":[\"" A "\",\"" B "\"]}}", "it names 2 layers"},
		{"{\"rootfs\":{\"diff_ids\":{\"" A "\":1}}}", "layers"},
		{"{\"rootfs\":{\"diff_ids\":[\"abc\"]}}", "diff id 0 is not a digest"},
		{"{\"rootfs\":{\"diff_ids\":[3]}}", "diff id 0 is not a digest"},
		{"{" DIFF_IDS ",\"config\":[]}", "'config' is of a wrong type"},
		{"{" DIFF_IDS ",\"os\":{}}", "'os' is of a wrong type"},
		{"{" DIFF_IDS ",\"architecture\":1}", "'architecture' is of a wrong type"},
		{IN("\"User\":0"), "'User' is of a wrong type"},
		{IN("\"User\":\"a\\u0000b\""), "NUL"},
		{IN("\"WorkingDir\":[]"), "'WorkingDir' is of a wrong type"},
		{IN("\"StopSignal\":9"), "'StopSignal' is of a wrong type"},
		{IN("\"Env\":\"A=1\""), "'Env' is of a wrong type"},
		{IN("\"Env\":[\"A=1\",2]"), "'Env' is of a wrong type"},
		{IN("\"Env\":[[]]"), "'Env' is of a wrong type"},
		{IN("\"Cmd\":{\"0\":\"sh\"}"), "'Cmd' is of a wrong type"},
		{IN("\"Entrypoint\":\"sh\""), "'Entrypoint' is of a wrong type"},
		{IN("\"Volumes\":[\"/data\"]"), "'Volumes' is of a wrong type"},
		{IN("\"Labels\":[\"a\"]"), "'Labels' is of a wrong type"},
		{IN("\"Labels\":{\"a\":\"b\",\"c\":1}"), "'Labels' is of a wrong type"},
		{IN("\"User\":\"a\",\"User\":\"b\""), "duplicate"},
		{long_list, "'Env' is of a wrong type, or too long"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(wrongs); i++) {
		struct err err = ERR_INIT;
		Bulkhead__Store__ImageConfig *c;
		char *ids[1] = {NULL};
		size_t len = strlen(wrongs[i].json);
		_cleanup_free_ char *json = exact(wrongs[i].json, len);
		says(&err, manifest_parse_config(json, len, 1, &c, ids, &err), &wrongs[i]);
		assert_null(ids[0]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_index),
		cmocka_unit_test(test_manifest),
		cmocka_unit_test(test_wrong_manifests),
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_least_config),
		cmocka_unit_test(test_wrong_configs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
