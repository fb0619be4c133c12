#include "agent/test_server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/server.h"
#include "common/fd.h"

static int set_clock(int64_t realtime_ns, struct err *err)
{
	/* The tests' host says its own time. */
	int64_t off = realtime_ns / 1000000000 - time(NULL);
	return off < -60 || off > 60 ? err_set(err, -EINVAL, "a strange time") : 0;
}

/* A clock of this process's own. */
static int adjust_clock(int64_t by_ns, int64_t *ret_realtime_ns, struct err *err)
{
	static int64_t ahead_ns;
	struct timespec now;
	(void)err;
	ahead_ns += by_ns;
	clock_gettime(CLOCK_REALTIME, &now);
	*ret_realtime_ns = now.tv_sec * INT64_C(1000000000) + now.tv_nsec + ahead_ns;
	return 0;
}

static int configure(const Bulkhead__Agent__ConfigureSandboxRequest *request, struct err *err)
{
	if (!strcmp(request->hostname, "crash"))
		abort();
	if (!strcmp(request->hostname, "refuse"))
		return err_set(err, -ENODEV, "refused");
	return 0;
}

static int update(const Bulkhead__Agent__UpdateInterfacesRequest *before,
	const Bulkhead__Agent__UpdateInterfacesRequest *after, struct err *err)
{
	size_t n = before->n_interfaces;
	if (after->n_interfaces == 2)
		return err_set(err, -ENODEV, "before it was %zu", n);
	return 0;
}

static void power_off(void *userdata)
{
	ev_loop_stop(userdata);
}

static void socket_path(const struct test_server *server, uint32_t port, char path[static 108])
{
	snprintf(path, 108, "%s/%u", server->dir, port);
}

static _Noreturn void serve(const struct test_server *harness)
{
	char path[108] = "";
	struct server_options options = {.boot_ns = 12345,
		.ops = {.set_clock = set_clock,
			.adjust_clock = adjust_clock,
			.configure = configure,
			.update = update,
			.power_off = power_off}};
	struct server *server = NULL;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	socket_path(harness, AGENT_CONTROL_PORT, path);
	int r = fd_unix_listen(path, 0600, &options.control_fd, NULL);
	socket_path(harness, AGENT_STREAM_PORT, path);
	if (r == 0)
		r = fd_unix_listen(path, 0600, &options.stream_fd, NULL);
	if (r == 0)
		r = ev_loop_new(&options.loop, NULL);
	if (r == 0)
		r = reaper_new(options.loop, &options.reaper, NULL);
	options.ops.userdata = options.loop;
	if (r == 0)
		r = server_new(&options, &server, NULL);
	if (r < 0)
		_exit(1);
	ev_loop_run(options.loop, NULL);
	server_free(server);
	reaper_free(options.reaper);
	ev_loop_free(options.loop);
	_exit(0);
}

static int test_connect(
	void *userdata, uint32_t port, uint64_t timeout_ms, int *ret_fd, struct err *err)
{
	struct test_server *server = userdata;
	uint64_t until = ev_now_ms() + timeout_ms;
	char path[108];
	int r;
	socket_path(server, port, path);
	while ((r = fd_unix_connect(path, ret_fd, err)) < 0 && ev_now_ms() < until)
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	return r;
}

void test_server_restart(struct test_server *server)
{
	server->pid = fork();
	if (server->pid == 0)
		serve(server);
}

void test_server_start(struct test_server *server)
{
	*server = (struct test_server){.dir = "/tmp/agent-test.XXXXXX",
		.transport = {.connect = test_connect, .userdata = server, .key = "test"}};
	if (!mkdtemp(server->dir))
		abort();
	test_server_restart(server);
}

void test_server_kill(struct test_server *server)
{
	if (server->pid <= 0)
		return;
	kill(server->pid, SIGKILL);
	waitpid(server->pid, NULL, 0);
	server->pid = 0;
}

void test_server_stop(struct test_server *server)
{
	test_server_kill(server);
	fd_remove_tree(server->dir, NULL);
}

/* ---- the client ---- */

#define OPEN_MS 30000

static int on_event(void *userdata, const Bulkhead__Agent__Event *event)
{
	(void)userdata;
	(void)event;
	return 0;
}

static void on_lost(void *userdata, const char *reason)
{
	(void)userdata;
	(void)reason;
}

static void *loop_thread(void *userdata)
{
	ev_loop_run(userdata, NULL);
	return NULL;
}

int test_client_setup(void **state)
{
	struct test_client *client = calloc(1, sizeof(*client));
	struct agent_callbacks callbacks = {.on_event = on_event, .on_lost = on_lost};
	struct err err = ERR_INIT;
	if (!client)
		return -1;
	*state = client;
	test_server_start(&client->server);
	int r = ev_loop_new(&client->loop, &err);
	if (r == 0) {
		pthread_create(&client->thread, NULL, loop_thread, client->loop);
		r = agent_open(client->loop, &client->server.transport, &callbacks, 0, OPEN_MS,
			&client->agent, &err);
	}
	if (r < 0)
		fprintf(stderr, "%s\n", err.msg);
	return r;
}

int test_client_teardown(void **state)
{
	struct test_client *client = *state;
	agent_close(client->agent);
	ev_loop_stop(client->loop);
	pthread_join(client->thread, NULL);
	ev_loop_free(client->loop);
	test_server_stop(&client->server);
	free(client);
	return 0;
}
