/*
 * What the agent is asked for, composed from a container's configuration and an image's.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/proto/ports.h"
#include "common/fd.h"
#include "cri-server/runtime/internal.h"

/* Each test fills the fixture, composes and frees within itself: what f points to then is not read.
 */
// NOLINTBEGIN(clang-analyzer-core.StackAddressEscape)

#define STRINGS(...) (char *[]){__VA_ARGS__}, sizeof((char *[]){__VA_ARGS__}) / sizeof(char *)

/* A container's whole configuration, with nothing set but a command. */
struct fixture {
	Runtime__V1__PodSandboxConfig pod;
	struct runtime runtime;
	struct sandbox sandbox;
	Bulkhead__Store__ImageConfig image;
	Runtime__V1__ContainerConfig config;
	Runtime__V1__LinuxContainerConfig linux;
	Runtime__V1__LinuxContainerSecurityContext sc;
	Runtime__V1__LinuxContainerResources resources;
	Runtime__V1__NamespaceOption ns;
	Runtime__V1__Capability caps;
	struct err err;
};

static char *no_command[] = {(char *)"/bin/true"};

static struct fixture *fixture(void)
{
	static struct fixture f;
	f = (struct fixture){0};
	runtime__v1__pod_sandbox_config__init(&f.pod);
	bulkhead__store__image_config__init(&f.image);
	runtime__v1__container_config__init(&f.config);
	runtime__v1__linux_container_config__init(&f.linux);
	runtime__v1__linux_container_security_context__init(&f.sc);
	runtime__v1__linux_container_resources__init(&f.resources);
	runtime__v1__namespace_option__init(&f.ns);
	runtime__v1__capability__init(&f.caps);
	f.sandbox.config = &f.pod;
	f.sandbox.runtime = &f.runtime;
	f.config.command = no_command;
	f.config.n_command = 1;
	f.config.linux = &f.linux;
	f.linux.security_context = &f.sc;
	f.linux.resources = &f.resources;
	f.sc.namespace_options = &f.ns;
	f.sc.capabilities = &f.caps;
	return &f;
}

static Bulkhead__Agent__CreateContainerRequest *compose(struct fixture *f)
{
	Bulkhead__Agent__CreateContainerRequest *request = NULL;
	if (process_for_container(&f->sandbox, &f->config, &f->image, &request, &f->err) < 0)
		fail_msg("%s", f->err.msg);
	return request;
}

static void done(Bulkhead__Agent__CreateContainerRequest *request)
{
	bulkhead__agent__create_container_request__free_unpacked(request, NULL);
}

static void assert_refused(struct fixture *f, int code, const char *name)
{
	Bulkhead__Agent__CreateContainerRequest *request = NULL;
	f->err = (struct err)ERR_INIT;
	assert_int_equal(
		process_for_container(&f->sandbox, &f->config, &f->image, &request, &f->err), code);
	assert_null(request);
	if (!strstr(f->err.msg, name))
		fail_msg("'%s' does not say '%s'", f->err.msg, name);
}

/* The strings with a blank between them. */
static void assert_joined(char *const *items, size_t n, const char *expected)
{
	char text[4096] = "";
	size_t used = 0;
	for (size_t i = 0; i < n; i++)
		used += (size_t)snprintf(
			text + used, sizeof(text) - used, "%s%s", i ? " " : "", items[i]);
	assert_string_equal(text, expected);
}

/* ---- arguments ---- */

static void assert_args(char *const *command, size_t n_command, char *const *args, size_t n_args,
	const char *expected)
{
	struct fixture *f = fixture();
	char *entrypoint[] = {(char *)"entry", (char *)"point"}, *cmd[] = {(char *)"cmd"};
	f->image.entrypoint = entrypoint;
	f->image.n_entrypoint = ARRAY_SIZE(entrypoint);
	f->image.cmd = cmd;
	f->image.n_cmd = ARRAY_SIZE(cmd);
	f->config.command = (char **)command;
	f->config.n_command = n_command;
	f->config.args = (char **)args;
	f->config.n_args = n_args;
	Bulkhead__Agent__CreateContainerRequest *request = compose(f);
	assert_joined(request->process->args, request->process->n_args, expected);
	done(request);
}

static void command_and_args_replace_the_images(void **state)
{
	(void)state;
	assert_args(NULL, 0, NULL, 0, "entry point cmd");
	assert_args(STRINGS((char *)"c"), NULL, 0, "c");
	assert_args(NULL, 0, STRINGS((char *)"a", (char *)"b"), "entry point a b");
	assert_args(STRINGS((char *)"c"), STRINGS((char *)"a"), "c a");
}

static void no_command_at_all_is_a_mistake(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	f->config.n_command = 0;
	assert_refused(f, -EINVAL, "no command");
	char *empty[] = {(char *)""};
	f->config.command = empty;
	f->config.n_command = 1;
	assert_refused(f, -EINVAL, "no command");
}

/* ---- what a guest has room for ---- */

static void more_mounts_or_devices_than_possible_are_refused(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	f->config.n_mounts = AGENT_MOUNTS_MAX;
	f->config.n_devices = AGENT_DEVICES_MAX;
	done(compose(f));
	f->config.n_mounts++;
	assert_refused(f, -EINVAL, "1001 mounts");
	f->config.n_mounts = 0;
	f->config.n_devices++;
	assert_refused(f, -EINVAL, "65 devices");
}

/* ---- environment ---- */

static void the_environment_is_overridden_in_place(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	char *image_env[] = {(char *)"PATH=/image", (char *)"A=image", (char *)"AB=image"};
	Runtime__V1__KeyValue values[3], *envs[3];
	static const char *const pairs[3][2] = {{"A", "own=1"}, {"EMPTY", ""}, {"A", "twice"}};
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		runtime__v1__key_value__init(&values[i]);
		values[i].key = (char *)pairs[i][0];
		values[i].value.len = strlen(pairs[i][1]);
		values[i].value.data = values[i].value.len ? (uint8_t *)pairs[i][1] : NULL;
		envs[i] = &values[i];
	}
	f->pod.hostname = (char *)"host";
	f->config.tty = true;
	f->image.env = image_env;
	f->image.n_env = ARRAY_SIZE(image_env);
	f->config.envs = envs;
	f->config.n_envs = ARRAY_SIZE(envs);
	Bulkhead__Agent__CreateContainerRequest *request = compose(f);
	assert_joined(request->process->env, request->process->n_env,
		"PATH=/image TERM=xterm HOSTNAME=host A=twice AB=image EMPTY=");
	assert_true(request->process->terminal);
	done(request);
}

/* As many as a request has room for, each twice: a client's CPU time is not ours to spend. */
static void many_variables_are_overridden(void **state)
{
	enum { NAMES = 35000 };
	(void)state;
	struct fixture *f = fixture();
	static char names[NAMES][8];
	static uint8_t yes = 'y';
	Runtime__V1__KeyValue *values = test_calloc(2 * NAMES, sizeof(*values));
	Runtime__V1__KeyValue **envs = test_calloc(2 * NAMES, sizeof(Runtime__V1__KeyValue *));
	for (size_t i = 0; i < 2 * (size_t)NAMES; i++) {
		snprintf(names[i % NAMES], sizeof(names[0]), "v%05u", (unsigned)(i % NAMES));
		runtime__v1__key_value__init(&values[i]);
		values[i].key = names[i % NAMES];
		values[i].value.len = i >= NAMES;
		values[i].value.data = &yes;
		envs[i] = &values[i];
	}
	f->config.envs = envs;
	f->config.n_envs = 2 * (size_t)NAMES;
	Bulkhead__Agent__CreateContainerRequest *request = compose(f);
	assert_int_equal(request->process->n_env, NAMES + 1); /* and PATH */
	assert_string_equal(request->process->env[1], "v00000=y");
	assert_string_equal(request->process->env[NAMES], "v34999=y");
	done(request);
	test_free(values);
	test_free(envs);
}

static void there_is_always_a_path(void **state)
{
	(void)state;
	Bulkhead__Agent__CreateContainerRequest *request = compose(fixture());
	assert_joined(request->process->env, request->process->n_env,
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	done(request);
}

static void unusable_variables_are_refused(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	Runtime__V1__KeyValue value = RUNTIME__V1__KEY_VALUE__INIT, *envs[] = {&value};
	f->config.envs = envs;
	f->config.n_envs = 1;
	assert_refused(f, -EINVAL, "no usable name");
	value.key = (char *)"A=B";
	assert_refused(f, -EINVAL, "no usable name");
	value.key = (char *)"A";
	value.value = (ProtobufCBinaryData){3, (uint8_t *)"a\0b"};
	assert_refused(f, -EINVAL, "NUL");
}

static void the_working_directory_is_the_images_unless_given(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	f->image.working_dir = (char *)"/image";
	Bulkhead__Agent__CreateContainerRequest *request = compose(f);
	assert_string_equal(request->process->cwd, "/image");
	done(request);
	f->config.working_dir = (char *)"/own";
	request = compose(f);
	assert_string_equal(request->process->cwd, "/own");
	done(request);
}

/* ---- user ---- */

static void users_come_by_number_by_name_or_from_the_image(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	f->image.user = (char *)"nobody:nogroup";
	Bulkhead__Agent__CreateContainerRequest *request = compose(f);
	assert_string_equal(request->process->user->name, "nobody:nogroup");
	assert_false(request->process->user->has_uid);
	done(request);

	f->sc.run_as_username = (char *)"daemon";
	request = compose(f);
	assert_string_equal(request->process->user->name, "daemon");
	done(request);

	Runtime__V1__Int64Value uid = RUNTIME__V1__INT64_VALUE__INIT, gid = uid;
	int64_t groups[] = {10, 4294967294};
	uid.value = 0;
	gid.value = 7;
	f->sc.run_as_user = &uid;
	f->sc.run_as_group = &gid;
	f->sc.supplemental_groups = groups;
	f->sc.n_supplemental_groups = ARRAY_SIZE(groups);
	request = compose(f);
	const Bulkhead__Agent__User *user = request->process->user;
	assert_string_equal(user->name, "");
	assert_true(user->has_uid && user->uid == 0);
	assert_true(user->has_gid && user->gid == 7);
	assert_int_equal(user->n_supplementary_gids, 2);
	assert_int_equal(user->supplementary_gids[1], 4294967294);
	done(request);
}

static void impossible_ids_are_refused(void **state)
{
	(void)state;
	static const int64_t impossible[] = {-1, UINT32_MAX, INT64_MAX, INT64_MIN};
	for (size_t i = 0; i < ARRAY_SIZE(impossible); i++) {
		struct fixture *f = fixture();
		Runtime__V1__Int64Value id = RUNTIME__V1__INT64_VALUE__INIT, zero = id;
		id.value = impossible[i];
		f->sc.run_as_user = &id;
		assert_refused(f, -EINVAL, "not a user or group id");
		f->sc.run_as_user = &zero;
		f->sc.run_as_group = &id;
		assert_refused(f, -EINVAL, "not a user or group id");
		f->sc.run_as_group = NULL;
		f->sc.supplemental_groups = &id.value;
		f->sc.n_supplemental_groups = 1;
		assert_refused(f, -EINVAL, "not a user or group id");
	}
	struct fixture *f = fixture();
	Runtime__V1__Int64Value gid = RUNTIME__V1__INT64_VALUE__INIT;
	f->sc.run_as_group = &gid;
	assert_refused(f, -EINVAL, "run_as_group needs");
}

/* ---- capabilities ---- */

#define DEFAULTS                                                                                   \
	"CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID "         \
	"CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_NET_RAW CAP_SYS_CHROOT CAP_MKNOD CAP_AUDIT_WRITE "   \
	"CAP_SETFCAP"

static void assert_capabilities(
	char *const *add, size_t n_add, char *const *drop, size_t n_drop, const char *expected)
{
	struct fixture *f = fixture();
	f->caps.add_capabilities = (char **)add;
	f->caps.n_add_capabilities = n_add;
	f->caps.drop_capabilities = (char **)drop;
	f->caps.n_drop_capabilities = n_drop;
	Bulkhead__Agent__CreateContainerRequest *request = compose(f);
	assert_joined(request->process->capabilities, request->process->n_capabilities, expected);
	done(request);
}

static void capabilities_are_added_and_dropped(void **state)
{
	(void)state;
	assert_capabilities(NULL, 0, NULL, 0, DEFAULTS);
	assert_capabilities(NULL, 0, STRINGS((char *)"ALL"), "");
	assert_capabilities(STRINGS((char *)"NET_ADMIN"), STRINGS((char *)"ALL"), "CAP_NET_ADMIN");
	assert_capabilities(STRINGS((char *)"CAP_NET_ADMIN", (char *)"kill"),
		STRINGS((char *)"all"), "CAP_KILL CAP_NET_ADMIN");
	/* What is dropped by its name stays dropped. */
	assert_capabilities(STRINGS((char *)"KILL", (char *)"CHOWN"),
		STRINGS((char *)"ALL", (char *)"KILL"), "CAP_CHOWN");
}

static size_t count_capabilities(struct fixture *f)
{
	Bulkhead__Agent__CreateContainerRequest *request = compose(f);
	size_t n = request->process->n_capabilities;
	done(request);
	return n;
}

static void all_is_every_one_that_the_kernel_has(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	char *all[] = {(char *)"ALL"}, *one[] = {(char *)"SYS_ADMIN"};
	f->caps.add_capabilities = all;
	f->caps.n_add_capabilities = 1;
	size_t n = count_capabilities(f);
	assert_int_equal(n, 41);
	f->caps.drop_capabilities = one;
	f->caps.n_drop_capabilities = 1;
	assert_int_equal(count_capabilities(f), n - 1);
	/* Privileged is all, whatever else is said. */
	f->sc.privileged = true;
	assert_int_equal(count_capabilities(f), n);
}

static void unknown_capabilities_are_refused(void **state)
{
	(void)state;
	static const char *const unknown[] = {"NO_SUCH", "CAP_", "", "CAP_CAP_KILL", "CAP_63", "12",
		"a very long name that no buffer for capability names has any room for, none"};
	for (size_t i = 0; i < ARRAY_SIZE(unknown); i++) {
		struct fixture *f = fixture();
		char *names[] = {(char *)unknown[i]};
		f->caps.add_capabilities = names;
		f->caps.n_add_capabilities = 1;
		assert_refused(f, -EINVAL, "unknown capability");
		f->caps.n_add_capabilities = 0;
		f->caps.drop_capabilities = names;
		f->caps.n_drop_capabilities = 1;
		assert_refused(f, -EINVAL, "unknown capability");
	}
}

/* ---- security ---- */

static void privileged_hides_nothing(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	char *masked[] = {(char *)"/proc/kcore"}, *read_only[] = {(char *)"/proc/sys"};
	f->sc.masked_paths = masked;
	f->sc.n_masked_paths = 1;
	f->sc.readonly_paths = read_only;
	f->sc.n_readonly_paths = 1;
	f->sc.readonly_rootfs = true;
	f->sc.no_new_privs = true;
	Bulkhead__Agent__CreateContainerRequest *request = compose(f);
	assert_joined(request->masked_paths, request->n_masked_paths, "/proc/kcore");
	assert_joined(request->read_only_paths, request->n_read_only_paths, "/proc/sys");
	assert_true(request->read_only_root && request->process->no_new_privs);
	assert_false(request->privileged);
	done(request);
	f->sc.privileged = true;
	request = compose(f);
	assert_true(request->privileged && request->read_only_root);
	assert_int_equal(request->n_masked_paths + request->n_read_only_paths, 0);
	done(request);
}

static void paths_must_be_absolute(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	char *relative[] = {(char *)"proc"};
	f->sc.masked_paths = relative;
	f->sc.n_masked_paths = 1;
	assert_refused(f, -EINVAL, "masked_paths");
	f->sc.n_masked_paths = 0;
	f->sc.readonly_paths = relative;
	f->sc.n_readonly_paths = 1;
	assert_refused(f, -EINVAL, "readonly_paths");
}

static void groups_are_merged_unless_the_policy_is_strict(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	Bulkhead__Agent__CreateContainerRequest *request = compose(f);
	assert_false(request->process->user->strict);
	done(request);
	f->sc.supplemental_groups_policy = RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Strict;
	request = compose(f);
	assert_true(request->process->user->strict);
	done(request);
}

static void ambient_capabilities_are_of_the_set(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	char *ambient[] = {(char *)"NET_ADMIN"}, *all[] = {(char *)"ALL"};
	f->caps.drop_capabilities = all;
	f->caps.n_drop_capabilities = 1;
	f->caps.add_ambient_capabilities = ambient;
	f->caps.n_add_ambient_capabilities = 1;
	Bulkhead__Agent__CreateContainerRequest *request = compose(f);
	const Bulkhead__Agent__Process *p = request->process;
	assert_joined(p->capabilities, p->n_capabilities, "CAP_NET_ADMIN");
	assert_joined(p->ambient_capabilities, p->n_ambient_capabilities, "CAP_NET_ADMIN");
	done(request);
}

/* The length of the filter: 0 is none. */
static size_t filter_length(struct fixture *f)
{
	Bulkhead__Agent__CreateContainerRequest *request = compose(f);
	size_t len = request->seccomp_filter.len;
	done(request);
	return len;
}

static void seccomp_profiles_become_filters(void **state)
{
	(void)state;
	Runtime__V1__SecurityProfile profile = RUNTIME__V1__SECURITY_PROFILE__INIT;
	char path[] = "localhost//tmp/process-test-XXXXXX";
	struct fixture *f = fixture();
	assert_int_equal(filter_length(f), 0);
	f->sc.seccomp = &profile;
	profile.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined;
	assert_int_equal(filter_length(f), 0);
	profile.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__RuntimeDefault;
	size_t by_default = filter_length(f);
	assert_true(by_default > 1000);
	f->sc.privileged = true;
	assert_int_equal(filter_length(f), 0);

	f->sc.privileged = false;
	int fd = mkstemp(path + strlen("localhost/"));
	static const char json[] = "{\"defaultAction\": \"SCMP_ACT_ALLOW\"}";
	assert_int_equal(write(fd, json, strlen(json)), strlen(json));
	close(fd);
	profile.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost;
	profile.localhost_ref = path;
	size_t local = filter_length(f);
	assert_true(local > 0 && local < by_default);
	profile.localhost_ref = path + strlen("localhost/");
	assert_int_equal(filter_length(f), local);
	unlink(path + strlen("localhost/"));
	assert_refused(f, -EINVAL, "/tmp/process-test-");
	profile.profile_type = (Runtime__V1__SecurityProfile__ProfileType)7;
	assert_refused(f, -EINVAL, "seccomp profile");
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
static void the_deprecated_strings_count_where_the_profile_is_missing(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		bool filtered;
	} cases[] = {{"", false}, {"unconfined", false}, {"runtime/default", true},
		{"docker/default", true}};
	struct fixture *f = fixture();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		f->sc.seccomp_profile_path = (char *)cases[i].text;
		assert_int_equal(filter_length(f) > 0, cases[i].filtered);
	}
	Runtime__V1__SecurityProfile unconfined = RUNTIME__V1__SECURITY_PROFILE__INIT;
	unconfined.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined;
	f->sc.seccomp = &unconfined;
	assert_int_equal(filter_length(f), 0);
	f->sc.seccomp = NULL;
	f->sc.seccomp_profile_path = (char *)"/tmp/profile.json";
	assert_refused(f, -EINVAL, "invalid profile");
	f->sc.seccomp_profile_path = (char *)"localhost/profile.json";
	assert_refused(f, -EINVAL, "not an absolute path");
	f->sc.seccomp_profile_path = (char *)"";
	f->sc.apparmor_profile = (char *)"localhost/mine";
	assert_refused(f, -EINVAL, "AppArmor profile 'mine'");
	f->sc.apparmor_profile = (char *)"runtime/default";
	done(compose(f));
}
#pragma GCC diagnostic pop

static void apparmor_is_the_default_or_none(void **state)
{
	(void)state;
	Runtime__V1__SecurityProfile profile = RUNTIME__V1__SECURITY_PROFILE__INIT;
	struct fixture *f = fixture();
	f->sc.apparmor = &profile;
	profile.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__RuntimeDefault;
	done(compose(f));
	profile.profile_type = RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost;
	profile.localhost_ref = (char *)"mine";
	assert_refused(f, -EINVAL, "apparmor is not supported");
}

static void pid_namespaces_are_the_pods_the_containers_or_the_guests(void **state)
{
	(void)state;
	static const struct {
		Runtime__V1__NamespaceMode cri;
		Bulkhead__Agent__PidNamespace agent;
	} modes[] = {
		{RUNTIME__V1__NAMESPACE_MODE__POD,
			BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_POD},
		{RUNTIME__V1__NAMESPACE_MODE__CONTAINER,
			BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_CONTAINER},
		{RUNTIME__V1__NAMESPACE_MODE__NODE,
			BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_GUEST},
	};
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		struct fixture *f = fixture();
		f->ns.pid = modes[i].cri;
		Bulkhead__Agent__CreateContainerRequest *request = compose(f);
		assert_int_equal(request->pid_namespace, modes[i].agent);
		done(request);
	}
	struct fixture *f = fixture();
	f->ns.pid = (Runtime__V1__NamespaceMode)9;
	assert_refused(f, -EINVAL, "PID namespace");
}

static void a_configuration_without_a_linux_part_is_enough(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	f->config.linux = NULL;
	Bulkhead__Agent__CreateContainerRequest *request = compose(f);
	assert_null(request->resources);
	assert_int_equal(request->pid_namespace, BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_POD);
	assert_joined(request->process->capabilities, request->process->n_capabilities, DEFAULTS);
	done(request);
}

/* ---- what is not built ---- */

static void user_namespaces_are_checked_and_are_the_pods(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	Runtime__V1__UserNamespace userns = RUNTIME__V1__USER_NAMESPACE__INIT, pods;
	Runtime__V1__IDMapping mapping = RUNTIME__V1__IDMAPPING__INIT,
			       *mappings[] = {&mapping, &mapping};
	Runtime__V1__LinuxPodSandboxConfig linux = RUNTIME__V1__LINUX_POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__LinuxSandboxSecurityContext sc =
		RUNTIME__V1__LINUX_SANDBOX_SECURITY_CONTEXT__INIT;
	Runtime__V1__NamespaceOption ns = RUNTIME__V1__NAMESPACE_OPTION__INIT;
	struct userns_map map;
	mapping.host_id = 100000;
	mapping.length = 65536;
	f->ns.userns_options = &userns;
	userns.mode = RUNTIME__V1__NAMESPACE_MODE__NODE;
	done(compose(f));
	userns.uids = userns.gids = mappings;
	userns.n_uids = userns.n_gids = 1;
	assert_refused(f, -EINVAL, "at once");

	userns.mode = RUNTIME__V1__NAMESPACE_MODE__POD;
	assert_refused(f, -EINVAL, "different from container");
	f->pod.linux = &linux;
	linux.security_context = &sc;
	sc.namespace_options = &ns;
	pods = userns;
	ns.userns_options = &pods;
	done(compose(f));
	assert_true(userns_of_pod(&f->pod, &map));
	assert_int_equal(map.uid, 100000);
	assert_int_equal(map.n_gids, 65536);
	f->sc.privileged = true;
	assert_refused(f, -EINVAL, "privileged");
	f->sc.privileged = false;
	f->ns.userns_options = NULL;
	assert_refused(f, -EINVAL, "different from container");
	f->ns.userns_options = &userns;

	userns.n_gids = 2;
	assert_refused(f, -EINVAL, "one gid mapping is needed, there are 2");
	userns.n_uids = 0;
	assert_refused(f, -EINVAL, "one uid mapping is needed, there are 0");
	userns.n_uids = userns.n_gids = 1;
	mapping.container_id = 1;
	assert_refused(f, -EINVAL, "id 0");
	mapping.container_id = 0;
	mapping.host_id = UINT32_MAX - 65535;
	assert_refused(f, -EINVAL, "beyond the last id");
	userns.mode = RUNTIME__V1__NAMESPACE_MODE__CONTAINER;
	assert_refused(f, -EINVAL, "mode 1");
	userns.mode = RUNTIME__V1__NAMESPACE_MODE__TARGET;
	assert_refused(f, -EINVAL, "mode 3");
}

static void mounts_have_the_pods_ids_or_the_nodes(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	Runtime__V1__UserNamespace userns = RUNTIME__V1__USER_NAMESPACE__INIT;
	Runtime__V1__IDMapping mapping = RUNTIME__V1__IDMAPPING__INIT, *mappings[] = {&mapping},
			       other = RUNTIME__V1__IDMAPPING__INIT, *others[] = {&other};
	Runtime__V1__LinuxPodSandboxConfig linux = RUNTIME__V1__LINUX_POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__LinuxSandboxSecurityContext sc =
		RUNTIME__V1__LINUX_SANDBOX_SECURITY_CONTEXT__INIT;
	Runtime__V1__Mount mount = RUNTIME__V1__MOUNT__INIT;
	bool mapped = true;
	mapping.host_id = 100000;
	other.host_id = 200000;
	mapping.length = other.length = 65536;
	assert_int_equal(userns_check_mount(&f->pod, &mount, &mapped, &f->err), 0);
	assert_false(mapped);
	mount.uidmappings = mount.gidmappings = mappings;
	mount.n_uidmappings = mount.n_gidmappings = 1;
	assert_int_equal(userns_check_mount(&f->pod, &mount, &mapped, &f->err), -EINVAL);

	userns.mode = RUNTIME__V1__NAMESPACE_MODE__POD;
	userns.uids = userns.gids = mappings;
	userns.n_uids = userns.n_gids = 1;
	f->ns.userns_options = &userns;
	f->pod.linux = &linux;
	linux.security_context = &sc;
	sc.namespace_options = &f->ns;
	assert_int_equal(userns_check_mount(&f->pod, &mount, &mapped, &f->err), 0);
	assert_true(mapped);
	mount.n_gidmappings = 0;
	assert_int_equal(userns_check_mount(&f->pod, &mount, &mapped, &f->err), -EINVAL);
	mount.n_gidmappings = 1;
	mount.gidmappings = others;
	assert_int_equal(userns_check_mount(&f->pod, &mount, &mapped, &f->err), -EINVAL);
	assert_non_null(strstr(f->err.msg, "otherwise"));
	mount.n_uidmappings = mount.n_gidmappings = 0;
	assert_int_equal(userns_check_mount(&f->pod, &mount, &mapped, &f->err), 0);
	assert_false(mapped);
}

static void refuses_what_else_is_not_built(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	f->config.n_cdi_devices = 1;
	assert_refused(f, -EOPNOTSUPP, "devices");

	f = fixture();
	Runtime__V1__HugepageLimit huge = RUNTIME__V1__HUGEPAGE_LIMIT__INIT, *limits[] = {&huge};
	f->resources.hugepage_limits = limits;
	f->resources.n_hugepage_limits = 1;
	done(compose(f)); /* kubelets send a limit of 0 for each size */
	Runtime__V1__LinuxContainerResources__UnifiedEntry entry =
		RUNTIME__V1__LINUX_CONTAINER_RESOURCES__UNIFIED_ENTRY__INIT;
	Runtime__V1__LinuxContainerResources__UnifiedEntry *entries[] = {&entry};
	f = fixture();
	f->resources.unified = entries;
	f->resources.n_unified = 1;
	entry.value = (char *)"1";
	static const char *const bad[] = {"cgroup.freeze", "../memory.max", "memory", ""};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		entry.key = (char *)bad[i];
		assert_refused(f, -EINVAL, "unified");
	}
	f = fixture();
	f->resources.memory_limit_in_bytes = 1 << 20;
	f->resources.memory_swap_limit_in_bytes = 1 << 20;
	done(compose(f));
	f->resources.memory_swap_limit_in_bytes--;
	assert_refused(f, -EINVAL, "swap");
}

/* ---- resources ---- */

static void resources_are_carried_over(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	f->resources.cpu_shares = 512;
	f->resources.cpu_quota = 50000;
	f->resources.cpu_period = 100000;
	f->resources.memory_limit_in_bytes = INT64_C(5) << 30;
	f->resources.cpuset_cpus = (char *)"40-43";
	f->resources.oom_score_adj = -998;
	f->resources.cpuset_mems = (char *)"1";
	f->resources.memory_swap_limit_in_bytes = INT64_C(6) << 30;
	Runtime__V1__HugepageLimit none = RUNTIME__V1__HUGEPAGE_LIMIT__INIT, some = none;
	Runtime__V1__HugepageLimit *limits[] = {&none, &some};
	some.page_size = (char *)"2MB";
	some.limit = 1 << 21;
	f->resources.hugepage_limits = limits;
	f->resources.n_hugepage_limits = ARRAY_SIZE(limits);
	Runtime__V1__LinuxContainerResources__UnifiedEntry entry =
		RUNTIME__V1__LINUX_CONTAINER_RESOURCES__UNIFIED_ENTRY__INIT;
	Runtime__V1__LinuxContainerResources__UnifiedEntry *entries[] = {&entry};
	entry.key = (char *)"memory.high";
	entry.value = (char *)"100";
	f->resources.unified = entries;
	f->resources.n_unified = 1;
	Bulkhead__Agent__CreateContainerRequest *request = compose(f);
	const Bulkhead__Agent__Resources *r = request->resources;
	assert_int_equal(r->cpu_shares, 512);
	assert_int_equal(r->cpu_quota_us, 50000);
	assert_int_equal(r->cpu_period_us, 100000);
	assert_true(r->memory_bytes == INT64_C(5) << 30);
	assert_true(r->swap_bytes == INT64_C(6) << 30);
	assert_int_equal(r->n_hugepages, 1);
	assert_string_equal(r->hugepages[0]->page_size, "2MB");
	assert_int_equal(r->n_unified, 1);
	assert_string_equal(r->unified[0]->key, "memory.high");
	assert_int_equal(request->process->oom_score_adj, -998);
	done(request);
}

static void cpusets_are_lists_of_numbers(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	f->resources.cpuset_cpus = (char *)"0-";
	assert_refused(f, -EINVAL, "cpuset_cpus");
	f = fixture();
	f->resources.cpuset_mems = (char *)"1\n";
	assert_refused(f, -EINVAL, "cpuset_mems");
}

static void negative_resources_are_no_limit(void **state)
{
	(void)state;
	struct fixture *f = fixture();
	f->resources.cpu_shares = f->resources.cpu_period = INT64_MIN;
	f->resources.cpu_quota = -1;
	f->resources.memory_limit_in_bytes = -1;
	f->resources.memory_swap_limit_in_bytes = -1;
	Bulkhead__Agent__CreateContainerRequest *request = compose(f);
	assert_int_equal(request->resources->cpu_shares, 0);
	assert_int_equal(request->resources->cpu_period_us, 0);
	assert_true(request->resources->cpu_quota_us <= 0 && request->resources->memory_bytes <= 0);
	done(request);
}

static void an_impossible_oom_score_is_refused(void **state)
{
	(void)state;
	static const int64_t impossible[] = {1001, -1001, (INT64_C(1) << 32) + 5};
	for (size_t i = 0; i < ARRAY_SIZE(impossible); i++) {
		struct fixture *f = fixture();
		f->resources.oom_score_adj = impossible[i];
		assert_refused(f, -EINVAL, "oom_score_adj");
	}
}

// NOLINTEND(clang-analyzer-core.StackAddressEscape)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(command_and_args_replace_the_images),
		cmocka_unit_test(no_command_at_all_is_a_mistake),
		cmocka_unit_test(more_mounts_or_devices_than_possible_are_refused),
		cmocka_unit_test(the_environment_is_overridden_in_place),
		cmocka_unit_test(many_variables_are_overridden),
		cmocka_unit_test(there_is_always_a_path),
		cmocka_unit_test(unusable_variables_are_refused),
		cmocka_unit_test(the_working_directory_is_the_images_unless_given),
		cmocka_unit_test(users_come_by_number_by_name_or_from_the_image),
		cmocka_unit_test(impossible_ids_are_refused),
		cmocka_unit_test(capabilities_are_added_and_dropped),
		cmocka_unit_test(all_is_every_one_that_the_kernel_has),
		cmocka_unit_test(unknown_capabilities_are_refused),
		cmocka_unit_test(privileged_hides_nothing),
		cmocka_unit_test(paths_must_be_absolute),
		cmocka_unit_test(groups_are_merged_unless_the_policy_is_strict),
		cmocka_unit_test(ambient_capabilities_are_of_the_set),
		cmocka_unit_test(seccomp_profiles_become_filters),
		cmocka_unit_test(the_deprecated_strings_count_where_the_profile_is_missing),
		cmocka_unit_test(apparmor_is_the_default_or_none),
		cmocka_unit_test(pid_namespaces_are_the_pods_the_containers_or_the_guests),
		cmocka_unit_test(a_configuration_without_a_linux_part_is_enough),
		cmocka_unit_test(user_namespaces_are_checked_and_are_the_pods),
		cmocka_unit_test(mounts_have_the_pods_ids_or_the_nodes),
		cmocka_unit_test(refuses_what_else_is_not_built),
		cmocka_unit_test(resources_are_carried_over),
		cmocka_unit_test(cpusets_are_lists_of_numbers),
		cmocka_unit_test(negative_resources_are_no_limit),
		cmocka_unit_test(an_impossible_oom_score_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
