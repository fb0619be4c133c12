/* Runs plugins that misbehave, as scripts; those that behave are the real ones, in
 * pod_network_test.c. */
#include "network/cni.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/fd.h"
#include "common/loop.h"
#include "network/cni_config.h"
#include "network/testing.h"

#define RESULT "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.213.7.2/24\"}]}"

/* Two plugins; each appends what it is told to the log and goes on as its script says. */
struct room {
	char *dir;
	struct cni_runtime runtime;
	struct attachment *attachment;
	uint64_t spent_ns;
};

static int set_up(void **state)
{
	static const char text[] =
		"{\"name\": \"n\", \"cniVersion\": \"1.0.0\", \"plugins\": [{\"type\": \"one\"},"
		" {\"type\": \"two\"}]}";
	const struct net_pod_spec spec = {"pod1", "web", "default", "u-1", {0}};
	struct room *room = calloc(1, sizeof(*room));
	struct cni_config *config = NULL;
	struct err err = ERR_INIT;

	assert_non_null(room);
	room->dir = testing_dir();
	room->runtime = (struct cni_runtime){.bin_dirs = room->dir, .timeout_ms = 60000};
	assert_int_equal(cni_config_parse("f", text, strlen(text), &config, &err), 0);
	assert_int_equal(attachment_new(config, &spec, "/netns", &room->attachment, &err), 0);
	cni_config_free(config);
	*state = room;
	return 0;
}

static int tear_down(void **state)
{
	struct room *room = *state;

	attachment_free(room->attachment);
	testing_dir_remove(room->dir);
	free(room);
	return 0;
}

static void write_plugin(struct room *room, const char *type, const char *script)
{
	_cleanup_free_ char *text = str_printf("#!/bin/sh\n"
					       "{ echo \"%s $CNI_COMMAND $CNI_CONTAINERID "
					       "netns=$CNI_NETNS $CNI_IFNAME $CNI_ARGS\"; cat; "
					       "echo; } >>%s/log\n%s\n",
		type, room->dir, script);

	assert_non_null(text);
	testing_write(room->dir, type, text, 0755);
}

static char *read_log(struct room *room)
{
	_cleanup_free_ char *path = str_printf("%s/log", room->dir);
	struct err err = ERR_INIT;
	char *text;

	assert_int_equal(fd_read_file(path, 1 << 20, &text, NULL, &err), 0);
	return text;
}

static void test_chain(void **state)
{
	static const char args[] =
		"eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;"
		"K8S_POD_INFRA_CONTAINER_ID=pod1;K8S_POD_UID=u-1";
	_cleanup_free_ char *log = NULL, *expected = NULL;
	struct room *room = *state;
	struct err err = ERR_INIT;

	write_plugin(room, "one", "[ $CNI_COMMAND = DEL ] || echo '" RESULT "'");
	write_plugin(room, "two", "[ $CNI_COMMAND = DEL ] || echo '" RESULT "'");
	assert_int_equal(cni_add(&room->runtime, room->attachment, &room->spent_ns, &err), 0);
	assert_non_null(room->attachment->result);
	assert_true(room->spent_ns > 0);
	assert_int_equal(cni_del(&room->runtime, room->attachment, "", &err), 0);
	log = read_log(room);
	expected = str_printf("one ADD pod1 netns=/netns %s\n"
			      "{\"type\":\"one\",\"name\":\"n\",\"cniVersion\":\"1.0.0\"}\n"
			      "two ADD pod1 netns=/netns %s\n"
			      "{\"type\":\"two\",\"name\":\"n\",\"cniVersion\":\"1.0.0\","
			      "\"prevResult\":" RESULT "}\n"
			      "two DEL pod1 netns= %s\n"
			      "{\"type\":\"two\",\"name\":\"n\",\"cniVersion\":\"1.0.0\","
			      "\"prevResult\":" RESULT "}\n"
			      "one DEL pod1 netns= %s\n"
			      "{\"type\":\"one\",\"name\":\"n\",\"cniVersion\":\"1.0.0\","
			      "\"prevResult\":" RESULT "}\n",
		args, args, args, args);
	assert_string_equal(log, expected);
}

static void expect_add(struct room *room, int code, const char *message)
{
	struct err err = ERR_INIT;

	assert_int_equal(cni_add(&room->runtime, room->attachment, &room->spent_ns, &err), code);
	assert_null(room->attachment->result);
	if (!strstr(err.msg, message))
		fail_msg("'%s' is not in '%s'", message, err.msg);
}

static void test_failures(void **state)
{
	struct room *room = *state;

	write_plugin(room, "two", "exit 0");
	write_plugin(room, "one",
		"echo '{\"code\": 100, \"msg\": \"no route\", \"details\": \"x\"}'; echo bad luck "
		">&2;"
		" exit 1");
	expect_add(room, -EIO,
		"CNI plugin 'one' ADD: error 100: \"no route\": x; stderr: \"bad luck\"");
	write_plugin(room, "one", "echo garbage");
	expect_add(room, -EPROTO, "CNI plugin 'one' ADD: its result is not JSON");
	write_plugin(room, "one", "exit 0");
	expect_add(room, -EPROTO, "CNI plugin 'one' ADD: it printed no result");
	write_plugin(room, "one", "kill -9 $$");
	expect_add(room, -EIO, "CNI plugin 'one' ADD: exit code 137 without a CNI error");
	write_plugin(room, "one", "head -c 100000000 /dev/zero");
	expect_add(room, -ENOBUFS, "CNI plugin 'one' ADD");
	write_plugin(room, "one",
		"head -c 10000000 /dev/zero | tr '\\0' e >&2; echo '{\"code\":1,\"msg\":\"m\"}'; "
		"exit 1");
	expect_add(room, -EIO, "error 1: m; stderr: eeee");
}

static void test_hang(void **state)
{
	struct room *room = *state;
	uint64_t started = ev_now_ms();

	write_plugin(room, "one", "sleep 60 & sleep 60");
	room->runtime.timeout_ms = 300;
	expect_add(room, -ETIMEDOUT, "CNI plugin 'one' ADD");
	assert_true(ev_now_ms() - started < 30000);
}

/* A DEL that fails keeps none of the others from running. */
static void test_del_goes_on(void **state)
{
	_cleanup_free_ char *log = NULL;
	struct room *room = *state;
	struct err err = ERR_INIT;

	write_plugin(room, "one", "exit 0");
	write_plugin(room, "two", "echo '{\"code\": 11, \"msg\": \"later\"}'; exit 1");
	assert_int_equal(cni_del(&room->runtime, room->attachment, "/netns", &err), -EAGAIN);
	assert_string_equal(err.msg, "CNI plugin 'two' DEL: error 11: later");
	log = read_log(room);
	assert_non_null(strstr(log, "one DEL"));
}

/* The newer commands: in the list's order, of the network itself or with the result. */
static void test_other_commands(void **state)
{
	json_auto_t *attachments =
		json_pack("[{s:s, s:s}]", "containerID", "pod1", "ifname", "eth0");
	_cleanup_free_ char *log = NULL;
	struct room *room = *state;
	struct cni_config *config = NULL;
	struct err err = ERR_INIT;
	static const char text[] = "{\"name\": \"n\", \"cniVersion\": \"1.1.0\", \"plugins\": ["
				   "{\"type\": \"one\"}, {\"type\": \"two\"}]}";

	write_plugin(room, "one", "[ $CNI_COMMAND != ADD ] || echo '" RESULT "'");
	write_plugin(room, "two", "[ $CNI_COMMAND != ADD ] && exit; echo '" RESULT "'");
	assert_int_equal(cni_add(&room->runtime, room->attachment, &room->spent_ns, &err), 0);
	assert_int_equal(cni_check(&room->runtime, room->attachment, &err), 0);
	assert_int_equal(cni_config_parse("f", text, strlen(text), &config, &err), 0);
	assert_int_equal(cni_status(&room->runtime, config, &err), 0);
	assert_int_equal(cni_gc(&room->runtime, config, attachments, &err), 0);
	log = read_log(room);
	assert_non_null(strstr(log,
		"two CHECK pod1 netns=/netns eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=default;"
		"K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=pod1;K8S_POD_UID=u-1\n"
		"{\"type\":\"two\",\"name\":\"n\",\"cniVersion\":\"1.0.0\",\"prevResult\":" RESULT
		"}\none STATUS  netns=  \n"
		"{\"type\":\"one\",\"name\":\"n\",\"cniVersion\":\"1.1.0\"}\n"
		"two STATUS  netns=  \n"
		"{\"type\":\"two\",\"name\":\"n\",\"cniVersion\":\"1.1.0\"}\n"
		"one GC  netns=  \n"
		"{\"type\":\"one\",\"name\":\"n\",\"cniVersion\":\"1.1.0\","
		"\"cni.dev/valid-attachments\":[{\"containerID\":\"pod1\",\"ifname\":\"eth0\"}],"
		"\"cni.dev/attachments\":[{\"containerID\":\"pod1\",\"ifname\":\"eth0\"}]}"));
	write_plugin(room, "one", "echo '{\"code\": 50, \"msg\": \"no daemon\"}'; exit 1");
	assert_int_equal(cni_status(&room->runtime, config, &err), -EIO);
	assert_string_equal(err.msg, "CNI plugin 'one' STATUS: error 50: \"no daemon\"");
	/* Older networks have neither, and a configuration may do without. */
	config->version = "1.0.0";
	assert_int_equal(cni_status(&room->runtime, config, &err), 0);
	assert_int_equal(cni_gc(&room->runtime, config, attachments, &err), 0);
	config->version = "1.1.0";
	config->gc_disabled = true;
	assert_int_equal(cni_gc(&room->runtime, config, attachments, &err), 0);
	room->attachment->check_disabled = true;
	assert_int_equal(cni_check(&room->runtime, room->attachment, &err), 0);
	cni_config_free(config);
}

/* What one plugin cannot forget keeps no other from forgetting. */
static void test_gc_goes_on(void **state)
{
	static const char text[] = "{\"name\": \"n\", \"cniVersion\": \"1.1.0\", \"plugins\": ["
				   "{\"type\": \"one\"}, {\"type\": \"two\"}]}";
	json_auto_t *attachments = json_array();
	_cleanup_free_ char *log = NULL;
	struct room *room = *state;
	struct cni_config *config = NULL;
	struct err err = ERR_INIT;

	write_plugin(room, "one", "echo '{\"code\": 4, \"msg\": \"GC?\"}'; exit 1");
	write_plugin(room, "two", "exit 0");
	assert_int_equal(cni_config_parse("f", text, strlen(text), &config, &err), 0);
	assert_int_equal(cni_gc(&room->runtime, config, attachments, &err), -EIO);
	assert_string_equal(err.msg, "CNI plugin 'one' GC: error 4: GC?");
	log = read_log(room);
	assert_non_null(strstr(log, "two GC"));
	cni_config_free(config);
}

static void test_missing(void **state)
{
	struct room *room = *state;

	expect_add(room, -ENOENT, "CNI plugin 'one' not found in /tmp/");
}

int main(void)
{
#define PLUGIN_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		PLUGIN_TEST(test_chain),
		PLUGIN_TEST(test_failures),
		PLUGIN_TEST(test_hang),
		PLUGIN_TEST(test_del_goes_on),
		PLUGIN_TEST(test_other_commands),
		PLUGIN_TEST(test_gc_goes_on),
		PLUGIN_TEST(test_missing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
