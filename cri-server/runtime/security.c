/*
 * From a container's security context to what the agent is asked for: user, capabilities, seccomp
 * filter, namespaces, paths that are hidden or read-only. Rules, defaults and names are
 * containerd's.
 */
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/seccomp/profile.h"

/* ---- the user ---- */

static int numeric_id(int64_t id, uint32_t *ret, struct err *err)
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
	bool by_user = sc && (sc->run_as_user || sc->run_as_username[0]);
	if (sc && sc->run_as_group && !by_user)
		return err_set(err, -EINVAL, "run_as_group needs run_as_user or run_as_username");
	Bulkhead__Agent__User *user = calloc(1, sizeof(*user));
	if (!user)
		return err_nomem(err);
	bulkhead__agent__user__init(user);
	p->user = user;
	int r = 0;
	if (sc && sc->run_as_user) {
		user->has_uid = true;
		r = numeric_id(sc->run_as_user->value, &user->uid, err);
	} else if (sc && sc->run_as_username[0]) {
		r = message_set_string(&user->name, sc->run_as_username, err);
	} else {
		r = message_set_string(&user->name, image->user, err);
	}
	if (r == 0 && sc && sc->run_as_group) {
		user->has_gid = true;
		r = numeric_id(sc->run_as_group->value, &user->gid, err);
	}
	user->strict = sc && sc->supplemental_groups_policy ==
				     RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Strict;
	if (r < 0 || !sc || !sc->n_supplemental_groups)
		return r;
	user->supplementary_gids = calloc(sc->n_supplemental_groups, sizeof(uint32_t));
	if (!user->supplementary_gids)
		return err_nomem(err);
	for (; user->n_supplementary_gids < sc->n_supplemental_groups && r == 0;
		user->n_supplementary_gids++)
		r = numeric_id(sc->supplemental_groups[user->n_supplementary_gids],
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

static int name_capabilities(uint64_t mask, char ***names, size_t *n, struct err *err)
{
	int r = 0;
	for (cap_value_t cap = 0; cap <= CAP_LAST_CAP && r == 0; cap++) {
		if (!(mask & CAP_TO_BIT(cap)))
			continue;
		char *name = cap_to_name(cap);
		if (!name)
			return err_nomem(err);
		for (char *c = name; *c; c++)
			*c = (char)(*c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c);
		r = message_add_string(names, n, name, err);
		cap_free(name);
	}
	return r;
}

/* Ambient ones are granted by being named there: a kubelet need not name them twice. */
static int ambient_mask(
	const Runtime__V1__LinuxContainerSecurityContext *sc, uint64_t *ret, struct err *err)
{
	const Runtime__V1__Capability *caps = sc ? sc->capabilities : NULL;
	*ret = 0;
	for (size_t i = 0; caps && i < caps->n_add_ambient_capabilities; i++) {
		uint64_t one;
		int r = parse_capability(caps->add_ambient_capabilities[i], &one, err);
		if (r < 0)
			return r;
		*ret |= one;
	}
	return 0;
}

static int fill_capabilities(Bulkhead__Agent__Process *p,
	const Runtime__V1__LinuxContainerSecurityContext *sc, uint64_t *ret_mask, struct err *err)
{
	uint64_t mask, ambient;
	int r = capability_mask(sc, &mask, err);
	if (r == 0)
		r = ambient_mask(sc, &ambient, err);
	if (r < 0)
		return r;
	*ret_mask = mask | ambient;
	r = name_capabilities(*ret_mask, &p->capabilities, &p->n_capabilities, err);
	return r < 0 ? r
		     : name_capabilities(
			       ambient, &p->ambient_capabilities, &p->n_ambient_capabilities, err);
}

/* ---- seccomp and AppArmor ---- */

#define GROUPS_MAX 1024 /* of the agent's */
#define LOCALHOST  "localhost/"

/* Older clients still set them. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

static const char *old_seccomp(const Runtime__V1__LinuxContainerSecurityContext *sc)
{
	return sc->seccomp_profile_path;
}

static const char *old_apparmor(const Runtime__V1__LinuxContainerSecurityContext *sc)
{
	return sc->apparmor_profile;
}
#pragma GCC diagnostic pop

static const char *without_prefix(const char *reference)
{
	size_t len = strlen(LOCALHOST);
	return strncmp(reference, LOCALHOST, len) == 0 ? reference + len : reference;
}

/* The deprecated strings: empty is nothing asked for. */
static int profile_of_string(
	const char *text, Runtime__V1__SecurityProfile *ret, const char *field, struct err *err)
{
	runtime__v1__security_profile__init(ret);
	ret->profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined;
	if (!text[0] || strcmp(text, "unconfined") == 0)
		return 0;
	if (strcmp(text, "runtime/default") == 0 || strcmp(text, "docker/default") == 0) {
		ret->profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__RuntimeDefault;
		return 0;
	}
	if (without_prefix(text) == text)
		return err_set(err, -EINVAL, "%s: invalid profile '%.256s'", field, text);
	ret->profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost;
	ret->localhost_ref = (char *)text;
	return 0;
}

static int compile_seccomp(struct filter_cache *filters,
	const Runtime__V1__SecurityProfile *profile, uint64_t capabilities, struct filter *ret,
	struct err *err)
{
	switch (profile->profile_type) {
	case RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined:
		return 0;
	case RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__RuntimeDefault:
		return filter_default(filters, capabilities, ret, err);
	case RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost:
		return filter_from_file(filters, without_prefix(profile->localhost_ref), ret, err);
	default:
		return err_set(err, -EINVAL, "unknown type %d of the seccomp profile",
			profile->profile_type);
	}
}

static int fill_seccomp(Bulkhead__Agent__CreateContainerRequest *request,
	struct filter_cache *filters, const Runtime__V1__LinuxContainerSecurityContext *sc,
	uint64_t capabilities, struct err *err)
{
	Runtime__V1__SecurityProfile deprecated;
	const Runtime__V1__SecurityProfile *profile = sc->seccomp ? sc->seccomp : &deprecated;
	struct filter filter = {0};
	if (sc->privileged)
		return 0;
	int r = sc->seccomp ? 0
			    : profile_of_string(
				      old_seccomp(sc), &deprecated, "seccomp_profile_path", err);
	if (r == 0)
		r = compile_seccomp(filters, profile, capabilities, &filter, err);
	if (r < 0)
		return r;
	request->seccomp_filter.data = filter.program;
	request->seccomp_filter.len = filter.len;
	request->seccomp_flags = filter.flags;
	return 0;
}

/* The guest has no AppArmor: its default confines nothing, and a named profile cannot be kept. */
static int check_apparmor(const Runtime__V1__LinuxContainerSecurityContext *sc, struct err *err)
{
	Runtime__V1__SecurityProfile deprecated;
	const Runtime__V1__SecurityProfile *profile = sc->apparmor ? sc->apparmor : &deprecated;
	int r = sc->apparmor
			? 0
			: profile_of_string(old_apparmor(sc), &deprecated, "apparmor_profile", err);
	if (r < 0 ||
		profile->profile_type != RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost)
		return r;
	return err_set(err, -EINVAL,
		"AppArmor profile '%.256s': apparmor is not supported: the pod's machine has none",
		without_prefix(profile->localhost_ref));
}

/* ---- namespaces ---- */

static int fill_namespaces(Bulkhead__Agent__CreateContainerRequest *request,
	const Runtime__V1__NamespaceOption *ns, struct err *err)
{
	/* Without options: a namespace for the pod, which is CRI's zero value. */
	request->pid_namespace = BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_POD;
	if (!ns)
		return 0;
	switch (ns->pid) {
	case RUNTIME__V1__NAMESPACE_MODE__POD:
		return 0;
	case RUNTIME__V1__NAMESPACE_MODE__CONTAINER:
		request->pid_namespace = BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_CONTAINER;
		return 0;
	case RUNTIME__V1__NAMESPACE_MODE__NODE:
		request->pid_namespace = BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_GUEST;
		return 0;
	case RUNTIME__V1__NAMESPACE_MODE__TARGET:
		request->pid_namespace = BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_TARGET;
		return message_set_string(&request->target_container_id, ns->target_id, err);
	default:
		return err_set(err, -EINVAL, "unknown mode %d of the PID namespace", ns->pid);
	}
}

/* ---- paths ---- */

static int check_paths(char *const *paths, size_t n, const char *field, struct err *err)
{
	for (size_t i = 0; i < n; i++)
		if (paths[i][0] != '/')
			return err_set(err, -EINVAL, "%s: '%.256s' is not an absolute path", field,
				paths[i]);
	return 0;
}

/* Where a client names none, none: that is how a kubelet says "Unmasked". */
static int fill_paths(Bulkhead__Agent__CreateContainerRequest *request,
	const Runtime__V1__LinuxContainerSecurityContext *sc, struct err *err)
{
	int r = check_paths(sc->masked_paths, sc->n_masked_paths, "masked_paths", err);
	if (r == 0)
		r = check_paths(sc->readonly_paths, sc->n_readonly_paths, "readonly_paths", err);
	if (r == 0)
		r = message_add_strings(&request->masked_paths, &request->n_masked_paths,
			sc->masked_paths, sc->n_masked_paths, err);
	return r < 0 ? r
		     : message_add_strings(&request->read_only_paths, &request->n_read_only_paths,
			       sc->readonly_paths, sc->n_readonly_paths, err);
}

int security_fill(Bulkhead__Agent__CreateContainerRequest *request, struct filter_cache *filters,
	const Runtime__V1__LinuxContainerSecurityContext *sc,
	const Bulkhead__Store__ImageConfig *image, struct err *err)
{
	Bulkhead__Agent__Process *process = request->process;
	uint64_t capabilities = 0;
	int r = fill_user(process, sc, image, err);
	if (r == 0)
		r = fill_capabilities(process, sc, &capabilities, err);
	if (r == 0)
		r = fill_namespaces(request, sc ? sc->namespace_options : NULL, err);
	if (r < 0 || !sc)
		return r;
	process->no_new_privs = sc->no_new_privs;
	request->read_only_root = sc->readonly_rootfs;
	request->privileged = sc->privileged;
	r = check_apparmor(sc, err);
	if (r == 0 && !sc->privileged)
		r = fill_paths(request, sc, err);
	return r < 0 ? r : fill_seccomp(request, filters, sc, capabilities, err);
}

int security_record_user(Bulkhead__Store__Container *record,
	const Bulkhead__Agent__CreateContainerResponse *answer, struct err *err)
{
	if (answer->n_groups > GROUPS_MAX)
		return err_set(err, -EPROTO, "the agent sent %zu groups", answer->n_groups);
	Bulkhead__Store__User *user = calloc(1, sizeof(*user));
	if (!user)
		return err_nomem(err);
	bulkhead__store__user__init(user);
	user->uid = answer->uid;
	user->gid = answer->gid;
	user->groups = calloc(answer->n_groups + 1, sizeof(uint32_t));
	if (!user->groups) {
		free(user);
		return err_nomem(err);
	}
	user->n_groups = answer->n_groups;
	for (size_t i = 0; i < answer->n_groups; i++)
		user->groups[i] = answer->groups[i];
	record->user = user;
	return 0;
}
