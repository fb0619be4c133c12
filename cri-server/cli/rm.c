/* rm: pods and containers alike; what is alive needs --force. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/pod.h"
#include "cri-server/cli/refs.h"

static int remove_container(struct cli *cli, char *id, bool alive, struct err *err)
{
	if (alive) {
		Runtime__V1__StopContainerRequest stop = RUNTIME__V1__STOP_CONTAINER_REQUEST__INIT;
		_cleanup_message_ Runtime__V1__StopContainerResponse *stopped = NULL;
		stop.container_id = id;
		int r = cli_call(
			cli, CLI_RUNTIME, "StopContainer", &stop.base, CLI_LONG_MS, &stopped, err);
		if (r < 0)
			return r;
	}
	Runtime__V1__RemoveContainerRequest remove = RUNTIME__V1__REMOVE_CONTAINER_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__RemoveContainerResponse *removed = NULL;
	remove.container_id = id;
	return cli_call(
		cli, CLI_RUNTIME, "RemoveContainer", &remove.base, CLI_LONG_MS, &removed, err);
}

static int remove_found(struct cli *cli, const Runtime__V1__ListPodSandboxResponse *pods,
	const Runtime__V1__ListContainersResponse *containers, size_t i, bool force,
	struct err *err)
{
	if (i < pods->n_items) {
		const Runtime__V1__PodSandbox *pod = pods->items[i];
		if (pod->state == RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY && !force)
			return err_set(
				err, -EBADFD, "pod %.13s is running; rm --force stops it", pod->id);
		return cli_remove_pod(cli, pod, err);
	}
	const Runtime__V1__Container *c = containers->containers[i - pods->n_items];
	bool alive = c->state == RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING;
	if (alive && !force)
		return err_set(
			err, -EBADFD, "container %.13s is running; rm --force kills it", c->id);
	return remove_container(cli, c->id, alive, err);
}

static bool is_pod_name(const Runtime__V1__ListPodSandboxResponse *pods, const char *name)
{
	for (size_t i = 0; i < pods->n_items; i++)
		if (pods->items[i]->metadata && strcmp(pods->items[i]->metadata->name, name) == 0)
			return true;
	return false;
}

/* The lists are asked for anew for each: a pod takes its containers with it. */
static int remove_one(struct cli *cli, const char *wanted, bool force, struct err *err)
{
	Runtime__V1__ListPodSandboxRequest ask_pods = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
	Runtime__V1__ListContainersRequest ask = RUNTIME__V1__LIST_CONTAINERS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ListPodSandboxResponse *pods = NULL;
	_cleanup_message_ Runtime__V1__ListContainersResponse *containers = NULL;
	int r = cli_call(
		cli, CLI_RUNTIME, "ListPodSandbox", &ask_pods.base, CLI_SHORT_MS, &pods, err);
	if (r == 0)
		r = cli_call(cli, CLI_RUNTIME, "ListContainers", &ask.base, CLI_SHORT_MS,
			&containers, err);
	if (r != 0)
		return r;

	size_t n = 0;
	_cleanup_free_ struct ref *refs =
		calloc(pods->n_items + containers->n_containers + 1, sizeof(*refs));
	if (!refs)
		return err_nomem(err);
	for (size_t i = 0; i < pods->n_items; i++, n++)
		refs[n] = (struct ref){.id = pods->items[i]->id,
			.name = pods->items[i]->metadata ? pods->items[i]->metadata->name : ""};
	for (size_t i = 0; i < containers->n_containers; i++, n++) {
		const Runtime__V1__Container *c = containers->containers[i];
		/* A name that a pod has too means the pod. */
		const char *name = c->metadata ? c->metadata->name : "";
		refs[n] = (struct ref){.id = c->id, .name = is_pod_name(pods, name) ? "" : name};
	}
	size_t found = 0;
	r = ref_find(refs, n, wanted, "pod or container", &found, err);
	return r < 0 ? r : remove_found(cli, pods, containers, found, force, err);
}

int command_rm(struct cli *cli, char **args)
{
	bool force = false;
	const struct option_row rows[] = {
		{"force", 'f', OPTION_FLAG, &force, NULL, "stop what is running"},
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 1, SIZE_MAX, &exit_code))
		return exit_code;
	for (; *args; args++) {
		struct err err = ERR_INIT;
		if (remove_one(cli, *args, force, &err) < 0)
			exit_code = cli_fail(&err);
		else
			printf("%s\n", *args);
	}
	return exit_code;
}
