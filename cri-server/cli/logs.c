/* logs: the container's log file, where the runtime says it is. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/log_file.h"
#include "cri-server/cli/refs.h"

#define FOLLOW_POLL_MS 100

static void log_file_closep(struct log_file **file)
{
	log_file_close(*file);
}

static int container_status(
	struct cli *cli, char *id, Runtime__V1__ContainerStatusResponse **ret, struct err *err)
{
	Runtime__V1__ContainerStatusRequest request = RUNTIME__V1__CONTAINER_STATUS_REQUEST__INIT;
	request.container_id = id;
	int r = cli_call(
		cli, CLI_RUNTIME, "ContainerStatus", &request.base, CLI_SHORT_MS, ret, err);
	if (r == 0 && !(*ret)->status)
		return err_set(err, -EBADMSG, "ContainerStatus of %s: no status", id);
	return r;
}

/* Until the container has ended, and what is in the file then. */
static int follow(struct cli *cli, char *id, struct log_file *file, struct err *err)
{
	for (;;) {
		_cleanup_message_ Runtime__V1__ContainerStatusResponse *s = NULL;
		int r = container_status(cli, id, &s, err);
		if (r < 0)
			return r == -ENOENT ? 0 : r; /* removed meanwhile */
		bool runs = s->status->state != RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED;
		r = log_file_copy(file, err);
		if (r < 0 || !runs)
			return r;
		usleep(FOLLOW_POLL_MS * 1000);
	}
}

static int print_log(
	struct cli *cli, const char *wanted, bool follows, uint64_t tail, struct err *err)
{
	_cleanup_free_ char *id = NULL;
	int r = cli_find_container(cli, wanted, &id, err);
	if (r < 0)
		return r;
	_cleanup_message_ Runtime__V1__ContainerStatusResponse *s = NULL;
	r = container_status(cli, id, &s, err);
	if (r < 0)
		return r;
	if (!s->status->log_path[0])
		return err_set(err, -ENOENT,
			"container %s has no log: its pod has no log directory", wanted);
	_cleanup_(log_file_closep) struct log_file *file = NULL;
	r = log_file_open(s->status->log_path, &file, err);
	if (r == 0 && tail != UINT64_MAX)
		r = log_file_seek_tail(file, tail, err);
	if (r < 0)
		return r;
	return follows ? follow(cli, id, file, err) : log_file_copy(file, err);
}

int command_logs(struct cli *cli, char **args)
{
	bool follows = false;
	uint64_t tail = UINT64_MAX;
	const struct option_row rows[] = {
		{"follow", 'f', OPTION_FLAG, &follows, NULL, "go on until the container ends"},
		{"tail", 0, OPTION_NUMBER, &tail, "LINES", "only the last lines"},
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 1, 1, &exit_code))
		return exit_code;
	struct err err = ERR_INIT;
	if (print_log(cli, args[0], follows, tail, &err) < 0)
		return cli_fail(&err);
	return EXIT_SUCCESS;
}
