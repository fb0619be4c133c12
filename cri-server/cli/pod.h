/* What `run` and `rm` share: taking pods away. */
#pragma once

#include "cri-server/cli/cli.h"

/* Stops the pod, its containers included, and removes it. */
int cli_remove_pod(struct cli *cli, char *id, struct err *err);
