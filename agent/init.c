/*
 * bulkhead-agent: PID 1 of a pod's machine, and its only program beside those of containers.
 *
 * The host waits for the agent's port, so the agent listens before it mounts or allocates anything:
 * the kernel accepts connections from then on, and they are served as soon as the loop runs. One
 * thread, one loop; see server.h for what it serves and process.h for how it avoids to block.
 *
 * Without the agent the machine is of no use. An error on the way up is said on the console and
 * powers the machine off; should the agent crash, the kernel panics, which ends the machine too.
 * Either way the host sees its end.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/machine.h"
#include "agent/netconf.h"
#include "agent/process.h"
#include "agent/proto/ports.h"
#include "agent/server.h"
#include "common/fd.h"
#include "common/log.h"

/* A file system that does not get its data out (a volume whose host side hangs) is given up. */
#define SYNC_TIMEOUT_MS 5000
#define FDS             65536

struct init {
	struct ev_loop *loop;
	struct reaper *reaper;
	bool powering_off;
};

static uint64_t boottime_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void on_sync_timeout(void *userdata)
{
	struct init *init = userdata;
	ev_loop_stop(init->loop);
}

static void on_synced(void *userdata, const struct err *err)
{
	struct init *init = userdata;
	(void)err;
	ev_loop_stop(init->loop);
}

static void on_power_off(void *userdata)
{
	struct init *init = userdata;
	struct ev_source *timer;
	if (init->powering_off)
		return;
	init->powering_off = true;
	kill(-1, SIGKILL);
	if (ev_timer_new(init->loop, SYNC_TIMEOUT_MS, on_sync_timeout, init, &timer, NULL) < 0 ||
		job_start(init->reaper, "sync", machine_sync, NULL, on_synced, init, NULL) < 0)
		ev_loop_stop(init->loop);
}

static int run(struct init *init, uint64_t boot_ns, struct err *err)
{
	struct server_options options = {.boot_ns = boot_ns,
		.control_fd = -EBADF,
		.stream_fd = -EBADF,
		.ops = {.set_clock = machine_set_clock,
			.adjust_clock = machine_adjust_clock,
			.enter = ids_enter,
			.configure = machine_configure,
			.update = netconf_update,
			.power_off = on_power_off,
			.userdata = init}};
	struct server *server;
	int r = machine_listen(AGENT_CONTROL_PORT, &options.control_fd, err);
	if (r == 0)
		r = machine_listen(AGENT_STREAM_PORT, &options.stream_fd, err);
	if (r == 0)
		r = machine_mount(err);
	if (r == 0)
		r = machine_lift_limits(err);
	if (r == 0)
		r = ev_loop_new(&init->loop, err);
	if (r == 0)
		r = reaper_new(init->loop, &init->reaper, err);
	if (r < 0)
		return r;
	options.loop = init->loop;
	options.reaper = init->reaper;
	r = server_new(&options, &server, err);
	return r < 0 ? r : ev_loop_run(init->loop, err);
}

int main(void)
{
	uint64_t boot_ns = boottime_ns();
	if (getpid() != 1) {
		fputs("bulkhead-agent is the init of a pod's machine; it does not run elsewhere\n",
			stderr);
		return 2;
	}
	/* Says on the console that the kernel is done, and to `make bench` when. */
	fputs("bulkhead-agent: starting\n", stderr);
	signal(SIGPIPE, SIG_IGN);
	/* Each process has up to eight descriptors here. */
	const struct rlimit descriptors = {.rlim_cur = FDS, .rlim_max = FDS};
	setrlimit(RLIMIT_NOFILE, &descriptors);
	umask(022);
	/* Ctrl-Alt-Del is a signal to us, which we ignore, and not a reset. */
	reboot(RB_DISABLE_CAD);
	struct log log = {.fd = STDERR_FILENO, .level = LOG_LEVEL_INFO};
	struct init init = {0};
	struct err err = ERR_INIT;
	if (run(&init, boot_ns, &err) < 0)
		log_event(&log, LOG_LEVEL_ERROR, "the agent cannot go on", "err", err.msg, NULL);
	machine_power_off();
}
