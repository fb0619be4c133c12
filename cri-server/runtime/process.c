/*
 * From a container's CRI configuration and its image's to what the agent is asked for, as
 * containerd composes them. What this version does not do in the guest is refused by its name,
 * never dropped.
 */
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"

#define DEFAULT_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* A growing list of strings in a message from malloc. */
struct strings {
	char ***items;
	size_t *n;
};

static int strings_add(struct strings list, const char *value, struct err *err)
{
	char **items = realloc(*list.items, (*list.n + 1) * sizeof(*items));
	if (!items)
		return err_nomem(err);
	*list.items = items;
	items[*list.n] = strdup(value);
	if (!items[*list.n])
		return err_nomem(err);
	(*list.n)++;
	return 0;
}

static int strings_add_all(struct strings list, char *const *values, size_t n, struct err *err)
{
	int r = 0;
	for (size_t i = 0; i < n && r == 0; i++)
		r = strings_add(list, values[i], err);
	return r;
}

/* ---- what is not built ---- */

static int refuse(const char *what, struct err *err)
{
	return err_set(err, -EOPNOTSUPP, "%s: not built yet", what);
}

static int check_profile(
	const Runtime__V1__SecurityProfile *profile, const char *what, struct err *err)
{
	if (!profile ||
		profile->profile_type == RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined)
		return 0;
	return refuse(what, err);
}

static int check_security(const Runtime__V1__LinuxContainerSecurityContext *sc, struct err *err)
{
	if (!sc)
		return 0;
	int r = check_profile(sc->seccomp, "seccomp profile", err);
	if (r == 0)
		r = check_profile(sc->apparmor, "AppArmor profile", err);
	if (r < 0)
		return r;
	const Runtime__V1__NamespaceOption *ns = sc->namespace_options;
	if (ns && ns->pid == RUNTIME__V1__NAMESPACE_MODE__TARGET)
		return refuse("PID namespace of a target container", err);
	if (ns && ns->pid > RUNTIME__V1__NAMESPACE_MODE__TARGET)
		return err_set(err, -EINVAL, "unknown mode %d of the PID namespace", ns->pid);
	if (ns && ns->userns_options &&
		ns->userns_options->mode != RUNTIME__V1__NAMESPACE_MODE__NODE)
		return refuse("user namespace", err);
	if (sc->supplemental_groups_policy != RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Merge)
		return refuse("supplemental groups policy Strict", err);
	if (sc->capabilities && sc->capabilities->n_add_ambient_capabilities)
		return refuse("ambient capabilities", err);
	bool by_user = sc->run_as_user || sc->run_as_username[0];
	if (sc->run_as_group && !by_user)
		return err_set(err, -EINVAL, "run_as_group needs run_as_user or run_as_username");
	return 0;
}

static int check_resources(const Runtime__V1__LinuxContainerResources *res, struct err *err)
{
	if (!res)
		return 0;
	if (res->oom_score_adj < -1000 || res->oom_score_adj > 1000)
		return err_set(err, -EINVAL, "oom_score_adj %lld is not within -1000 to 1000",
			(long long)res->oom_score_adj);
	for (size_t i = 0; i < res->n_hugepage_limits; i++)
		if (res->hugepage_limits[i]->limit)
			return refuse("hugepage limits", err);
	if (res->n_unified)
		return refuse("unified cgroup settings", err);
	if (res->cpuset_mems[0])
		return refuse("cpuset_mems", err);
	/* A guest has no swap: a limit that leaves none is kept by nature. */
	if (res->memory_swap_limit_in_bytes > res->memory_limit_in_bytes)
		return refuse("swap", err);
	return 0;
}

static int check_config(const Runtime__V1__ContainerConfig *config, struct err *err)
{
	if (config->n_mounts)
		return refuse("mounts", err);
	if (config->n_devices || config->n_cdi_devices)
		return refuse("devices", err);
	int r = config->linux ? check_security(config->linux->security_context, err) : 0;
	return r < 0 || !config->linux ? r : check_resources(config->linux->resources, err);
}

/* ---- the process ---- */

static int fill_args(Bulkhead__Agent__Process *p, const Runtime__V1__ContainerConfig *config,
	const Bulkhead__Store__ImageConfig *image, struct err *err)
{
	struct strings args = {&p->args, &p->n_args};
	int r;
	if (config->n_command)
		r = strings_add_all(args, config->command, config->n_command, err);
	else
		r = strings_add_all(args, image->entrypoint, image->n_entrypoint, err);
	/* The image's arguments belong to the image's entry point only. */
	if (r == 0 && config->n_args)
		r = strings_add_all(args, config->args, config->n_args, err);
	else if (r == 0 && !config->n_command)
		r = strings_add_all(args, image->cmd, image->n_cmd, err);
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
	return strings_add((struct strings){&p->env, &p->n_env}, assignment, err);
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

static int group_id(int64_t id, uint32_t *ret, struct err *err)
{
	if (id < 0 || id >= UINT32_MAX)
		return err_set(err, -EINVAL, "%lld is not a user or group id", (long long)id);
	*ret = (uint32_t)id;
	return 0;
}

static int fill_user(Bulkhead__Agent__Process *p,
	const Runtime__V1__LinuxContainerSecurityContext *sc,
	const Bulkhead__Store__ImageConfig *image, struct err *err)
{
	Bulkhead__Agent__User *user = calloc(1, sizeof(*user));
	if (!user)
		return err_nomem(err);
	bulkhead__agent__user__init(user);
	p->user = user;
	int r = 0;
	if (sc && sc->run_as_user) {
		user->has_uid = true;
		r = group_id(sc->run_as_user->value, &user->uid, err);
	} else if (sc && sc->run_as_username[0]) {
		r = message_set_string(&user->name, sc->run_as_username, err);
	} else {
		r = message_set_string(&user->name, image->user, err);
	}
	if (r == 0 && sc && sc->run_as_group) {
		user->has_gid = true;
		r = group_id(sc->run_as_group->value, &user->gid, err);
	}
	if (r < 0 || !sc || !sc->n_supplemental_groups)
		return r;
	user->supplementary_gids = calloc(sc->n_supplemental_groups, sizeof(uint32_t));
	if (!user->supplementary_gids)
		return err_nomem(err);
	for (; user->n_supplementary_gids < sc->n_supplemental_groups && r == 0;
		user->n_supplementary_gids++)
		r = group_id(sc->supplemental_groups[user->n_supplementary_gids],
			&user->supplementary_gids[user->n_supplementary_gids], err);
	return r;
}

/* ---- capabilities ---- */

#define CAP_TO_BIT(cap) (UINT64_C(1) << (cap))
/* containerd's default set. */
#define DEFAULT_CAPABILITIES                                                                       \
	(CAP_TO_BIT(CAP_CHOWN) | CAP_TO_BIT(CAP_DAC_OVERRIDE) | CAP_TO_BIT(CAP_FSETID) |           \
		CAP_TO_BIT(CAP_FOWNER) | CAP_TO_BIT(CAP_MKNOD) | CAP_TO_BIT(CAP_NET_RAW) |         \
		CAP_TO_BIT(CAP_SETGID) | CAP_TO_BIT(CAP_SETUID) | CAP_TO_BIT(CAP_SETFCAP) |        \
		CAP_TO_BIT(CAP_SETPCAP) | CAP_TO_BIT(CAP_NET_BIND_SERVICE) |                       \
		CAP_TO_BIT(CAP_SYS_CHROOT) | CAP_TO_BIT(CAP_KILL) | CAP_TO_BIT(CAP_AUDIT_WRITE))
#define ALL_CAPABILITIES ((UINT64_C(1) << (CAP_LAST_CAP + 1)) - 1)

/* "NET_ADMIN" or "CAP_NET_ADMIN", "ALL" → a mask. */
static int parse_capability(const char *name, uint64_t *ret, struct err *err)
{
	char full[64];
	cap_value_t value;
	if (strcasecmp(name, "ALL") == 0) {
		*ret = ALL_CAPABILITIES;
		return 0;
	}
	bool prefixed = strncasecmp(name, "CAP_", 4) == 0;
	snprintf(full, sizeof(full), "%s%s", prefixed ? "" : "CAP_", name);
	if (cap_from_name(full, &value) < 0 || value > CAP_LAST_CAP)
		return err_set(err, -EINVAL, "unknown capability '%.64s'", name);
	*ret = CAP_TO_BIT(value);
	return 0;
}

/* ALL first in both lists, then what is named: "drop ALL, add X" leaves X, as in containerd. */
static int capability_mask(
	const Runtime__V1__LinuxContainerSecurityContext *sc, uint64_t *ret, struct err *err)
{
	uint64_t mask = DEFAULT_CAPABILITIES, add = 0, drop = 0, one;
	bool add_all = false, drop_all = false;
	const Runtime__V1__Capability *caps = sc ? sc->capabilities : NULL;
	if (sc && sc->privileged) {
		*ret = ALL_CAPABILITIES;
		return 0;
	}
	for (size_t i = 0; caps && i < caps->n_add_capabilities; i++) {
		int r = parse_capability(caps->add_capabilities[i], &one, err);
		if (r < 0)
			return r;
		if (one == ALL_CAPABILITIES)
			add_all = true;
		else
			add |= one;
	}
	for (size_t i = 0; caps && i < caps->n_drop_capabilities; i++) {
		int r = parse_capability(caps->drop_capabilities[i], &one, err);
		if (r < 0)
			return r;
		if (one == ALL_CAPABILITIES)
			drop_all = true;
		else
			drop |= one;
	}
	if (add_all)
		mask = ALL_CAPABILITIES;
	if (drop_all)
		mask = 0;
	*ret = (mask | add) & ~drop;
	return 0;
}

static int fill_capabilities(Bulkhead__Agent__Process *p,
	const Runtime__V1__LinuxContainerSecurityContext *sc, struct err *err)
{
	uint64_t mask;
	int r = capability_mask(sc, &mask, err);
	for (cap_value_t cap = 0; cap <= CAP_LAST_CAP && r == 0; cap++) {
		if (!(mask & CAP_TO_BIT(cap)))
			continue;
		char *name = cap_to_name(cap);
		if (!name)
			return err_nomem(err);
		for (char *c = name; *c; c++)
			*c = (char)(*c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c);
		r = strings_add((struct strings){&p->capabilities, &p->n_capabilities}, name, err);
		cap_free(name);
	}
	return r;
}

static int fill_process(Bulkhead__Agent__Process *p, const struct sandbox *sandbox,
	const Runtime__V1__ContainerConfig *config, const Bulkhead__Store__ImageConfig *image,
	struct err *err)
{
	const Runtime__V1__LinuxContainerConfig *linux = config->linux;
	const Runtime__V1__LinuxContainerSecurityContext *sc =
		linux ? linux->security_context : NULL;
	int r = fill_args(p, config, image, err);
	if (r == 0)
		r = fill_env(p, sandbox, config, image, err);
	if (r == 0)
		r = fill_user(p, sc, image, err);
	if (r == 0)
		r = fill_capabilities(p, sc, err);
	if (r == 0)
		r = message_set_string(&p->cwd,
			config->working_dir[0] ? config->working_dir : image->working_dir, err);
	p->terminal = config->tty;
	p->stdin = config->stdin;
	p->stdin_once = config->stdin_once;
	p->no_new_privs = sc && sc->no_new_privs;
	if (linux && linux->resources)
		p->oom_score_adj = (int32_t)linux->resources->oom_score_adj;
	return r;
}

static int fill_resources(Bulkhead__Agent__CreateContainerRequest *request,
	const Runtime__V1__LinuxContainerResources *from, struct err *err)
{
	if (!from)
		return 0;
	Bulkhead__Agent__Resources *to = calloc(1, sizeof(*to));
	if (!to)
		return err_nomem(err);
	bulkhead__agent__resources__init(to);
	request->resources = to;
	to->cpu_shares = from->cpu_shares > 0 ? (uint64_t)from->cpu_shares : 0;
	to->cpu_quota_us = from->cpu_quota;
	to->cpu_period_us = from->cpu_period > 0 ? (uint64_t)from->cpu_period : 0;
	to->memory_bytes = from->memory_limit_in_bytes;
	return message_set_string(&to->cpuset_cpus, from->cpuset_cpus, err);
}

static Bulkhead__Agent__PidNamespace pid_namespace(const Runtime__V1__NamespaceOption *ns)
{
	/* Without options: a namespace for the pod, which is CRI's zero value. */
	if (!ns || ns->pid == RUNTIME__V1__NAMESPACE_MODE__POD)
		return BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_POD;
	if (ns->pid == RUNTIME__V1__NAMESPACE_MODE__NODE)
		return BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_GUEST;
	return BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_CONTAINER;
}

static int fill_security(Bulkhead__Agent__CreateContainerRequest *request,
	const Runtime__V1__LinuxContainerSecurityContext *sc, struct err *err)
{
	request->pid_namespace = pid_namespace(sc ? sc->namespace_options : NULL);
	if (!sc)
		return 0;
	request->read_only_root = sc->readonly_rootfs;
	request->privileged = sc->privileged;
	if (sc->privileged)
		return 0;
	int r = strings_add_all((struct strings){&request->masked_paths, &request->n_masked_paths},
		sc->masked_paths, sc->n_masked_paths, err);
	return r < 0 ? r
		     : strings_add_all((struct strings){&request->read_only_paths,
					       &request->n_read_only_paths},
			       sc->readonly_paths, sc->n_readonly_paths, err);
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
		r = fill_resources(request, linux ? linux->resources : NULL, err);
	if (r == 0)
		r = fill_security(request, linux ? linux->security_context : NULL, err);
	if (r < 0) {
		bulkhead__agent__create_container_request__free_unpacked(request, NULL);
		return r;
	}
	*ret = request;
	return 0;
}
