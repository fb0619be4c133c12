/*
 * From a container's CRI configuration and its image's to what the agent is asked for, as
 * containerd composes them. What this version does not do in the guest is refused by its name,
 * never dropped.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/resources.h"

#define DEFAULT_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* ---- what is not built ---- */

static int refuse(const char *what, struct err *err)
{
	return err_set(err, -EOPNOTSUPP, "%s: not built yet", what);
}

static int check_config(const Runtime__V1__ContainerConfig *config, struct err *err)
{
	if (config->n_cdi_devices)
		return refuse("CDI devices", err);
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

/* Sets KEY=VALUE, in the place of an earlier one with the same key. */
static int set_env(Bulkhead__Agent__Process *p, const char *assignment, struct err *err)
{
	size_t key = strcspn(assignment, "=") + 1;
	for (size_t i = 0; i < p->n_env; i++)
		if (strncmp(p->env[i], assignment, key) == 0)
			return message_set_string(&p->env[i], assignment, err);
	return message_add_string(&p->env, &p->n_env, assignment, err);
}

static int fill_env(Bulkhead__Agent__Process *p, const struct sandbox *sandbox,
	const Runtime__V1__ContainerConfig *config, const Bulkhead__Store__ImageConfig *image,
	struct err *err)
{
	_cleanup_free_ char *hostname = str_printf("HOSTNAME=%s", sandbox->config->hostname);
	if (!hostname)
		return err_nomem(err);
	int r = set_env(p, DEFAULT_PATH, err);
	if (r == 0 && config->tty)
		r = set_env(p, "TERM=xterm", err);
	if (r == 0 && sandbox->config->hostname[0])
		r = set_env(p, hostname, err);
	for (size_t i = 0; i < image->n_env && r == 0; i++)
		r = set_env(p, image->env[i], err);
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
		r = assignment ? set_env(p, assignment, err) : err_nomem(err);
	}
	return r;
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
