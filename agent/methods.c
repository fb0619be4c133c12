#include "agent/methods.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"

ProtobufCMessage *message_copy(const ProtobufCMessage *message)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	_cleanup_free_ uint8_t *packed = malloc(len + 1);
	if (!packed)
		return NULL;
	protobuf_c_message_pack(message, packed);
	return protobuf_c_message_unpack(message->descriptor, NULL, len, packed);
}

static void fail(struct ttrpc_call *call, int code, const char *message)
{
	struct err err = ERR_INIT;
	err_set(&err, code, "%s", message);
	ttrpc_fail(call, &err);
}

/* What the kernel would refuse anyway, said with the field's name. */
static int process_check(const Bulkhead__Agent__Process *process, struct err *err)
{
	if (!process || !process->n_args || !process->args[0][0])
		return err_set(err, -EINVAL, "no program to run: args is empty");
	for (size_t i = 0; i < process->n_env; i++)
		if (!strchr(process->env[i], '=') || process->env[i][0] == '=')
			return err_set(err, -EINVAL, "env %zu is not KEY=VALUE", i);
	if (process->cwd[0] && process->cwd[0] != '/')
		return err_set(err, -EINVAL, "cwd is not an absolute path");
	if (process->oom_score_adj < -1000 || process->oom_score_adj > 1000)
		return err_set(err, -EINVAL, "oom_score_adj %d is not within -1000 to 1000",
			process->oom_score_adj);
	return 0;
}

/* The container is gone, or what is left is in err: everybody who waits hears of it. */
static void on_removed(void *userdata, pid_t pid, const struct err *err)
{
	struct process *init = userdata;
	(void)pid;
	Bulkhead__Agent__RemoveContainerResponse response =
		BULKHEAD__AGENT__REMOVE_CONTAINER_RESPONSE__INIT;
	for (unsigned i = 0; i < init->n_removers; i++) {
		if (err->code < 0)
			ttrpc_fail(init->removers[i], err);
		else
			ttrpc_reply(init->removers[i], &response.base);
	}
	init->n_removers = 0;
	init->stuck = err->code < 0;
	if (init->stuck) {
		registry_fail_call(init);
	} else {
		init->container = NULL;
		registry_drop(init);
	}
}

static void remove_init(struct process *init)
{
	init->removing = true;
	init->stuck = false;
	registry_drop_execs(init);
	container_remove(init->container, on_removed, init);
}

static void on_created(void *userdata, pid_t pid, const struct err *err)
{
	struct process *init = userdata;
	if (err->code < 0) {
		init->failure = *err;
		remove_init(init);
		return;
	}
	init->pid = pid;
	Bulkhead__Agent__CreateContainerResponse response =
		BULKHEAD__AGENT__CREATE_CONTAINER_RESPONSE__INIT;
	container_user(init->container, &response);
	ttrpc_reply(TAKE_PTR(init->call), &response.base);
}

static int find_target(
	struct server_state *state, const char *id, const struct container **ret, struct err *err)
{
	struct process *target;
	int r = registry_find(&state->registry, id, "", &target, err);
	if (r < 0)
		return err_wrap(err, "target container");
	*ret = target->container;
	return 0;
}

static int need_configured(const struct server_state *state, struct err *err)
{
	return state->configured ? 0 : err_set(err, -EBADFD, "the sandbox is not configured");
}

static int need_host(struct server_state *state, struct err *err)
{
	return state->host ? 0
			   : container_host_new(
				     state->loop, state->reaper, &state->ids, &state->host, err);
}

static int create(struct server_state *state, struct process *init,
	const Bulkhead__Agent__CreateContainerRequest *request, struct err *err)
{
	int r = need_host(state, err);
	if (r == 0)
		r = stdio_new(state->loop, request->process, &init->stdio, err);
	if (r < 0)
		return r;
	struct container_callbacks callbacks = {
		.on_done = on_created, .on_exit = process_on_exit, .userdata = init};
	const struct container *target = NULL;
	if (request->target_container_id[0])
		r = find_target(state, request->target_container_id, &target, err);
	if (r == 0)
		r = container_create(state->host, request, target, stdio_child(init->stdio),
			&callbacks, &init->container, err);
	stdio_child_close(init->stdio);
	return r;
}

void method_create_container(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server_state *state = userdata;
	const Bulkhead__Agent__CreateContainerRequest *request = (const void *)msg;
	struct err err = ERR_INIT;
	struct process *init = NULL;
	int r = need_configured(state, &err);
	if (r == 0)
		r = process_check(request->process, &err);
	if (r == 0)
		r = registry_add(&state->registry, request->container_id, "", &init, &err);
	if (r == 0)
		r = create(state, init, request, &err);
	if (r == 0) {
		init->call = call;
		return;
	}
	if (init)
		registry_drop(init);
	ttrpc_fail(call, &err);
}

static void on_started(void *userdata, pid_t pid, const struct err *err)
{
	struct process *init = userdata;
	struct ttrpc_call *call = TAKE_PTR(init->call);
	if (err->code < 0) {
		ttrpc_fail(call, err);
		return;
	}
	init->pid = pid;
	Bulkhead__Agent__StartContainerResponse response =
		BULKHEAD__AGENT__START_CONTAINER_RESPONSE__INIT;
	response.pid = (uint32_t)pid;
	response.started_ns = init->started_ns;
	ttrpc_reply(call, &response.base);
}

static const char *why_not_startable(const struct process *init)
{
	if (init->removing)
		return "the container is being removed";
	if (init->ended)
		return "the container has exited";
	if (init->state != BULKHEAD__AGENT__PROCESS_STATE__PROCESS_CREATED)
		return "the container was started before";
	return init->call ? "the container is still being created" : NULL;
}

/* It counts as running from here on, so that an exit before the answer is one of a started
 * container. */
void method_start_container(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server_state *state = userdata;
	const Bulkhead__Agent__StartContainerRequest *request = (const void *)msg;
	struct err err = ERR_INIT;
	struct process *init;
	if (registry_find(&state->registry, request->container_id, "", &init, &err) < 0) {
		ttrpc_fail(call, &err);
		return;
	}
	const char *why = why_not_startable(init);
	if (why) {
		fail(call, -EBADFD, why);
		return;
	}
	if (container_start(init->container, on_started, init, &err) < 0) {
		ttrpc_fail(call, &err);
		return;
	}
	init->call = call;
	init->started_ns = realtime_ns();
	init->state = BULKHEAD__AGENT__PROCESS_STATE__PROCESS_RUNNING;
}

static int signal_process(struct process *process,
	const Bulkhead__Agent__SignalProcessRequest *request, struct err *err)
{
	if (request->signal < 1 || request->signal >= (uint32_t)_NSIG)
		return err_set(err, -EINVAL, "%u is not a signal", request->signal);
	if (process->removing || (process->ended && !request->all))
		return 0;
	if (process->exec)
		return container_exec_signal(
			process->exec, (int)request->signal, request->all, err);
	return container_signal(process->container, (int)request->signal, request->all, err);
}

void method_signal_process(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server_state *state = userdata;
	const Bulkhead__Agent__SignalProcessRequest *request = (const void *)msg;
	struct err err = ERR_INIT;
	struct process *process;
	int r = registry_find(
		&state->registry, request->container_id, request->process_id, &process, &err);
	if (r == 0)
		r = signal_process(process, request, &err);
	if (r < 0) {
		ttrpc_fail(call, &err);
		return;
	}
	Bulkhead__Agent__SignalProcessResponse response =
		BULKHEAD__AGENT__SIGNAL_PROCESS_RESPONSE__INIT;
	ttrpc_reply(call, &response.base);
}

void method_remove_container(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server_state *state = userdata;
	const Bulkhead__Agent__RemoveContainerRequest *request = (const void *)msg;
	struct process *init;
	if (registry_find(&state->registry, request->container_id, "", &init, NULL) < 0) {
		Bulkhead__Agent__RemoveContainerResponse response =
			BULKHEAD__AGENT__REMOVE_CONTAINER_RESPONSE__INIT;
		ttrpc_reply(call, &response.base);
		return;
	}
	if (init->n_removers == REMOVERS_MAX) {
		fail(call, -EAGAIN, "the container is being removed for others already");
		return;
	}
	init->removers[init->n_removers++] = call;
	if (!init->removing || init->stuck)
		remove_init(init);
}

static void on_exec_done(void *userdata, pid_t pid, const struct err *err)
{
	struct process *process = userdata;
	if (err->code < 0) {
		process->failure = *err;
		registry_drop(process);
		return;
	}
	process->pid = pid;
	process->started_ns = realtime_ns();
	process->state = BULKHEAD__AGENT__PROCESS_STATE__PROCESS_RUNNING;
	Bulkhead__Agent__ExecResponse response = BULKHEAD__AGENT__EXEC_RESPONSE__INIT;
	response.pid = (uint32_t)pid;
	ttrpc_reply(TAKE_PTR(process->call), &response.base);
}

/* `init`: of the container; NULL: in the guest itself. */
static int exec_in(struct server_state *state, struct process *init, struct process *process,
	const Bulkhead__Agent__Process *asked, struct err *err)
{
	int r = need_host(state, err);
	if (r == 0)
		r = stdio_new(state->loop, asked, &process->stdio, err);
	if (r < 0)
		return r;
	struct container_callbacks callbacks = {
		.on_done = on_exec_done, .on_exit = process_on_exit, .userdata = process};
	const struct stdio_child *stdio = stdio_child(process->stdio);
	r = init ? container_exec(init->container, asked, stdio, &callbacks, &process->exec, err)
		 : container_host_exec(state->host, asked, stdio, &callbacks, &process->exec, err);
	stdio_child_close(process->stdio);
	return r;
}

static int exec_check(
	const Bulkhead__Agent__ExecRequest *request, const struct process *init, struct err *err)
{
	if (!request->process_id[0])
		return err_set(err, -EINVAL, "an exec needs a process id");
	if (init && (init->removing || init->ended || init->call ||
			    init->state != BULKHEAD__AGENT__PROCESS_STATE__PROCESS_RUNNING))
		return err_set(err, -EBADFD, "container '%s' is not running", init->container_id);
	return process_check(request->process, err);
}

void method_exec(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server_state *state = userdata;
	const Bulkhead__Agent__ExecRequest *request = (const void *)msg;
	struct err err = ERR_INIT;
	struct process *init = NULL;
	struct process *process = NULL;
	int r = strcmp(request->container_id, AGENT_GUEST) == 0
			? need_configured(state, &err)
			: registry_find(&state->registry, request->container_id, "", &init, &err);
	if (r == 0)
		r = exec_check(request, init, &err);
	if (r == 0)
		r = registry_add(&state->registry, request->container_id, request->process_id,
			&process, &err);
	if (r == 0)
		r = exec_in(state, init, process, request->process, &err);
	if (r == 0) {
		process->call = call;
		return;
	}
	if (process)
		registry_drop(process);
	ttrpc_fail(call, &err);
}

void method_remove_process(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server_state *state = userdata;
	const Bulkhead__Agent__RemoveProcessRequest *request = (const void *)msg;
	if (!request->process_id[0]) {
		fail(call, -EINVAL, "a container's init is removed with its container");
		return;
	}
	struct process *process;
	if (registry_find(&state->registry, request->container_id, request->process_id, &process,
		    NULL) == 0)
		registry_drop(process);
	Bulkhead__Agent__RemoveProcessResponse response =
		BULKHEAD__AGENT__REMOVE_PROCESS_RESPONSE__INIT;
	ttrpc_reply(call, &response.base);
}

void method_resize_terminal(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server_state *state = userdata;
	const Bulkhead__Agent__ResizeTerminalRequest *request = (const void *)msg;
	struct err err = ERR_INIT;
	struct process *process;
	int r = registry_find(
		&state->registry, request->container_id, request->process_id, &process, &err);
	if (r == 0)
		r = stdio_resize(process->stdio, request->columns, request->rows, &err);
	if (r < 0) {
		ttrpc_fail(call, &err);
		return;
	}
	Bulkhead__Agent__ResizeTerminalResponse response =
		BULKHEAD__AGENT__RESIZE_TERMINAL_RESPONSE__INIT;
	ttrpc_reply(call, &response.base);
}

static void fill_info(Bulkhead__Agent__ProcessInfo *info, struct process *process)
{
	bulkhead__agent__process_info__init(info);
	info->container_id = process->container_id;
	info->process_id = process->process_id;
	info->state = process->state;
	info->pid = (uint32_t)process->pid;
	info->started_ns = process->started_ns;
}

void method_list_containers(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	struct server_state *state = userdata;
	struct registry *registry = &state->registry;
	(void)msg;
	size_t n = registry->n_processes;
	_cleanup_free_ Bulkhead__Agent__ProcessInfo *infos = calloc(n + 1, sizeof(*infos));
	_cleanup_free_ Bulkhead__Agent__ProcessInfo **pointers = calloc(n + 1, sizeof(*pointers));
	if (!infos || !pointers) {
		fail(call, -ENOMEM, "out of memory");
		return;
	}
	Bulkhead__Agent__ListContainersResponse response =
		BULKHEAD__AGENT__LIST_CONTAINERS_RESPONSE__INIT;
	for (struct process *p = registry->processes; p; p = p->next) {
		/* What is still being made or already removed is no process of the host's. */
		bool making =
			p->state == BULKHEAD__AGENT__PROCESS_STATE__PROCESS_CREATED && p->call;
		if (making || p->removing)
			continue;
		fill_info(&infos[response.n_processes], p);
		pointers[response.n_processes] = &infos[response.n_processes];
		response.n_processes++;
	}
	response.processes = pointers;
	ttrpc_reply(call, &response.base);
}
