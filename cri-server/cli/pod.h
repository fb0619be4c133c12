/*
 * The pods that `run` makes, and taking pods away.
 *
 * Such a pod has the label CLI_RUN_LABEL with its uid as the value, and a log directory of its own
 * that goes with it.
 */
#pragma once

#include "cri-server/cli/cli.h"

#define CLI_RUN_LABEL     "bulkheadctl.run"
#define CLI_RUN_NAMESPACE "bulkheadctl"
/* Hexadecimal digits. */
#define CLI_RUN_UID_LEN 32

/* Where a kubelet would put the pod's logs. The caller frees; NULL when memory is out. */
char *cli_run_log_directory(const char *name, const char *uid);

/* Stops the pod, its containers included, and removes it, with its logs if it was one of run's. */
int cli_remove_pod(struct cli *cli, const Runtime__V1__PodSandbox *pod, struct err *err);
