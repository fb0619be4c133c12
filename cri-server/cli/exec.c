/* exec: one command, by ExecSync or, with stdin or a terminal, in a session of the streaming
 * server. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/refs.h"
#include "cri-server/cli/session.h"

/* What the call may take beyond the command. */
#define EXEC_SLACK_MS 10000

static int exec_sync(struct cli *cli, char *id, char **command, uint64_t timeout_s, int *ret_exit,
	struct err *err)
{
	Runtime__V1__ExecSyncRequest request = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
	request.container_id = id;
	request.cmd = command;
	while (command[request.n_cmd])
		request.n_cmd++;
	request.timeout = (int64_t)timeout_s;
	_cleanup_message_ Runtime__V1__ExecSyncResponse *response = NULL;
	uint64_t deadline_ms = timeout_s ? timeout_s * 1000 + EXEC_SLACK_MS : 0;
	int r = cli_call(cli, CLI_RUNTIME, "ExecSync", &request.base, deadline_ms, &response, err);
	if (r == 0)
		r = fd_write_all(STDOUT_FILENO, response->stdout.data, response->stdout.len, err);
	if (r == 0)
		r = fd_write_all(STDERR_FILENO, response->stderr.data, response->stderr.len, err);
	if (r == 0)
		*ret_exit = response->exit_code;
	return r;
}

int cli_exec_session(struct cli *cli, char *id, char **command,
	const struct session_options *options, int *ret_exit, struct err *err)
{
	Runtime__V1__ExecRequest request = RUNTIME__V1__EXEC_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ExecResponse *response = NULL;
	request.container_id = id;
	request.cmd = command;
	while (command[request.n_cmd])
		request.n_cmd++;
	request.stdin = options->in;
	request.tty = options->tty;
	request.stdout = true;
	request.stderr = !options->tty;
	int r = cli_call(cli, CLI_RUNTIME, "Exec", &request.base, CLI_SHORT_MS, &response, err);
	return r < 0 ? r : session_run(cli, response->url, options, ret_exit, err);
}

int command_exec(struct cli *cli, char **args)
{
	uint64_t timeout_s = 0;
	struct session_options options = {.in = false};
	const struct option_row rows[] = {
		{"stdin", 'i', OPTION_FLAG, &options.in, NULL, "pass stdin on"},
		{"tty", 't', OPTION_FLAG, &options.tty, NULL, "give it a terminal"},
		{"timeout", 0, OPTION_NUMBER, &timeout_s, "SECONDS",
			"kill the command after this time (without -i and -t)"},
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

	int r = options.in || options.tty
			? cli_exec_session(cli, id, args + 1, &options, &exit_code, &err)
			: exec_sync(cli, id, args + 1, timeout_s, &exit_code, &err);
	return r < 0 ? cli_fail(&err) : exit_code;
}
