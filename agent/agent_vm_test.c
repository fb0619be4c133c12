/*
 * The agent as PID 1 of a real machine, driven through the host's client: containers, streams,
 * exits. One machine for all tests, which run in order. Skips where vm_fixture.h's needs are not
 * met.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/client/clock.h"
#include "agent/vm_fixture.h"
#include "common/buf.h"
#include "common/fd.h"

#define CALL_MS   60000
#define OUTPUT_MS 60000
#define SECOND_NS INT64_C(1000000000)
#define HOUR_NS   (3600 * SECOND_NS)

struct context {
	struct vm vm;
	bool runs;
	bool failed;
};

#define VM(state)                                                                                  \
	({                                                                                         \
		struct context *_context = *(state);                                               \
		if (!_context->runs)                                                               \
			skip();                                                                    \
		&_context->vm;                                                                     \
	})

static char *default_env[] = {"PATH=/bin", "HOME=/"};

static int call(struct vm *vm, const char *method, const void *request, struct err *err)
{
	return agent_call(vm->agent, method, request, CALL_MS, NULL, err);
}

static void must(int r, const struct err *err)
{
	if (r < 0)
		fail_msg("%s", err->msg);
}

/* A process that runs `sh -c script`. */
struct command {
	Bulkhead__Agent__Process process;
	Bulkhead__Agent__User user;
	char *args[3];
};

static char *default_capabilities[] = {"CAP_NET_RAW"};

static struct command *shell_command(struct command *command, const char *script)
{
	bulkhead__agent__process__init(&command->process);
	bulkhead__agent__user__init(&command->user);
	command->args[0] = (char *)"/bin/sh";
	command->args[1] = (char *)"-c";
	command->args[2] = (char *)script;
	command->process.n_args = 3;
	command->process.args = command->args;
	command->process.n_env = 2;
	command->process.env = default_env;
	command->process.user = &command->user;
	command->process.cwd = (char *)"/";
	command->process.n_capabilities = ARRAY_SIZE(default_capabilities);
	command->process.capabilities = default_capabilities;
	return command;
}

static int create(struct vm *vm, const char *id, struct command *command, struct err *err)
{
	uint32_t layers[] = {1};
	Bulkhead__Agent__CreateContainerRequest request =
		BULKHEAD__AGENT__CREATE_CONTAINER_REQUEST__INIT;
	request.container_id = (char *)id;
	request.n_layer_targets = 1;
	request.layer_targets = layers;
	request.process = &command->process;
	return call(vm, "CreateContainer", &request, err);
}

static int start(struct vm *vm, const char *id, struct err *err)
{
	Bulkhead__Agent__StartContainerRequest request =
		BULKHEAD__AGENT__START_CONTAINER_REQUEST__INIT;
	request.container_id = (char *)id;
	return call(vm, "StartContainer", &request, err);
}

static int send_signal(struct vm *vm, const char *id, int signo, bool all, struct err *err)
{
	Bulkhead__Agent__SignalProcessRequest request =
		BULKHEAD__AGENT__SIGNAL_PROCESS_REQUEST__INIT;
	request.container_id = (char *)id;
	request.signal = (uint32_t)signo;
	request.all = all;
	return call(vm, "SignalProcess", &request, err);
}

static void remove_container(struct vm *vm, const char *id)
{
	struct err err = ERR_INIT;
	Bulkhead__Agent__RemoveContainerRequest request =
		BULKHEAD__AGENT__REMOVE_CONTAINER_REQUEST__INIT;
	request.container_id = (char *)id;
	must(call(vm, "RemoveContainer", &request, &err), &err);
}

static int exec(struct vm *vm, const char *id, const char *process_id, struct command *command,
	struct err *err)
{
	Bulkhead__Agent__ExecRequest request = BULKHEAD__AGENT__EXEC_REQUEST__INIT;
	request.container_id = (char *)id;
	request.process_id = (char *)process_id;
	request.process = &command->process;
	return call(vm, "Exec", &request, err);
}

static int open_stream(struct vm *vm, const char *id, const char *process_id,
	Bulkhead__Agent__Stream stream, uint64_t offset)
{
	struct err err = ERR_INIT;
	int fd = -EBADF;
	Bulkhead__Agent__StreamOpen open = BULKHEAD__AGENT__STREAM_OPEN__INIT;
	open.container_id = (char *)id;
	open.process_id = (char *)process_id;
	open.stream = stream;
	open.offset = offset;
	must(agent_stream_open(vm->agent, &open, CALL_MS, &fd, NULL, &err), &err);
	return fd;
}

/* All of a stream to its end, acknowledged; the caller frees it. */
static char *read_stream(
	struct vm *vm, const char *id, const char *process_id, Bulkhead__Agent__Stream stream)
{
	struct buf out = buf_init(1 << 20);
	char data[4096];
	_cleanup_close_ int fd = open_stream(vm, id, process_id, stream, 0);
	ssize_t n;
	while ((n = read(fd, data, sizeof(data))) > 0) {
		assert_int_equal(buf_append(&out, data, (size_t)n), 0);
		agent_stream_ack(fd, out.len, NULL);
	}
	return buf_string(&out);
}

static void assert_output(struct vm *vm, const char *id, const char *process_id,
	Bulkhead__Agent__Stream stream, const char *expected)
{
	_cleanup_free_ char *text = read_stream(vm, id, process_id, stream);
	assert_non_null(text);
	assert_string_equal(text, expected);
}

static struct vm_event wait_exit(struct vm *vm, const char *id, const char *process_id)
{
	struct vm_event event = {.code = -1};
	if (!vm_wait_exit(vm, id, process_id, OUTPUT_MS, &event))
		fail_msg("no exit of %s %s", id, process_id);
	return event;
}

static void run(struct vm *vm, const char *id, struct command *command)
{
	struct err err = ERR_INIT;
	must(create(vm, id, command, &err), &err);
	must(start(vm, id, &err), &err);
}

/* Runs the script in a new container, compares its output, removes it; returns the exit code. */
static int run_script(struct vm *vm, const char *id, const char *script, const char *expected)
{
	struct command command;
	run(vm, id, shell_command(&command, script));
	assert_output(vm, id, "", BULKHEAD__AGENT__STREAM__STDOUT, expected);
	int code = wait_exit(vm, id, "").code;
	remove_container(vm, id);
	return code;
}

static void test_boot(void **state)
{
	struct vm *vm = VM(state);
	const Bulkhead__Agent__HelloResponse *hello = agent_hello(vm->agent);
	print_message("kernel %s, agent's main() %u ms after the kernel's start, hello %u ms after "
		      "QEMU's\n",
		hello->kernel_release, (unsigned)(hello->boot_ns / 1000000),
		(unsigned)(ev_now_ms() - vm->started_ms));
	assert_false(hello->configured);
	struct err err = ERR_INIT;
	struct command command;
	assert_int_equal(create(vm, "early", shell_command(&command, "true"), &err), -EBADFD);
}

static void test_configure(void **state)
{
	struct vm *vm = VM(state);
	struct err err = ERR_INIT;
	char *addresses[] = {(char *)"10.0.2.15/24", (char *)"fd00::15/64"};
	Bulkhead__Agent__Route route = BULKHEAD__AGENT__ROUTE__INIT;
	route.destination = (char *)"0.0.0.0/0";
	route.gateway = (char *)VM_GATEWAY;
	Bulkhead__Agent__Route *routes[] = {&route};
	Bulkhead__Agent__Interface interface = BULKHEAD__AGENT__INTERFACE__INIT;
	interface.device_mac = (char *)"52:54:00:ff:ff:ff";
	interface.name = (char *)"pod0";
	interface.mac = (char *)"02:11:22:33:44:55";
	interface.mtu = 1400;
	interface.n_addresses = 2;
	interface.addresses = addresses;
	interface.n_routes = 1;
	interface.routes = routes;
	Bulkhead__Agent__Interface *interfaces[] = {&interface};
	Bulkhead__Agent__Sysctl sysctl = BULKHEAD__AGENT__SYSCTL__INIT;
	sysctl.key = (char *)"net.ipv4.ip_local_port_range";
	sysctl.value = (char *)"20000 30001";
	Bulkhead__Agent__Sysctl *sysctls[] = {&sysctl};
	Bulkhead__Agent__ConfigureSandboxRequest request =
		BULKHEAD__AGENT__CONFIGURE_SANDBOX_REQUEST__INIT;
	request.hostname = (char *)"pod-name";
	request.n_interfaces = 1;
	request.interfaces = interfaces;
	request.n_sysctls = 1;
	request.sysctls = sysctls;
	assert_int_equal(call(vm, "ConfigureSandbox", &request, &err), -ENODEV);
	interface.device_mac = (char *)VM_MAC;
	uint64_t begin = ev_now_ms();
	must(call(vm, "ConfigureSandbox", &request, &err), &err);
	print_message("ConfigureSandbox %u ms\n", (unsigned)(ev_now_ms() - begin));
	assert_int_equal(call(vm, "ConfigureSandbox", &request, &err), -EEXIST);
}

static void test_output_and_exit(void **state)
{
	struct vm *vm = VM(state);
	struct command command;
	struct err err = ERR_INIT;
	uint64_t begin = ev_now_ms();
	must(create(vm, "c1", shell_command(&command, "echo out; echo err >&2; exit 3"), &err),
		&err);
	uint64_t created = ev_now_ms();
	assert_int_equal(create(vm, "c1", &command, &err), -EEXIST);
	uint64_t again = ev_now_ms();
	must(start(vm, "c1", &err), &err);
	print_message("CreateContainer %u ms, StartContainer %u ms\n", (unsigned)(created - begin),
		(unsigned)(ev_now_ms() - again));
	assert_output(vm, "c1", "", BULKHEAD__AGENT__STREAM__STDOUT, "out\n");
	assert_output(vm, "c1", "", BULKHEAD__AGENT__STREAM__STDERR, "err\n");
	assert_int_equal(wait_exit(vm, "c1", "").code, 3);
	assert_int_equal(start(vm, "c1", &err), -EBADFD);
	assert_int_equal(exec(vm, "c1", "e", &command, &err), -EBADFD);
	remove_container(vm, "c1");
	remove_container(vm, "c1");
	assert_int_equal(start(vm, "c1", &err), -ENOENT);
}

static void test_no_such_program(void **state)
{
	struct vm *vm = VM(state);
	struct command command;
	struct err err = ERR_INIT;
	shell_command(&command, "")->args[0] = (char *)"no-such-program";
	must(create(vm, "missing", &command, &err), &err);
	assert_int_equal(start(vm, "missing", &err), -ENOENT);
	assert_non_null(strstr(err.msg, "executable file not found in $PATH"));
	remove_container(vm, "missing");
}

static void test_network_and_names(void **state)
{
	struct vm *vm = VM(state);
	assert_int_equal(run_script(vm, "net",
				 "hostname; cat /sys/class/net/pod0/mtu; "
				 "cat /sys/class/net/pod0/address; "
				 "cat /proc/sys/net/ipv4/ip_local_port_range; "
				 "grep pod-name /etc/hosts | head -1; "
				 "ip -6 addr show dev pod0 | grep -c fd00::15; "
				 "ping -c 1 -W 5 " VM_GATEWAY " >/dev/null && echo up",
				 "pod-name\n1400\n02:11:22:33:44:55\n20000\t30001\n"
				 "10.0.2.15\tpod-name\n1\nup\n"),
		0);
}

static void test_exec(void **state)
{
	struct vm *vm = VM(state);
	struct command command;
	struct err err = ERR_INIT;
	run(vm, "sleeper", shell_command(&command, "sleep 1000"));
	uint64_t begin = ev_now_ms();
	shell_command(&command, "id; pwd; echo $HOME; exit 7");
	command.user.name = (char *)"app";
	command.process.cwd = (char *)"/home/app";
	must(exec(vm, "sleeper", "e1", &command, &err), &err);
	print_message("Exec %u ms\n", (unsigned)(ev_now_ms() - begin));
	assert_output(vm, "sleeper", "e1", BULKHEAD__AGENT__STREAM__STDOUT,
		"uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)\n/home/app\n/\n");
	assert_int_equal(wait_exit(vm, "sleeper", "e1").code, 7);
	assert_int_equal(exec(vm, "sleeper", "e1", &command, &err), -EEXIST);
	command.args[0] = (char *)"/bin/nothing";
	assert_int_equal(exec(vm, "sleeper", "e2", &command, &err), -ENOENT);
	Bulkhead__Agent__RemoveProcessRequest request =
		BULKHEAD__AGENT__REMOVE_PROCESS_REQUEST__INIT;
	request.container_id = (char *)"sleeper";
	request.process_id = (char *)"e1";
	must(call(vm, "RemoveProcess", &request, &err), &err);
	must(call(vm, "RemoveProcess", &request, &err), &err);
}

/* A shell that is PID 1 of its namespace ignores SIGTERM; SIGKILL comes from outside. */
static void test_kill(void **state)
{
	struct vm *vm = VM(state);
	struct err err = ERR_INIT;
	must(send_signal(vm, "sleeper", SIGKILL, true, &err), &err);
	assert_int_equal(wait_exit(vm, "sleeper", "").code, 128 + SIGKILL);
	must(send_signal(vm, "sleeper", SIGTERM, false, &err), &err);
	assert_int_equal(send_signal(vm, "sleeper", 99, false, &err), -EINVAL);
	assert_int_equal(send_signal(vm, "nobody", SIGTERM, false, &err), -ENOENT);
	remove_container(vm, "sleeper");
}

static void test_stdin(void **state)
{
	struct vm *vm = VM(state);
	struct command command;
	shell_command(&command, "cat; echo end");
	command.process.stdin = true;
	command.process.stdin_once = true;
	run(vm, "cat", &command);
	int fd = open_stream(vm, "cat", "", BULKHEAD__AGENT__STREAM__STDIN, 0);
	assert_int_equal(write(fd, "typed\n", 6), 6);
	shutdown(fd, SHUT_WR);
	assert_output(vm, "cat", "", BULKHEAD__AGENT__STREAM__STDOUT, "typed\nend\n");
	close(fd);
	assert_int_equal(wait_exit(vm, "cat", "").code, 0);
	remove_container(vm, "cat");
}

static void test_terminal(void **state)
{
	struct vm *vm = VM(state);
	struct command command;
	struct err err = ERR_INIT;
	shell_command(&command, "tty; read line; stty size; echo \"got $line\"");
	command.process.stdin = true;
	command.process.terminal = true;
	run(vm, "tty", &command);
	Bulkhead__Agent__ResizeTerminalRequest resize =
		BULKHEAD__AGENT__RESIZE_TERMINAL_REQUEST__INIT;
	resize.container_id = (char *)"tty";
	resize.columns = 123;
	resize.rows = 45;
	must(call(vm, "ResizeTerminal", &resize, &err), &err);
	int fd = open_stream(vm, "tty", "", BULKHEAD__AGENT__STREAM__STDIN, 0);
	assert_int_equal(write(fd, "hello\n", 6), 6);
	_cleanup_free_ char *text = read_stream(vm, "tty", "", BULKHEAD__AGENT__STREAM__STDOUT);
	close(fd);
	assert_non_null(strstr(text, "/dev/pts/0\r\n"));
	assert_non_null(strstr(text, "45 123\r\n"));
	assert_non_null(strstr(text, "got hello\r\n"));
	assert_int_equal(wait_exit(vm, "tty", "").code, 0);
	remove_container(vm, "tty");
}

/* More than the ring and the sockets hold: the writer waits; a second connection goes on where the
 * first ended. */
static void test_large_output(void **state)
{
	struct vm *vm = VM(state);
	struct command command;
	char data[65536];
	run(vm, "large", shell_command(&command, "seq 1 300000"));
	uint64_t offset = 0, expected = 1;
	struct buf line = buf_init(1 << 20);
	while (true) {
		_cleanup_close_ int fd =
			open_stream(vm, "large", "", BULKHEAD__AGENT__STREAM__STDOUT, offset);
		ssize_t n = 0;
		for (int i = 0; i < 20 && (n = read(fd, data, sizeof(data))) > 0; i++) {
			offset += (uint64_t)n;
			assert_int_equal(buf_append(&line, data, (size_t)n), 0);
			agent_stream_ack(fd, offset, NULL);
			char *end;
			while ((end = memchr(line.data, '\n', line.len))) {
				assert_int_equal(strtoull(line.data, NULL, 10), expected);
				expected++;
				buf_consume(&line, (size_t)(end + 1 - line.data));
			}
		}
		if (n <= 0)
			break;
	}
	buf_done(&line);
	assert_int_equal(expected, 300001);
	assert_int_equal(wait_exit(vm, "large", "").code, 0);
	remove_container(vm, "large");
}

/* In the pod's PID namespace a grandchild would outlive the init and hold the output open. */
static void test_grandchild(void **state)
{
	struct vm *vm = VM(state);
	struct command command;
	struct err err = ERR_INIT;
	uint32_t layers[] = {1};
	Bulkhead__Agent__CreateContainerRequest request =
		BULKHEAD__AGENT__CREATE_CONTAINER_REQUEST__INIT;
	request.container_id = (char *)"grand";
	request.n_layer_targets = 1;
	request.layer_targets = layers;
	request.pid_namespace = BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_POD;
	request.process = &shell_command(&command, "sleep 1000 & echo left")->process;
	must(call(vm, "CreateContainer", &request, &err), &err);
	must(start(vm, "grand", &err), &err);
	assert_int_equal(wait_exit(vm, "grand", "").code, 0);
	assert_output(vm, "grand", "", BULKHEAD__AGENT__STREAM__STDOUT, "left\n");
	remove_container(vm, "grand");
}

static void test_out_of_memory(void **state)
{
	struct vm *vm = VM(state);
	struct command command;
	struct err err = ERR_INIT;
	uint32_t layers[] = {1};
	Bulkhead__Agent__Resources resources = BULKHEAD__AGENT__RESOURCES__INIT;
	resources.memory_bytes = 16 << 20;
	Bulkhead__Agent__CreateContainerRequest request =
		BULKHEAD__AGENT__CREATE_CONTAINER_REQUEST__INIT;
	request.container_id = (char *)"oom";
	request.n_layer_targets = 1;
	request.layer_targets = layers;
	request.resources = &resources;
	request.process = &shell_command(&command, "exec tail /dev/zero")->process;
	must(call(vm, "CreateContainer", &request, &err), &err);
	must(start(vm, "oom", &err), &err);
	struct vm_event event = wait_exit(vm, "oom", "");
	assert_int_equal(event.code, 128 + SIGKILL);
	assert_true(event.oom_killed);
	remove_container(vm, "oom");
}

/* Each container's figures are its own; those of the pod are the sum. */
static void test_stats(void **state)
{
	struct vm *vm = VM(state);
	struct command command;
	struct err err = ERR_INIT;
	run(vm, "writes",
		shell_command(&command, "dd if=/dev/zero of=/tmp/f bs=1M count=3 && "
					"touch /tmp/a /tmp/b && echo done; "
					"exec sleep 100 >/dev/null 2>&1"));
	assert_output(vm, "writes", "", BULKHEAD__AGENT__STREAM__STDOUT, "done\n");
	run(vm, "idle", shell_command(&command, "echo up; exec sleep 100 >/dev/null 2>&1"));
	assert_output(vm, "idle", "", BULKHEAD__AGENT__STREAM__STDOUT, "up\n");

	Bulkhead__Agent__StatsRequest request = BULKHEAD__AGENT__STATS_REQUEST__INIT;
	ProtobufCMessage *message;
	must(agent_call(vm->agent, "Stats", &request.base, CALL_MS, &message, &err), &err);
	const Bulkhead__Agent__StatsResponse *response = (const void *)message;
	assert_int_equal(response->n_containers, 2);
	const Bulkhead__Agent__Usage *writes = response->containers[0];
	const Bulkhead__Agent__Usage *idle = response->containers[1];
	if (strcmp(writes->container_id, "idle") == 0) {
		writes = response->containers[1];
		idle = response->containers[0];
	}
	assert_string_equal(writes->container_id, "writes");
	assert_in_range(writes->layer_bytes, 3 << 20, 4 << 20);
	assert_true(writes->layer_inodes >= idle->layer_inodes + 3);
	assert_true(idle->layer_bytes < 1 << 20);
	assert_true(writes->cpu_ns > 0 && writes->cpu_nano_cores > 0);
	assert_true(writes->file_bytes >= 3 << 20);
	assert_in_range(writes->tasks, 1, 3);
	assert_int_equal(idle->tasks, 1);
	assert_non_null(writes->memory_pressure);
	assert_true(response->pod->cpu_ns >= writes->cpu_ns);
	assert_true(response->pod->tasks >= 2);
	assert_true(response->n_interfaces >= 1);
	assert_true(response->memory_total_bytes > 32 << 20);
	protobuf_c_message_free_unpacked(message, NULL);
	remove_container(vm, "writes");
	remove_container(vm, "idle");
}

static int64_t guest_clock_ahead_ns(struct vm *vm, int64_t by_ns)
{
	Bulkhead__Agent__AdjustClockRequest request = BULKHEAD__AGENT__ADJUST_CLOCK_REQUEST__INIT;
	struct err err = ERR_INIT;
	ProtobufCMessage *message = NULL;
	request.by_ns = by_ns;
	must(agent_call(vm->agent, "AdjustClock", &request.base, CALL_MS, &message, &err), &err);
	int64_t guest = ((Bulkhead__Agent__AdjustClockResponse *)message)->realtime_ns;
	protobuf_c_message_free_unpacked(message, NULL);
	return guest - clock_now_ns();
}

/* With an event, or some: the client asks at most once a second, and each of its calls may be slow.
 */
static void assert_clock_becomes_right(struct vm *vm)
{
	uint64_t until = ev_now_ms() + CALL_MS;
	int64_t ahead_ns = guest_clock_ahead_ns(vm, 0);
	while ((ahead_ns < -SECOND_NS || ahead_ns > SECOND_NS / 4) && ev_now_ms() < until) {
		assert_int_equal(run_script(vm, "clock", "exit 0", ""), 0);
		ahead_ns = guest_clock_ahead_ns(vm, 0);
	}
	print_message("the guest's clock is ahead by %d ms\n", (int)(ahead_ns / 1000000));
	assert_in_range(ahead_ns + SECOND_NS, 0, SECOND_NS * 5 / 4);
}

/*
 * The clock is right at boot, after the machine was paused, and where the client was not connected
 * anew, as when the host slept.
 */
static void test_clock(void **state)
{
	struct vm *vm = VM(state);
	struct err err = ERR_INIT;
	assert_clock_becomes_right(vm);
	must(vm_monitor(vm, "stop", &err), &err);
	usleep(2000000);
	must(vm_monitor(vm, "cont", &err), &err);
	assert_clock_becomes_right(vm);
	assert_true(guest_clock_ahead_ns(vm, -HOUR_NS) < -HOUR_NS / 2);
	assert_clock_becomes_right(vm);
}

/* The client of a restarted host finds its containers and the events that it has not recorded. */
static void test_reconnect(void **state)
{
	struct vm *vm = VM(state);
	struct command command;
	struct err err = ERR_INIT;
	size_t recorded = vm->n_events;
	run(vm, "kept", shell_command(&command, "sleep 1; echo after"));
	must(vm_connect(vm, recorded, &err), &err);
	assert_true(agent_hello(vm->agent)->configured);
	assert_int_equal(wait_exit(vm, "kept", "").code, 0);
	assert_output(vm, "kept", "", BULKHEAD__AGENT__STREAM__STDOUT, "after\n");
	remove_container(vm, "kept");
}

/* What a container leaves in the guest is nothing: no mount, no cgroup, no file. */
static void test_nothing_left(void **state)
{
	struct vm *vm = VM(state);
	struct err err = ERR_INIT;
	uint64_t begin = ev_now_ms();
	for (int i = 0; i < 20; i++) {
		char id[16];
		snprintf(id, sizeof(id), "loop-%d", i);
		assert_int_equal(run_script(vm, id, "echo x >/tmp/file; exit 1", ""), 1);
	}
	print_message("a container from creation to removal %u ms\n",
		(unsigned)(ev_now_ms() - begin) / 20);
	Bulkhead__Agent__ListContainersRequest request =
		BULKHEAD__AGENT__LIST_CONTAINERS_REQUEST__INIT;
	ProtobufCMessage *response;
	must(agent_call(vm->agent, "ListContainers", &request.base, CALL_MS, &response, &err),
		&err);
	assert_int_equal(((Bulkhead__Agent__ListContainersResponse *)response)->n_processes, 0);
	protobuf_c_message_free_unpacked(response, NULL);
}

static void test_power_off(void **state)
{
	struct vm *vm = VM(state);
	Bulkhead__Agent__PowerOffRequest request = BULKHEAD__AGENT__POWER_OFF_REQUEST__INIT;
	uint64_t begin = ev_now_ms();
	agent_call(vm->agent, "PowerOff", &request.base, CALL_MS, NULL, NULL);
	assert_true(vm_wait_off(vm, 20000));
	print_message("PowerOff %u ms\n", (unsigned)(ev_now_ms() - begin));
}

static int setup(void **state)
{
	struct context *context = calloc(1, sizeof(*context));
	*state = context;
	if (!context)
		return -1;
	if (!vm_can_run()) {
		print_message("skipped: needs root, BULKHEAD_KERNEL and BULKHEAD_INITRAMFS\n");
		return 0;
	}
	struct err err = ERR_INIT;
	context->runs = true;
	if (vm_start(&context->vm, &err) == 0)
		return 0;
	print_message("%s\n", err.msg);
	vm_stop(&context->vm, true);
	return -1;
}

static int teardown(void **state)
{
	struct context *context = *state;
	if (context->runs)
		vm_stop(&context->vm, getenv("VM_CONSOLE"));
	free(context);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_boot),
		cmocka_unit_test(test_configure),
		cmocka_unit_test(test_output_and_exit),
		cmocka_unit_test(test_no_such_program),
		cmocka_unit_test(test_network_and_names),
		cmocka_unit_test(test_exec),
		cmocka_unit_test(test_kill),
		cmocka_unit_test(test_stdin),
		cmocka_unit_test(test_terminal),
		cmocka_unit_test(test_large_output),
		cmocka_unit_test(test_grandchild),
		cmocka_unit_test(test_out_of_memory),
		cmocka_unit_test(test_stats),
		cmocka_unit_test(test_clock),
		cmocka_unit_test(test_reconnect),
		cmocka_unit_test(test_nothing_left),
		cmocka_unit_test(test_power_off),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
