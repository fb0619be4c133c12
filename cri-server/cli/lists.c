/* The commands that list: pods, ps, images. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/document.h"
#include "cri-server/cli/output.h"

#define AGE_SIZE 32

static int64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Newest first, as the lists are read from the top. */
static int compare_created(int64_t a, int64_t b)
{
	return (a < b) - (a > b);
}

static int compare_pods(const void *a, const void *b)
{
	return compare_created((*(Runtime__V1__PodSandbox *const *)a)->created_at,
		(*(Runtime__V1__PodSandbox *const *)b)->created_at);
}

static int compare_containers(const void *a, const void *b)
{
	return compare_created((*(Runtime__V1__Container *const *)a)->created_at,
		(*(Runtime__V1__Container *const *)b)->created_at);
}

static int list_pods(struct cli *cli, Runtime__V1__ListPodSandboxResponse **ret, struct err *err)
{
	Runtime__V1__ListPodSandboxRequest request = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
	return cli_call(cli, CLI_RUNTIME, "ListPodSandbox", &request.base, CLI_SHORT_MS, ret, err);
}

static int add_pod(struct table *table, const Runtime__V1__PodSandbox *pod)
{
	char id[OUTPUT_ID_SIZE], age[AGE_SIZE];
	output_id(id, pod->id);
	output_age(age, sizeof(age), pod->created_at, now_ns());
	const char *cells[] = {id, age,
		pod->state == RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY ? "Ready" : "NotReady",
		pod->metadata ? pod->metadata->name : "",
		pod->metadata ? pod->metadata->namespace_ : "",
		pod->runtime_handler[0] ? pod->runtime_handler : "(default)"};
	return table_add(table, cells);
}

int command_pods(struct cli *cli, char **args)
{
	static const char *const headings[] = {
		"POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "RUNTIME", NULL};
	const char *output = NULL;
	const struct option_row rows[] = {
		OUTPUT_ROW(&output),
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 0, 0, &exit_code))
		return exit_code;
	_cleanup_message_ Runtime__V1__ListPodSandboxResponse *list = NULL;
	struct err err = ERR_INIT;
	if (list_pods(cli, &list, &err) < 0)
		return cli_fail(&err);
	if (document_format(output) != DOCUMENT_TABLE)
		return cli_print_message(&list->base, document_format(output));

	_cleanup_(table_freep) struct table *table = table_new(headings);
	if (!table)
		return cli_no_memory();
	if (list->n_items > 0)
		qsort(list->items, list->n_items, sizeof(*list->items), compare_pods);
	for (size_t i = 0; i < list->n_items; i++)
		if (add_pod(table, list->items[i]) < 0)
			return cli_no_memory();
	table_print(table, stdout);
	return EXIT_SUCCESS;
}

static const char *pod_name(const Runtime__V1__ListPodSandboxResponse *pods, const char *id)
{
	for (size_t i = 0; i < pods->n_items; i++)
		if (strcmp(pods->items[i]->id, id) == 0 && pods->items[i]->metadata)
			return pods->items[i]->metadata->name;
	return "";
}

static const char *state_name(Runtime__V1__ContainerState state)
{
	switch (state) {
	case RUNTIME__V1__CONTAINER_STATE__CONTAINER_CREATED:
		return "Created";
	case RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING:
		return "Running";
	case RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED:
		return "Exited";
	default:
		return "Unknown";
	}
}

static int add_container(struct table *table, const Runtime__V1__Container *c, const char *pod)
{
	char id[OUTPUT_ID_SIZE], age[AGE_SIZE], pod_id[OUTPUT_ID_SIZE];
	const char *image = "";
	if (c->image)
		image = c->image->user_specified_image[0] ? c->image->user_specified_image
							  : c->image->image;
	char image_id[OUTPUT_ID_SIZE];
	if (strncmp(image, "sha256:", 7) == 0) {
		output_id(image_id, image);
		image = image_id;
	}
	output_id(id, c->id);
	output_id(pod_id, c->pod_sandbox_id);
	output_age(age, sizeof(age), c->created_at, now_ns());
	const char *cells[] = {id, image, age, state_name(c->state),
		c->metadata ? c->metadata->name : "", pod_id, pod};
	return table_add(table, cells);
}

int command_ps(struct cli *cli, char **args)
{
	static const char *const headings[] = {
		"CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "POD ID", "POD", NULL};
	bool all = false;
	const char *output = NULL;
	const struct option_row rows[] = {
		{"all", 'a', OPTION_FLAG, &all, NULL, "those that do not run, too"},
		OUTPUT_ROW(&output),
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 0, 0, &exit_code))
		return exit_code;

	Runtime__V1__ListContainersRequest request = RUNTIME__V1__LIST_CONTAINERS_REQUEST__INIT;
	Runtime__V1__ContainerFilter filter = RUNTIME__V1__CONTAINER_FILTER__INIT;
	Runtime__V1__ContainerStateValue running = RUNTIME__V1__CONTAINER_STATE_VALUE__INIT;
	running.state = RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING;
	filter.state = &running;
	if (!all)
		request.filter = &filter;
	_cleanup_message_ Runtime__V1__ListContainersResponse *list = NULL;
	_cleanup_message_ Runtime__V1__ListPodSandboxResponse *pods = NULL;
	struct err err = ERR_INIT;
	if (cli_call(cli, CLI_RUNTIME, "ListContainers", &request.base, CLI_SHORT_MS, &list, &err) <
			0 ||
		list_pods(cli, &pods, &err) < 0)
		return cli_fail(&err);
	if (document_format(output) != DOCUMENT_TABLE)
		return cli_print_message(&list->base, document_format(output));

	_cleanup_(table_freep) struct table *table = table_new(headings);
	if (!table)
		return cli_no_memory();
	if (list->n_containers > 0)
		qsort(list->containers, list->n_containers, sizeof(*list->containers),
			compare_containers);
	for (size_t i = 0; i < list->n_containers; i++) {
		const Runtime__V1__Container *c = list->containers[i];
		if (add_container(table, c, pod_name(pods, c->pod_sandbox_id)) < 0)
			return cli_no_memory();
	}
	table_print(table, stdout);
	return EXIT_SUCCESS;
}

/* Splits "name:tag"; a port's colon stands before a slash. Cuts `reference`. */
static const char *cut_tag(char *reference)
{
	char *colon = strrchr(reference, ':');
	if (!colon || strchr(colon, '/'))
		return "<none>";
	*colon = '\0';
	return colon + 1;
}

static int add_image(struct table *table, const Runtime__V1__Image *image, const char *reference,
	const char *no_tag)
{
	char id[OUTPUT_ID_SIZE], size[16];
	_cleanup_free_ char *name = strdup(reference);
	if (!name)
		return -1;
	const char *tag = no_tag;
	if (no_tag)
		name[strcspn(name, "@")] = '\0';
	else
		tag = cut_tag(name);
	output_id(id, image->id);
	output_size(size, sizeof(size), image->size);
	const char *cells[] = {name, tag, id, size};
	return table_add(table, cells);
}

/* One row for each tag; an image without any is shown by its digest's name. */
static int add_image_rows(struct table *table, const Runtime__V1__Image *image)
{
	if (image->n_repo_tags == 0)
		return add_image(table, image,
			image->n_repo_digests ? image->repo_digests[0] : "<none>", "<none>");
	for (size_t i = 0; i < image->n_repo_tags; i++)
		if (add_image(table, image, image->repo_tags[i], NULL) < 0)
			return -1;
	return 0;
}

int command_images(struct cli *cli, char **args)
{
	static const char *const headings[] = {"IMAGE", "TAG", "IMAGE ID", "SIZE", NULL};
	const char *output = NULL;
	const struct option_row rows[] = {
		OUTPUT_ROW(&output),
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 0, 0, &exit_code))
		return exit_code;
	Runtime__V1__ListImagesRequest request = RUNTIME__V1__LIST_IMAGES_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ListImagesResponse *list = NULL;
	struct err err = ERR_INIT;
	if (cli_call(cli, CLI_IMAGES, "ListImages", &request.base, CLI_SHORT_MS, &list, &err) < 0)
		return cli_fail(&err);
	if (document_format(output) != DOCUMENT_TABLE)
		return cli_print_message(&list->base, document_format(output));
	_cleanup_(table_freep) struct table *table = table_new(headings);
	if (!table)
		return cli_no_memory();
	for (size_t i = 0; i < list->n_images; i++)
		if (add_image_rows(table, list->images[i]) < 0)
			return cli_no_memory();
	table_print(table, stdout);
	return EXIT_SUCCESS;
}
