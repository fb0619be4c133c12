/*
 * run: pull, pod, container, output, exit code, and everything away again.
 *
 * SIGINT, SIGTERM and SIGHUP are blocked and read from a signalfd: a pull is cancelled by them, the
 * other steps are waited for (each is bounded), and then the clean-up runs as after any other end.
 * The pod is found by a label of its own, so one that the runtime made without our hearing of it
 * goes too.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>

#include "common/fd.h"
#include "common/loop.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/image_commands.h"
#include "cri-server/cli/log_file.h"
#include "cri-server/cli/pod.h"
#include "cri-server/cli/session.h"
#include "cri-server/cli/timings.h"

#define LOG_POLL_MS   50
#define STATE_POLL_MS 250

struct run {
	struct cli *cli;
	/* As given. */
	const char *image;
	char **command;
	const char *name, *workdir, *user, *handler;
	struct option_list env;
	bool keep, timings;
	struct session_options session;
	/* Made on the way. */
	char uid[CLI_RUN_UID_LEN + 1];
	char pod_name[64];
	char *log_directory;
	char *image_ref, *pod_id, *container_id;
	int signal_fd;
	int signo; /* the signal that ended it, 0 without */
	int started;
	struct err start_err;
	struct timings times;
};

/* Both configurations point into the run and into constants; nothing of them is freed. */
struct pod_config {
	Runtime__V1__PodSandboxConfig config;
	Runtime__V1__PodSandboxMetadata metadata;
	Runtime__V1__PodSandboxConfig__LabelsEntry label, *labels[1];
	Runtime__V1__LinuxPodSandboxConfig linux;
};

struct container_config {
	Runtime__V1__ContainerConfig config;
	Runtime__V1__ContainerMetadata metadata;
	Runtime__V1__ImageSpec image;
	Runtime__V1__LinuxContainerConfig linux;
	Runtime__V1__LinuxContainerSecurityContext security;
	Runtime__V1__NamespaceOption namespaces;
	Runtime__V1__Int64Value uid, gid;
	Runtime__V1__KeyValue values[OPTION_LIST_MAX], *pointers[OPTION_LIST_MAX];
};

static void log_file_closep(struct log_file **file)
{
	log_file_close(*file);
}

/* Waits; true when a signal came, now or before. */
static bool interrupted(struct run *run, int timeout_ms)
{
	struct pollfd fd = {.fd = run->signal_fd, .events = POLLIN};
	struct signalfd_siginfo info;
	if (!run->signo && poll(&fd, 1, timeout_ms) == 1 &&
		read(run->signal_fd, &info, sizeof(info)) == sizeof(info))
		run->signo = (int)info.ssi_signo;
	return run->signo != 0;
}

static int check_interrupted(struct run *run, struct err *err)
{
	if (!interrupted(run, 0))
		return 0;
	return err_set(err, -ECANCELED, "interrupted by signal %d", run->signo);
}

static int catch_signals(struct run *run, struct err *err)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	/* Before gRPC makes its threads, which inherit the mask. */
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	run->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return run->signal_fd < 0 ? err_errno(err, "make a signalfd") : 0;
}

static int choose_names(struct run *run, struct err *err)
{
	unsigned char random[CLI_RUN_UID_LEN / 2];
	arc4random_buf(random, sizeof(random));
	str_hex(run->uid, random, sizeof(random));
	if (run->name && strlen(run->name) >= sizeof(run->pod_name))
		return err_set(
			err, -EINVAL, "--name: longer than %zu bytes", sizeof(run->pod_name) - 1);
	if (run->name && (!run->name[0] || strchr(run->name, '/')))
		return err_set(err, -EINVAL, "--name: '%s' cannot be a name", run->name);
	if (run->name)
		snprintf(run->pod_name, sizeof(run->pod_name), "%s", run->name);
	else
		snprintf(run->pod_name, sizeof(run->pod_name), "run-%.8s", run->uid);
	run->log_directory = cli_run_log_directory(run->pod_name, run->uid);
	return run->log_directory ? 0 : err_nomem(err);
}

static void fill_pod(struct run *run, struct pod_config *p)
{
	runtime__v1__pod_sandbox_config__init(&p->config);
	runtime__v1__pod_sandbox_metadata__init(&p->metadata);
	runtime__v1__pod_sandbox_config__labels_entry__init(&p->label);
	runtime__v1__linux_pod_sandbox_config__init(&p->linux);
	p->metadata.name = run->pod_name;
	p->metadata.uid = run->uid;
	p->metadata.namespace_ = (char *)CLI_RUN_NAMESPACE;
	p->label.key = (char *)CLI_RUN_LABEL;
	p->label.value = run->uid;
	p->labels[0] = &p->label;
	p->config.metadata = &p->metadata;
	p->config.hostname = run->pod_name;
	p->config.log_directory = run->log_directory;
	p->config.labels = p->labels;
	p->config.n_labels = 1;
	p->config.linux = &p->linux;
}

/* UID, UID:GID or NAME. */
static int fill_user(struct run *run, struct container_config *c, struct err *err)
{
	char *end;
	if (!run->user)
		return 0;
	if (run->user[0] < '0' || run->user[0] > '9') {
		c->security.run_as_username = (char *)run->user;
		return 0;
	}
	errno = 0;
	c->uid.value = strtoll(run->user, &end, 10);
	c->security.run_as_user = &c->uid;
	if (*end == ':' && end[1] >= '0' && end[1] <= '9') {
		c->gid.value = strtoll(end + 1, &end, 10);
		c->security.run_as_group = &c->gid;
	}
	if (*end || errno)
		return err_set(
			err, -EINVAL, "--user: '%s' is not UID, UID:GID or a name", run->user);
	return 0;
}

static int fill_env(struct run *run, struct container_config *c, struct err *err)
{
	for (size_t i = 0; i < run->env.n; i++) {
		char *equals = strchr(run->env.items[i], '=');
		if (!equals || equals == run->env.items[i])
			return err_set(
				err, -EINVAL, "--env: '%s' is not NAME=VALUE", run->env.items[i]);
		*equals = '\0'; /* the arguments are ours to change */
		runtime__v1__key_value__init(&c->values[i]);
		c->values[i].key = (char *)run->env.items[i];
		c->values[i].value.data = (uint8_t *)equals + 1;
		c->values[i].value.len = strlen(equals + 1);
		c->pointers[i] = &c->values[i];
	}
	c->config.envs = c->pointers;
	c->config.n_envs = run->env.n;
	return 0;
}

static int fill_container(struct run *run, struct container_config *c, struct err *err)
{
	runtime__v1__container_config__init(&c->config);
	runtime__v1__container_metadata__init(&c->metadata);
	runtime__v1__image_spec__init(&c->image);
	runtime__v1__linux_container_config__init(&c->linux);
	runtime__v1__linux_container_security_context__init(&c->security);
	runtime__v1__namespace_option__init(&c->namespaces);
	runtime__v1__int64_value__init(&c->uid);
	runtime__v1__int64_value__init(&c->gid);
	c->metadata.name = run->pod_name;
	c->image.user_specified_image = (char *)run->image;
	c->config.metadata = &c->metadata;
	c->config.image = &c->image;
	c->config.log_path = (char *)"0.log";
	c->config.stdin = c->config.stdin_once = run->session.in;
	c->config.tty = run->session.tty;
	c->config.working_dir = run->workdir ? (char *)run->workdir : c->config.working_dir;
	c->config.linux = &c->linux;
	c->linux.security_context = &c->security;
	c->security.namespace_options = &c->namespaces;
	c->namespaces.pid = RUNTIME__V1__NAMESPACE_MODE__CONTAINER;
	/* As in `docker run`: the arguments replace the image's, its entry point stays. */
	c->config.args = run->command;
	while (run->command[c->config.n_args])
		c->config.n_args++;
	int r = fill_user(run, c, err);
	return r < 0 ? r : fill_env(run, c, err);
}

/*
 * Pulls the image unless the runtime has it. What ImageStatus does not take for a name may be a
 * source to pull from (an archive, a directory): the pull says.
 */
static int get_image(struct run *run, struct err *err)
{
	Runtime__V1__ImageStatusRequest request = RUNTIME__V1__IMAGE_STATUS_REQUEST__INIT;
	Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
	spec.image = (char *)run->image;
	request.image = &spec;
	_cleanup_message_ Runtime__V1__ImageStatusResponse *status = NULL;
	int r = cli_call(
		run->cli, CLI_IMAGES, "ImageStatus", &request.base, CLI_SHORT_MS, &status, err);
	if (r < 0 && r != -EINVAL)
		return r;
	if (r == 0 && status->image) {
		run->image_ref = TAKE_PTR(status->image->id);
		return 0;
	}
	rpc_client_set_interrupt(run->cli->client, run->signal_fd);
	r = cli_pull(run->cli, run->image, &run->image_ref, err);
	rpc_client_set_interrupt(run->cli->client, -EBADF);
	return r;
}

static int run_pod(struct run *run, struct pod_config *pod, struct err *err)
{
	Runtime__V1__RunPodSandboxRequest request = RUNTIME__V1__RUN_POD_SANDBOX_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__RunPodSandboxResponse *response = NULL;
	request.config = &pod->config;
	if (run->handler)
		request.runtime_handler = (char *)run->handler;
	int r = cli_call(
		run->cli, CLI_RUNTIME, "RunPodSandbox", &request.base, CLI_LONG_MS, &response, err);
	if (r == 0)
		run->pod_id = TAKE_PTR(response->pod_sandbox_id);
	return r;
}

static int create_container(
	struct run *run, struct pod_config *pod, struct container_config *c, struct err *err)
{
	Runtime__V1__CreateContainerRequest request = RUNTIME__V1__CREATE_CONTAINER_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__CreateContainerResponse *response = NULL;
	c->image.image = run->image_ref;
	request.pod_sandbox_id = run->pod_id;
	request.config = &c->config;
	request.sandbox_config = &pod->config;
	int r = cli_call(run->cli, CLI_RUNTIME, "CreateContainer", &request.base, CLI_LONG_MS,
		&response, err);
	if (r == 0)
		run->container_id = TAKE_PTR(response->container_id);
	return r;
}

static int start_container(struct run *run, struct err *err)
{
	Runtime__V1__StartContainerRequest request = RUNTIME__V1__START_CONTAINER_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__StartContainerResponse *response = NULL;
	request.container_id = run->container_id;
	return cli_call(run->cli, CLI_RUNTIME, "StartContainer", &request.base, CLI_LONG_MS,
		&response, err);
}

static void start_attached(void *userdata)
{
	struct run *run = userdata;
	run->started = start_container(run, &run->start_err);
}

/* Attached before it is started, so that its first words are seen. */
static int start_and_attach(struct run *run, struct err *err)
{
	int ignored;
	run->session.on_open = start_attached;
	run->session.userdata = run;
	run->session.stop_fd = run->signal_fd;
	run->started = -ENOTCONN;
	int r = cli_attach(run->cli, run->container_id, &run->session, &ignored, err);
	if (r == 0 && run->started < 0)
		r = err_set(err, run->started, "%s", run->start_err.msg);
	return r;
}

/* 0 with the exit code, or positive 1 while the container runs. */
static int poll_exit(struct run *run, int *ret_exit, struct err *err)
{
	Runtime__V1__ContainerStatusRequest request = RUNTIME__V1__CONTAINER_STATUS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ContainerStatusResponse *response = NULL;
	request.container_id = run->container_id;
	int r = cli_call(run->cli, CLI_RUNTIME, "ContainerStatus", &request.base, CLI_SHORT_MS,
		&response, err);
	if (r < 0)
		return r;
	const Runtime__V1__ContainerStatus *status = response->status;
	if (!status)
		return err_set(err, -EBADMSG, "ContainerStatus: no status");
	if (status->state != RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED)
		return 1;
	*ret_exit = status->exit_code;
	if (status->reason[0] && strcmp(status->reason, "Completed") != 0 &&
		strcmp(status->reason, "Error") != 0)
		cli_note("%s: %s%s%s", run->pod_name, status->reason,
			status->message[0] ? ": " : "", status->message);
	return 0;
}

static int follow(struct run *run, int *ret_exit, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/0.log", run->log_directory);
	if (!path)
		return err_nomem(err);
	_cleanup_(log_file_closep) struct log_file *file = NULL;
	int r = log_file_open(path, &file, err);
	uint64_t next_poll_ms = 0;
	int ended = 1;
	while (r == 0 && ended > 0) {
		/* First the state, then the log: what was written before the end is seen. */
		if (ev_now_ms() >= next_poll_ms) {
			ended = poll_exit(run, ret_exit, err);
			next_poll_ms = ev_now_ms() + STATE_POLL_MS;
		}
		r = ended < 0 ? ended : log_file_copy(file, err);
		if (r == 0 && ended > 0 && interrupted(run, LOG_POLL_MS))
			r = check_interrupted(run, err);
	}
	return r;
}

/* The session has ended: so has the container, or nearly. */
static int wait_for_exit(struct run *run, int *ret_exit, struct err *err)
{
	int r;
	while ((r = poll_exit(run, ret_exit, err)) > 0)
		if (interrupted(run, STATE_POLL_MS))
			return check_interrupted(run, err);
	return r;
}

static bool attached(const struct run *run)
{
	return run->session.in || run->session.tty;
}

static int bring_up_and_follow(struct run *run, int *ret_exit, struct err *err)
{
	struct pod_config pod;
	_cleanup_free_ struct container_config *container = calloc(1, sizeof(*container));
	if (!container)
		return err_nomem(err);
	int r = fill_container(run, container, err);
	timings_begin(&run->times);
	if (r == 0)
		r = get_image(run, err);
	timings_end(&run->times, "image");
	timings_begin(&run->times);
	if (r == 0)
		r = check_interrupted(run, err);
	if (r == 0) {
		fill_pod(run, &pod);
		r = run_pod(run, &pod, err);
	}
	timings_end(&run->times, "pod");
	if (r == 0 && run->timings)
		r = timings_pod(&run->times, run->cli, run->pod_id, err);
	if (r == 0)
		r = check_interrupted(run, err);
	timings_begin(&run->times);
	if (r == 0)
		r = create_container(run, &pod, container, err);
	timings_end(&run->times, "create container");
	timings_begin(&run->times);
	if (r == 0)
		r = attached(run) ? start_and_attach(run, err) : start_container(run, err);
	timings_end(&run->times, "start container");
	timings_begin(&run->times);
	if (r == 0)
		r = attached(run) ? wait_for_exit(run, ret_exit, err) : follow(run, ret_exit, err);
	timings_end(&run->times, "run container");
	return r;
}

static int clean_up(struct run *run, struct err *err)
{
	Runtime__V1__ListPodSandboxRequest request = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
	Runtime__V1__PodSandboxFilter filter = RUNTIME__V1__POD_SANDBOX_FILTER__INIT;
	Runtime__V1__PodSandboxFilter__LabelSelectorEntry label =
		RUNTIME__V1__POD_SANDBOX_FILTER__LABEL_SELECTOR_ENTRY__INIT;
	Runtime__V1__PodSandboxFilter__LabelSelectorEntry *labels[] = {&label};
	label.key = (char *)CLI_RUN_LABEL;
	label.value = run->uid;
	filter.label_selector = labels;
	filter.n_label_selector = 1;
	request.filter = &filter;

	_cleanup_message_ Runtime__V1__ListPodSandboxResponse *list = NULL;
	int r = cli_call(
		run->cli, CLI_RUNTIME, "ListPodSandbox", &request.base, CLI_SHORT_MS, &list, err);
	for (size_t i = 0; r == 0 && i < list->n_items; i++)
		r = cli_remove_pod(run->cli, list->items[i], err);
	if (r == 0) /* it may be there without a pod */
		r = fd_remove_tree(run->log_directory, err);
	return r < 0 ? err_wrap(err, "clean up after %s", run->pod_name) : 0;
}

/* The exit code: the container's, 128 + signal, or failure. */
static int execute(struct run *run)
{
	struct err err = ERR_INIT;
	int exit_code = EXIT_FAILURE;

	int r = choose_names(run, &err);
	if (r == 0)
		r = catch_signals(run, &err);
	if (r == 0)
		r = cli_connect(run->cli, &err);
	if (r < 0)
		return cli_fail(&err);

	r = bring_up_and_follow(run, &exit_code, &err);
	if (r < 0)
		exit_code = cli_fail(&err);
	if (interrupted(run, 0))
		exit_code = 128 + run->signo;
	timings_begin(&run->times);
	if (run->keep && run->pod_id) {
		cli_note("Kept pod %s (%.13s); bulkheadctl rm --force %s removes it.",
			run->pod_name, run->pod_id, run->pod_id);
	} else if (clean_up(run, &err) < 0) {
		cli_fail(&err);
		exit_code = exit_code ? exit_code : EXIT_FAILURE;
	}
	timings_end(&run->times, "remove");
	if (run->timings && run->container_id)
		timings_print(&run->times);
	return exit_code;
}

int command_run(struct cli *cli, char **args)
{
	struct run run = {.cli = cli, .signal_fd = -EBADF};
	const struct option_row rows[] = {
		{"name", 'n', OPTION_STRING, &run.name, "NAME", "the pod's name"},
		{"env", 'e', OPTION_LIST, &run.env, "NAME=VALUE",
			"set a variable; may be repeated"},
		{"workdir", 'w', OPTION_STRING, &run.workdir, "PATH", "the working directory"},
		{"user", 'u', OPTION_STRING, &run.user, "USER", "UID, UID:GID or a name"},
		{"runtime-handler", 'r', OPTION_STRING, &run.handler, "NAME",
			"a runtime handler of the server's configuration"},
		{"stdin", 'i', OPTION_FLAG, &run.session.in, NULL, "pass stdin on"},
		{"tty", 't', OPTION_FLAG, &run.session.tty, NULL, "give it a terminal"},
		{"keep", 'k', OPTION_FLAG, &run.keep, NULL, "leave the pod when it has ended"},
		{"timings", 0, OPTION_FLAG, &run.timings, NULL,
			"tell the pod's address and how long each step took"},
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 1, SIZE_MAX, &exit_code))
		return exit_code;
	run.image = args[0];
	run.command = args + 1;
	exit_code = execute(&run);
	fd_close(run.signal_fd);
	free(run.log_directory);
	free(run.image_ref);
	free(run.pod_id);
	free(run.container_id);
	return exit_code;
}
