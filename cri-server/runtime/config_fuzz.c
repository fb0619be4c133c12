/*
 * What a CRI client's configurations become: a CreateContainerRequest, which has a container's, its
 * pod's and an image's name. Each part that is taken is looked at once more.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/image/reference.h"
#include "cri-server/rpc/message.h"
#include "cri-server/runtime/cgroup_parent.h"
#include "cri-server/runtime/cpu_list.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/network_spec.h"
#include "cri-server/seccomp/cache.h"

#define REQUEST (&runtime__v1__create_container_request__descriptor)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A whole name names the same again. */
static void try_reference(const char *text)
{
	struct reference first, again;
	struct err err = ERR_INIT;
	if (reference_parse(text, &first, &err) < 0)
		return;
	_cleanup_free_ char *whole = str_printf("%s%s%s%s%s", first.name, first.tag ? ":" : "",
		first.tag ? first.tag : "", first.digest ? "@" : "",
		first.digest ? first.digest : "");
	if (!whole || strstr(whole, "/..") || strpbrk(whole, " \"'\\\n"))
		abort();
	if (reference_parse(whole, &again, &err) < 0 || strcmp(first.name, again.name) != 0 ||
		!first.tag != !again.tag || !first.digest != !again.digest)
		abort();
	reference_done(&first);
	reference_done(&again);
}

static void try_cpu_list(const char *text)
{
	struct cpu_list first = {0}, again = {0};
	if (!text[0] || cpu_list_add(&first, text, NULL) < 0)
		return;
	_cleanup_free_ char *whole = cpu_list_text(&first);
	if (!whole || cpu_list_add(&again, whole, NULL) < 0 ||
		memcmp(&first, &again, sizeof(first)) != 0)
		abort();
}

static void try_cgroup(const char *parent)
{
	struct err err = ERR_INIT;
	_cleanup_free_ char *path = NULL;
	if (cgroup_parent_check(parent, &err) < 0)
		return;
	if (cgroup_path(parent, "p1", &path, &err) < 0 || path[0] != '/' || strstr(path, "/../"))
		abort();
}

static void try_network(const Runtime__V1__PodSandboxConfig *config)
{
	struct network_spec spec;
	struct err err = ERR_INIT;
	(void)network_spec_fill(&spec, "p1", config, &err);
	network_spec_done(&spec);
}

static void try_process(
	Runtime__V1__PodSandboxConfig *pod, const Runtime__V1__ContainerConfig *config)
{
	static struct runtime runtime;
	const struct sandbox sandbox = {.runtime = &runtime, .config = pod};
	const Bulkhead__Store__ImageConfig image = BULKHEAD__STORE__IMAGE_CONFIG__INIT;
	Bulkhead__Agent__CreateContainerRequest *request;
	struct err err = ERR_INIT;
	if (!runtime.filters && filter_cache_new(&runtime.filters, &err) < 0)
		abort();
	if (process_for_container(&sandbox, config, &image, &request, &err) < 0)
		return;
	const Bulkhead__Agent__Process *process = request->process;
	if (!process->n_args || !process->user)
		abort();
	for (size_t i = 0; i < process->n_env; i++)
		if (process->env[i][0] == '=' || !strchr(process->env[i], '='))
			abort();
	for (size_t i = 0; i < request->n_masked_paths; i++)
		if (request->masked_paths[i][0] != '/')
			abort();
	bulkhead__agent__create_container_request__free_unpacked(request, NULL);
}

static void try_configs(
	Runtime__V1__PodSandboxConfig *pod, const Runtime__V1__ContainerConfig *config)
{
	const Runtime__V1__LinuxContainerConfig *linux = config->linux;
	if (config->image)
		try_reference(config->image->image);
	if (linux && linux->resources) {
		try_cpu_list(linux->resources->cpuset_cpus);
		try_cpu_list(linux->resources->cpuset_mems);
	}
	if (pod->linux)
		try_cgroup(pod->linux->cgroup_parent);
	try_network(pod);
	try_process(pod, config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err err = ERR_INIT;
	if (rpc_message_check(REQUEST, data, size, NULL) < 0)
		return 0;
	Runtime__V1__CreateContainerRequest *request =
		runtime__v1__create_container_request__unpack(NULL, size, data);
	if (!request)
		return 0;
	if (request->config && sandbox_config_check(request->sandbox_config, &err) == 0)
		try_configs(request->sandbox_config, request->config);
	runtime__v1__create_container_request__free_unpacked(request, NULL);
	return 0;
}
