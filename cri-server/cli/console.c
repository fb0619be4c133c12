/*
 * console: what the kernel of a pod's machine, and the agent, wrote to its serial console. The
 * runtime keeps the end of it in a file, whose path it tells in the pod's verbose status.
 */
#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/output.h"
#include "cri-server/cli/refs.h"
#include "hypervisor/console.h"

#define CONSOLE_BYTES_MAX (512u << 10) /* what is kept */

/* *ret_path is the caller's. */
static int find_console(struct cli *cli, const char *wanted, char **ret_path, struct err *err)
{
	Runtime__V1__PodSandboxStatusRequest request =
		RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__PodSandboxStatusResponse *answer = NULL;
	_cleanup_free_ char *id = NULL;
	int r = cli_find_pod(cli, wanted, &id, err);
	if (r < 0)
		return r;
	request.pod_sandbox_id = id;
	request.verbose = true;
	r = cli_call(
		cli, CLI_RUNTIME, "PodSandboxStatus", &request.base, CLI_SHORT_MS, &answer, err);
	for (size_t i = 0; r == 0 && i < answer->n_info && !*ret_path; i++) {
		json_auto_t *info = json_loads(answer->info[i]->value, 0, NULL);
		const char *path = json_string_value(json_object_get(info, "console"));
		*ret_path = path ? strdup(path) : NULL;
	}
	if (r == 0 && !*ret_path)
		r = err_set(err, -ENOENT, "the runtime tells of no console of pod %s", wanted);
	return r;
}

/* On a terminal line by line, without the returns that a serial console has, and escaped. */
static int print_lines(char *text, struct err *err)
{
	while (*text) {
		size_t n = strcspn(text, "\n");
		char *next = text + n + (text[n] == '\n');
		while (n && text[n - 1] == '\r')
			n--;
		_cleanup_free_ char *escaped = output_escape_line(text, n);
		if (!escaped)
			return err_nomem(err);
		puts(escaped);
		text = next;
	}
	return 0;
}

int command_console(struct cli *cli, char **args)
{
	int exit_code;
	if (!cli_arguments(cli, NULL, 0, &args, 1, 1, &exit_code))
		return exit_code;
	struct err err = ERR_INIT;
	_cleanup_free_ char *path = NULL, *text = NULL;
	int r = find_console(cli, args[0], &path, &err);
	if (r == 0)
		r = console_tail(dirname(path), CONSOLE_BYTES_MAX, &text, &err);
	if (r == 0 && !text[0])
		r = err_set(
			&err, -ENOENT, "pod %s has no console: its machine does not run", args[0]);
	if (r == 0)
		r = isatty(STDOUT_FILENO) ? print_lines(text, &err)
					  : fd_write_all(STDOUT_FILENO, text, strlen(text), &err);
	return r < 0 ? cli_fail(&err) : EXIT_SUCCESS;
}
