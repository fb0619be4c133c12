#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/cli/refs.h"

int cli_find_container(struct cli *cli, const char *wanted, char **ret_id, struct err *err)
{
	Runtime__V1__ListContainersRequest request = RUNTIME__V1__LIST_CONTAINERS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ListContainersResponse *list = NULL;
	int r = cli_call(
		cli, CLI_RUNTIME, "ListContainers", &request.base, CLI_SHORT_MS, &list, err);
	if (r < 0)
		return r;

	const size_t n = list->n_containers;
	_cleanup_free_ struct ref *refs = calloc(n + 1, sizeof(*refs));
	if (!refs)
		return err_nomem(err);
	for (size_t i = 0; i < n; i++) {
		const Runtime__V1__Container *c = list->containers[i];
		refs[i] = (struct ref){.id = c->id, .name = c->metadata ? c->metadata->name : ""};
	}
	size_t i = 0;
	r = ref_find(refs, n, wanted, "container", &i, err);
	if (r < 0)
		return r;
	*ret_id = strdup(list->containers[i]->id);
	return *ret_id ? 0 : err_nomem(err);
}

int cli_find_pod(struct cli *cli, const char *wanted, char **ret_id, struct err *err)
{
	Runtime__V1__ListPodSandboxRequest request = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ListPodSandboxResponse *list = NULL;
	int r = cli_call(
		cli, CLI_RUNTIME, "ListPodSandbox", &request.base, CLI_SHORT_MS, &list, err);
	if (r < 0)
		return r;

	const size_t n = list->n_items;
	_cleanup_free_ struct ref *refs = calloc(n + 1, sizeof(*refs));
	if (!refs)
		return err_nomem(err);
	for (size_t i = 0; i < n; i++) {
		const Runtime__V1__PodSandbox *pod = list->items[i];
		refs[i] = (struct ref){
			.id = pod->id, .name = pod->metadata ? pod->metadata->name : ""};
	}
	size_t i = 0;
	r = ref_find(refs, n, wanted, "pod", &i, err);
	if (r < 0)
		return r;
	*ret_id = strdup(list->items[i]->id);
	return *ret_id ? 0 : err_nomem(err);
}
