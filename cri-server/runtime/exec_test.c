/*
 * ExecSync with a guest that is functions here: commands that write more than an answer holds; and
 * the bounds of commands.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/daemon.h"
#include "cri-server/rpc/call.h"
#include "cri-server/runtime/internal.h"

#define MIB       (1u << 20)
#define WRITTEN   (20 * MIB)
#define EXIT_CODE 3
#define PROBLEM   "problem"

/* For all tests, as the client's functions know none. */
static struct {
	struct sandbox *sandbox;
	pthread_t writer;
	int out;
	char id[ID_LEN + 1]; /* the process's */
} guest;

/* All of it is read, or it would stop here. */
static void *write_much(void *userdata)
{
	static char chunk[65536];
	Bulkhead__Agent__Exit exit = BULKHEAD__AGENT__EXIT__INIT;
	Bulkhead__Agent__Event event = BULKHEAD__AGENT__EVENT__INIT;
	(void)userdata;
	memset(chunk, 'x', sizeof(chunk));
	for (size_t sent = 0; sent < WRITTEN; sent += sizeof(chunk))
		if (fd_write_all(guest.out, chunk, sizeof(chunk), NULL) < 0)
			break;
	fd_close(guest.out);
	exit.code = EXIT_CODE;
	event.process_id = guest.id;
	event.exit = &exit;
	exec_exited(guest.sandbox, &event);
	return NULL;
}

int agent_stream_open(struct agent *agent, const Bulkhead__Agent__StreamOpen *open,
	uint64_t timeout_ms, int *ret_fd, uint64_t *ret_offset, struct err *err)
{
	int fds[2];
	(void)agent;
	(void)timeout_ms;
	(void)err;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	*ret_fd = fds[0];
	*ret_offset = 0;
	if (open->stream == BULKHEAD__AGENT__STREAM__STDERR) {
		assert_int_equal(fd_write_all(fds[1], PROBLEM, strlen(PROBLEM), NULL), 0);
		close(fds[1]);
		/* The other one begins when this is there. */
		assert_int_equal(pthread_create(&guest.writer, NULL, write_much, NULL), 0);
	} else {
		guest.out = fds[1];
		snprintf(guest.id, sizeof(guest.id), "%s", open->process_id);
	}
	return 0;
}

/* As CRI has it: what does not fit is left out, and the command's end is its own. */
static void test_output_that_does_not_fit(void **state)
{
	Runtime__V1__PodSandboxConfig pod = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__ContainerConfig config = RUNTIME__V1__CONTAINER_CONFIG__INIT;
	Runtime__V1__ExecSyncRequest request = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
	struct runtime rt = {.log = NULL};
	struct daemon daemon = {.runtime = &rt};
	struct rpc_transport transport = {.userdata = &daemon};
	struct rpc_call call = {.transport = &transport,
		.details.deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC),
		.cancel_fd = -EBADF};
	struct machine machine = {.runtime = &rt};
	struct rpc_answer answer = {0};
	struct err err = ERR_INIT;
	char *cmd[] = {(char *)"flood"};

	(void)state;
	pthread_mutex_init(&rt.lock, NULL);
	pthread_mutex_init(&call.lock, NULL);
	ev_cond_init(&machine.fewer_starts);
	atomic_init(&machine.refs, 1);
	TAILQ_INIT(&rt.sandboxes);
	TAILQ_INIT(&rt.containers);
	TAILQ_INIT(&rt.execs);
	guest.sandbox = sandbox_new(&rt, "00000000000000000000000000000000", &pod, &err);
	assert_non_null(guest.sandbox);
	guest.sandbox->machine = &machine;
	struct container *c =
		container_new(guest.sandbox, "11111111111111111111111111111111", &config, &err);
	assert_non_null(c);
	c->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING;
	TAILQ_INSERT_TAIL(&rt.containers, c, link);

	request.container_id = c->id;
	request.cmd = cmd;
	request.n_cmd = ARRAY_SIZE(cmd);
	int r = exec_service_sync(&call, &request.base, &answer, &err);
	pthread_join(guest.writer, NULL);
	if (r < 0)
		fail_msg("%s", err.msg);
	assert_true(answer.len <= 16 * MIB);
	Runtime__V1__ExecSyncResponse *response =
		runtime__v1__exec_sync_response__unpack(NULL, answer.len, answer.data);
	assert_non_null(response);
	assert_int_equal(response->exit_code, EXIT_CODE);
	assert_int_equal(response->stderr.len, strlen(PROBLEM));
	assert_memory_equal(response->stderr.data, PROBLEM, strlen(PROBLEM));
	assert_true(response->stdout.len > 15 * MIB);
	assert_int_equal(response->stdout.data[response->stdout.len - 1], 'x');
	runtime__v1__exec_sync_response__free_unpacked(response, NULL);

	rpc_answer_done(&answer);
	fd_close(call.cancel_fd);
	container_forget(c);
	guest.sandbox->machine = NULL;
	sandbox_unref(guest.sandbox);
	pthread_cond_destroy(&machine.fewer_starts);
	pthread_mutex_destroy(&call.lock);
	pthread_mutex_destroy(&rt.lock);
}

/* ExecSync and Exec have the same bounds, before they look at anything else. */
static void test_commands_that_are_too_long(void **state)
{
	static char word[EXEC_BYTES_MAX];
	char *cmd[] = {word, word};
	size_t bytes;
	struct err err = ERR_INIT;
	(void)state;
	memset(word, 'x', EXEC_BYTES_MAX / 2 - sizeof(char *) - 1);
	assert_int_equal(exec_check_command(cmd, 2, &bytes, NULL), 0);
	assert_int_equal(bytes, EXEC_BYTES_MAX);
	word[strlen(word)] = 'x';
	assert_int_equal(exec_check_command(cmd, 2, &bytes, NULL), -EINVAL);
	assert_int_equal(exec_check_command(cmd, 0, &bytes, NULL), -EINVAL);

	Runtime__V1__ExecSyncRequest sync = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
	Runtime__V1__ExecRequest async = RUNTIME__V1__EXEC_REQUEST__INIT;
	sync.cmd = async.cmd = cmd;
	sync.n_cmd = async.n_cmd = ARRAY_SIZE(cmd);
	assert_int_equal(exec_service_sync(NULL, &sync.base, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "command"));
	assert_int_equal(streaming_service_exec(NULL, &async.base, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "command"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_commands_that_are_too_long),
		cmocka_unit_test(test_output_that_does_not_fit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
