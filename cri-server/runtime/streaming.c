/*
 * Exec, Attach and PortForward: checks what is asked for, and what the streaming server then does
 * in the pod (stream_ops).
 *
 * A target holds references to its container or sandbox and, once started, its machine. An exec
 * without a container is a debug console.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/proto/ports.h"
#include "common/fd.h"
#include "cri-server/daemon.h"
#include "cri-server/runtime/debug_console.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/stream/stream.h"

#define CALL_MS 10000
#define DIAL_MS 30000 /* the agent tries several addresses */
#define EXIT_MS 10000 /* from the end of its container to the exec's event */

struct target {
	struct container *container; /* of exec and attach */
	struct sandbox *sandbox;     /* of port-forward and debug consoles */
	struct machine *machine;     /* of exec and attach, once started */
	bool tty, in;

	/* exec */
	char **args;
	size_t n_args;
	struct exec exec;
	bool registered;
	uint64_t lost_ms; /* its container ended, the event is late; 0: no */

	/* attach */
	struct tap *tap;
	bool has_stdin;
};

static void log_console(const struct target *t, const char *what)
{
	log_event(t->machine->runtime->log, LOG_LEVEL_WARNING, what, "pod", t->sandbox->id,
		"command", t->args[0], "exec", t->exec.id, NULL);
}

static void target_end(void *userdata)
{
	struct target *t = userdata;
	if (t->registered) {
		if (!t->container)
			log_console(t, "debug console ended");
		exec_discard(t->machine, &t->exec);
		exec_unregister(t->machine->runtime, &t->exec);
	}
	if (t->has_stdin)
		fanout_stdin_drop(t->container->fanout);
	fanout_untap(t->tap);
	machine_unref(t->machine);
	if (t->container)
		container_unref(t->container);
	if (t->sandbox)
		sandbox_unref(t->sandbox);
	for (size_t i = 0; i < t->n_args; i++)
		free(t->args[i]);
	free(t->args);
	free(t);
}

static int check_state(struct container *c, bool may_be_created, struct err *err)
{
	static const char *const names[] = {
		[BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATED] = "created, not started",
		[BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED] = "exited"};
	sandbox_await_recovery(c->sandbox);
	Bulkhead__Store__ContainerState state = container_state(c);
	if (state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING ||
		(may_be_created && state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATED))
		return 0;
	const char *name = (size_t)state < ARRAY_SIZE(names) ? names[state] : NULL;
	return err_set(err, -EBADFD, "container %s is not running: it is %s", c->id,
		name ? name : "being made or removed");
}

static int take_machine(struct target *t, struct err *err)
{
	t->machine = sandbox_machine(t->container ? t->container->sandbox : t->sandbox, err);
	return t->machine ? 0 : -EBADFD;
}

static int open_exec_streams(struct target *t, int fds[3], struct err *err)
{
	int r = 0;
	const Bulkhead__Agent__Stream streams[] = {BULKHEAD__AGENT__STREAM__STDIN,
		BULKHEAD__AGENT__STREAM__STDOUT, BULKHEAD__AGENT__STREAM__STDERR};
	const bool wanted[] = {t->in, true, !t->tty};
	for (size_t i = 0; i < ARRAY_SIZE(streams) && r == 0; i++)
		if (wanted[i])
			r = exec_open_stream(t->machine, &t->exec, streams[i], &fds[i], NULL, err);
	return r;
}

static void close_all(int fds[3])
{
	for (size_t i = 0; i < 3; i++)
		fds[i] = fd_close(fds[i]);
}

/* Its place is ready, and it is the machine's turn. */
static int run_exec(
	struct target *t, const struct stream_start *start, int ret_fds[3], struct err *err)
{
	_cleanup_free_ uint8_t *console = NULL;
	ProtobufCBinaryData process;
	int r = 0;
	if (t->container) {
		process = t->container->record->process;
	} else {
		r = debug_console_process(&process, err);
		console = r == 0 ? process.data : NULL;
	}
	const struct exec_spec spec = {.process = &process,
		.args = t->args,
		.n_args = t->n_args,
		.terminal = t->tty,
		.stdin = t->in,
		.columns = start->columns,
		.rows = start->rows};
	if (r == 0)
		r = exec_start(t->machine, &t->exec, &spec, err);
	if (r == 0)
		r = open_exec_streams(t, ret_fds, err);
	if (r < 0)
		close_all(ret_fds);
	return r;
}

static void register_exec(struct target *t)
{
	if (t->container)
		exec_register(t->container->sandbox, t->container->id, &t->exec);
	else
		exec_register(t->sandbox, AGENT_GUEST, &t->exec);
	t->registered = true;
	if (!t->container)
		log_console(t, "debug console opened");
}

static int exec_target_start(
	void *userdata, const struct stream_start *start, int ret_fds[3], struct err *err)
{
	struct target *t = userdata;
	t->exec.wake = start->wake;
	t->exec.userdata = start->userdata;
	int r = t->container ? check_state(t->container, false, err) : 0;
	if (r == 0)
		r = take_machine(t, err);
	if (r == 0 && !t->container)
		r = debug_console_prepare(t->machine, err);
	if (r == 0)
		r = exec_turn_begin(t->machine, NULL, UINT64_MAX, err);
	if (r < 0)
		return r;
	register_exec(t);
	r = run_exec(t, start, ret_fds, err);
	exec_turn_end(t->machine);
	if (r < 0)
		err_wrap(err, "exec '%.64s' in %s %s", t->args[0],
			t->container ? "container" : "the guest of pod",
			t->container ? t->container->id : t->sandbox->id);
	return r;
}

/* What ends the exec when it ends itself: its container, or the machine. */
static bool place_runs(const struct target *t)
{
	return t->container ? container_runs(t->container) : t->sandbox->machine == t->machine;
}

static int exec_target_status(void *userdata, int *ret_code, struct err *err)
{
	struct target *t = userdata;
	struct runtime *rt = t->machine->runtime;
	pthread_mutex_lock(&rt->lock);
	bool exited = t->exec.exited;
	bool runs = place_runs(t);
	*ret_code = t->exec.exit_code;
	pthread_mutex_unlock(&rt->lock);
	if (exited)
		return 1;
	if (!runs && !t->lost_ms)
		t->lost_ms = ev_now_ms();
	if (!runs && ev_now_ms() - t->lost_ms >= EXIT_MS)
		return err_set(err, -EIO, "%s ended",
			t->container ? "its container" : "the pod's machine");
	return 0;
}

static int resize(void *userdata, unsigned columns, unsigned rows, struct err *err)
{
	struct target *t = userdata;
	Bulkhead__Agent__ResizeTerminalRequest request =
		BULKHEAD__AGENT__RESIZE_TERMINAL_REQUEST__INIT;
	request.container_id = t->container ? t->container->id : (char *)AGENT_GUEST;
	request.process_id = t->registered ? t->exec.id : (char *)"";
	request.columns = columns;
	request.rows = rows;
	return agent_call(t->machine->agent, "ResizeTerminal", &request.base, CALL_MS, NULL, err);
}

static const struct stream_ops exec_ops = {
	.start = exec_target_start,
	.resize = resize,
	.status = exec_target_status,
	.end = target_end,
};

static int attach_start(
	void *userdata, const struct stream_start *start, int ret_fds[3], struct err *err)
{
	struct target *t = userdata;
	struct container *c = t->container;
	int r = check_state(c, true, err);
	if (r == 0)
		r = take_machine(t, err);
	if (r == 0 && t->in) {
		r = fanout_stdin_take(c->fanout, t->machine->agent, c->id, &ret_fds[0], err);
		t->has_stdin = r == 0;
		if (r == -ENOENT) /* it has ended, once for all */
			r = 0;
	}
	if (r == 0)
		r = fanout_tap(c->fanout, t->tty, &t->tap, &ret_fds[1], err);
	if (r < 0) {
		close_all(ret_fds);
		return err_wrap(err, "attach to container %s", c->id);
	}
	if (t->tty && start->columns)
		resize(t, start->columns, start->rows, NULL);
	return 0;
}

/* Attached clients hear of the end of the streams, not of an exit code, as elsewhere. */
static int attach_status(void *userdata, int *ret_code, struct err *err)
{
	struct target *t = userdata;
	struct runtime *rt = t->container->runtime;
	*ret_code = 0;
	int r = fanout_tap_status(t->tap, err);
	if (r != 0)
		return r;
	pthread_mutex_lock(&rt->lock);
	bool may_write =
		container_runs(t->container) ||
		t->container->record->state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATED;
	bool gone = t->container->gone;
	pthread_mutex_unlock(&rt->lock);
	return !may_write || gone;
}

static const struct stream_ops attach_ops = {
	.start = attach_start,
	.resize = resize,
	.status = attach_status,
	.end = target_end,
};

static int forward_dial(void *userdata, uint16_t port, int *ret_fd, struct err *err)
{
	struct target *t = userdata;
	struct machine *machine = sandbox_machine(t->sandbox, err);
	if (!machine)
		return -EBADFD;
	Bulkhead__Agent__StreamOpen open = BULKHEAD__AGENT__STREAM_OPEN__INIT;
	open.stream = BULKHEAD__AGENT__STREAM__FORWARD;
	open.port = port;
	int r = agent_stream_open(machine->agent, &open, DIAL_MS, ret_fd, NULL, err);
	machine_unref(machine);
	return r;
}

static const struct stream_ops forward_ops = {.dial = forward_dial, .end = target_end};

static int get_url(struct rpc_call *call, const struct stream_request *request, char **ret_url,
	struct err *err)
{
	const struct daemon *daemon = rpc_call_userdata(call);
	return stream_server_url(daemon->streams, request, ret_url, err);
}

static int copy_args(struct target *t, char *const *args, size_t n, struct err *err)
{
	t->args = calloc(n, sizeof(*t->args));
	for (; t->args && t->n_args < n; t->n_args++) {
		t->args[t->n_args] = strdup(args[t->n_args]);
		if (!t->args[t->n_args])
			break;
	}
	return t->args && t->n_args == n ? 0 : err_nomem(err);
}

/* What Exec and Attach have in common. */
struct asked {
	const char *container_id;
	bool tty, in, out, err;
};

static int check_asked(const struct asked *asked, struct err *err)
{
	if (!asked->container_id[0])
		return err_set(err, -EINVAL, "missing required container_id");
	if (asked->tty && asked->err)
		return err_set(err, -EINVAL, "tty and stderr cannot both be true");
	if (!asked->in && !asked->out && !asked->err)
		return err_set(err, -EINVAL, "one of stdin, stdout, or stderr must be set");
	return 0;
}

static int find_place(struct runtime *rt, struct target *t, const struct asked *asked,
	enum stream_kind kind, struct err *err)
{
	int r = kind == STREAM_EXEC ? debug_console_find(rt, asked->container_id, &t->sandbox, err)
				    : 0;
	if (r != 0)
		return r < 0 ? r : 0;
	t->container = container_find(rt, asked->container_id, err);
	return t->container ? check_state(t->container, kind == STREAM_ATTACH, err) : err->code;
}

static int target_new(struct rpc_call *call, const struct asked *asked, enum stream_kind kind,
	struct target **ret, struct err *err)
{
	int r = check_asked(asked, err);
	if (r < 0)
		return r;
	struct target *t = calloc(1, sizeof(*t));
	if (!t)
		return err_nomem(err);
	t->tty = asked->tty;
	t->in = asked->in;
	r = find_place(call_runtime(call), t, asked, kind, err);
	if (r < 0)
		target_end(t);
	else
		*ret = t;
	return r;
}

static struct stream_request make_request(
	struct target *t, const struct asked *asked, enum stream_kind kind)
{
	return (struct stream_request){.kind = kind,
		.tty = t->tty,
		.in = asked->in,
		.out = asked->out,
		.err = asked->err,
		.ops = kind == STREAM_EXEC ? &exec_ops : &attach_ops,
		.target = t,
		.pod = t->container ? t->container->sandbox->id : t->sandbox->id};
}

METHOD(streaming_service_exec)
{
	const Runtime__V1__ExecRequest *req = (const Runtime__V1__ExecRequest *)request;
	const struct asked asked = {
		req->container_id, req->tty, req->stdin, req->stdout, req->stderr};
	struct target *t = NULL;
	size_t bytes;
	int r = exec_check_command(req->cmd, req->n_cmd, &bytes, err);
	if (r < 0)
		return r;
	r = target_new(call, &asked, STREAM_EXEC, &t, err);
	if (r < 0)
		return r;
	r = copy_args(t, req->cmd, req->n_cmd, err);
	if (r < 0) {
		target_end(t);
		return r;
	}
	struct stream_request stream = make_request(t, &asked, STREAM_EXEC);
	stream.bytes = bytes;
	_cleanup_free_ char *url = NULL;
	r = get_url(call, &stream, &url, err);
	Runtime__V1__ExecResponse response = RUNTIME__V1__EXEC_RESPONSE__INIT;
	response.url = url;
	return r < 0 ? r : respond(&response.base, ret_response, err);
}

METHOD(streaming_service_attach)
{
	const Runtime__V1__AttachRequest *req = (const Runtime__V1__AttachRequest *)request;
	const struct asked asked = {
		req->container_id, req->tty, req->stdin, req->stdout, req->stderr};
	struct target *t = NULL;
	int r = target_new(call, &asked, STREAM_ATTACH, &t, err);
	if (r < 0)
		return r;
	const Runtime__V1__ContainerConfig *config = t->container->config;
	struct stream_request stream = make_request(t, &asked, STREAM_ATTACH);
	/* The container decides whether there is a terminal and what the end of stdin means. */
	t->tty = config->tty;
	t->in = asked.in && config->stdin;
	stream.in_stays_open = !config->stdin_once || config->tty;
	_cleanup_free_ char *url = NULL;
	r = get_url(call, &stream, &url, err);
	Runtime__V1__AttachResponse response = RUNTIME__V1__ATTACH_RESPONSE__INIT;
	response.url = url;
	return r < 0 ? r : respond(&response.base, ret_response, err);
}

/* Kubelets name them for clients that cannot: forward.c. */
static int take_ports(
	struct stream_request *stream, const Runtime__V1__PortForwardRequest *req, struct err *err)
{
	if (req->n_port > STREAM_PORTS_MAX)
		return err_set(
			err, -EINVAL, "%zu ports, more than %d", req->n_port, STREAM_PORTS_MAX);
	for (; stream->n_ports < req->n_port; stream->n_ports++) {
		int32_t port = req->port[stream->n_ports];
		if (port < 1 || port > UINT16_MAX)
			return err_set(err, -EINVAL, "%d is not a port", port);
		stream->ports[stream->n_ports] = (uint16_t)port;
	}
	return 0;
}

METHOD(streaming_service_port_forward)
{
	const Runtime__V1__PortForwardRequest *req =
		(const Runtime__V1__PortForwardRequest *)request;
	if (!req->pod_sandbox_id[0])
		return err_set(err, -EINVAL, "missing required pod_sandbox_id");
	struct stream_request stream = {.kind = STREAM_FORWARD, .ops = &forward_ops};
	int r = take_ports(&stream, req, err);
	if (r < 0)
		return r;
	struct target *t = calloc(1, sizeof(*t));
	if (!t)
		return err_nomem(err);
	t->sandbox = sandbox_find(call_runtime(call), req->pod_sandbox_id, err);
	if (!t->sandbox || sandbox_check_runs(t->sandbox, err) < 0) {
		target_end(t);
		return err->code;
	}
	stream.target = t;
	stream.pod = t->sandbox->id;
	_cleanup_free_ char *url = NULL;
	r = get_url(call, &stream, &url, err);
	Runtime__V1__PortForwardResponse response = RUNTIME__V1__PORT_FORWARD_RESPONSE__INIT;
	response.url = url;
	return r < 0 ? r : respond(&response.base, ret_response, err);
}
