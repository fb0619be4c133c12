/*
 * Containers for real, on the host: an EROFS layer on a loop device with busybox in it, cgroup v2
 * without controllers, namespaces of our own. Needs root, busybox-static, mkfs.erofs, loop devices
 * and overlayfs; skipped where one is missing. Limits need controllers: those are for the guest.
 */
#include "agent/container.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/disk.h"
#include "common/fd.h"

#define BUSYBOX     "/bin/busybox"
#define WATCHDOG_MS 20000
#define ROUNDS      100
#define OUTPUT_MAX  8192

struct world {
	struct ev_loop *loop;
	struct reaper *reaper;
	struct container_host *host;
	struct ev_source *watchdog;
	const char *skip; /* why nothing can be tested here */
};

/* One process, container's or exec's, and what came of it. */
struct run {
	struct world *world;
	struct container *container;
	struct container_exec *exec;
	int out; /* reads its output */
	bool done, started, exited, removed;
	pid_t pid;
	int status;
	struct err err;
};

/* The "disks" 0 and 1: the loop devices of main(). */
static char layers[2][DISK_PATH_MAX];

int disk_wait(
	unsigned target, unsigned timeout_ms, char ret_path[static DISK_PATH_MAX], struct err *err)
{
	(void)timeout_ms;
	if (target >= ARRAY_SIZE(layers))
		return err_set(err, -ETIMEDOUT, "disk %u did not appear", target);
	strcpy(ret_path, layers[target]);
	return 0;
}

static void on_done(void *userdata, pid_t pid, const struct err *err)
{
	struct run *run = userdata;
	run->done = true;
	run->pid = pid;
	run->err = *err;
	ev_loop_stop(run->world->loop);
}

static void on_started(void *userdata, pid_t pid, const struct err *err)
{
	struct run *run = userdata;
	run->started = true;
	run->pid = pid;
	run->err = *err;
	ev_loop_stop(run->world->loop);
}

static void on_exit_status(void *userdata, int status, bool oom_killed)
{
	struct run *run = userdata;
	assert_false(run->exited);
	assert_false(oom_killed);
	run->exited = true;
	run->status = status;
	ev_loop_stop(run->world->loop);
}

static void on_removed(void *userdata, pid_t pid, const struct err *err)
{
	struct run *run = userdata;
	(void)pid;
	if (err->code)
		print_error("%s\n", err->msg);
	assert_int_equal(err->code, 0);
	run->removed = true;
	ev_loop_stop(run->world->loop);
}

static void on_watchdog(void *userdata)
{
	(void)userdata;
	fail_msg("nothing happened for %d ms", WATCHDOG_MS);
}

/* Runs the loop until *flag. */
static void wait_for(struct world *world, const bool *flag)
{
	struct err err = ERR_INIT;
	ev_timer_set(world->watchdog, WATCHDOG_MS);
	while (!*flag)
		assert_int_equal(ev_loop_run(world->loop, &err), 0);
}

struct streams {
	struct stdio_child child;
	int out;
};

static struct streams streams_make(void)
{
	int fds[2];
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	return (struct streams){.child = {.in = open("/dev/null", O_RDONLY | O_CLOEXEC),
					.out = fds[1],
					.err = fcntl(fds[1], F_DUPFD_CLOEXEC, 3),
					.terminal = -EBADF},
		.out = fds[0]};
}

static void streams_forked(struct streams *streams)
{
	fd_close(streams->child.in);
	fd_close(streams->child.out);
	fd_close(streams->child.err);
	fd_close(streams->child.terminal);
}

/* A request of a container that runs `sh -c script`. */
struct request {
	Bulkhead__Agent__CreateContainerRequest message;
	Bulkhead__Agent__Process process;
	Bulkhead__Agent__User user;
	char *args[3];
	char *env[1];
	char *capabilities[2];
	uint32_t targets[1];
};

static void request_init(struct request *r, const char *id, const char *script)
{
	*r = (struct request){.message = BULKHEAD__AGENT__CREATE_CONTAINER_REQUEST__INIT,
		.process = BULKHEAD__AGENT__PROCESS__INIT,
		.user = BULKHEAD__AGENT__USER__INIT,
		.args = {(char *)"sh", (char *)"-c", (char *)script},
		.env = {(char *)"PATH=/bin"},
		.capabilities = {(char *)"CAP_CHOWN", (char *)"CAP_MKNOD"}};
	r->process.args = r->args;
	r->process.n_args = 3;
	r->process.env = r->env;
	r->process.n_env = 1;
	r->process.capabilities = r->capabilities;
	r->process.n_capabilities = 2;
	r->process.user = &r->user;
	r->message.container_id = (char *)id;
	r->message.process = &r->process;
	r->message.layer_targets = r->targets;
	r->message.n_layer_targets = 1;
}

static void run_create(struct world *world, struct request *request, struct run *run)
{
	*run = (struct run){.world = world};
	struct streams streams = streams_make();
	const struct container_callbacks callbacks = {
		.on_done = on_done, .on_exit = on_exit_status, .userdata = run};
	struct err err = ERR_INIT;
	int r = container_create(
		world->host, &request->message, &streams.child, &callbacks, &run->container, &err);
	streams_forked(&streams);
	if (r < 0)
		print_error("%s\n", err.msg);
	assert_int_equal(r, 0);
	run->out = streams.out;
	wait_for(world, &run->done);
}

static void run_start(struct run *run)
{
	struct err err = ERR_INIT;
	if (run->err.code)
		print_error("%s\n", run->err.msg);
	assert_int_equal(run->err.code, 0);
	assert_int_equal(container_start(run->container, on_started, run, &err), 0);
	wait_for(run->world, &run->started);
}

static void run_remove(struct run *run)
{
	fd_close(run->out);
	container_remove(run->container, on_removed, run);
	wait_for(run->world, &run->removed);
}

/* Reads until end of file. */
static void read_output(int fd, char out[static OUTPUT_MAX])
{
	size_t len = 0;
	ssize_t n;
	while ((n = read(fd, out + len, OUTPUT_MAX - 1 - len)) > 0)
		len += (size_t)n;
	out[len] = '\0';
}

/* Runs the container to its end and returns its exit code. */
static int run_all(struct world *world, struct request *request, char out[static OUTPUT_MAX])
{
	struct run run;
	run_create(world, request, &run);
	run_start(&run);
	wait_for(world, &run.exited);
	read_output(run.out, out);
	run_remove(&run);
	return WIFEXITED(run.status) ? WEXITSTATUS(run.status) : 128 + WTERMSIG(run.status);
}

static int run_script(struct world *world, const char *script, char out[static OUTPUT_MAX])
{
	struct request request;
	request_init(&request, "script", script);
	return run_all(world, &request, out);
}

static int setup(void **state)
{
	struct world *world = *state;
	if (world->skip) {
		print_message("%s\n", world->skip);
		skip();
	}
	return 0;
}

static void test_output_and_exit_code(void **state)
{
	setup(state);
	char out[OUTPUT_MAX];
	assert_int_equal(run_script(*state, "echo hello; echo err >&2; exit 3", out), 3);
	assert_string_equal(out, "hello\nerr\n");
}

/* What a program sees of its surroundings. */
static void test_surroundings(void **state)
{
	setup(state);
	static const char script[] =
		"echo pid $$; pwd; umask; echo $HOME; ls /proc/self/fd | tr '\\n' ' '; echo;"
		"grep -E '^(Cap|NoNewPrivs|Groups)' /proc/self/status | tr '\\t' ' ';"
		"cat /proc/self/oom_score_adj; cat /proc/self/cgroup;"
		"echo x > /dev/null && head -c 1 /dev/zero | wc -c; ls /dev | tr '\\n' ' '; echo;"
		"test -e /proc/sysrq-trigger && echo b > /proc/sysrq-trigger; echo sysrq $?;"
		"head -c 1 /proc/timer_list | wc -c; cat /etc/resolv.conf; echo y > /sys/z; echo "
		"sys $?";
	struct request request;
	request_init(&request, "surroundings", script);
	char *masked[] = {(char *)"/proc/timer_list", (char *)"/no/such", (char *)"/sys/firmware"};
	char *read_only[] = {(char *)"/proc/sysrq-trigger", (char *)"/proc/sys"};
	request.message.masked_paths = masked;
	request.message.n_masked_paths = ARRAY_SIZE(masked);
	request.message.read_only_paths = read_only;
	request.message.n_read_only_paths = ARRAY_SIZE(read_only);
	request.process.cwd = (char *)"/made/for/us";
	request.process.no_new_privs = true;
	request.process.oom_score_adj = 500;
	request.user.name = (char *)"root";
	char out[OUTPUT_MAX];
	assert_int_equal(run_all(*state, &request, out), 0);
	static const char *const wanted[] = {"pid 1\n/made/for/us\n0022\n/home/of/root\n0 1 2 3 \n",
		"Groups: 0 77 ", "CapInh: 0000000000000000\n", "CapPrm: 0000000008000001\n",
		"CapEff: 0000000008000001\n", "CapBnd: 0000000008000001\n",
		"CapAmb: 0000000000000000\n", "NoNewPrivs: 1\n500\n", "0::/\n1\n",
		"fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
		"sysrq 1\n", "\n0\nnameserver 192.0.2.1\n", "sys 1\n"};
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		if (!strstr(out, wanted[i]))
			fail_msg("no \"%s\" in:\n%s", wanted[i], out);
	}
}

static void test_user(void **state)
{
	setup(state);
	struct request request;
	request_init(&request, "user", "id; grep CapEff /proc/self/status; echo $HOME");
	request.user.name = (char *)"web";
	char out[OUTPUT_MAX];
	assert_int_equal(run_all(*state, &request, out), 0);
	assert_non_null(strstr(out, "uid=1000(web) gid=1001(webs) groups=77(extra),1001(webs)"));
	assert_non_null(strstr(out, "0000000000000000\n/srv/web\n"));
	request.user.name = (char *)"nobody-at-all";
	struct run run;
	run_create(*state, &request, &run);
	assert_int_equal(run.err.code, -ENOENT);
	assert_string_equal(run.err.msg,
		"unable to find user nobody-at-all: no matching entries in passwd file");
	run_remove(&run);
	assert_false(run.exited);
}

static void test_read_only_root(void **state)
{
	setup(state);
	struct request request;
	request_init(&request, "ro", "touch /x 2>&1; touch /dev/shm/x && echo shm; cat /lib/where");
	request.message.read_only_root = true;
	char out[OUTPUT_MAX];
	run_all(*state, &request, out);
	assert_string_equal(out, "touch: /x: Read-only file system\nshm\nlower\n");
}

/* Device nodes may be made, but of the disks none can be opened. */
static void test_devices(void **state)
{
	setup(state);
	char out[OUTPUT_MAX];
	run_script(*state,
		"mknod /d b 7 0; head -c 1 /d 2>&1; mknod /n c 1 3; echo >/n && echo null", out);
	assert_string_equal(out, "head: /d: Operation not permitted\nnull\n");
}

static void exec_fails(struct world *world, const char *program, int code, const char *message)
{
	struct request request;
	request_init(&request, "fails", "");
	request.args[0] = (char *)program;
	struct run run;
	run_create(world, &request, &run);
	run_start(&run);
	assert_int_equal(run.err.code, code);
	assert_string_equal(run.err.msg, message);
	wait_for(world, &run.exited);
	assert_true(WIFEXITED(run.status) && WEXITSTATUS(run.status) >= 126);
	run_remove(&run);
}

static void test_exec_errors(void **state)
{
	setup(state);
	exec_fails(*state, "foo", -ENOENT, "exec: \"foo\": executable file not found in $PATH");
	exec_fails(*state, "/foo", -ENOENT, "exec: \"/foo\": stat /foo: no such file or directory");
	exec_fails(*state, "/etc/passwd", -EACCES, "exec: \"/etc/passwd\": permission denied");
	exec_fails(*state, "/bin", -EISDIR, "exec: \"/bin\": is a directory");
	exec_fails(*state, "/text", -ENOEXEC, "exec /text: exec format error");
}

static void test_create_errors(void **state)
{
	setup(state);
	struct request request;
	struct run run;
	request_init(&request, "no-disk", "");
	request.targets[0] = 9;
	run_create(*state, &request, &run);
	assert_int_equal(run.err.code, -ETIMEDOUT);
	assert_string_equal(run.err.msg, "layer 0 (disk 9): disk 9 did not appear");
	run_remove(&run);
	/* The second image has a link at /proc. */
	request_init(&request, "evil", "");
	request.targets[0] = 1;
	run_create(*state, &request, &run);
	assert_int_equal(run.err.code, -ENOTDIR);
	assert_string_equal(run.err.msg, "/proc: /proc of the image is a symbolic link");
	run_remove(&run);
	struct err err = ERR_INIT;
	request_init(&request, "../x", "");
	const struct container_callbacks callbacks = {.on_done = on_done};
	struct stdio_child none = {-EBADF, -EBADF, -EBADF, -EBADF};
	struct world *world = *state;
	assert_int_equal(container_create(world->host, &request.message, &none, &callbacks,
				 &run.container, &err),
		-EINVAL);
}

static void test_signals(void **state)
{
	setup(state);
	struct world *world = *state;
	struct request request;
	struct err err = ERR_INIT;
	struct run run;
	char byte;
	request_init(&request, "signals", "trap 'exit 7' TERM; echo; while :; do sleep 0.1; done");
	run_create(world, &request, &run);
	assert_int_equal(container_signal(run.container, 0, false, &err), 0);
	run_start(&run);
	assert_int_equal(read(run.out, &byte, 1), 1);
	assert_int_equal(container_signal(run.container, SIGTERM, false, &err), 0);
	wait_for(world, &run.exited);
	assert_int_equal(WEXITSTATUS(run.status), 7);
	assert_int_equal(container_signal(run.container, SIGTERM, false, &err), 0);
	run_remove(&run);

	request_init(&request, "killed", "sleep 100");
	run_create(world, &request, &run);
	run_start(&run);
	assert_int_equal(container_signal(run.container, SIGKILL, true, &err), 0);
	wait_for(world, &run.exited);
	assert_true(WIFSIGNALED(run.status) && WTERMSIG(run.status) == SIGKILL);
	run_remove(&run);

	/* Removed while it runs, and before it started. */
	run_create(world, &request, &run);
	run_start(&run);
	run_remove(&run);
	assert_false(run.exited);
	run_create(world, &request, &run);
	run_remove(&run);
	assert_false(run.exited);
}

static void run_exec(struct run *container, const char *script, struct run *run)
{
	*run = (struct run){.world = container->world};
	struct request request;
	request_init(&request, "unused", script);
	struct streams streams = streams_make();
	const struct container_callbacks callbacks = {
		.on_done = on_done, .on_exit = on_exit_status, .userdata = run};
	struct err err = ERR_INIT;
	int r = container_exec(container->container, &request.process, &streams.child, &callbacks,
		&run->exec, &err);
	streams_forked(&streams);
	if (r < 0)
		print_error("%s\n", err.msg);
	assert_int_equal(r, 0);
	run->out = streams.out;
	wait_for(run->world, &run->done);
}

static void test_exec(void **state)
{
	setup(state);
	struct world *world = *state;
	struct request request;
	struct run init, run;
	char out[OUTPUT_MAX];
	request_init(&request, "exec", "echo mine > /tmp.txt; sleep 100");
	run_create(world, &request, &init);
	struct err err = ERR_INIT;
	const struct container_callbacks none = {.on_done = on_done};
	assert_int_equal(
		container_exec(init.container, &request.process, NULL, &none, &run.exec, &err),
		-EBADFD);
	run_start(&init);

	run_exec(&init,
		"sleep 0.2; cat /tmp.txt; cat /proc/1/comm; ls /proc/self/fd | tr '\\n' ' ';"
		"grep -E 'CapBnd' /proc/self/status; mount | head -n 1; exit 5",
		&run);
	wait_for(world, &run.exited);
	read_output(run.out, out);
	fd_close(run.out);
	assert_int_equal(WEXITSTATUS(run.status), 5);
	if (!strstr(out, "mine\nsleep\n0 1 2 3 CapBnd:\t0000000008000001\noverlay on /"))
		fail_msg("%s", out);
	container_exec_free(run.exec);

	/* Its tree dies by `all`, the container does not. */
	run_exec(&init, "sleep 90 & sleep 90 & wait", &run);
	assert_int_equal(run.err.code, 0);
	assert_int_equal(container_exec_signal(run.exec, SIGKILL, true, &err), 0);
	wait_for(world, &run.exited);
	read_output(run.out, out);
	fd_close(run.out);
	container_exec_free(run.exec);

	/* Freed while it runs: killed, and no callback comes. */
	run_exec(&init, "sleep 90", &run);
	container_exec_free(run.exec);
	read_output(run.out, out);
	fd_close(run.out);
	assert_false(run.exited);
	assert_false(init.exited);
	run_remove(&init);
}

static void test_pod_pid_namespace(void **state)
{
	setup(state);
	struct request request;
	struct run first, second;
	char out[OUTPUT_MAX];
	request_init(&request, "first", "sleep 77 & wait");
	request.message.pid_namespace = BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_POD;
	run_create(*state, &request, &first);
	run_start(&first);
	request_init(&request, "second",
		"sleep 0.3; cat /proc/1/comm; ps -o args; ls /proc/1/root 2>&1; ls -l /proc/1/exe "
		"2>&1");
	request.message.pid_namespace = BULKHEAD__AGENT__PID_NAMESPACE__PID_NAMESPACE_POD;
	run_create(*state, &request, &second);
	run_start(&second);
	wait_for(*state, &second.exited);
	read_output(second.out, out);
	assert_memory_equal(out, "pause\n", 6);
	assert_non_null(strstr(out, "sleep 77"));
	assert_non_null(strstr(out, "ls: /proc/1/root: Permission denied"));
	run_remove(&second);
	assert_false(first.exited);
	/* Its init gone, what it left goes too: else this would not end. */
	struct err err = ERR_INIT;
	assert_int_equal(container_signal(first.container, SIGKILL, false, &err), 0);
	wait_for(*state, &first.exited);
	read_output(first.out, out);
	run_remove(&first);
}

static void test_terminal(void **state)
{
	setup(state);
	struct world *world = *state;
	struct request request;
	struct run run = {.world = world};
	request_init(&request, "terminal", "tty; test -c /dev/console && echo hi >/dev/console");
	request.process.terminal = true;
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	struct stdio_child child = {-EBADF, -EBADF, -EBADF, pair[1]};
	const struct container_callbacks callbacks = {
		.on_done = on_done, .on_exit = on_exit_status, .userdata = &run};
	struct err err = ERR_INIT;
	assert_int_equal(container_create(world->host, &request.message, &child, &callbacks,
				 &run.container, &err),
		0);
	close(pair[1]);
	wait_for(world, &run.done);
	char byte;
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};
	assert_int_equal(recvmsg(pair[0], &message, MSG_CMSG_CLOEXEC), 1);
	memcpy(&run.out, CMSG_DATA(&control.header), sizeof(run.out));
	close(pair[0]);
	run_start(&run);
	wait_for(world, &run.exited);
	char out[OUTPUT_MAX];
	read_output(run.out, out);
	assert_string_equal(out, "/dev/pts/0\r\nhi\r\n");
	run_remove(&run);
}

static size_t count_lines(const char *path)
{
	char *text = NULL;
	assert_int_equal(fd_read_file(path, 1u << 20, &text, NULL, NULL), 0);
	size_t n = 0;
	for (const char *c = text; *c; c++)
		n += *c == '\n';
	free(text);
	return n;
}

static size_t count_entries(const char *path)
{
	DIR *dir = opendir(path);
	assert_non_null(dir);
	size_t n = 0;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Nothing is left of containers that came and went. */
static void test_no_leaks(void **state)
{
	setup(state);
	char out[OUTPUT_MAX];
	run_script(*state, "true", out);
	const char *rounds_text = getenv("CONTAINER_TEST_ROUNDS");
	int rounds = rounds_text ? atoi(rounds_text) : ROUNDS;
	size_t mounts = count_lines("/proc/self/mountinfo");
	size_t fds = count_entries("/proc/self/fd");
	size_t cgroups = count_entries("/sys/fs/cgroup/pod");
	for (int i = 0; i < rounds; i++)
		assert_int_equal(run_script(*state, "echo x > /file; exit 4", out), 4);
	assert_int_equal(count_lines("/proc/self/mountinfo"), mounts);
	assert_int_equal(count_entries("/proc/self/fd"), fds);
	assert_int_equal(count_entries("/sys/fs/cgroup/pod"), cgroups);
	assert_int_equal(count_entries("/run/scratch"), 2);
	/* The pause process of an earlier test may live; a zombie must not. */
	int status;
	pid_t pid = waitpid(-1, &status, WNOHANG);
	assert_true(pid == 0 || (pid == -1 && errno == ECHILD));
}

static void shell(const char *command)
{
	if (system(command) != 0)
		fprintf(stderr, "failed: %s\n", command);
}

static int loop_attach(const char *image, char path[static DISK_PATH_MAX])
{
	for (int tries = 0; tries < 8; tries++) {
		_cleanup_close_ int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
		int number = ioctl(control, LOOP_CTL_GET_FREE);
		snprintf(path, DISK_PATH_MAX, "/dev/loop%d", number);
		_cleanup_close_ int device = open(path, O_RDONLY | O_CLOEXEC);
		struct loop_config config = {
			.info = {.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_READ_ONLY}};
		_cleanup_close_ int file = open(image, O_RDONLY | O_CLOEXEC);
		config.fd = (uint32_t)file;
		if (number >= 0 && device >= 0 && ioctl(device, LOOP_CONFIGURE, &config) == 0)
			return TAKE_FD(device);
	}
	return -errno;
}

/* Images, a cgroup tree and a /run of our own; NULL or why that cannot be. */
static const char *prepare(const char *cgroup)
{
	if (geteuid() != 0)
		return "skipped: needs root";
	if (access(BUSYBOX, X_OK) < 0 || access("/usr/bin/mkfs.erofs", X_OK) < 0)
		return "skipped: needs " BUSYBOX " and mkfs.erofs";
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return "skipped: cannot unshare mounts";
	if (mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0 || mkdir("/run/scratch", 0700) < 0 ||
		mkdir("/run/cgroup2", 0700) < 0 || mkdir("/run/agent", 0755) < 0)
		return "skipped: cannot mount a /run";
	if (mount("cgroup2", "/run/cgroup2", "cgroup2", 0, NULL) < 0 ||
		(mkdir(cgroup, 0755) < 0 && errno != EEXIST))
		return "skipped: no cgroup v2";
	_cleanup_free_ char *procs = str_printf("%s/cgroup.procs", cgroup);
	_cleanup_close_ int fd = open(procs, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1 || unshare(CLONE_NEWCGROUP) < 0 ||
		mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL) < 0)
		return "skipped: cannot make a cgroup namespace";
	shell("cd /run && mkdir -p image/bin image/etc image/lib && cp " BUSYBOX " image/bin/ &&"
	      "for a in sh cat ls id touch head wc grep tr sleep echo mknod ps tty mount; do"
	      " ln -s busybox image/bin/$a; done; echo lower > image/lib/where;"
	      "printf 'root:x:0:0::/home/of/root:\\nweb:x:1000:1001::/srv/web:\\n' > "
	      "image/etc/passwd;"
	      "printf 'root:x:0:\\nwebs:x:1001:\\nextra:x:77:root,web\\n' > image/etc/group;"
	      "echo text > image/text; chmod 755 image/text;"
	      "ln -s ../../../run/stub/resolv.conf image/etc/resolv.conf;"
	      "echo nameserver 192.0.2.1 > agent/resolv.conf;"
	      "mkdir evil; ln -s /etc evil/proc; mkdir evil/etc;"
	      "mkfs.erofs -T0 0.img image >/dev/null && mkfs.erofs -T0 1.img evil >/dev/null");
	if (loop_attach("/run/0.img", layers[0]) < 0 || loop_attach("/run/1.img", layers[1]) < 0)
		return "skipped: no loop devices";
	return NULL;
}

static int run_in_cgroup(const char *cgroup)
{
	struct world world = {.skip = prepare(cgroup)};
	struct err err = ERR_INIT;
	if (!world.skip &&
		(ev_loop_new(&world.loop, &err) < 0 ||
			reaper_new(world.loop, &world.reaper, &err) < 0 ||
			ev_timer_new(world.loop, WATCHDOG_MS, on_watchdog, NULL, &world.watchdog,
				&err) < 0 ||
			container_host_new(world.loop, world.reaper, &world.host, &err) < 0)) {
		fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(test_output_and_exit_code, &world),
		cmocka_unit_test_prestate(test_surroundings, &world),
		cmocka_unit_test_prestate(test_user, &world),
		cmocka_unit_test_prestate(test_read_only_root, &world),
		cmocka_unit_test_prestate(test_devices, &world),
		cmocka_unit_test_prestate(test_exec_errors, &world),
		cmocka_unit_test_prestate(test_create_errors, &world),
		cmocka_unit_test_prestate(test_signals, &world),
		cmocka_unit_test_prestate(test_exec, &world),
		cmocka_unit_test_prestate(test_pod_pid_namespace, &world),
		cmocka_unit_test_prestate(test_terminal, &world),
		cmocka_unit_test_prestate(test_no_leaks, &world),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	container_host_free(world.host);
	ev_source_free(world.watchdog);
	reaper_free(world.reaper);
	ev_loop_free(world.loop);
	return failed;
}

/* The tests run in a child, so that its cgroup can be removed once it is empty. */
int main(void)
{
	char name[64];
	snprintf(name, sizeof(name), "/run/cgroup2/bulkhead-test-%d", (int)getpid());
	pid_t pid = fork();
	if (pid == 0)
		exit(run_in_cgroup(name));
	int status = -1;
	waitpid(pid, &status, 0);
	if (geteuid() == 0 && unshare(CLONE_NEWNS) == 0 &&
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
		mount("tmpfs", "/run", "tmpfs", 0, NULL) == 0 && mkdir("/run/cgroup2", 0700) == 0 &&
		mount("cgroup2", "/run/cgroup2", "cgroup2", 0, NULL) == 0) {
		char command[640];
		snprintf(command, sizeof(command),
			"test -d %1$s || exit 0; echo 1 > %1$s/cgroup.kill;"
			"for i in 1 2 3 4 5 6 7 8 9; do grep -q 'populated 0' %1$s/cgroup.events &&"
			" break; sleep 0.1; done; find %1$s -depth -type d -exec rmdir {} +",
			name);
		shell(command);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
