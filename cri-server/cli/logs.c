/* logs: the container's log file, where the runtime says it is. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/log_file.h"
#include "cri-server/cli/log_time.h"
#include "cri-server/cli/refs.h"

#define FOLLOW_POLL_MS 100

struct log_options {
	bool follows;
	uint64_t tail;
	struct log_style style;
};

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
	struct cli *cli, const char *wanted, const struct log_options *options, struct err *err)
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
	if (r == 0 && options->tail != UINT64_MAX)
		r = log_file_seek_tail(file, options->tail, err);
	if (r < 0)
		return r;
	log_file_set_style(file, &options->style);
	return options->follows ? follow(cli, id, file, err) : log_file_copy(file, err);
}

int command_logs(struct cli *cli, char **args)
{
	struct log_options options = {.tail = UINT64_MAX};
	const char *since = NULL;
	bool raw = false;
	const struct option_row rows[] = {
		{"follow", 'f', OPTION_FLAG, &options.follows, NULL,
			"go on until the container ends"},
		{"tail", 0, OPTION_NUMBER, &options.tail, "LINES", "only the last lines"},
		{"since", 0, OPTION_STRING, &since, "TIME",
			"only lines from then on: 90s, 5m, 1h30m, 2d ago, or "
			"2026-01-02T03:04:05Z"},
		{"timestamps", 't', OPTION_FLAG, &options.style.timestamps, NULL,
			"begin each line with its time"},
		{"raw", 0, OPTION_FLAG, &raw, NULL,
			"controls as they are, colours for example, on a terminal too"},
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 1, 1, &exit_code))
		return exit_code;
	struct err err = ERR_INIT;
	for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++)
		options.style.escaped[fd] = !raw && isatty(fd);
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	int r = 0;
	if (since)
		r = log_since_parse(since, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec,
			&options.style.since_ns, &err);
	if (r == 0)
		r = print_log(cli, args[0], &options, &err);
	return r < 0 ? cli_fail(&err) : EXIT_SUCCESS;
}
