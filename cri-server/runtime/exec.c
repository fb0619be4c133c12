/*
 * ExecSync: runs a command in a container and returns what it wrote.
 *
 * The command's streams are read here until both end; then its exit event, which the agent sends
 * after draining them, ends the wait: a command may close its output and run on. What it leaves
 * behind may hold them open: then silence ends the wait. At the timeout its whole process tree is
 * killed.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/buf.h"
#include "common/fd.h"
#include "cri-server/runtime/internal.h"

#define CALL_MS       10000
#define START_MS      60000  /* many may be started at once */
#define STARTS_MAX    8      /* of a machine at once */
#define TURN_MS       300000 /* while nobody else's turn ends */
#define TURN_LOOK_MS  1000
#define EXIT_MS       10000    /* from the end of its container to the event */
#define LOOK_MS       200      /* between looks at what no condition and no descriptor tells of */
#define DRAIN_MS      1000     /* of silence, after its end */
#define TIMEOUT_S_MAX 31536000 /* more is no limit */
#define OUTPUT_MAX    (16u << 20) /* both streams together: a client's limit of a message */
#define RESPONSE_ROOM 1024        /* so that the answer itself stays below gRPC's limit */

struct exec_sync {
	struct container *container;
	struct machine *machine;
	struct exec exec;
	struct rpc_call *call;
	uint64_t deadline_ms; /* UINT64_MAX: none */
	int fds[2];
	uint64_t offsets[2];
	struct buf output[2];
};

bool exec_exited(struct sandbox *sandbox, const Bulkhead__Agent__Event *event)
{
	struct runtime *rt = sandbox->runtime;
	struct exec *exec;
	bool awaited = false;
	pthread_mutex_lock(&rt->lock);
	TAILQ_FOREACH(exec, &rt->execs, link) {
		if (exec->exited || strcmp(exec->sandbox_id, sandbox->id) != 0 ||
			strcmp(exec->id, event->process_id) != 0)
			continue;
		exec->exited = true;
		exec->exit_code = event->exit->code;
		if (exec->wake)
			exec->wake(exec->userdata);
		awaited = true;
		pthread_cond_broadcast(&exec->changed);
		break;
	}
	pthread_mutex_unlock(&rt->lock);
	return awaited;
}

/* Programs on a terminal ask for its kind; an image that says one knows better. */
static int add_term(Bulkhead__Agent__Process *process, struct err *err)
{
	for (size_t i = 0; i < process->n_env; i++)
		if (strncmp(process->env[i], "TERM=", 5) == 0)
			return 0;
	char **env = realloc(process->env, (process->n_env + 1) * sizeof(*env));
	if (!env)
		return err_nomem(err);
	process->env = env;
	env[process->n_env] = strdup("TERM=xterm");
	if (!env[process->n_env])
		return err_nomem(err);
	process->n_env++;
	return 0;
}

int exec_check_command(char *const *args, size_t n, size_t *ret_bytes, struct err *err)
{
	size_t bytes = 0;
	if (!n)
		return err_set(err, -EINVAL, "the command is empty");
	if (n > EXEC_ARGS_MAX)
		return err_set(err, -EINVAL, "the command has %zu arguments, more than %d", n,
			EXEC_ARGS_MAX);
	for (size_t i = 0; i < n; i++)
		bytes += strlen(args[i]) + 1 + sizeof(args[i]);
	if (bytes > EXEC_BYTES_MAX)
		return err_set(err, -EINVAL,
			"the command has %zu bytes, more than the %u that a process can be "
			"started with: what is so long is better sent to its stdin",
			bytes, EXEC_BYTES_MAX);
	*ret_bytes = bytes;
	return 0;
}

int exec_start(struct machine *machine, const struct exec *exec, const struct exec_spec *spec,
	struct err *err)
{
	const ProtobufCBinaryData *packed = spec->process;
	Bulkhead__Agent__Process *process =
		bulkhead__agent__process__unpack(NULL, packed->len, packed->data);
	if (!process)
		return err_nomem(err);
	char **own_args = process->args;
	size_t n_own_args = process->n_args;
	int r = spec->terminal ? add_term(process, err) : 0;
	process->args = spec->args;
	process->n_args = spec->n_args;
	process->terminal = spec->terminal;
	process->stdin = process->stdin_once = spec->stdin;
	process->columns = spec->columns;
	process->rows = spec->rows;
	Bulkhead__Agent__ExecRequest ask = BULKHEAD__AGENT__EXEC_REQUEST__INIT;
	ask.container_id = (char *)exec->container_id;
	ask.process_id = (char *)exec->id;
	ask.process = process;
	if (r == 0)
		r = agent_call(machine->agent, "Exec", &ask.base, START_MS, NULL, err);
	r = container_image_error(r, err);
	process->args = own_args;
	process->n_args = n_own_args;
	bulkhead__agent__process__free_unpacked(process, NULL);
	return r;
}

int exec_open_stream(struct machine *machine, const struct exec *exec,
	Bulkhead__Agent__Stream stream, int *ret_fd, uint64_t *ret_offset, struct err *err)
{
	Bulkhead__Agent__StreamOpen open = BULKHEAD__AGENT__STREAM_OPEN__INIT;
	open.container_id = (char *)exec->container_id;
	open.process_id = (char *)exec->id;
	open.stream = stream;
	return agent_stream_open(machine->agent, &open, START_MS, ret_fd, ret_offset, err);
}

static int open_streams(struct exec_sync *x, struct err *err)
{
	static const Bulkhead__Agent__Stream streams[] = {
		BULKHEAD__AGENT__STREAM__STDOUT, BULKHEAD__AGENT__STREAM__STDERR};
	for (size_t i = 0; i < ARRAY_SIZE(streams); i++) {
		int r = exec_open_stream(
			x->machine, &x->exec, streams[i], &x->fds[i], &x->offsets[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int read_stream(struct exec_sync *x, size_t i, struct err *err)
{
	char chunk[32768];
	ssize_t n = recv(x->fds[i], chunk, sizeof(chunk), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0) {
		x->fds[i] = fd_close(x->fds[i]);
		return 0;
	}
	/* CRI: what does not fit is left out, and the command goes on without an error. */
	size_t room = OUTPUT_MAX - RESPONSE_ROOM - x->output[0].len - x->output[1].len;
	if (buf_append(&x->output[i], chunk, (size_t)n < room ? (size_t)n : room) < 0)
		return err_nomem(err);
	x->offsets[i] += (uint64_t)n;
	agent_stream_ack(x->fds[i], x->offsets[i], NULL); /* fails only when the stream ends */
	return 0;
}

static int timed_out(struct err *err)
{
	return err_set(err, -ETIMEDOUT, "it ran longer than its timeout");
}

static int gone(struct err *err)
{
	return err_set(err, -ECANCELED, "the caller went away");
}

static bool has_exited(const struct exec_sync *x)
{
	struct runtime *rt = x->container->runtime;
	pthread_mutex_lock(&rt->lock);
	bool exited = x->exec.exited;
	pthread_mutex_unlock(&rt->lock);
	return exited;
}

/*
 * It has ended, and whoever holds its streams still has written nothing for a while since: its last
 * words are on their way when its end is known. *since_ms: UINT64_MAX, or when nothing was heard
 * last.
 */
static bool left_behind(const struct exec_sync *x, uint64_t *since_ms)
{
	if (*since_ms == UINT64_MAX && has_exited(x))
		*since_ms = ev_now_ms();
	return *since_ms != UINT64_MAX && ev_now_ms() - *since_ms >= DRAIN_MS;
}

static int read_output(struct exec_sync *x, struct err *err)
{
	uint64_t silent_since_ms = UINT64_MAX;
	while ((x->fds[0] >= 0 || x->fds[1] >= 0) && !left_behind(x, &silent_since_ms)) {
		uint64_t now = ev_now_ms();
		if (now >= x->deadline_ms)
			return timed_out(err);
		uint64_t left = x->deadline_ms - now;
		struct pollfd polls[] = {
			{.fd = x->fds[0], .events = POLLIN},
			{.fd = x->fds[1], .events = POLLIN},
			{.fd = rpc_call_cancel_fd(x->call), .events = POLLIN},
		};
		if (poll(polls, ARRAY_SIZE(polls), left > LOOK_MS ? LOOK_MS : (int)left) < 0 &&
			errno != EINTR)
			return err_errno(err, "poll");
		if (polls[2].revents)
			return gone(err);
		for (size_t i = 0; i < 2; i++)
			if (polls[i].revents) {
				silent_since_ms = UINT64_MAX;
				int r = read_stream(x, i, err);
				if (r < 0)
					return r;
			}
	}
	return 0;
}

static int wait_exit(struct exec_sync *x, struct err *err)
{
	struct runtime *rt = x->container->runtime;
	uint64_t end_ms = UINT64_MAX; /* its container ended, the event is late */
	int r = 0;
	pthread_mutex_lock(&rt->lock);
	while (!x->exec.exited && r == 0) {
		uint64_t now = ev_now_ms();
		if (end_ms == UINT64_MAX && !container_runs(x->container))
			end_ms = now + EXIT_MS;
		if (now >= x->deadline_ms)
			r = timed_out(err);
		else if (now >= end_ms)
			r = err_set(err, -EIO, "its container ended");
		else if (rpc_call_cancelled(x->call))
			r = gone(err);
		else
			wait_until(rt, &x->exec.changed, now + LOOK_MS);
	}
	pthread_mutex_unlock(&rt->lock);
	return r;
}

void exec_discard(struct machine *machine, const struct exec *exec)
{
	Bulkhead__Agent__RemoveProcessRequest request =
		BULKHEAD__AGENT__REMOVE_PROCESS_REQUEST__INIT;
	request.container_id = (char *)exec->container_id;
	request.process_id = (char *)exec->id;
	agent_call(machine->agent, "RemoveProcess", &request.base, CALL_MS, NULL, NULL);
}

int exec_turn_begin(
	struct machine *machine, struct rpc_call *call, uint64_t deadline_ms, struct err *err)
{
	struct runtime *rt = machine->runtime;
	uint64_t begin_ms = ev_now_ms();
	int r = 0;
	pthread_mutex_lock(&rt->lock);
	while (machine->starts >= STARTS_MAX && r == 0) {
		uint64_t now = ev_now_ms();
		uint64_t moved_ms = machine->turn_ended_ms;
		uint64_t end_ms = (moved_ms > begin_ms ? moved_ms : begin_ms) + TURN_MS;
		if (deadline_ms < end_ms)
			end_ms = deadline_ms;
		if (now >= end_ms)
			r = end_ms == deadline_ms
				    ? timed_out(err)
				    : err_set(err, -EAGAIN, "too many processes are being started");
		else if (call && rpc_call_cancelled(call))
			r = gone(err);
		else
			wait_until(rt, &machine->fewer_starts,
				end_ms - now < TURN_LOOK_MS ? end_ms : now + TURN_LOOK_MS);
	}
	machine->starts += r == 0;
	pthread_mutex_unlock(&rt->lock);
	return r;
}

void exec_turn_end(struct machine *machine)
{
	struct runtime *rt = machine->runtime;
	pthread_mutex_lock(&rt->lock);
	machine->starts--;
	machine->turn_ended_ms = ev_now_ms();
	pthread_cond_signal(&machine->fewer_starts);
	pthread_mutex_unlock(&rt->lock);
}

static int run(struct exec_sync *x, const Runtime__V1__ExecSyncRequest *request, struct err *err)
{
	const struct exec_spec spec = {.process = &x->container->record->process,
		.args = request->cmd,
		.n_args = request->n_cmd};
	int r = exec_turn_begin(x->machine, x->call, x->deadline_ms, err);
	if (r < 0)
		return r;
	r = exec_start(x->machine, &x->exec, &spec, err);
	if (r == 0)
		r = open_streams(x, err);
	exec_turn_end(x->machine);
	if (r == 0)
		r = read_output(x, err);
	if (r == 0)
		r = wait_exit(x, err);
	/* After a failed start too: an answer that did not come says nothing of what runs. */
	exec_discard(x->machine, &x->exec);
	return r;
}

void exec_register(struct sandbox *sandbox, const char *container_id, struct exec *exec)
{
	struct runtime *rt = sandbox->runtime;
	ev_cond_init(&exec->changed);
	exec->sandbox_id = sandbox->id;
	exec->container_id = container_id;
	make_id(exec->id);
	pthread_mutex_lock(&rt->lock);
	TAILQ_INSERT_TAIL(&rt->execs, exec, link);
	pthread_mutex_unlock(&rt->lock);
}

void exec_unregister(struct runtime *rt, struct exec *exec)
{
	pthread_mutex_lock(&rt->lock);
	TAILQ_REMOVE(&rt->execs, exec, link);
	pthread_mutex_unlock(&rt->lock);
	pthread_cond_destroy(&exec->changed);
}

static int exec_in(struct exec_sync *x, const Runtime__V1__ExecSyncRequest *request,
	struct rpc_answer *ret_response, struct err *err)
{
	sandbox_await_recovery(x->container->sandbox);
	pthread_mutex_lock(&x->container->runtime->lock);
	bool runs = container_runs(x->container);
	pthread_mutex_unlock(&x->container->runtime->lock);
	if (!runs)
		return err_set(err, -EBADFD, "container %s does not run", x->container->id);
	x->machine = sandbox_machine(x->container->sandbox, err);
	if (!x->machine)
		return -EBADFD;
	exec_register(x->container->sandbox, x->container->id, &x->exec);
	int r = run(x, request, err);
	exec_unregister(x->container->runtime, &x->exec);
	fd_close(x->fds[0]);
	fd_close(x->fds[1]);
	machine_unref(x->machine);
	if (r < 0)
		return err_wrap(
			err, "exec '%.64s' in container %s", request->cmd[0], x->container->id);
	Runtime__V1__ExecSyncResponse response = RUNTIME__V1__EXEC_SYNC_RESPONSE__INIT;
	response.stdout = (ProtobufCBinaryData){x->output[0].len, (uint8_t *)x->output[0].data};
	response.stderr = (ProtobufCBinaryData){x->output[1].len, (uint8_t *)x->output[1].data};
	response.exit_code = x->exec.exit_code;
	return respond(&response.base, ret_response, err);
}

METHOD(exec_service_sync)
{
	const Runtime__V1__ExecSyncRequest *req = (const Runtime__V1__ExecSyncRequest *)request;
	size_t bytes;
	int r = exec_check_command(req->cmd, req->n_cmd, &bytes, err);
	if (r < 0)
		return r;
	if (req->timeout < 0)
		return err_set(err, -EINVAL, "timeout %lld is negative", (long long)req->timeout);
	bool limited = req->timeout > 0 && req->timeout <= TIMEOUT_S_MAX;
	struct exec_sync x = {
		.call = call,
		.fds = {-EBADF, -EBADF},
		.deadline_ms = limited ? ev_now_ms() + (uint64_t)req->timeout * 1000 : UINT64_MAX,
		.output = {buf_init(OUTPUT_MAX), buf_init(OUTPUT_MAX)},
	};
	x.container = container_find(call_runtime(call), req->container_id, err);
	if (!x.container)
		return err->code;
	r = exec_in(&x, req, ret_response, err);
	buf_done(&x.output[0]);
	buf_done(&x.output[1]);
	container_unref(x.container);
	return r;
}
