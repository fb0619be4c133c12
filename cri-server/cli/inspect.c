/* inspect: the status of containers, pods and images, with what the runtime says beyond CRI. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/message_json.h"
#include "cri-server/cli/refs.h"

/*
 * An answer with its verbose information as documents instead of the texts that it is sent as, and
 * all of it on the first level, as crictl shows it.
 */
static json_t *lift_info(const ProtobufCMessage *answer)
{
	json_t *document = message_json(answer), *value;
	json_auto_t *info = document ? json_incref(json_object_get(document, "info")) : NULL;
	const char *key;
	json_object_del(document, "info");
	json_object_foreach(info, key, value) {
		json_t *parsed = json_loads(json_string_value(value), JSON_DECODE_ANY, NULL);
		if (!json_object_get(document, key))
			json_object_set_new(document, key, parsed ? parsed : json_incref(value));
		else
			json_decref(parsed);
	}
	return document;
}

static int container(struct cli *cli, const char *name, json_t **ret, struct err *err)
{
	_cleanup_free_ char *id = NULL;
	int r = cli_find_container(cli, name, &id, err);
	if (r < 0)
		return r;
	Runtime__V1__ContainerStatusRequest request = RUNTIME__V1__CONTAINER_STATUS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ContainerStatusResponse *answer = NULL;
	request.container_id = id;
	request.verbose = true;
	r = cli_call(
		cli, CLI_RUNTIME, "ContainerStatus", &request.base, CLI_SHORT_MS, &answer, err);
	if (r == 0)
		*ret = lift_info(&answer->base);
	return r;
}

static int pod(struct cli *cli, const char *name, json_t **ret, struct err *err)
{
	_cleanup_free_ char *id = NULL;
	int r = cli_find_pod(cli, name, &id, err);
	if (r < 0)
		return r;
	Runtime__V1__PodSandboxStatusRequest request =
		RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__PodSandboxStatusResponse *answer = NULL;
	request.pod_sandbox_id = id;
	request.verbose = true;
	r = cli_call(
		cli, CLI_RUNTIME, "PodSandboxStatus", &request.base, CLI_SHORT_MS, &answer, err);
	if (r == 0)
		*ret = lift_info(&answer->base);
	return r;
}

static int image(struct cli *cli, const char *name, json_t **ret, struct err *err)
{
	Runtime__V1__ImageStatusRequest request = RUNTIME__V1__IMAGE_STATUS_REQUEST__INIT;
	Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
	_cleanup_message_ Runtime__V1__ImageStatusResponse *answer = NULL;
	spec.image = (char *)name;
	request.image = &spec;
	request.verbose = true;
	int r = cli_call(cli, CLI_IMAGES, "ImageStatus", &request.base, CLI_SHORT_MS, &answer, err);
	if (r == 0 && !answer->image)
		r = err_set(err, -ENOENT, "no image '%s'", name);
	if (r < 0)
		return r;
	/* As the others have it, and crictl too. */
	*ret = lift_info(&answer->base);
	json_object_set(*ret, "status", json_object_get(*ret, "image"));
	json_object_del(*ret, "image");
	return 0;
}

static const struct kind {
	const char *name;
	int (*look_up)(struct cli *cli, const char *name, json_t **ret, struct err *err);
} kinds[] = {{"container", container}, {"pod", pod}, {"image", image}};

/* The first kind that has one of the name; of type, where one is given. */
static int look_up(
	struct cli *cli, const char *type, const char *name, json_t **ret, struct err *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (type && strcmp(type, kinds[i].name) != 0)
			continue;
		int r = kinds[i].look_up(cli, name, ret, err);
		bool next = !type && (r == -ENOENT || (r == -EINVAL && kinds[i].look_up == image));
		if (!next)
			return r == 0 && !*ret ? err_nomem(err) : r;
	}
	return err_set(err, -ENOENT, "no container, pod or image '%s'", name);
}

int command_inspect(struct cli *cli, char **args)
{
	const char *type = NULL, *output = "json";
	const struct option_row rows[] = {
		{"type", 't', OPTION_CHOICE, &type, "container|pod|image",
			"look among these only (default: in this order)"},
		{"output", 'o', OPTION_CHOICE, &output, DOCUMENT_FORMATS_ONLY,
			"form of the answer (default json)"},
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 1, SIZE_MAX, &exit_code))
		return exit_code;
	json_auto_t *all = json_array();
	for (; *args; args++) {
		struct err err = ERR_INIT;
		json_t *document = NULL;
		if (look_up(cli, type, *args, &document, &err) < 0)
			exit_code = cli_fail(&err);
		else
			json_array_append_new(all, document);
	}
	size_t n = json_array_size(all);
	if (n && document_print(stdout, n == 1 ? json_array_get(all, 0) : all,
			 document_format(output)) < 0)
		return cli_no_memory();
	return exit_code;
}
