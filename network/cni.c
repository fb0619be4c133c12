#include "network/cni.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"
#include "common/spawn.h"
#include "network/capability.h"
#include "network/cni_result.h"

#define CNI_VARIABLES 6

/* What plugins are called for; without an attachment, for the network itself. */
struct turn {
	const struct cni_runtime *runtime;
	const struct attachment *attachment; /* or NULL */
	const char *command;
	const char *netns;
	uint64_t *spent_ns; /* what plugins took is added; or NULL */
};

static char **free_variables(char **variables)
{
	size_t i;

	for (i = 0; variables && i < CNI_VARIABLES; i++)
		free(variables[i]);
	return NULL;
}

static void free_variablesp(char *(*variables)[CNI_VARIABLES])
{
	(void)free_variables(*variables);
}

static int make_variables(const struct turn *turn, char *variables[CNI_VARIABLES], struct err *err)
{
	const struct attachment *attachment = turn->attachment;
	size_t i, n = 0;

	variables[n++] = str_printf("CNI_COMMAND=%s", turn->command);
	variables[n++] = str_printf("CNI_PATH=%s", turn->runtime->bin_dirs);
	if (attachment) {
		variables[n++] = str_printf("CNI_CONTAINERID=%s", attachment->id);
		variables[n++] = str_printf("CNI_NETNS=%s", turn->netns);
		variables[n++] = str_printf("CNI_IFNAME=%s", ATTACHMENT_IFNAME);
		variables[n++] = str_printf("CNI_ARGS=%s", attachment->args);
	}
	for (i = 0; i < n; i++)
		if (!variables[i])
			return err_nomem(err);
	return 0;
}

/* Our environment without CNI_… of ours, and the plugin's own: a list that borrows its strings. */
static const char **make_env(char *const variables[CNI_VARIABLES])
{
	const char **env;
	size_t i, n = 0;

	while (environ[n])
		n++;
	env = calloc(n + CNI_VARIABLES + 1, sizeof(*env));
	if (!env)
		return NULL;
	n = 0;
	for (i = 0; environ[i]; i++)
		if (strncmp(environ[i], "CNI_", 4) != 0)
			env[n++] = environ[i];
	for (i = 0; i < CNI_VARIABLES && variables[i]; i++)
		env[n++] = variables[i];
	return env;
}

/* What the plugin reads: its configuration and the result so far. */
static char *make_stdin(const json_t *plugin, json_t *prev_result)
{
	json_auto_t *config = json_copy((json_t *)plugin);

	if (!config)
		return NULL;
	if (prev_result && json_object_set(config, "prevResult", prev_result) < 0)
		return NULL;
	return json_dumps(config, JSON_COMPACT);
}

static int spawn_plugin(const struct turn *turn, const char *path, const char *input,
	struct spawn_result *result, struct err *err)
{
	_cleanup_(free_variablesp) char *variables[CNI_VARIABLES] = {NULL};
	_cleanup_free_ const char **env = NULL;
	const char *const argv[] = {path, NULL};
	uint64_t begin;
	int r;

	r = make_variables(turn, variables, err);
	if (r < 0)
		return r;
	env = make_env(variables);
	if (!env)
		return err_nomem(err);
	begin = ev_now_ns();
	r = spawn_run(
		&(struct spawn_options){
			.argv = argv,
			.env = env,
			.stdin_data = input,
			.stdin_len = strlen(input),
			.timeout_ms = turn->runtime->timeout_ms,
			.cancel_fd = -EBADF,
			.netns_fd = -EBADF,
			/* Killed between two iptables rules, a plugin fails at its own DEL ever
			   after. */
			.outlives_us = true,
		},
		result, err);
	if (turn->spent_ns)
		*turn->spent_ns += ev_now_ns() - begin;
	return r;
}

/* Runs one plugin to its end. What it printed is in result->out; it exited with 0. */
static int run_plugin(const struct turn *turn, const json_t *plugin, json_t *prev_result,
	struct spawn_result *result, struct err *err)
{
	const char *type = json_string_value(json_object_get(plugin, "type"));
	_cleanup_free_ char *input = make_stdin(plugin, prev_result);
	_cleanup_free_ char *path = NULL;
	const char *tail;
	int r;

	if (!input)
		return err_nomem(err);
	r = cni_plugin_find(turn->runtime->bin_dirs, type, &path, err);
	if (r < 0)
		return r;
	r = spawn_plugin(turn, path, input, result, err);
	if (r == 0 && result->exit_code != 0) {
		tail = buf_string(&result->err_tail);
		r = cni_result_failure(result->exit_code, result->out.data ? result->out.data : "",
			result->out.len, tail ? tail : "", err);
	}
	if (r < 0)
		err_wrap(err, "CNI plugin '%s' %s", type, turn->command);
	return r;
}

static int add_one(const struct turn *turn, const json_t *plugin, json_t **result, struct err *err)
{
	_cleanup_(spawn_result_done) struct spawn_result output =
		SPAWN_RESULT_INIT(CNI_OUTPUT_MAX_BYTES);
	json_t *next = NULL;
	int r;

	r = run_plugin(turn, plugin, *result, &output, err);
	if (r < 0)
		return r;
	r = cni_result_parse(
		output.out.data, output.out.len, turn->attachment->version, &next, err);
	if (r < 0) {
		err_wrap(err, "CNI plugin '%s' ADD",
			json_string_value(json_object_get(plugin, "type")));
		return r;
	}
	json_decref(*result);
	*result = next;
	return 0;
}

int cni_add(const struct cni_runtime *runtime, struct attachment *attachment,
	uint64_t *ret_spent_ns, struct err *err)
{
	const struct turn turn = {
		.runtime = runtime,
		.attachment = attachment,
		.command = "ADD",
		.netns = attachment->netns,
		.spent_ns = ret_spent_ns,
	};
	json_auto_t *result = NULL;
	const json_t *plugin;
	size_t i;
	int r;

	*ret_spent_ns = 0;
	json_array_foreach(attachment->plugins, i, plugin) {
		r = add_one(&turn, plugin, &result, err);
		if (r < 0)
			return r;
	}
	attachment->result = TAKE_PTR(result);
	return 0;
}

static int run_one(const struct turn *turn, const json_t *plugin, json_t *result, struct err *err)
{
	_cleanup_(spawn_result_done) struct spawn_result output =
		SPAWN_RESULT_INIT(CNI_OUTPUT_MAX_BYTES);

	return run_plugin(turn, plugin, result, &output, err);
}

int cni_del(const struct cni_runtime *runtime, const struct attachment *attachment,
	const char *netns, struct err *err)
{
	const struct turn turn = {
		.runtime = runtime,
		.attachment = attachment,
		.command = "DEL",
		.netns = netns,
	};
	struct err ignored = ERR_INIT;
	size_t i;
	int r, first = 0;

	for (i = json_array_size(attachment->plugins); i-- > 0;) {
		r = run_one(&turn, json_array_get(attachment->plugins, i), attachment->result,
			first < 0 ? &ignored : err);
		if (r < 0 && first == 0)
			first = r;
	}
	return first;
}

/* Plugins that give an answer of no interest, in order, until one fails. */
static int run_all(const struct turn *turn, const json_t *plugins, json_t *result, struct err *err)
{
	const json_t *plugin;
	size_t i;
	int r = 0;

	json_array_foreach(plugins, i, plugin) {
		r = run_one(turn, plugin, result, err);
		if (r < 0)
			break;
	}
	return r;
}

/* Versions are written alike, and are known: their text tells which is the later. */
static bool has_since(const char *version, const char *since)
{
	return strcmp(version, since) >= 0;
}

int cni_check(
	const struct cni_runtime *runtime, const struct attachment *attachment, struct err *err)
{
	const struct turn turn = {
		.runtime = runtime,
		.attachment = attachment,
		.command = "CHECK",
		.netns = attachment->netns,
	};

	if (!has_since(attachment->version, "0.4.0") || attachment->check_disabled)
		return 0;
	return run_all(&turn, attachment->plugins, attachment->result, err);
}

/* Whether the answer to VERSION has the version, or is none. */
static bool lists_version(const json_t *answer, const char *version)
{
	const json_t *versions = json_object_get(answer, "supportedVersions"), *one;
	size_t i;

	json_array_foreach(versions, i, one) {
		if (json_is_string(one) && strcmp(json_string_value(one), version) == 0)
			return true;
	}
	return json_array_size(versions) == 0;
}

int cni_version(
	const struct cni_runtime *runtime, const char *type, const char *version, struct err *err)
{
	const struct turn turn = {.runtime = runtime, .command = "VERSION"};
	_cleanup_(spawn_result_done) struct spawn_result output =
		SPAWN_RESULT_INIT(CNI_OUTPUT_MAX_BYTES);
	json_auto_t *question = json_pack("{s:s, s:s}", "type", type, "cniVersion", version);
	json_auto_t *answer = NULL;
	int r;

	if (!question)
		return err_nomem(err);
	r = run_plugin(&turn, question, NULL, &output, err);
	if (r == -EIO || r == -EAGAIN)
		return 0; /* older than the command, or says so by a CNI error */
	if (r < 0)
		return r;
	if (output.out.data)
		answer = json_loadb(output.out.data, output.out.len, 0, NULL);
	if (lists_version(answer, version))
		return 0;
	return err_set(err, -EINVAL,
		"CNI plugin '%s' does not speak version %s, which its configuration is of", type,
		version);
}

int cni_status(const struct cni_runtime *runtime, const struct cni_config *config, struct err *err)
{
	const struct turn turn = {.runtime = runtime, .command = "STATUS"};
	json_auto_t *plugins = NULL;

	if (!has_since(config->version, "1.1.0"))
		return 0;
	plugins = capability_derive(config, NULL);
	return plugins ? run_all(&turn, plugins, NULL, err) : err_nomem(err);
}

/* Libraries of plugins know the attachments by either name: the specification had the second. */
static int add_attachments(json_t *plugin, json_t *attachments)
{
	return json_object_set(plugin, "cni.dev/valid-attachments", attachments) < 0 ||
			       json_object_set(plugin, "cni.dev/attachments", attachments) < 0
		       ? -ENOMEM
		       : 0;
}

int cni_gc(const struct cni_runtime *runtime, const struct cni_config *config, json_t *attachments,
	struct err *err)
{
	const struct turn turn = {.runtime = runtime, .command = "GC"};
	json_auto_t *plugins = NULL;
	struct err ignored = ERR_INIT;
	json_t *plugin;
	size_t i;
	int r, first = 0;

	if (!has_since(config->version, "1.1.0") || config->gc_disabled)
		return 0;
	plugins = capability_derive(config, NULL);
	if (!plugins)
		return err_nomem(err);
	json_array_foreach(plugins, i, plugin) {
		if (add_attachments(plugin, attachments) < 0)
			return err_nomem(err);
		r = run_one(&turn, plugin, NULL, first < 0 ? &ignored : err);
		if (r < 0 && first == 0)
			first = r;
	}
	return first;
}
