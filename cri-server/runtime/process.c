/*
 * From a container's CRI configuration and its image's to what the agent is asked for, as
 * containerd composes them. What this version does not do in the guest is refused by its name,
 * never dropped.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/proto/ports.h"
#include "common/fd.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/resources.h"

#define DEFAULT_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* ---- what cannot be ---- */

static int check_config(const Runtime__V1__ContainerConfig *config, struct err *err)
{
	if (config->n_cdi_devices)
		return err_set(err, -EOPNOTSUPP, "CDI devices: not built yet");
	if (config->n_mounts > AGENT_MOUNTS_MAX)
		return err_set(err, -EINVAL, "%zu mounts, at most %d are possible",
			config->n_mounts, AGENT_MOUNTS_MAX);
	if (config->n_devices > AGENT_DEVICES_MAX)
		return err_set(err, -EINVAL, "%zu devices, at most %d are possible",
			config->n_devices, AGENT_DEVICES_MAX);
	return config->linux ? resources_check(config->linux->resources, err) : 0;
}

/* ---- the process ---- */

static int fill_args(Bulkhead__Agent__Process *p, const Runtime__V1__ContainerConfig *config,
	const Bulkhead__Store__ImageConfig *image, struct err *err)
{
	int r;
	if (config->n_command)
		r = message_add_strings(
			&p->args, &p->n_args, config->command, config->n_command, err);
	else
		r = message_add_strings(
			&p->args, &p->n_args, image->entrypoint, image->n_entrypoint, err);
	/* The image's arguments belong to the image's entry point only. */
	if (r == 0 && config->n_args)
		r = message_add_strings(&p->args, &p->n_args, config->args, config->n_args, err);
	else if (r == 0 && !config->n_command)
		r = message_add_strings(&p->args, &p->n_args, image->cmd, image->n_cmd, err);
	if (r < 0)
		return r;
	if (!p->n_args || !p->args[0][0])
		return err_set(err, -EINVAL,
			"no command: neither the container's configuration nor the image has one");
	return 0;
}

struct variable {
	const char *text;
	size_t at;
};

static int compare_names(const char *a, const char *b)
{
	return strncmp(a, b, strcspn(a, "=") + 1);
}

/* Those of one name as they came. */
static int compare_variables(const void *a, const void *b)
{
	const struct variable *x = a, *y = b;
	int r = compare_names(x->text, y->text);
	return r ? r : (x->at > y->at) - (x->at < y->at);
}

/*
 * Leaves of each name the last value, in the place of the first. Sorted, because a client may have
 * as many as there is room for in a request.
 */
static int override_env(Bulkhead__Agent__Process *p, struct err *err)
{
	_cleanup_free_ struct variable *sorted = calloc(p->n_env, sizeof(*sorted));
	size_t first = 0, n = 0;
	if (!sorted)
		return err_nomem(err);
	for (size_t i = 0; i < p->n_env; i++)
		sorted[i] = (struct variable){p->env[i], i};
	qsort(sorted, p->n_env, sizeof(*sorted), compare_variables);
	for (size_t i = 1; i < p->n_env; i++) {
		char **is = &p->env[sorted[first].at], **then = &p->env[sorted[i].at];
		if (compare_names(*is, *then) == 0) {
			free(*is);
			*is = TAKE_PTR(*then);
		} else {
			first = i;
		}
	}
	for (size_t i = 0; i < p->n_env; i++)
		if (p->env[i])
			p->env[n++] = p->env[i];
	p->n_env = n;
	return 0;
}

static int add_env(Bulkhead__Agent__Process *p, const char *assignment, struct err *err)
{
	return message_add_string(&p->env, &p->n_env, assignment, err);
}

static int fill_env(Bulkhead__Agent__Process *p, const struct sandbox *sandbox,
	const Runtime__V1__ContainerConfig *config, const Bulkhead__Store__ImageConfig *image,
	struct err *err)
{
	_cleanup_free_ char *hostname = str_printf("HOSTNAME=%s", sandbox->config->hostname);
	if (!hostname)
		return err_nomem(err);
	int r = add_env(p, DEFAULT_PATH, err);
	if (r == 0 && config->tty)
		r = add_env(p, "TERM=xterm", err);
	if (r == 0 && sandbox->config->hostname[0])
		r = add_env(p, hostname, err);
	if (r == 0)
		r = message_add_strings(&p->env, &p->n_env, image->env, image->n_env, err);
	for (size_t i = 0; i < config->n_envs && r == 0; i++) {
		const Runtime__V1__KeyValue *from = config->envs[i];
		if (!from->key[0] || strchr(from->key, '='))
			return err_set(
				err, -EINVAL, "environment variable %zu has no usable name", i);
		if (from->value.len && memchr(from->value.data, '\0', from->value.len))
			return err_set(err, -EINVAL,
				"environment variable '%s' contains a NUL byte", from->key);
		_cleanup_free_ char *assignment = str_printf("%s=%.*s", from->key,
			(int)from->value.len, from->value.len ? (char *)from->value.data : "");
		r = assignment ? add_env(p, assignment, err) : err_nomem(err);
	}
	return r < 0 ? r : override_env(p, err);
}

static int fill_process(Bulkhead__Agent__Process *p, const struct sandbox *sandbox,
	const Runtime__V1__ContainerConfig *config, const Bulkhead__Store__ImageConfig *image,
	struct err *err)
{
	const Runtime__V1__LinuxContainerConfig *linux = config->linux;
	int r = fill_args(p, config, image, err);
	if (r == 0)
		r = fill_env(p, sandbox, config, image, err);
	if (r == 0)
		r = message_set_string(&p->cwd,
			config->working_dir[0] ? config->working_dir : image->working_dir, err);
	p->terminal = config->tty;
	p->stdin = config->stdin;
	p->stdin_once = config->stdin_once;
	if (linux && linux->resources)
		p->oom_score_adj = (int32_t)linux->resources->oom_score_adj;
	return r;
}

int process_for_container(const struct sandbox *sandbox, const Runtime__V1__ContainerConfig *config,
	const Bulkhead__Store__ImageConfig *image, Bulkhead__Agent__CreateContainerRequest **ret,
	struct err *err)
{
	int r = check_config(config, err);
	if (r < 0)
		return r;
	Bulkhead__Agent__CreateContainerRequest *request = calloc(1, sizeof(*request));
	Bulkhead__Agent__Process *process = calloc(1, sizeof(*process));
	if (!request || !process) {
		free(request);
		free(process);
		return err_nomem(err);
	}
	bulkhead__agent__create_container_request__init(request);
	bulkhead__agent__process__init(process);
	request->process = process;

	const Runtime__V1__LinuxContainerConfig *linux = config->linux;
	r = fill_process(process, sandbox, config, image, err);
	if (r == 0)
		r = message_add_strings(&request->image_volumes, &request->n_image_volumes,
			image->volumes, image->n_volumes, err);
	if (r == 0)
		r = resources_for_agent(linux ? linux->resources : NULL, &request->resources, err);
	if (r == 0)
		r = userns_check_container(
			sandbox->config, linux ? linux->security_context : NULL, err);
	if (r == 0)
		r = security_fill(request, sandbox->runtime->filters,
			linux ? linux->security_context : NULL, image, err);
	if (r < 0) {
		bulkhead__agent__create_container_request__free_unpacked(request, NULL);
		return r;
	}
	*ret = request;
	return 0;
}
