/* The OCI runtime specification's JSON form (config-linux.md, "seccomp"). */
#include "cri-server/seccomp/profile.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/fd.h"

#define ERRNO_MAX 4095 /* of the kernel */
#define PLACE_MAX 64

static int wrong(struct err *err, const char *place, const char *what)
{
	return err_set(err, -EINVAL, "%s: %s", place, what);
}

/* A string member, or `missing` where there is none; NULL (with an error) where it is no string. */
static const char *string_member(const json_t *object, const char *key, const char *place,
	const char *missing, struct err *err)
{
	const json_t *value = json_object_get(object, key);
	if (!value && missing)
		return missing;
	if (!json_is_string(value)) {
		err_set(err, -EINVAL, "%s: %s is not a string", place, key);
		return NULL;
	}
	return json_string_value(value);
}

/* A number that is not negative; 0 where there is none. */
static int number_member(const json_t *object, const char *key, uint64_t max, const char *place,
	uint64_t *ret, struct err *err)
{
	const json_t *value = json_object_get(object, key);
	*ret = 0;
	if (!value)
		return 0;
	if (!json_is_integer(value) || json_integer_value(value) < 0 ||
		(uint64_t)json_integer_value(value) > max)
		return err_set(err, -EINVAL, "%s: %s is not a number from 0 to %llu", place, key,
			(unsigned long long)max);
	*ret = (uint64_t)json_integer_value(value);
	return 0;
}

/* An array, NULL where there is none. */
static int array_member(const json_t *object, const char *key, const char *place,
	const json_t **ret, struct err *err)
{
	const json_t *value = json_object_get(object, key);
	if (value && !json_is_array(value) && !json_is_null(value))
		return err_set(err, -EINVAL, "%s: %s is not a list", place, key);
	*ret = json_is_array(value) ? value : NULL;
	return 0;
}

static int parse_action(const json_t *object, const char *key, const char *errno_key,
	const char *place, uint32_t *ret, struct err *err)
{
	static const struct {
		const char *name;
		uint32_t action;
	} actions[] = {
		{"SCMP_ACT_ALLOW", SCMP_ACT_ALLOW},
		{"SCMP_ACT_LOG", SCMP_ACT_LOG},
		{"SCMP_ACT_TRAP", SCMP_ACT_TRAP},
		{"SCMP_ACT_KILL", SCMP_ACT_KILL_THREAD},
		{"SCMP_ACT_KILL_THREAD", SCMP_ACT_KILL_THREAD},
		{"SCMP_ACT_KILL_PROCESS", SCMP_ACT_KILL_PROCESS},
	};
	uint64_t number;
	const char *name = string_member(object, key, place, NULL, err);
	if (!name || number_member(object, errno_key, ERRNO_MAX, place, &number, err) < 0)
		return err->code;
	/* EPERM where the profile does not say, for a tracer too, as in runc. */
	if (!json_object_get(object, errno_key))
		number = EPERM;
	if (strcmp(name, "SCMP_ACT_ERRNO") == 0) {
		*ret = SCMP_ACT_ERRNO((uint32_t)number);
		return 0;
	}
	if (strcmp(name, "SCMP_ACT_TRACE") == 0) {
		*ret = SCMP_ACT_TRACE((uint32_t)number);
		return 0;
	}
	if (strcmp(name, "SCMP_ACT_NOTIFY") == 0)
		return err_set(err, -EINVAL,
			"%s: SCMP_ACT_NOTIFY: a supervisor on the node cannot look into the pod's "
			"machine",
			place);
	for (size_t i = 0; i < ARRAY_SIZE(actions); i++) {
		if (strcmp(name, actions[i].name) == 0) {
			*ret = actions[i].action;
			return 0;
		}
	}
	return err_set(err, -EINVAL, "%s: unknown action '%.32s'", place, name);
}

static int parse_operator(
	const char *name, const char *place, enum scmp_compare *ret, struct err *err)
{
	static const struct {
		const char *name;
		enum scmp_compare op;
	} operators[] = {
		{"SCMP_CMP_NE", SCMP_CMP_NE},
		{"SCMP_CMP_LT", SCMP_CMP_LT},
		{"SCMP_CMP_LE", SCMP_CMP_LE},
		{"SCMP_CMP_EQ", SCMP_CMP_EQ},
		{"SCMP_CMP_GE", SCMP_CMP_GE},
		{"SCMP_CMP_GT", SCMP_CMP_GT},
		{"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ},
	};
	for (size_t i = 0; i < ARRAY_SIZE(operators); i++) {
		if (strcmp(name, operators[i].name) == 0) {
			*ret = operators[i].op;
			return 0;
		}
	}
	return err_set(err, -EINVAL, "%s: unknown operator '%.32s'", place, name);
}

static int parse_arg(
	const json_t *object, const char *place, struct scmp_arg_cmp *ret, struct err *err)
{
	uint64_t index, value, value_two;
	if (!json_is_object(object))
		return wrong(err, place, "a condition is not an object");
	const char *op = string_member(object, "op", place, NULL, err);
	if (!op || number_member(object, "index", PROFILE_ARGS_MAX - 1, place, &index, err) < 0 ||
		number_member(object, "value", INT64_MAX, place, &value, err) < 0 ||
		number_member(object, "valueTwo", INT64_MAX, place, &value_two, err) < 0)
		return err->code;
	*ret = (struct scmp_arg_cmp){
		.arg = (unsigned)index, .datum_a = value, .datum_b = value_two};
	return parse_operator(op, place, &ret->op, err);
}

/* Of the whole profile. */
struct counts {
	size_t names;
	size_t conditions;
};

static int parse_names(const json_t *object, const char *place, struct counts *counts,
	struct profile_rule *rule, struct err *err)
{
	const json_t *names = NULL;
	if (array_member(object, "names", place, &names, err) < 0)
		return err->code;
	size_t n = json_array_size(names);
	if (n == 0)
		return wrong(err, place, "no names");
	counts->names += n;
	if (counts->names > PROFILE_NAMES_MAX)
		return err_set(err, -EINVAL, "more than %d names", PROFILE_NAMES_MAX);
	rule->names = calloc(n, sizeof(char *));
	if (!rule->names)
		return err_nomem(err);
	for (; rule->n_names < n; rule->n_names++) {
		const char *name = json_string_value(json_array_get(names, rule->n_names));
		if (!name || !name[0])
			return wrong(err, place, "a name is not a string");
		rule->names[rule->n_names] = strdup(name);
		if (!rule->names[rule->n_names])
			return err_nomem(err);
	}
	return 0;
}

static int parse_rule(const json_t *object, const char *place, struct counts *counts,
	struct profile_rule *rule, struct err *err)
{
	const json_t *args = NULL;
	if (!json_is_object(object))
		return wrong(err, place, "not an object");
	if (parse_names(object, place, counts, rule, err) < 0 ||
		parse_action(object, "action", "errnoRet", place, &rule->action, err) < 0 ||
		array_member(object, "args", place, &args, err) < 0)
		return err->code;
	if (json_array_size(args) > PROFILE_ARGS_MAX)
		return err_set(
			err, -EINVAL, "%s: more than %d conditions", place, PROFILE_ARGS_MAX);
	counts->conditions += rule->n_names * json_array_size(args);
	if (counts->conditions > PROFILE_CONDITIONS_MAX)
		return err_set(err, -EINVAL, "more than %d conditions in all rules",
			PROFILE_CONDITIONS_MAX);
	for (; rule->n_args < json_array_size(args); rule->n_args++) {
		if (parse_arg(json_array_get(args, rule->n_args), place, &rule->args[rule->n_args],
			    err) < 0)
			return err->code;
	}
	return 0;
}

static int parse_rules(const json_t *root, struct profile *profile, struct err *err)
{
	const json_t *syscalls = NULL;
	struct counts counts = {0};
	if (array_member(root, "syscalls", "profile", &syscalls, err) < 0)
		return err->code;
	size_t n = json_array_size(syscalls);
	if (n > PROFILE_RULES_MAX)
		return err_set(err, -EINVAL, "more than %d rules", PROFILE_RULES_MAX);
	profile->rules = calloc(n + 1, sizeof(*profile->rules));
	if (!profile->rules)
		return err_nomem(err);
	while (profile->n_rules < n) {
		char place[PLACE_MAX];
		snprintf(place, sizeof(place), "syscalls[%zu]", profile->n_rules);
		const json_t *rule = json_array_get(syscalls, profile->n_rules);
		if (parse_rule(rule, place, &counts, &profile->rules[profile->n_rules++], err) < 0)
			return err->code;
	}
	return 0;
}

/* Others than the guest's can make no call there: their rules say nothing. */
static int parse_arches(const json_t *root, struct profile *profile, struct err *err)
{
	static const struct {
		const char *name;
		unsigned arch;
	} arches[] = {
		{"SCMP_ARCH_X86_64", PROFILE_X86_64},
		{"SCMP_ARCH_X86", PROFILE_X86},
		{"SCMP_ARCH_X32", PROFILE_X32},
	};
	static const char *const foreign[] = {"ARM", "AARCH64", "MIPS", "MIPS64", "MIPS64N32",
		"MIPSEL", "MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "S390", "S390X",
		"PARISC", "PARISC64", "RISCV64", "LOONGARCH64", "M68K", "SH", "SHEB"};
	const json_t *list = NULL, *item;
	size_t i;
	if (array_member(root, "architectures", "profile", &list, err) < 0)
		return err->code;
	profile->arches = PROFILE_X86_64;
	json_array_foreach(list, i, item) {
		const char *name = json_string_value(item);
		bool known = false;
		for (size_t k = 0; name && k < ARRAY_SIZE(arches); k++) {
			if (strcmp(name, arches[k].name) == 0) {
				profile->arches |= arches[k].arch;
				known = true;
			}
		}
		for (size_t k = 0; name && k < ARRAY_SIZE(foreign); k++)
			known |= strncmp(name, "SCMP_ARCH_", 10) == 0 &&
				 strcmp(name + 10, foreign[k]) == 0;
		if (!known)
			return err_set(err, -EINVAL, "architectures: unknown '%.32s'",
				name ? name : "value");
	}
	return 0;
}

static int parse_flags(const json_t *root, struct profile *profile, struct err *err)
{
	const json_t *list = NULL, *item;
	size_t i;
	if (array_member(root, "flags", "profile", &list, err) < 0)
		return err->code;
	json_array_foreach(list, i, item) {
		const char *name = json_string_value(item);
		if (name && strcmp(name, "SECCOMP_FILTER_FLAG_LOG") == 0)
			profile->flags |= SECCOMP_FILTER_FLAG_LOG;
		else if (name && strcmp(name, "SECCOMP_FILTER_FLAG_SPEC_ALLOW") == 0)
			profile->flags |= SECCOMP_FILTER_FLAG_SPEC_ALLOW;
		/* There is one thread when the filter is loaded. */
		else if (!name || strcmp(name, "SECCOMP_FILTER_FLAG_TSYNC") != 0)
			return err_set(err, -EINVAL, "flags: '%.48s' is not supported",
				name ? name : "value");
	}
	return 0;
}

int profile_parse(const char *text, size_t len, struct profile *ret, struct err *err)
{
	struct profile profile = {0};
	json_error_t at;
	json_t *root = json_loadb(text, len, 0, &at);
	if (!json_is_object(root)) {
		json_decref(root);
		return root ? wrong(err, "profile", "not an object")
			    : err_set(err, -EINVAL, "line %d, column %d: not valid JSON", at.line,
				      at.column);
	}
	int r = parse_action(
		root, "defaultAction", "defaultErrnoRet", "profile", &profile.default_action, err);
	if (r == 0)
		r = parse_arches(root, &profile, err);
	if (r == 0)
		r = parse_flags(root, &profile, err);
	if (r == 0)
		r = parse_rules(root, &profile, err);
	json_decref(root);
	if (r < 0) {
		profile_done(&profile);
		return r;
	}
	*ret = profile;
	return 0;
}

void profile_done(struct profile *profile)
{
	for (size_t i = 0; i < profile->n_rules; i++) {
		for (size_t k = 0; k < profile->rules[i].n_names; k++)
			free(profile->rules[i].names[k]);
		free(profile->rules[i].names);
	}
	free(profile->rules);
	*profile = (struct profile){0};
}
