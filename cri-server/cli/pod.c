#include "cri-server/cli/pod.h"

#include <string.h>

#include "common/fd.h"

char *cli_run_log_directory(const char *name, const char *uid)
{
	return str_printf("/var/log/pods/%s_%s_%s", CLI_RUN_NAMESPACE, name, uid);
}

/* Whether `run` made it. What is removed by these names must be its directory and no other's. */
static bool is_run(const Runtime__V1__PodSandbox *pod)
{
	const Runtime__V1__PodSandboxMetadata *m = pod->metadata;
	if (!m || strcmp(m->namespace_, CLI_RUN_NAMESPACE) != 0 || strchr(m->name, '/') ||
		strlen(m->uid) != CLI_RUN_UID_LEN ||
		strspn(m->uid, "0123456789abcdef") != CLI_RUN_UID_LEN)
		return false;
	for (size_t i = 0; i < pod->n_labels; i++)
		if (strcmp(pod->labels[i]->key, CLI_RUN_LABEL) == 0)
			return strcmp(pod->labels[i]->value, m->uid) == 0;
	return false;
}

int cli_remove_pod(struct cli *cli, const Runtime__V1__PodSandbox *pod, struct err *err)
{
	Runtime__V1__StopPodSandboxRequest stop = RUNTIME__V1__STOP_POD_SANDBOX_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__StopPodSandboxResponse *stopped = NULL;
	stop.pod_sandbox_id = pod->id;
	int r = cli_call(
		cli, CLI_RUNTIME, "StopPodSandbox", &stop.base, CLI_LONG_MS, &stopped, err);
	if (r < 0)
		return r;
	Runtime__V1__RemovePodSandboxRequest remove = RUNTIME__V1__REMOVE_POD_SANDBOX_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__RemovePodSandboxResponse *removed = NULL;
	remove.pod_sandbox_id = pod->id;
	r = cli_call(
		cli, CLI_RUNTIME, "RemovePodSandbox", &remove.base, CLI_LONG_MS, &removed, err);
	if (r < 0 || !is_run(pod))
		return r;
	_cleanup_free_ char *logs = cli_run_log_directory(pod->metadata->name, pod->metadata->uid);
	return logs ? fd_remove_tree(logs, err) : err_nomem(err);
}
