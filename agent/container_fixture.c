#include "agent/container_fixture.h"

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
#define WATCHDOG_MS 60000

/* The "disks" 0 and 1: the loop devices of main(). */
static char layers[2][DISK_PATH_MAX];

int disk_wait(
	unsigned target, unsigned timeout_ms, char ret_path[static DISK_PATH_MAX], struct err *err)
{
	(void)timeout_ms;
	if (target >= ARRAY_SIZE(layers))
		return err_set(err, -ETIMEDOUT, "disk %u did not appear", target);
	snprintf(ret_path, DISK_PATH_MAX, "%s", layers[target]);
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
void wait_for(struct world *world, const bool *flag)
{
	struct err err = ERR_INIT;
	ev_timer_set(world->watchdog, WATCHDOG_MS);
	while (!*flag)
		assert_int_equal(ev_loop_run(world->loop, &err), 0);
}

struct streams streams_make(void)
{
	int fds[2];
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	return (struct streams){.child = {.in = open("/dev/null", O_RDONLY | O_CLOEXEC),
					.out = fds[1],
					.err = fcntl(fds[1], F_DUPFD_CLOEXEC, 3),
					.terminal = -EBADF},
		.out = fds[0]};
}

void streams_forked(struct streams *streams)
{
	fd_close(streams->child.in);
	fd_close(streams->child.out);
	fd_close(streams->child.err);
	fd_close(streams->child.terminal);
}

void request_init(struct request *r, const char *id, const char *script)
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

struct container_callbacks run_callbacks(struct run *run)
{
	return (struct container_callbacks){
		.on_done = on_done, .on_exit = on_exit_status, .userdata = run};
}

void run_create(struct world *world, struct request *request, struct run *run)
{
	*run = (struct run){.world = world};
	struct streams streams = streams_make();
	const struct container_callbacks callbacks = run_callbacks(run);
	struct err err = ERR_INIT;
	int r = container_create(world->host, &request->message, NULL, &streams.child, &callbacks,
		&run->container, &err);
	streams_forked(&streams);
	if (r < 0)
		print_error("%s\n", err.msg);
	assert_int_equal(r, 0);
	run->out = streams.out;
	wait_for(world, &run->done);
}

void run_start(struct run *run)
{
	struct err err = ERR_INIT;
	if (run->err.code)
		print_error("%s\n", run->err.msg);
	assert_int_equal(run->err.code, 0);
	assert_int_equal(container_start(run->container, on_started, run, &err), 0);
	wait_for(run->world, &run->started);
}

void run_remove(struct run *run)
{
	fd_close(run->out);
	container_remove(run->container, on_removed, run);
	wait_for(run->world, &run->removed);
}

/* Reads until end of file. */
void read_output(int fd, char out[static OUTPUT_MAX])
{
	size_t len = 0;
	ssize_t n;
	while ((n = read(fd, out + len, OUTPUT_MAX - 1 - len)) > 0)
		len += (size_t)n;
	out[len] = '\0';
}

/* Runs the container to its end and returns its exit code. */
int run_all(struct world *world, struct request *request, char out[static OUTPUT_MAX])
{
	struct run run;
	run_create(world, request, &run);
	run_start(&run);
	wait_for(world, &run.exited);
	read_output(run.out, out);
	run_remove(&run);
	return WIFEXITED(run.status) ? WEXITSTATUS(run.status) : 128 + WTERMSIG(run.status);
}

int run_script(struct world *world, const char *script, char out[static OUTPUT_MAX])
{
	struct request request;
	request_init(&request, "script", script);
	return run_all(world, &request, out);
}

void run_exec(struct run *container, const char *script, struct run *run)
{
	*run = (struct run){.world = container->world};
	struct request request;
	request_init(&request, "unused", script);
	struct streams streams = streams_make();
	const struct container_callbacks callbacks = run_callbacks(run);
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

static void shell(const char *command)
{
	/* Our own constants. */
	if (system(command) != 0) /* NOLINT(cert-env33-c) */
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
	      "for a in sh cat ls id touch head wc grep tr sleep echo mknod ps tty mount umount; do"
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

static int run_in_cgroup(const char *cgroup, int (*tests)(struct world *world))
{
	struct world world = {.skip = prepare(cgroup), .ids = IDS_INIT};
	struct err err = ERR_INIT;
	if (!world.skip && (ev_loop_new(&world.loop, &err) < 0 ||
				   reaper_new(world.loop, &world.reaper, &err) < 0 ||
				   ev_timer_new(world.loop, WATCHDOG_MS, on_watchdog, NULL,
					   &world.watchdog, &err) < 0 ||
				   container_host_new(world.loop, world.reaper, &world.ids,
					   &world.host, &err) < 0)) {
		fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	int failed = tests(&world);
	container_host_free(world.host);
	ev_source_free(world.watchdog);
	reaper_free(world.reaper);
	ev_loop_free(world.loop);
	return failed;
}

/* The tests run in a child, so that its cgroup can be removed once it is empty. */
int fixture_run(int (*tests)(struct world *world))
{
	char name[64];
	snprintf(name, sizeof(name), "/run/cgroup2/bulkhead-test-%d", (int)getpid());
	pid_t pid = fork();
	if (pid == 0)
		exit(run_in_cgroup(name, tests));
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
