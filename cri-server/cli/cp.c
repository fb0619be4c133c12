/*
 * cp: files and trees between this host and a container, as a tar stream of an exec: the
 * container's own tar at one end, libarchive at the other, in a thread, with a pipe to the session.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/copy_args.h"
#include "cri-server/cli/refs.h"
#include "cri-server/cli/session.h"
#include "cri-server/cli/tar_in.h"
#include "cri-server/cli/tar_out.h"

#define WORDS_MAX     4096 /* of what tar says on stderr */
#define LIMIT_MIB     10240
#define LIMIT_MIB_MAX (1u << 30)

struct copy {
	struct cli *cli;
	struct copy_args args;
	char *id;
	char directory[COPY_TEXT_MAX], name[COPY_TEXT_MAX]; /* in the container */
	int pipe[2];
	struct buf words;
	/* The thread's. */
	struct tar_in in;
	const char *source;
	char to[COPY_TEXT_MAX];
	int result;
	struct err err;
};

static int on_output(void *userdata, int stream, const void *data, size_t len)
{
	struct copy *copy = userdata;
	struct err err = ERR_INIT;
	if (stream == STDERR_FILENO)
		buf_append(&copy->words, data, len);
	else if (copy->args.out)
		return fd_write_all(copy->pipe[1], data, len, &err);
	return 0;
}

static void close_end(struct copy *copy, int end)
{
	copy->pipe[end] = fd_close(copy->pipe[end]);
}

/* Either one closes its end of the pipe when it is done, so that nobody waits for the other. */
static void *run_in(void *userdata)
{
	struct copy *copy = userdata;
	copy->result = tar_in_read(&copy->in, copy->pipe[0], &copy->err);
	close_end(copy, 0);
	return NULL;
}

static void *run_out(void *userdata)
{
	struct copy *copy = userdata;
	copy->result = tar_out_write(copy->pipe[1], copy->source, copy->to, &copy->err);
	close_end(copy, 1);
	return NULL;
}

/* What tar has to say is worth more than the number that it exits with. */
static int exec_tar(struct copy *copy, char **command, bool in, int *ret_code, struct err *err)
{
	const struct session_options options = {.in = in,
		.in_fd = in ? copy->pipe[0] : -EBADF,
		.on_output = on_output,
		.userdata = copy};
	copy->words.len = 0;
	return cli_exec_session(copy->cli, copy->id, command, &options, ret_code, err);
}

static int tar_failed(struct copy *copy, int code, struct err *err)
{
	const char *words = copy->words.len ? buf_string(&copy->words) : NULL;
	return err_set(err, -EIO, "the container's tar failed with %d%s%s", code, words ? ": " : "",
		words ? words : "");
}

/*
 * The session here, the other end of the pipe in the thread. Where the session's error is only the
 * pipe that the thread closed, the thread has the reason; else what tar said has, should it have.
 */
static int transfer(struct copy *copy, char **command, void *(*thread)(void *), struct err *err)
{
	pthread_t id;
	int code = 0;
	if (pipe2(copy->pipe, O_CLOEXEC) < 0)
		return err_errno(err, "pipe");
	int r = pthread_create(&id, NULL, thread, copy);
	if (r != 0) {
		close_end(copy, 0);
		close_end(copy, 1);
		return err_set(err, -r, "make a thread: %s", strerror(r));
	}
	r = exec_tar(copy, command, !copy->args.out, &code, err);
	close_end(copy, copy->args.out ? 1 : 0);
	pthread_join(id, NULL);
	if (code != 0 && r == 0)
		r = tar_failed(copy, code, err);
	bool explains = copy->result < 0 && copy->result != -EPIPE &&
			(r == 0 || r == -EPIPE || !copy->words.len);
	return explains ? err_set(err, copy->result, "%s", copy->err.msg) : r;
}

/* Into LOCAL where it is a directory, else as LOCAL. */
static int copy_out(struct copy *copy, struct err *err)
{
	char directory[COPY_TEXT_MAX], name[COPY_TEXT_MAX], word[COPY_TEXT_MAX + 2];
	const char *local = copy->args.local;
	struct stat st;
	int r = copy_split(copy->args.inside, copy->directory, copy->name, err);
	if (r < 0)
		return r;
	if (stat(local, &st) == 0 && S_ISDIR(st.st_mode)) {
		snprintf(directory, sizeof(directory), "%s", local);
		snprintf(name, sizeof(name), "%s", copy->name);
	} else {
		r = copy_split(local, directory, name, err);
		if (r < 0)
			return r;
	}
	_cleanup_close_ int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, "open the directory %s", directory);
	copy->in.dir = fd;
	copy->in.from = copy->name;
	copy->in.to = name;
	/* A name that begins with a dash is no option then. */
	snprintf(word, sizeof(word), "./%s", copy->name);
	char *command[] = {"tar", "-c", "-f", "-", "-C", copy->directory, word, NULL};
	r = transfer(copy, command, run_in, err);
	if (copy->in.skipped)
		cli_note("%u symbolic links, devices or the like were left out", copy->in.skipped);
	return r;
}

/* Into PATH where it is a directory, else as PATH. */
static int copy_in(struct copy *copy, struct err *err)
{
	char *inside = copy->args.inside;
	char *test[] = {"test", "-d", inside, NULL};
	int code = 0;
	_cleanup_free_ char *real = realpath(copy->args.local, NULL);
	if (!real)
		return err_errno(err, "read %s", copy->args.local);
	copy->source = real;
	int r = exec_tar(copy, test, false, &code, err);
	if (r < 0)
		return r;
	/* The name is the one that was given; "." has that of the directory that it is. */
	if (code == 0 && copy_split(copy->args.local, copy->directory, copy->to, err) < 0)
		r = copy_split(real, copy->directory, copy->to, err);
	else if (code != 0)
		r = copy_split(inside, copy->directory, copy->to, err);
	if (r < 0)
		return r;
	char *command[] = {
		"tar", "-x", "-m", "-f", "-", "-C", code == 0 ? inside : copy->directory, NULL};
	return transfer(copy, command, run_out, err);
}

static int run(struct copy *copy, char **args, struct err *err)
{
	int r = copy_args_parse(args[0], args[1], &copy->args, err);
	if (r < 0)
		return r;
	r = cli_find_container(copy->cli, copy->args.container, &copy->id, err);
	if (r < 0)
		return r;
	signal(SIGPIPE, SIG_IGN);
	return copy->args.out ? copy_out(copy, err) : copy_in(copy, err);
}

int command_cp(struct cli *cli, char **args)
{
	uint64_t limit_mib = LIMIT_MIB;
	const struct option_row rows[] = {
		{"limit", 0, OPTION_NUMBER, &limit_mib, "MIB",
			"most that is taken from a container (default 10240)"},
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 2, 2, &exit_code))
		return exit_code;
	struct err err = ERR_INIT;
	if (limit_mib > LIMIT_MIB_MAX) {
		err_set(&err, -EINVAL, "--limit: too much");
		return cli_fail(&err);
	}
	_cleanup_free_ struct copy *copy = calloc(1, sizeof(*copy));
	if (!copy)
		return cli_no_memory();
	copy->cli = cli;
	copy->pipe[0] = copy->pipe[1] = -EBADF;
	copy->words = buf_init(WORDS_MAX);
	copy->in.bytes_max = limit_mib << 20;
	int r = run(copy, args, &err);
	free(copy->id);
	buf_done(&copy->words);
	return r < 0 ? cli_fail(&err) : EXIT_SUCCESS;
}
