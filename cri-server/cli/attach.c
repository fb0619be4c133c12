/* attach: a container's own streams, from now on. */
#include <stdlib.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/refs.h"
#include "cri-server/cli/session.h"

int cli_attach(struct cli *cli, const char *id, const struct session_options *options,
	int *ret_exit, struct err *err)
{
	Runtime__V1__AttachRequest request = RUNTIME__V1__ATTACH_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__AttachResponse *response = NULL;
	request.container_id = (char *)id;
	request.stdin = options->in;
	request.tty = options->tty;
	request.stdout = true;
	request.stderr = !options->tty;
	int r = cli_call(cli, CLI_RUNTIME, "Attach", &request.base, CLI_SHORT_MS, &response, err);
	return r < 0 ? r : session_run(cli, response->url, options, ret_exit, err);
}

int command_attach(struct cli *cli, char **args)
{
	struct session_options options = {.detach_keys = true};
	const struct option_row rows[] = {
		{"stdin", 'i', OPTION_FLAG, &options.in, NULL, "pass stdin on"},
		{"tty", 't', OPTION_FLAG, &options.tty, NULL,
			"the container has a terminal; Ctrl-P Ctrl-Q detaches"},
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 1, 1, &exit_code))
		return exit_code;
	struct err err = ERR_INIT;
	_cleanup_free_ char *id = NULL;
	int r = cli_find_container(cli, args[0], &id, &err);
	if (r == 0)
		r = cli_attach(cli, id, &options, &exit_code, &err);
	return r < 0 ? cli_fail(&err) : exit_code;
}
