/*
 * console: what the kernel of a pod's machine, and the agent, wrote to its serial console. The
 * runtime keeps the end of it in a file, whose path it tells in the pod's verbose status. With
 * --shell, a shell in the guest instead, which is an exec under a name of its own.
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
#include "cri-server/cli/session.h"
#include "cri-server/debug_console.h"
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

static int print_console(struct cli *cli, const char *pod, struct err *err)
{
	_cleanup_free_ char *path = NULL, *text = NULL;
	int r = find_console(cli, pod, &path, err);
	if (r == 0)
		r = console_tail(dirname(path), CONSOLE_BYTES_MAX, &text, err);
	if (r < 0)
		return r;
	if (!text || !text[0])
		return err_set(
			err, -ENOENT, "pod %s has no console: its machine does not run", pod);
	return isatty(STDOUT_FILENO) ? print_lines(text, err)
				     : fd_write_all(STDOUT_FILENO, text, strlen(text), err);
}

static int run_shell(
	struct cli *cli, const char *pod, char **command, int *ret_exit, struct err *err)
{
	char *shell[] = {(char *)"sh", NULL};
	const struct session_options options = {.in = true, .tty = isatty(STDIN_FILENO)};
	_cleanup_free_ char *pod_id = NULL;
	int r = cli_find_pod(cli, pod, &pod_id, err);
	if (r < 0)
		return r;
	_cleanup_free_ char *id = str_printf("%s%s", DEBUG_CONSOLE_PREFIX, pod_id);
	if (!id)
		return err_nomem(err);
	return cli_exec_session(cli, id, *command ? command : shell, &options, ret_exit, err);
}

int command_console(struct cli *cli, char **args)
{
	bool shell = false;
	const struct option_row rows[] = {
		{"shell", 0, OPTION_FLAG, &shell, NULL,
			"a shell, or COMMAND, in the guest, where hypervisor.debug_console "
			"permits it"},
	};
	int exit_code = EXIT_SUCCESS;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 1, SIZE_MAX, &exit_code))
		return exit_code;
	struct err err = ERR_INIT;
	int r;
	if (shell)
		r = run_shell(cli, args[0], args + 1, &exit_code, &err);
	else if (args[1])
		r = err_set(&err, -EINVAL, "a command needs --shell");
	else
		r = print_console(cli, args[0], &err);
	return r < 0 ? cli_fail(&err) : exit_code;
}
