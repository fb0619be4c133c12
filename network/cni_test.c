#include "network/cni_config.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/fd.h"
#include "network/attachment.h"
#include "network/cni_result.h"
#include "network/testing.h"

#define HEAD "{\"name\": \"n\", \"cniVersion\": \"1.0.0\", "

static int parse(const char *text, struct cni_config **ret, struct err *err)
{
	return cni_config_parse("f.conflist", text, strlen(text), ret, err);
}

static void expect_refused(const char *text, const char *message)
{
	struct cni_config *config = NULL;
	struct err err = ERR_INIT;

	assert_int_equal(parse(text, &config, &err), -EINVAL);
	assert_null(config);
	if (!strstr(err.msg, message))
		fail_msg("'%s' is not in '%s'", message, err.msg);
}

static void test_config(void **state)
{
	struct cni_config *config = NULL;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(
		parse(HEAD "\"plugins\": [{\"type\": \"a\"}, {\"type\": \"b\"}]}", &config, &err),
		0);
	assert_string_equal(config->name, "n");
	assert_string_equal(config->version, "1.0.0");
	assert_int_equal(json_array_size(config->plugins), 2);
	config = cni_config_free(config);
	assert_int_equal(parse(HEAD "\"type\": \"a\"}", &config, &err), 0);
	assert_int_equal(json_array_size(config->plugins), 1);
	cni_config_free(config);
}

/* The latest of those that both sides know counts, wherever the configuration names it. */
static void test_config_versions(void **state)
{
	static const struct {
		const char *text, *version;
	} rows[] = {
		{"\"cniVersion\": \"0.4.0\", \"cniVersions\": [\"0.3.1\", \"1.0.0\", \"0.4.0\"]",
			"1.0.0"},
		{"\"cniVersion\": \"1.0.0\", \"cniVersions\": [\"0.3.1\"]", "1.0.0"},
		{"\"cniVersion\": \"1.2.0\", \"cniVersions\": [\"1.0.0\", \"1.1.0\", \"1.2.0\"]",
			"1.1.0"},
		{"\"cniVersions\": [\"0.4.0\"]", "0.4.0"},
		{"\"cniVersion\": \"0.4.0\", \"cniVersions\": []", "0.4.0"},
	};
	struct err err = ERR_INIT;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_free_ char *text =
			str_printf("{\"name\": \"n\", %s, \"type\": \"a\"}", rows[i].text);
		struct cni_config *config = NULL;

		assert_int_equal(parse(text, &config, &err), 0);
		assert_string_equal(config->version, rows[i].version);
		cni_config_free(config);
	}
}

static void test_config_refused(void **state)
{
	static const struct {
		const char *text;
		const char *message;
	} rows[] = {
		{"", "f.conflist:1:0: not JSON"},
		{"{\n\n]", "f.conflist:3:1: not JSON"},
		{"{\"a\": 1, \"a\": 2}", "duplicate"},
		{"[]", "not a JSON object"},
		{"{\"cniVersion\": \"1.0.0\", \"type\": \"a\"}", "'name' must be"},
		{"{\"name\": \"../x\", \"cniVersion\": \"1.0.0\"}", "'name' must be"},
		{"{\"name\": \"n\\u0000\", \"cniVersion\": \"1.0.0\"}", "not JSON"},
		{"{\"name\": \"n\", \"type\": \"a\"}", "'cniVersion' must be"},
		{"{\"name\": \"n\", \"cniVersion\": \"0.2.0\"}", "'cniVersion' must be"},
		{"{\"name\": \"n\", \"cniVersion\": 1, \"cniVersions\": [\"1.0.0\"]}",
			"'cniVersion' must be"},
		{"{\"name\": \"n\", \"cniVersions\": [\"0.2.0\"]}", "'cniVersion' must be"},
		{HEAD "\"cniVersions\": \"1.0.0\"}", "'cniVersions' is not an array of strings"},
		{HEAD "\"cniVersions\": [1]}", "'cniVersions' is not an array of strings"},
		{HEAD "\"plugins\": {}}", "'plugins' is not an array"},
		{HEAD "\"plugins\": []}", "'plugins' has 0 entries"},
		{HEAD "\"plugins\": [3]}", "plugin 0 is not an object"},
		{HEAD "\"plugins\": [{}]}", "plugin 0: 'type' is missing"},
		{HEAD "\"type\": \"../bin/sh\"}", "'type' is not the name of a program"},
		{HEAD "\"type\": \"/bin/sh\"}", "'type' is not the name of a program"},
		{HEAD "\"type\": \"..\"}", "'type' is not the name of a program"},
		{HEAD "\"type\": \"a b\"}", "'type' is not the name of a program"},
		{HEAD "\"type\": \"\"}", "'type' is not the name of a program"},
		{HEAD "\"type\": \"a\", \"ipam\": 3}", "'ipam' is not an object"},
		{HEAD "\"type\": \"a\", \"ipam\": {\"type\": []}}", "'ipam.type' is not a string"},
		{HEAD "\"type\": \"a\", \"ipam\": {\"type\": \"a/b\"}}",
			"'ipam.type' is not the name"},
		{HEAD "\"type\": \"a\", \"capabilities\": []}", "'capabilities' is not an object"},
		{HEAD "\"type\": \"a\", \"capabilities\": {\"x\": 1}}", "neither true nor false"},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		expect_refused(rows[i].text, rows[i].message);
}

static void test_deep_nesting(void **state)
{
	enum { DEPTH = 1000 * 1000 };
	char *text = malloc(DEPTH + 1);

	(void)state;
	assert_non_null(text);
	memset(text, '[', DEPTH);
	text[DEPTH] = '\0';
	expect_refused(text, "not JSON");
	free(text);
}

static void test_choice_of_file(void **state)
{
	char *dir = testing_dir();
	_cleanup_free_ char *sub = str_printf("%s/00-dir.conf", dir);
	_cleanup_free_ char *huge = malloc((1u << 20) + 2);
	struct cni_config *config = NULL;
	struct err err = ERR_INIT;

	(void)state;
	assert_true(sub && huge);
	assert_int_equal(mkdir(sub, 0755), 0);
	testing_write(dir, ".00-temporary.conf", "x", 0644);
	testing_write(dir, "01-note.txt", "x", 0644);
	assert_int_equal(cni_config_load(dir, &config, &err), -ENOENT);
	testing_write(dir, "20-b.conflist",
		"{\"name\": \"b\", \"cniVersion\": \"1.0.0\", \"type\": \"t\"}", 0644);
	testing_write(dir, "10-a.json",
		"{\"name\": \"a\", \"cniVersion\": \"1.0.0\", \"type\": \"t\"}", 0644);
	assert_int_equal(cni_config_load(dir, &config, &err), 0);
	assert_string_equal(config->name, "a");
	config = cni_config_free(config);
	memset(huge, ' ', (1u << 20) + 1);
	huge[(1u << 20) + 1] = '\0';
	testing_write(dir, "00-huge.conf", huge, 0644);
	assert_int_equal(cni_config_load(dir, &config, &err), -EINVAL);
	testing_dir_remove(dir);
}

static int parse_result(const char *text, const char *version, json_t **ret, struct err *err)
{
	return cni_result_parse(text, strlen(text), version, ret, err);
}

static void test_result(void **state)
{
	static const char text[] =
		"{\"cniVersion\": \"1.0.0\", \"own\": {\"x\": 1}, \"interfaces\": [{\"name\": "
		"\"br\"},"
		" {\"name\": \"eth1\", \"sandbox\": \"/n\"}, {\"name\": \"eth0\", \"sandbox\": "
		"\"/n\"}],"
		" \"ips\": [{\"address\": \"10.0.0.1/24\", \"interface\": 1},"
		" {\"address\": \"fd00::1/64\", \"interface\": 2}, {\"address\": \"10.0.1.1/24\"}],"
		" \"dns\": {\"nameservers\": [\"10.0.0.9\", \"fe80::9%eth0\"], \"options\": "
		"[\"ndots:5\"]}}";
	json_auto_t *result = NULL;
	struct err err = ERR_INIT;
	char **strv;

	(void)state;
	assert_int_equal(parse_result(text, "0.4.0", &result, &err), 0);
	assert_string_equal(json_string_value(json_object_get(result, "cniVersion")), "0.4.0");
	assert_string_equal(json_string_value(json_object_get(
				    json_array_get(json_object_get(result, "ips"), 1), "version")),
		"6");
	assert_non_null(json_object_get(result, "own"));
	assert_int_equal(cni_result_ips(result, "eth0", &strv, &err), 0);
	assert_string_equal(strv[0], "fd00::1");
	assert_string_equal(strv[1], "10.0.0.1");
	assert_string_equal(strv[2], "10.0.1.1");
	assert_null(strv[3]);
	cni_strv_free(strv);
	assert_int_equal(cni_result_dns(result, "nameservers", &strv, &err), 0);
	assert_string_equal(strv[1], "fe80::9%eth0");
	assert_null(strv[2]);
	cni_strv_free(strv);
	assert_int_equal(cni_result_dns(result, "search", &strv, &err), 0);
	assert_null(strv[0]);
	cni_strv_free(strv);
}

/* What is not said may also be said to be nothing, as Go's programs take it. */
static void test_result_of_nulls(void **state)
{
	static const char text[] =
		"{\"cniVersion\": \"1.0.0\", \"interfaces\": [{\"name\": \"eth0\", \"mac\": null, "
		"\"sandbox\": null}], \"ips\": [{\"address\": \"fd00::1/64\", \"interface\": null, "
		"\"gateway\": null}], \"routes\": null, \"dns\": {\"nameservers\": null}}";
	json_auto_t *result = NULL;
	struct err err = ERR_INIT;
	char **strv;

	(void)state;
	if (parse_result(text, "1.0.0", &result, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(cni_result_ips(result, "eth0", &strv, &err), 0);
	assert_string_equal(strv[0], "fd00::1");
	assert_null(strv[1]);
	cni_strv_free(strv);
}

static void test_result_refused(void **state)
{
	static const char *const rows[] = {
		"",
		"null",
		"[]",
		"{",
		"{\"cniVersion\": 1}",
		"{\"cniVersion\": \"0.2.0\"}",
		"{\"interfaces\": {}}",
		"{\"interfaces\": [{}]}",
		"{\"interfaces\": [{\"name\": \"a\", \"sandbox\": 3}]}",
		"{\"dns\": {\"nameservers\": [\"10.0.0.9%eth0\"]}}",
		"{\"dns\": {\"nameservers\": [\"%eth0\"]}}",
		"{\"ips\": \"10.0.0.1/24\"}",
		"{\"ips\": [{}]}",
		"{\"ips\": [{\"address\": \"10.0.0.1\"}]}",
		"{\"ips\": [{\"address\": \"10.0.0.1/33\"}]}",
		"{\"ips\": [{\"address\": \"10.0.0.1/ 8\"}]}",
		"{\"ips\": [{\"address\": \"10.0.0.1/8x\"}]}",
		"{\"ips\": [{\"address\": \"fd00::1/129\"}]}",
		"{\"ips\": [{\"address\": \"10.0.0.1/24\", \"interface\": 0}]}",
		"{\"ips\": [{\"address\": \"10.0.0.1/24\", \"interface\": -1}]}",
		"{\"ips\": [{\"address\": \"10.0.0.1/24\", \"interface\": \"0\"}]}",
		"{\"dns\": []}",
		"{\"dns\": {\"nameservers\": [\"localhost\"]}}",
		"{\"dns\": {\"nameservers\": [\"10.0.0.1/8\"]}}",
		"{\"dns\": {\"search\": [\"a\\nnameserver 6.6.6.6\"]}}",
		"{\"dns\": {\"options\": [\"\"]}}",
		"{\"dns\": {\"options\": [3]}}",
	};
	json_t *result = NULL;
	struct err err = ERR_INIT;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		if (parse_result(rows[i], "1.0.0", &result, &err) != -EPROTO)
			fail_msg("accepted: %s", rows[i]);
	assert_null(result);
}

static void test_failure_messages(void **state)
{
	static const char again[] =
		"{\"code\": 11, \"msg\": \"busy\", \"details\": \"a\\u001b[31mb\"}";
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(
		cni_result_failure(1, again, strlen(again), "first\nlast\n", &err), -EAGAIN);
	assert_string_equal(err.msg, "error 11: busy: \"a\\x1b[31mb\"; stderr: \"first\\nlast\"");
	assert_int_equal(cni_result_failure(139, "", 0, "", &err), -EIO);
	assert_string_equal(err.msg, "exit code 139 without a CNI error");
	assert_int_equal(cni_result_failure(2, "oops", 4, "", &err), -EIO);
	assert_string_equal(err.msg, "exit code 2 without a CNI error, output oops");
}

static struct attachment *attach(const struct net_pod_spec *spec, int expected, const char *message)
{
	struct attachment *attachment = NULL;
	struct cni_config *config = NULL;
	struct err err = ERR_INIT;

	assert_int_equal(
		parse(HEAD "\"plugins\": [{\"type\": \"a\", \"prevResult\": 1, \"own\": 2},"
			   " {\"type\": \"b\", \"capabilities\": {\"portMappings\": true}},"
			   " {\"type\": \"c\", \"capabilities\": {\"portMappings\": false}}]}",
			&config, &err),
		0);
	assert_int_equal(attachment_new(config, spec, "/n", &attachment, &err), expected);
	if (expected < 0 && !strstr(err.msg, message))
		fail_msg("'%s' is not in '%s'", message, err.msg);
	cni_config_free(config);
	return attachment;
}

static void test_attachment(void **state)
{
	static const struct net_port_mapping ports[] = {
		{NET_TCP, 80, 8080, NULL},
		{NET_UDP, 53, 0, NULL},
		{NET_SCTP, 90, 9090, "fd00::1"},
	};
	const struct net_pod_spec spec = {
		"p1", "web-0", "default", "u-1", {.ports = ports, .n_ports = 3}};
	struct attachment *attachment = attach(&spec, 0, NULL), *loaded = NULL;
	_cleanup_free_ char *plugins = NULL;
	char *dir = testing_dir();
	struct err err = ERR_INIT;

	(void)state;
	assert_string_equal(attachment->args,
		"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;"
		"K8S_POD_INFRA_CONTAINER_ID=p1;K8S_POD_UID=u-1");
	plugins = json_dumps(attachment->plugins, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(plugins,
		"[{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"own\":2,\"type\":\"a\"},"
		"{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"runtimeConfig\":{\"portMappings\":["
		"{\"containerPort\":80,\"hostIP\":\"\",\"hostPort\":8080,\"protocol\":\"tcp\"},"
		"{\"containerPort\":90,\"hostIP\":\"fd00::1\",\"hostPort\":9090,\"protocol\":"
		"\"sctp\"}]},\"type\":\"b\"},"
		"{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"type\":\"c\"}]");
	assert_int_equal(attachment_save(dir, attachment, true, &err), 0);
	assert_int_equal(attachment_load(dir, "p1", &loaded, &err), 0);
	assert_true(json_equal(loaded->plugins, attachment->plugins));
	assert_null(loaded->result);
	assert_string_equal(loaded->args, attachment->args);
	assert_string_equal(loaded->netns, "/n");
	attachment_free(loaded);
	attachment->result = json_pack("{s:s}", "cniVersion", "1.0.0");
	assert_int_equal(attachment_save(dir, attachment, false, &err), 0);
	assert_int_equal(attachment_load(dir, "p1", &loaded, &err), 0);
	assert_true(json_equal(loaded->result, attachment->result));
	attachment_free(loaded);
	assert_int_equal(attachment_remove(dir, "p1", &err), 0);
	assert_int_equal(attachment_load(dir, "p1", &loaded, &err), -ENOENT);
	attachment_free(attachment);
	testing_dir_remove(dir);
}

/* Each plugin is told what it declares, and nothing else. */
static void test_capabilities(void **state)
{
	static char *const servers[] = {(char *)"10.0.0.1"}, *const ips[] = {(char *)"10.1.2.3/24"};
	static char *const subnets[] = {(char *)"10.1.2.0/24"}, *const names[] = {(char *)"db"};
	static const char *const annotations[] = {"team", "blue"};
	const struct net_pod_spec spec = {"p1", "web", "default", "u",
		{.ingress_bits = 1000000,
			.dns_servers = servers,
			.n_dns_servers = 1,
			.mac = "02:00:00:00:00:01",
			.ips = ips,
			.n_ips = 1,
			.ip_subnets = subnets,
			.n_ip_subnets = 1,
			.aliases = names,
			.n_aliases = 1,
			.annotations = annotations,
			.n_annotations = 1}};
	static const struct {
		const char *capability, *config;
	} cases[] = {
		{"bandwidth", "{\"ingressBurst\":2147483647,\"ingressRate\":1000000}"},
		{"dns", "{\"servers\":[\"10.0.0.1\"]}"},
		{"mac", "\"02:00:00:00:00:01\""},
		{"ips", "[\"10.1.2.3/24\"]"},
		{"ipRanges", "[[{\"subnet\":\"10.1.2.0/24\"}]]"},
		{"aliases", "{\"n\":[\"db\"]}"},
		{"io.kubernetes.cri.pod-annotations", "{\"team\":\"blue\"}"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *text = str_printf(HEAD
			"\"plugins\": [{\"type\": \"a\", \"capabilities\": {\"%s\": true}}]}",
			cases[i].capability);
		_cleanup_free_ char *expected =
			str_printf("{\"%s\":%s}", cases[i].capability, cases[i].config);
		struct attachment *attachment = NULL;
		struct cni_config *config = NULL;
		struct err err = ERR_INIT;

		assert_int_equal(parse(text, &config, &err), 0);
		assert_int_equal(attachment_new(config, &spec, "/n", &attachment, &err), 0);
		_cleanup_free_ char *got = json_dumps(
			json_object_get(json_array_get(attachment->plugins, 0), "runtimeConfig"),
			JSON_COMPACT | JSON_SORT_KEYS);
		assert_string_equal(got, expected);
		attachment_free(attachment);
		cni_config_free(config);
	}
}

static void test_attachment_refused(void **state)
{
	static const struct net_port_mapping no_port = {NET_TCP, 0, 80, NULL};
	static char *const no_ip[] = {(char *)"10.1.2.3/33"}, *const no_net[] = {
								      (char *)"10.1.2.0"};
	static const struct net_port_mapping bad_ip = {NET_TCP, 80, 80, "$(reboot)"};
	static const struct {
		struct net_pod_spec spec;
		const char *message;
	} rows[] = {
		{{"p", "a;K8S_POD_UID=x", "n", "u", {0}}, "the pod's name has a character"},
		{{"p", "a\nb", "n", "u", {0}}, "(byte 2)"},
		{{"p", "a", "n=", "u", {0}}, "the pod's namespace has"},
		{{"p", "a", "n", "\xc3\xa4", {0}}, "the pod's uid has"},
		{{"p", "a", "n", "", {0}}, "the pod has no uid"},
		{{"p", NULL, "n", "u", {0}}, "the pod has no name"},
		{{"p", "a", "n", "u", {.ports = &no_port, .n_ports = 1}}, "host port 80"},
		{{"p", "a", "n", "u", {.ports = &bad_ip, .n_ports = 1}}, "invalid host IP"},
		{{"p", "a", "n", "u", {.mac = "02:00"}}, "'02:00' is not a MAC"},
		{{"p", "a", "n", "u", {.ips = no_ip, .n_ips = 1}}, "10.1.2.3/33"},
		{{"p", "a", "n", "u", {.ip_subnets = no_net, .n_ip_subnets = 1}}, "10.1.2.0"},
	};
	char longer[300];
	struct net_pod_spec spec = {"p", longer, "n", "u", {0}};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		assert_null(attach(&rows[i].spec, -EINVAL, rows[i].message));
	memset(longer, 'a', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	assert_null(attach(&spec, -EINVAL, "longer than"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_config_versions),
		cmocka_unit_test(test_config_refused),
		cmocka_unit_test(test_deep_nesting),
		cmocka_unit_test(test_choice_of_file),
		cmocka_unit_test(test_result),
		cmocka_unit_test(test_result_of_nulls),
		cmocka_unit_test(test_result_refused),
		cmocka_unit_test(test_failure_messages),
		cmocka_unit_test(test_attachment),
		cmocka_unit_test(test_capabilities),
		cmocka_unit_test(test_attachment_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
