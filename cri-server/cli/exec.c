/* exec: one command by ExecSync; its output is passed through as it is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/refs.h"

/* What the call may take beyond the command. */
#define EXEC_SLACK_MS 10000

int command_exec(struct cli *cli, char **args)
{
	uint64_t timeout_s = 0;
	const struct option_row rows[] = {
		{"timeout", 't', OPTION_NUMBER, &timeout_s, "SECONDS",
			"kill the command after this time"},
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 2, SIZE_MAX, &exit_code))
		return exit_code;

	struct err err = ERR_INIT;
	if (timeout_s > 86400) {
		err_set(&err, -1, "--timeout: at most a day");
		return cli_fail(&err);
	}
	_cleanup_free_ char *id = NULL;
	if (cli_find_container(cli, args[0], &id, &err) < 0)
		return cli_fail(&err);

	Runtime__V1__ExecSyncRequest request = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
	request.container_id = id;
	request.cmd = args + 1;
	while (request.cmd[request.n_cmd])
		request.n_cmd++;
	request.timeout = (int64_t)timeout_s;
	_cleanup_message_ Runtime__V1__ExecSyncResponse *response = NULL;
	uint64_t deadline_ms = timeout_s ? timeout_s * 1000 + EXEC_SLACK_MS : 0;
	int r = cli_call(cli, CLI_RUNTIME, "ExecSync", &request.base, deadline_ms, &response, &err);
	if (r < 0)
		return cli_fail(&err);
	if (fd_write_all(STDOUT_FILENO, response->stdout.data, response->stdout.len, &err) < 0 ||
		fd_write_all(STDERR_FILENO, response->stderr.data, response->stderr.len, &err) < 0)
		return cli_fail(&err);
	return response->exit_code;
}
