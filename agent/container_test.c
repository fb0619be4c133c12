/*
 * Containers for real, on the host (container_fixture.h). Needs root, busybox-static, mkfs.erofs,
 * loop devices and overlayfs; skipped where one is missing. Limits need controllers: those are for
 * the guest.
 */
#include "agent/container_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"

#define ROUNDS 100

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
	/* As under runc, an empty home is none. */
	char *env[] = {(char *)"PATH=/bin", (char *)"HOME=", (char *)"LAST=x"};
	request_init(&request, "home", "echo $HOME-$LAST");
	request.user.name = (char *)"web";
	request.process.env = env;
	request.process.n_env = ARRAY_SIZE(env);
	assert_int_equal(run_all(*state, &request, out), 0);
	assert_string_equal(out, "/srv/web-x\n");
	request.user.name = (char *)"nobody-at-all";
	struct run run;
	run_create(*state, &request, &run);
	assert_int_equal(run.err.code, -ENOENT);
	assert_string_equal(run.err.msg,
		"unable to find user nobody-at-all: no matching entries in passwd file");
	run_remove(&run);
	assert_false(run.exited);
}

/*
 * Root of the pod's user namespace is a mere user of the guest, and finds what is his: the image's
 * files, what he writes, his devices and terminals; what he mounts is in a namespace of his own.
 */
static void test_user_namespace(void **state)
{
	setup(state);
	struct world *world = *state;
	static const char script[] =
		"id -u; id -g; tr -s ' ' < /proc/self/uid_map; tr -s ' ' < /proc/self/gid_map;"
		"touch /new /lib/where; for f in / /lib/where /new /dev /dev/null /dev/shm "
		"/proc/self/; do set -- $(ls -lnd $f); echo $f is $3:$4; done;"
		"mount -t tmpfs none /lib && echo mounted; mount -t proc none /lib 2>&- || echo no "
		"proc;"
		"umount /proc 2>&- || echo locked; mknod /x c 1 3 2>&- || echo no node;"
		"echo -500 2>&- > /proc/self/oom_score_adj || echo bound; sleep 100";
	struct userns ns = USERNS_INIT;
	struct request request;
	struct run run, exec;
	struct err err = ERR_INIT;
	char out[OUTPUT_MAX];
	world->ids.map = (struct userns_map){100000, 65536, 200000, 65536};
	assert_int_equal(userns_new(&world->ids.map, false, &ns, &err), 0);
	world->ids.userns = ns.user;
	request_init(&request, "userns", script);
	request.capabilities[0] = (char *)"CAP_SYS_ADMIN";
	run_create(world, &request, &run);
	run_start(&run);
	static const char wanted[] =
		"0\n0\n 0 100000 65536\n 0 200000 65536\n"
		"/ is 0:0\n/lib/where is 0:0\n/new is 0:0\n/dev is 0:0\n/dev/null is 0:0\n"
		"/dev/shm is 65534:65534\n/proc/self/ is 0:0\n"
		"mounted\nno proc\nlocked\nno node\nbound\n";
	/* As much as is wanted and no more: the program goes on. */
	ssize_t n = 0;
	for (size_t len = 0; len < sizeof(wanted) - 1; len += (size_t)n) {
		n = read(run.out, out + len, sizeof(wanted) - 1 - len);
		assert_true(n > 0);
		out[len + (size_t)n] = '\0';
	}
	assert_string_equal(out, wanted);

	run_exec(&run,
		"id -u; tr -s ' ' < /proc/1/gid_map; touch /y; set -- $(ls -ln /y);"
		"echo $3 $4",
		&exec);
	wait_for(world, &exec.exited);
	read_output(exec.out, out);
	assert_string_equal(out, "0\n 0 200000 65536\n0 0\n");
	fd_close(exec.out);
	container_exec_free(exec.exec);
	run_remove(&run);

	request_init(&request, "outside", "true");
	request.user.has_uid = true;
	request.user.uid = 70000;
	run_create(world, &request, &run);
	assert_int_equal(run.err.code, -EINVAL);
	assert_non_null(strstr(run.err.msg, "user 70000"));
	run_remove(&run);
	userns_done(&ns);
	world->ids = (struct ids)IDS_INIT;
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

/* Its init has ended, which nobody has told us of yet. */
static void test_exec_in_one_that_ends(void **state)
{
	setup(state);
	struct request request;
	struct run init, run = {.world = *state};
	struct err err = ERR_INIT;
	char out[OUTPUT_MAX];
	siginfo_t info;
	request_init(&request, "ends", "sleep 100");
	run_create(*state, &request, &init);
	run_start(&init);
	assert_int_equal(container_signal(init.container, SIGKILL, false, &err), 0);
	assert_int_equal(waitid(P_PID, (id_t)init.pid, &info, WEXITED | WNOWAIT), 0);
	struct streams streams = streams_make();
	const struct container_callbacks callbacks = run_callbacks(&run);
	int r = container_exec(
		init.container, &request.process, &streams.child, &callbacks, &run.exec, &err);
	streams_forked(&streams);
	fd_close(streams.out);
	assert_int_equal(r, -EBADFD);
	assert_string_equal(err.msg, "the container has ended");
	wait_for(*state, &init.exited);
	read_output(init.out, out);
	run_remove(&init);
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
	const struct container_callbacks callbacks = run_callbacks(&run);
	struct stdio_child none = {.in = -EBADF, .out = -EBADF, .err = -EBADF, .terminal = -EBADF};
	struct world *world = *state;
	assert_int_equal(container_create(world->host, &request.message, NULL, &none, &callbacks,
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
	const struct container_callbacks none = run_callbacks(&run);
	assert_int_equal(
		container_exec(init.container, &request.process, NULL, &none, &run.exec, &err),
		-EBADFD);
	run_start(&init);

	run_exec(&init,
		"until grep -q sleep /proc/1/comm; do sleep 0.1; done; cat /tmp.txt;"
		"cat /proc/1/comm; ls /proc/self/fd | tr '\\n' ' ';"
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
		"until ps -o args | grep -q '[s]leep 77'; do sleep 0.1; done; cat /proc/1/comm;"
		"ps -o args; ls /proc/1/root 2>&1; ls -l /proc/1/exe "
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
	struct stdio_child child = {
		.in = -EBADF, .out = -EBADF, .err = -EBADF, .terminal = pair[1]};
	const struct container_callbacks callbacks = run_callbacks(&run);
	struct err err = ERR_INIT;
	assert_int_equal(container_create(world->host, &request.message, NULL, &child, &callbacks,
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

static void note_removal(void *userdata, pid_t pid, const struct err *err)
{
	struct run *run = userdata;
	(void)pid;
	run->err = *err;
	run->removed = true;
	ev_loop_stop(run->world->loop);
}

static int try_to_remove(struct run *run)
{
	run->removed = false;
	container_remove(run->container, note_removal, run);
	wait_for(run->world, &run->removed);
	return run->err.code;
}

/* What a removal could not take away is there for the next one. */
static void test_removal_is_repeated(void **state)
{
	setup(state);
	struct request request;
	struct run run;
	request_init(&request, "stuck", "true");
	run_create(*state, &request, &run);
	run_start(&run);
	wait_for(*state, &run.exited);
	assert_int_equal(mkdir("/run/scratch/stuck/in-use", 0700), 0);
	assert_int_equal(mount("tmpfs", "/run/scratch/stuck/in-use", "tmpfs", 0, NULL), 0);
	fd_close(run.out);
	assert_int_equal(try_to_remove(&run), -EBUSY);
	assert_int_equal(access("/run/scratch/stuck", F_OK), 0);
	assert_int_equal(umount("/run/scratch/stuck/in-use"), 0);
	assert_int_equal(try_to_remove(&run), 0);
	assert_int_equal(access("/run/scratch/stuck", F_OK), -1);
	assert_int_equal(access("/sys/fs/cgroup/pod/stuck", F_OK), -1);
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
	/* Fewer they may be: the kernel takes a mount away everywhere when its file is unlinked
	 * anywhere. */
	assert_true(count_lines("/proc/self/mountinfo") <= mounts);
	assert_int_equal(count_entries("/proc/self/fd"), fds);
	assert_int_equal(count_entries("/sys/fs/cgroup/pod"), cgroups);
	assert_int_equal(count_entries("/run/scratch"), 2);
	/* The pause process of an earlier test may live; a zombie must not. */
	int status;
	pid_t pid = waitpid(-1, &status, WNOHANG);
	assert_true(pid == 0 || (pid == -1 && errno == ECHILD));
}

static int run_tests_in(struct world *world)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(test_output_and_exit_code, world),
		cmocka_unit_test_prestate(test_surroundings, world),
		cmocka_unit_test_prestate(test_user, world),
		cmocka_unit_test_prestate(test_user_namespace, world),
		cmocka_unit_test_prestate(test_read_only_root, world),
		cmocka_unit_test_prestate(test_devices, world),
		cmocka_unit_test_prestate(test_exec_errors, world),
		cmocka_unit_test_prestate(test_exec_in_one_that_ends, world),
		cmocka_unit_test_prestate(test_create_errors, world),
		cmocka_unit_test_prestate(test_signals, world),
		cmocka_unit_test_prestate(test_exec, world),
		cmocka_unit_test_prestate(test_pod_pid_namespace, world),
		cmocka_unit_test_prestate(test_terminal, world),
		cmocka_unit_test_prestate(test_removal_is_repeated, world),
		cmocka_unit_test_prestate(test_no_leaks, world),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
	return fixture_run(run_tests_in);
}
