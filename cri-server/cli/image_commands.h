/* What `pull` and `run` share. */
#pragma once

#include "cri-server/cli/cli.h"

/* Pulls and says so on stderr. *ret_ref, the caller's, is what CreateContainer takes. */
int cli_pull(struct cli *cli, const char *image, char **ret_ref, struct err *err);
